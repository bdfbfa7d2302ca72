/** Conversations that are drawn, and drawn the same again by the same seed. */
import { random } from './gpu.ts';

/** Whole numbers from `least` to `most`. */
export type Draw = (least: number, most: number) => number;

export function drawing(seed: number): Draw {
  const next = random(seed);
  for (let i = 0; i < 8; i++) next();
  return (least, most) => least + Math.floor(((next() + 1) / 2) * (most - least + 1));
}
