/** The element as an article lays it out. What goes on between it and its frame is the e2e tests'. */
import { expect, test } from 'vitest';
import '../../src/element/embed.ts';

test('the frame is no lower than the article has its element', async () => {
  const element = document.createElement('palimpsest-model');
  element.style.cssText = 'display: block; min-height: 300px';
  document.body.append(element);
  await expect.poll(() => element.querySelector('iframe')?.offsetHeight).toBe(300);
  element.remove();
});
