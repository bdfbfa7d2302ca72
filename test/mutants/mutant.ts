/**
 * Known bugs, put back: one line of a shader is replaced in memory, and the kernel's own check must see it. A check that
 * stays green with a bug in place checks nothing.
 */
import { expect, test } from 'vitest';
import type { Kernel, Library } from '../../workers/link.ts';

export interface Mutant {
  kernel: string;
  /** What the bug is, in the words of someone who makes it. */
  why: string;
  /** What the kernel's check gives for it as it stands: a relative RMS. */
  sound: () => Promise<number>;
  /** And with the bug in place. */
  broken: () => Promise<number>;
}

/** A kernel with `find` replaced by `replace` wherever it stands. Throws where it stands nowhere: the shader has moved on. */
export function mutant<B extends string, C extends string>(
  kernel: Kernel<B, C>,
  why: string,
  find: string,
  replace: string,
  check: (kernel: Kernel<B, C>) => Promise<number>,
): Mutant {
  if (!kernel.source.includes(find)) throw new Error(`${kernel.name} has no "${find}"`);
  const source = kernel.source.replaceAll(find, replace);
  return {
    kernel: kernel.name,
    why,
    sound: () => check(kernel),
    broken: () => check({ ...kernel, source }),
  };
}

/** The same for a library, which its kernels' checks take as an argument. */
export function libraryMutant(
  library: Library,
  why: string,
  find: string,
  replace: string,
  check: (library: Library) => Promise<number>,
): Mutant {
  if (!library.source.includes(find)) throw new Error(`${library.name} has no "${find}"`);
  const source = library.source.replaceAll(find, replace);
  return {
    kernel: library.name,
    why,
    sound: () => check(library),
    broken: () => check({ ...library, source }),
  };
}

/** A test for each: green without the bug, red with it. */
export function testMutants(mutants: Mutant[]): void {
  for (const { kernel, why, sound, broken } of mutants) {
    test(`${kernel} is caught: ${why}`, async () => {
      expect(await sound()).toBeLessThan(1e-5);
      expect(await broken()).toBeGreaterThan(1e-4);
    });
  }
}
