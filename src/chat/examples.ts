/** Prompts that show the embedded model well, from its model card: the first two overwrite memory, the third is a stack. */
export const examples: string[] = [
  'Nora put the letter in the kitchen. Sam took the map to the garage. Nora moved the letter to the attic. Sam wrote to a friend. Then Nora carried the letter to the cellar. Where is the letter?',
  "Mira's code is 7421. Tom's code is 3308. Lena's code is 5560. Mira's code is now 1180. Tom's code is now 9027. What is Mira's code?",
  'I put the red card on the pile. I put the blue card on top. I put the green card on top. I take the top one off. Which card is on top?',
  'A small dictionary: zeg means sun. mip means water. tolu means tree. What does mip mean?',
  'Sort in descending order: 26, 48, 32, 97, 11',
  'What is photosynthesis?',
];
