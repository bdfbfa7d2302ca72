/**
 * The kernel harness: a device with exactly the floor's limits, and one function that dispatches a kernel.
 * Outputs are poisoned with NaN first, so an element that a kernel forgets is seen.
 */
import { nodeGpu, nullGpu } from '../tools/nodeGpu.ts';
import { Gpu, type Tensor } from '../workers/gpu.ts';
import { FLOOR } from '../workers/limits.ts';
import { inOneGroup, type Kernel, type Library, link } from '../workers/link.ts';
import { sumSubgroup, sumTree } from '../workers/kernels.ts';

let opened: Promise<Gpu> | undefined;

/**
 * A device of one's own: floor limits; subgroups (and nothing else) where the adapter has them.
 * Workgroup memory starts with whatever was there: stricter than a browser, where it starts as zeros, and on SwiftShader a
 * hundred times faster to compile, since it spells out every zero of every kernel.
 */
export async function openTestGpu(): Promise<Gpu> {
  const gpu = await nodeGpu({ toggles: ['disable_workgroup_init'] });
  return Gpu.open(gpu, { floor: true, features: ['subgroups'] });
}

/** The device that the kernel tests of a file share. */
export function testGpu(): Promise<Gpu> {
  opened ??= openTestGpu();
  return opened;
}

let openedWide: Promise<Gpu> | undefined;

/** A device with all the lanes that the adapter has. */
export function wideGpu(): Promise<Gpu> {
  openedWide ??= (async () => {
    const gpu = await nodeGpu({ toggles: ['disable_workgroup_init'] });
    return Gpu.open(gpu, { floor: false, features: ['subgroups'] });
  })();
  return openedWide;
}

/** The sum libraries that this device can run: both on every adapter of ours. */
export async function sums(): Promise<Library[]> {
  return (await testGpu()).has('subgroups') ? [sumTree, sumSubgroup] : [sumTree];
}

/** What a kernel reads, by binding name. Numbers of a plain array go in as f32. */
export type Inputs = Record<string, Float32Array | Uint32Array>;

export interface Dispatch<B extends string, C extends string> {
  kernel: Kernel<B, C>;
  libraries: Library[];
  consts: Record<C, number>;
  /** Constants of libraries, e.g. COLS, SUM_LANES. */
  libraryConsts?: Record<string, number>;
  /** Read-only inputs and in-out buffers with their start values; weights (codes, scales) and the step's too. */
  inputs: Inputs;
  /** Elements of each pure output. */
  outputs: Record<string, number>;
  tokens: number;
  /** Position of the first token, where the kernel links `step`. */
  position?: number;
}

/** What `dispatch` throws where the adapter has fewer lanes than a kernel is to have: it was compiled then, and not run. */
export class FewerLanes extends Error {}

/** A text without errors, by Dawn's null backend, which has every extension. */
async function compile(code: string): Promise<void> {
  const adapter = (await nullGpu().requestAdapter())!;
  const device = await adapter.requestDevice({ requiredFeatures: ['subgroups'] });
  const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
  const errors = messages.map(({ lineNum, message }) => `${lineNum}: ${message}`);
  if (errors.length > 0) throw new Error(errors.join('\n'));
}

/** Run one kernel and read back every output and every in-out buffer, as f32. Throws FewerLanes. */
export async function dispatch<B extends string, C extends string>(
  d: Dispatch<B, C>,
): Promise<Record<string, Float32Array<ArrayBuffer>>> {
  const lanes = d.libraryConsts?.SUM_LANES ?? 0;
  const gpu = await (lanes > FLOOR.invocations ? wideGpu() : testGpu());
  if (lanes > gpu.workgroup.lanes) {
    const sources = [...d.libraries, d.kernel].map(({ source }) => source);
    await compile(inOneGroup(link(d.kernel.name, sources, { ...d.libraryConsts, ...d.consts })));
    throw new FewerLanes(`${lanes} lanes wanted, ${gpu.workgroup.lanes} there`);
  }
  const program = gpu.program(d.kernel, d.libraries, d.consts, d.libraryConsts ?? {});
  const bound: Record<string, Tensor> = {};
  for (const [name, values] of Object.entries(d.inputs)) {
    bound[name] = gpu.upload('scratch', name, [values.length], values);
  }
  for (const [name, count] of Object.entries(d.outputs)) {
    bound[name] = gpu.upload('scratch', name, [count], new Float32Array(count).fill(NaN));
  }
  if (program.lines.some((l) => l.name === 'step')) {
    bound.step = gpu.upload(
      'scratch',
      'step',
      [4],
      new Uint32Array([d.tokens, d.position ?? 0, 0, 0]),
    );
  }
  await gpu.ready();
  const call = await gpu.guard(d.kernel.name, () => gpu.bind(program, bound));
  await gpu.guard(d.kernel.name, () => gpu.submit(gpu.record([call], d.tokens)));
  const written = program.lines.filter((l) => l.type === 'storage').map((l) => l.name);
  const results: Record<string, Float32Array<ArrayBuffer>> = {};
  for (const name of written) {
    const count = d.outputs[name] ?? d.inputs[name]!.length;
    results[name] = new Float32Array(await gpu.read(bound[name]!, 0, count));
  }
  for (const tensor of Object.values(bound)) gpu.release(tensor);
  return results;
}

/** Deterministic values in [-1, 1): a 32-bit xorshift-multiply generator. */
export function random(seed: number): () => number {
  let s = seed >>> 0 || 1;
  return () => {
    s = (Math.imul(s ^ (s >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    let z = Math.imul(s ^ (s >>> 12), 0x297a2d39);
    z ^= z >>> 15;
    return (z >>> 0) / 2 ** 31 - 1;
  };
}

/** `count` f32 values in [-scale, scale). */
export function randomValues(seed: number, count: number, scale = 1): Float32Array<ArrayBuffer> {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => next() * scale);
}
