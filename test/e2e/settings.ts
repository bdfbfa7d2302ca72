/** Settings of the page under test. */
import type { Page } from 'playwright-core';

/**
 * Answers are to have so many tokens at most. The settings are opened by a key: what is told above them comes and goes, and
 * they move with it from under a mouse.
 */
export async function longestAnswer(page: Page, tokens: number): Promise<void> {
  const field = page.getByRole('spinbutton', { name: 'Longest answer' });
  if (!(await field.isVisible())) await page.getByText('Settings', { exact: true }).press('Enter');
  await field.fill(String(tokens));
  await field.press('Tab');
}
