/** What the first visit's recording shows: the question, the layer and head, and what is said of it on the way. */
import type { Note } from '../src/record.ts';

export const title = 'The model has a memory of fixed size. This is it forgetting.';

/** From the model card: the newer code is the answer. */
export const question =
  "Mira's code is 7421. Tom's code is 3308. Lena's code is 5560. Mira's code is now 1180. Tom's code is now 9027. What is Mira's code?";

/** The head whose memory loses the old codes most as the new ones are written, of all 207. */
export const [layer, head] = [16, 5];

/** Each is said once the text has come to the end of `upTo`; {words} stands for what the memory returns of them. */
export const notes: Note[] = [
  {
    upTo: '<|im_start|>user',
    text: 'Each word is about to be written into the same small table. Watch Mira’s code: 7421.',
  },
  {
    upTo: "Mira's code is 7421.",
    text: 'It is written. Asked now, this table gives back {7421} of the four digits 7421.',
  },
  {
    upTo: "Lena's code is 5560.",
    text: 'Tom’s and Lena’s codes went into the same table. All of it fades a little on the way: of 7421, {7421} are left.',
  },
  {
    upTo: "Mira's code is now 1180.",
    text: 'Mira’s code changes. 1180 is written over the old one, which falls to {7421}; 1180 stands at {1180}.',
  },
  {
    upTo: "Tom's code is now 9027.",
    text: 'Tom’s changes, too: 9027 stands at {9027}, the old 3308 at {3308}.',
  },
  {
    upTo: '<|im_start|>assistant',
    text: 'Now the model has to answer. The table returns {1180} of Mira’s new code, and {7421} of the old one.',
  },
  {
    upTo: "Mira's code is 1180.",
    text: 'It says 1180, the newer code. Press any word, or drag along the marks below, to go back in time.',
  },
];
