/**
 * The GPU: device and limits, buffers, pipelines, recording calls, reading back.
 * Only this file says `navigator.gpu`, `GPUDevice`, `GPUBuffer`, `createBuffer`. It knows nothing of a model.
 */
import { FLOOR, refuseBelowFloor, ROOMY } from './limits.ts';
import { type BindLine, bindLines, inOneGroup, type Kernel, type Library, link } from './link.ts';
import { measured } from './measured.ts';
import { PalimpsestError, type DeviceReport } from './protocol.ts';
import { hasOurMatrices, SUBGROUP_MATRIX } from './subgroupMatrix.ts';

// ------------------------------------------------------------------------------------- tensors and calls

/** What a buffer is for; `Gpu.bytes` adds them up by kind. */
export type TensorKind = 'weights' | 'recurrent' | 'latent' | 'snapshots' | 'scratch';

/** A named buffer on the GPU. `shape` is for people and messages; the last axis is the fastest. 4-byte elements. */
export interface Tensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly bytes: number;
  readonly kind: TensorKind;
  readonly buffer: GPUBuffer;
  /** Where it begins in the buffer: 0, or a part's place. */
  readonly offset: number;
}

/** A compiled kernel: pipeline ready after `await gpu.ready()`. */
export interface Program {
  readonly name: string;
  readonly code: string;
  /** In the order of their bindings. */
  readonly lines: readonly BindLine[];
  readonly layout: GPUBindGroupLayout;
  readonly grid: (tokens: number) => readonly [number, number, number];
  pipeline: GPUComputePipeline | null;
}

/** A program with its buffers bound: what a plan is made of. Recording a call allocates nothing. */
export interface Call {
  readonly program: Program;
  readonly group: GPUBindGroup;
  /** The weights it binds. */
  readonly weights: readonly Tensor[];
}

/** A copy between tensors in the midst of a plan: what a tap adds. */
export interface Copy {
  readonly from: Tensor;
  readonly to: Tensor;
  readonly toElement: number;
  /** Elements for each token of the call. */
  readonly perToken: number;
}

/** Recorded work that ends with a copy to where it can be read. */
export interface Reading {
  readonly commands: GPUCommandBuffer;
  readonly staging: GPUBuffer;
  readonly bytes: number;
  /** Whether the staging buffer was refused. */
  readonly refused: Promise<GPUError | null>;
}

/** A part of a tensor: `count` elements from `element` on. */
export interface Stretch {
  readonly tensor: Tensor;
  readonly element: number;
  readonly count: number;
}

/** Where parts of a tensor may begin: bindings are aligned to 256 bytes. */
export const PART_ELEMENTS = 64;

/** How long the news of a loss may take after the first failure that it causes. */
const LOSS_NEWS_MS = 250;

/** Staging buffers kept for readbacks, all of one size, so that what is kept does not grow: one token's logits fit. */
const READBACKS = 4;
const READBACK_BYTES = 256 * 1024;
/** And one of at most so many bytes, for what is read at intervals: making such a buffer takes as long as some tokens do. */
const LARGE_READBACK_BYTES = 16 * 1024 * 1024;
/** Bytes handed over at a time: Chromium's GPU process holds each writing whole beside the buffer it goes to. */
const WRITE_BYTES = 1024 * 1024;

/** Optional features that kernels have variants for. */
const WANTED: GPUFeatureName[] = ['subgroups', 'shader-f16', 'timestamp-query'];

export interface GpuOptions {
  /** Ask for exactly the floor and for no optional feature but those named here. */
  floor: boolean;
  features: GPUFeatureName[];
}

/** Everything the adapter has: what the page and the tools use. */
export const FULL: GpuOptions = { floor: false, features: WANTED };

/** And subgroup matrices, with which prompts are read with factors rounded to f16: asked for by tools alone. */
export const WITH_MATRICES: GpuOptions = { floor: false, features: [...WANTED, SUBGROUP_MATRIX] };

/** One device and all that lives on it. After `destroy()`, `bytes` is 0 for every kind. */
export class Gpu {
  readonly report: DeviceReport;
  /** What a workgroup may have: lanes, and bytes of its memory, the floor or more. And the most lanes of a subgroup; 0 without 'subgroups'. */
  readonly workgroup: { lanes: number; bytes: number; subgroup: number };
  /** Bytes of live tensors by kind. */
  readonly bytes: Record<TensorKind, number> = {
    weights: 0,
    recurrent: 0,
    latent: 0,
    snapshots: 0,
    scratch: 0,
  };
  /** Resolves with the reason when the device is gone, other than by `destroy()` here. */
  readonly lost: Promise<string>;

  readonly #device: GPUDevice;
  readonly #tensors = new Set<Tensor>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #programs = new Map<string, Program>();
  readonly #texts = new Map<string, number>();
  readonly #compiling = new Set<Promise<void>>();
  readonly #readbacks: GPUBuffer[] = [];
  #largeReadback: GPUBuffer | null = null;
  #gone: string | null = null;
  /** Guards under way; allocations outside of them that are not answered yet; the first that was refused. */
  #guards = 0;
  readonly #allocating = new Set<Promise<void>>();
  #short: string | null = null;
  #ended = false;

  private constructor(device: GPUDevice, report: DeviceReport, workgroup: Gpu['workgroup']) {
    this.#device = device;
    this.report = report;
    this.workgroup = workgroup;
    this.lost = device.lost.then((loss) => {
      const reason = loss.message || loss.reason;
      this.#gone = reason;
      return this.#ended ? new Promise<string>(() => {}) : reason;
    });
  }

  /**
   * Open the adapter of a WebGPU entry point (`navigator.gpu`, or npm `webgpu` in Node).
   * Fails: NoWebGPU, LimitTooSmall.
   */
  static async open(gpu: GPU | undefined, options: GpuOptions): Promise<Gpu> {
    if (!gpu) {
      throw new PalimpsestError(
        'NoWebGPU',
        'This browser has no WebGPU. Use a current Chrome, Edge, Safari or Firefox, on a page served over https or from localhost.',
      );
    }
    const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) {
      throw new PalimpsestError(
        'NoWebGPU',
        'WebGPU is there, but it found no graphics adapter. Switch on hardware acceleration in the browser settings, or update the graphics driver.',
      );
    }
    const has = adapter.limits;
    refuseBelowFloor(has);
    const bindingBytes = options.floor ? FLOOR.bindingBytes : has.maxStorageBufferBindingSize;
    // Our subgroup kernels read subgroup_id, which is a language feature of its own and came to browsers later.
    const usable = (f: GPUFeatureName) =>
      f === SUBGROUP_MATRIX
        ? hasOurMatrices(adapter) && has.maxComputeWorkgroupStorageSize >= ROOMY.workgroupBytes
        : f !== 'subgroups' || gpu.wgslLanguageFeatures.has('subgroup_id');
    const features = options.features.filter((f) => adapter.features.has(f) && usable(f));
    const most = options.floor ? FLOOR : ROOMY;
    const workgroup = {
      lanes: Math.min(
        most.invocations,
        has.maxComputeInvocationsPerWorkgroup,
        has.maxComputeWorkgroupSizeX,
      ),
      bytes: Math.min(most.workgroupBytes, has.maxComputeWorkgroupStorageSize),
      subgroup: features.includes('subgroups') ? (adapter.info.subgroupMaxSize ?? 0) : 0,
    };
    const device = await adapter.requestDevice({
      requiredFeatures: features,
      requiredLimits: {
        maxStorageBuffersPerShaderStage: FLOOR.storageBuffers,
        maxStorageBufferBindingSize: bindingBytes,
        maxBufferSize: options.floor ? 2 * FLOOR.bindingBytes : has.maxBufferSize,
        maxComputeWorkgroupStorageSize: workgroup.bytes,
        maxComputeInvocationsPerWorkgroup: workgroup.lanes,
        maxComputeWorkgroupSizeX: workgroup.lanes,
      },
    });
    const { vendor, architecture, device: model, description, isFallbackAdapter } = adapter.info;
    const words = [vendor, architecture, model, description];
    const name = [...new Set(words.filter((w) => w))].join(' ') || 'unnamed adapter';
    const software = isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|software/i.test(name);
    const report = { name, software, features, maxBindingBytes: bindingBytes };
    return new Gpu(device, report, workgroup);
  }

  /** Does this device have an optional feature, e.g. 'subgroups'? */
  has(feature: GPUFeatureName): boolean {
    return this.#device.features.has(feature);
  }

  // -------------------------------------------------------------------------------------------- buffers

  /** A zeroed tensor of 4-byte elements. A refused one is told by the `guard` around it, or else by the next read and all later ones. */
  tensor(kind: TensorKind, name: string, shape: readonly number[]): Tensor {
    const bytes = Math.max(16, Math.ceil((4 * shape.reduce((a, b) => a * b, 1)) / 16) * 16);
    this.#checkBinding(name, bytes);
    const usage =
      GPUBufferUsage.STORAGE |
      GPUBufferUsage.COPY_DST |
      GPUBufferUsage.COPY_SRC |
      GPUBufferUsage.UNIFORM;
    const guarded = this.#guards > 0;
    if (!guarded) this.#device.pushErrorScope('out-of-memory');
    const buffer = this.#device.createBuffer({ label: name, size: bytes, usage });
    if (!guarded) this.#noteRefusal(name);
    const tensor: Tensor = { name, shape, bytes, kind, buffer, offset: 0 };
    this.#tensors.add(tensor);
    this.bytes[kind] += bytes;
    return tensor;
  }

  /** A tensor holding these values. */
  upload(
    kind: TensorKind,
    name: string,
    shape: readonly number[],
    values: Float32Array | Uint32Array,
  ): Tensor {
    const tensor = this.tensor(kind, name, shape);
    this.write(tensor, 0, values);
    return tensor;
  }

  /** A part of a tensor, from a multiple of PART_ELEMENTS on: bound and copied like any other, and not to be released. */
  part(whole: Tensor, name: string, element: number, shape: readonly number[]): Tensor {
    const bytes = 4 * shape.reduce((a, b) => a * b, 1);
    const offset = whole.offset + 4 * element;
    if (element % PART_ELEMENTS !== 0 || 4 * element + bytes > whole.bytes) {
      throw new Error(`${name} cannot begin at element ${element} of ${whole.name}`);
    }
    return { name, shape, bytes, kind: whole.kind, buffer: whole.buffer, offset };
  }

  /** Write values at an element offset; ordered before any later submit. */
  write(tensor: Tensor, element: number, values: Float32Array | Uint32Array): void {
    for (let at = 0; at < values.byteLength; at += WRITE_BYTES) {
      this.#device.queue.writeBuffer(
        tensor.buffer,
        tensor.offset + 4 * element + at,
        values.buffer,
        values.byteOffset + at,
        Math.min(WRITE_BYTES, values.byteLength - at),
      );
    }
  }

  /** Give a tensor's memory back at once. */
  release(tensor: Tensor): void {
    if (!this.#tensors.delete(tensor)) return;
    tensor.buffer.destroy();
    this.bytes[tensor.kind] -= tensor.bytes;
  }

  #noteRefusal(name: string): void {
    const answered = this.#device
      .popErrorScope()
      .then((refusal) => void (refusal && (this.#short ??= name)))
      .catch(() => {}) // a loss is told by what comes next
      .finally(() => this.#allocating.delete(answered));
    this.#allocating.add(answered);
  }

  /** Run allocations and report a refused one. Fails: OutOfMemory, LimitTooSmall, DeviceLost. */
  async guard<T>(what: string, work: () => Promise<T> | T): Promise<T> {
    this.#guards++;
    this.#device.pushErrorScope('validation');
    this.#device.pushErrorScope('out-of-memory');
    let result: T;
    try {
      result = await work();
    } catch (error) {
      this.#guards--;
      await this.#popScopes().catch(() => {}); // the first error is the one to tell
      throw error;
    }
    this.#guards--;
    const [memory, invalid] = await this.#popScopes();
    if (memory) throw this.#outOfMemory(what);
    if (invalid) throw new Error(`${what}: ${invalid.message}`);
    return result;
  }

  /** What the last two scopes caught. Fails: DeviceLost. */
  async #popScopes(): Promise<(GPUError | null)[]> {
    try {
      return await Promise.all([this.#device.popErrorScope(), this.#device.popErrorScope()]);
    } catch (error) {
      await this.#notLost();
      throw error;
    }
  }

  #outOfMemory(what: string): PalimpsestError {
    const held = Object.values(this.bytes).reduce((a, b) => a + b, 0);
    return new PalimpsestError(
      'OutOfMemory',
      `The GPU has no room for ${what} (${megabytes(held)} asked for in all). Close other tabs or choose a smaller model or context.`,
    );
  }

  #checkBinding(name: string, bytes: number): void {
    if (bytes > this.report.maxBindingBytes) {
      throw new PalimpsestError(
        'LimitTooSmall',
        `${name} needs a binding of ${megabytes(bytes)}, this GPU allows ${megabytes(this.report.maxBindingBytes)}. Choose a smaller context or model.`,
      );
    }
  }

  // ------------------------------------------------------------------------------------------- programs

  /**
   * Link and compile a kernel with these libraries and constants; the same request gives the same program.
   * The pipeline compiles in the background: await `ready()` before recording.
   */
  program<B extends string, C extends string>(
    kernel: Kernel<B, C>,
    libraries: Library[],
    consts: Record<C, number>,
    libraryConsts: Record<string, number> = {},
  ): Program {
    const all = { ...libraryConsts, ...consts };
    const texts = [kernel.source, ...libraries.map((l) => l.source)];
    const key = JSON.stringify([texts.map((text) => this.#textId(text)), all]);
    const known = this.#programs.get(key);
    if (known) return known;

    const code = link(kernel.name, [...libraries.map((l) => l.source), kernel.source], all);
    const lines = bindLines(code);
    const found = lines.filter((l) => l.group === 0).map((l) => l.name);
    if (found.join(' ') !== kernel.binds.join(' ')) {
      throw new Error(
        `${kernel.name} binds ${found.join(' ')}; the table says ${kernel.binds.join(' ')}`,
      );
    }
    const program: Program = {
      name: kernel.name,
      code: inOneGroup(code),
      lines,
      layout: this.#layout(lines),
      grid: (tokens) => kernel.grid(consts, tokens),
      pipeline: null,
    };
    this.#programs.set(key, program);
    const compiled = measured('pipelines', () => this.#compile(program));
    const compiling = compiled.finally(() => this.#compiling.delete(compiling));
    compiling.catch(() => {}); // reported by ready()
    this.#compiling.add(compiling);
    return program;
  }

  /** A short name for a source text. */
  #textId(text: string): number {
    const id = this.#texts.get(text) ?? this.#texts.size;
    this.#texts.set(text, id);
    return id;
  }

  async #compile(program: Program): Promise<void> {
    const module = this.#device.createShaderModule({ label: program.name, code: program.code });
    const layout = this.#device.createPipelineLayout({ bindGroupLayouts: [program.layout] });
    try {
      program.pipeline = await this.#device.createComputePipelineAsync({
        label: program.name,
        layout,
        compute: { module, entryPoint: program.name },
      });
    } catch (error) {
      await this.#notLost();
      const { messages } = await module.getCompilationInfo();
      const errors = messages.filter((m) => m.type === 'error');
      const text = errors.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`).join('\n');
      throw new Error(`${program.name} does not compile:\n${text || String(error)}`, {
        cause: error,
      });
    }
  }

  #layout(lines: readonly BindLine[]): GPUBindGroupLayout {
    const key = lines.map((l) => l.type).join(' ');
    let layout = this.#layouts.get(key);
    if (!layout) {
      layout = this.#device.createBindGroupLayout({
        label: key,
        entries: lines.map((l, binding) => ({
          binding,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: l.type },
        })),
      });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  /** Wait until every program asked for has its pipeline. A kernel that does not compile is thrown here. */
  async ready(): Promise<void> {
    await Promise.all(this.#compiling);
  }

  // ---------------------------------------------------------------------------------------------- calls

  /** Bind buffers by name. Missing and surplus names are refused. */
  bind(program: Program, tensors: Record<string, Tensor>): Call {
    const names = new Set(program.lines.map((l) => l.name));
    for (const name of Object.keys(tensors)) {
      if (!names.has(name))
        throw new Error(`${program.name} has no binding ${name}; it has ${[...names].join(' ')}`);
    }
    const group = this.#device.createBindGroup({
      label: program.name,
      layout: program.layout,
      entries: program.lines.map(({ name }, binding) => {
        const tensor = tensors[name];
        if (!tensor) throw new Error(`${program.name}: nothing bound to ${name}`);
        const { buffer, offset, bytes } = tensor;
        return { binding, resource: { buffer, offset, size: bytes } };
      }),
    });
    const weights = Object.values(tensors).filter((t) => t.kind === 'weights');
    return { program, group, weights };
  }

  /** Record calls and copies, in order, into one command buffer; submit it with `submit`. A buffer can be submitted once. */
  record(calls: readonly (Call | Copy)[], tokens: number): GPUCommandBuffer {
    const encoder = this.#device.createCommandEncoder();
    recordCalls(encoder, calls, tokens);
    return encoder.finish();
  }

  /** The same, and what they leave in some stretches is read back, one after another: `submitReading`, or `dropReading`. */
  recordReading(
    calls: readonly (Call | Copy)[],
    tokens: number,
    stretches: readonly Stretch[],
  ): Reading {
    const bytes = stretches.reduce((sum, { count }) => sum + 4 * count, 0);
    const { staging, refused } = this.#takeReadback(bytes);
    const encoder = this.#device.createCommandEncoder();
    recordCalls(encoder, calls, tokens);
    let at = 0;
    for (const { tensor, element, count } of stretches) {
      const from = tensor.offset + 4 * element;
      encoder.copyBufferToBuffer(tensor.buffer, from, staging, at, 4 * count);
      at += 4 * count;
    }
    return { commands: encoder.finish(), staging, bytes, refused };
  }

  /** Hand recorded work to the GPU. Fails: DeviceLost. */
  submit(commands: GPUCommandBuffer): void {
    this.#alive();
    this.#device.queue.submit([commands]);
  }

  /** Copy `count` elements between tensors, on the GPU. */
  copy(from: Tensor, fromElement: number, to: Tensor, toElement: number, count: number): void {
    this.#alive();
    const encoder = this.#device.createCommandEncoder();
    const [source, target] = [from.offset + 4 * fromElement, to.offset + 4 * toElement];
    encoder.copyBufferToBuffer(from.buffer, source, to.buffer, target, 4 * count);
    this.#device.queue.submit([encoder.finish()]);
  }

  /** Set tensors to zero, on the GPU. */
  clear(tensors: readonly Tensor[]): void {
    this.#alive();
    const encoder = this.#device.createCommandEncoder();
    for (const { buffer, offset, bytes } of tensors) encoder.clearBuffer(buffer, offset, bytes);
    this.#device.queue.submit([encoder.finish()]);
  }

  /** Read `count` 4-byte elements back, after all work submitted so far. Fails: DeviceLost, OutOfMemory. */
  read(tensor: Tensor, element = 0, count = tensor.bytes / 4 - element): Promise<ArrayBuffer> {
    return this.readTogether([{ tensor, element, count }]);
  }

  /** Read stretches back, one after another, all as they are after the work submitted so far. Fails: DeviceLost, OutOfMemory. */
  async readTogether(stretches: readonly Stretch[]): Promise<ArrayBuffer> {
    return (await this.readApart([stretches]))[0]!;
  }

  /** The same, groups of stretches each in bytes of its own. Fails: DeviceLost, OutOfMemory. */
  readApart(groups: readonly (readonly Stretch[])[]): Promise<ArrayBuffer[]> {
    const ends: number[] = [];
    for (const group of groups) {
      ends.push(group.reduce((sum, { count }) => sum + 4 * count, ends.at(-1) ?? 0));
    }
    return this.#take(this.recordReading([], 0, groups.flat()), ends);
  }

  /** Hand recorded work to the GPU; what it leaves, once it is done. Fails: DeviceLost, OutOfMemory. */
  async submitReading(reading: Reading): Promise<ArrayBuffer> {
    return (await this.#take(reading, [reading.bytes]))[0]!;
  }

  /** What is read, cut at its `ends`. */
  async #take({ commands, staging, bytes, refused }: Reading, ends: number[]) {
    this.submit(commands);
    try {
      await staging.mapAsync(GPUMapMode.READ, 0, bytes);
    } catch (error) {
      if (await refused) throw this.#outOfMemory(`a readback of ${megabytes(bytes)}`);
      await this.#notLost();
      throw error;
    }
    const mapped = staging.getMappedRange(0, bytes);
    const copies = ends.map((end, i) => mapped.slice(ends[i - 1] ?? 0, end));
    staging.unmap();
    this.#keepReadback(staging);
    await this.#allocated();
    return copies;
  }

  /** Recorded work that will not be submitted. */
  dropReading({ staging }: Reading): void {
    this.#keepReadback(staging);
  }

  #keepReadback(staging: GPUBuffer): void {
    if (staging.size === READBACK_BYTES && this.#readbacks.length < READBACKS) {
      this.#readbacks.push(staging);
    } else if (this.#isLarger(staging)) {
      this.#largeReadback?.destroy();
      this.#largeReadback = staging;
    } else staging.destroy();
  }

  /** A staging buffer that is large enough, a kept one if there is one: readbacks of tokens in flight allocate nothing. */
  #takeReadback(bytes: number): { staging: GPUBuffer; refused: Promise<GPUError | null> } {
    const kept = bytes <= READBACK_BYTES ? this.#readbacks.pop() : this.#takeLarge(bytes);
    if (kept) return { staging: kept, refused: Promise.resolve(null) };
    this.#device.pushErrorScope('out-of-memory');
    const staging = this.#device.createBuffer({
      label: 'readback',
      size: Math.max(READBACK_BYTES, bytes),
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const refused = this.#device.popErrorScope().catch(() => null); // a loss is told by what comes next
    return { staging, refused };
  }

  #isLarger({ size }: GPUBuffer): boolean {
    return size > (this.#largeReadback?.size ?? READBACK_BYTES) && size <= LARGE_READBACK_BYTES;
  }

  #takeLarge(bytes: number): GPUBuffer | undefined {
    const kept = this.#largeReadback;
    if (!kept || kept.size < bytes) return undefined;
    this.#largeReadback = null;
    return kept;
  }

  /**
   * GPU microseconds of each group of calls, run once in order, a group in a pass of its own. Needs the feature
   * 'timestamp-query'. A pass adds a little to short calls; whole plans are timed by the clock instead.
   */
  async profile(groups: readonly (readonly Call[])[], tokens: number): Promise<number[]> {
    const count = 2 * groups.length;
    const queries = this.#device.createQuerySet({ type: 'timestamp', count });
    const resolved = this.#device.createBuffer({
      size: 8 * count,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const staging = this.#device.createBuffer({
      size: 8 * count,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = this.#device.createCommandEncoder();
    groups.forEach((calls, i) => {
      const pass = encoder.beginComputePass({
        timestampWrites: {
          querySet: queries,
          beginningOfPassWriteIndex: 2 * i,
          endOfPassWriteIndex: 2 * i + 1,
        },
      });
      for (const call of calls) dispatchCall(pass, call, tokens);
      pass.end();
    });
    encoder.resolveQuerySet(queries, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, 8 * count);
    this.#device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const stamps = new BigUint64Array(staging.getMappedRange().slice(0));
    for (const buffer of [resolved, staging]) buffer.destroy();
    queries.destroy();
    return groups.map((_, i) => Number(stamps[2 * i + 1]! - stamps[2 * i]!) / 1000);
  }

  /** Have all writes begun with, and wait until they are done. Fails: DeviceLost, OutOfMemory. */
  written(): Promise<void> {
    this.#device.queue.submit([]);
    return this.idle();
  }

  /** Wait until all submitted work is done. Fails: DeviceLost, OutOfMemory. */
  async idle(): Promise<void> {
    await this.#device.queue.onSubmittedWorkDone();
    await this.#allocated();
  }

  /** No result counts before every allocation has been answered. Fails: DeviceLost, OutOfMemory. */
  async #allocated(): Promise<void> {
    if (this.#allocating.size > 0) await Promise.all(this.#allocating);
    this.#alive();
  }

  /** Whether the device is gone; asked after a failure that this may have caused. */
  async isLost(): Promise<boolean> {
    // What was under way fails first; the news of the loss comes a moment later.
    let wait: ReturnType<typeof setTimeout> | undefined;
    const moment = new Promise<void>((resolve) => (wait = setTimeout(resolve, LOSS_NEWS_MS)));
    await Promise.race([this.#device.lost, moment]);
    clearTimeout(wait);
    return this.#gone !== null;
  }

  async #notLost(): Promise<void> {
    if (await this.isLost()) this.#alive();
  }

  #alive(): void {
    if (this.#gone !== null) {
      throw new PalimpsestError(
        'DeviceLost',
        `The graphics device went away (${this.#gone}). Reload the model to go on.`,
      );
    }
    if (this.#short !== null) throw this.#outOfMemory(this.#short);
  }

  /** Free every tensor and the device. */
  destroy(): void {
    this.#ended = true;
    for (const tensor of [...this.#tensors]) this.release(tensor);
    for (const staging of this.#readbacks) staging.destroy();
    this.#readbacks.length = 0;
    this.#largeReadback?.destroy();
    this.#programs.clear();
    this.#device.destroy();
  }
}

function recordCalls(
  encoder: GPUCommandEncoder,
  calls: readonly (Call | Copy)[],
  tokens: number,
): void {
  let pass: GPUComputePassEncoder | null = null;
  for (const call of calls) {
    if ('program' in call) {
      pass ??= encoder.beginComputePass();
      dispatchCall(pass, call, tokens);
    } else {
      pass?.end();
      pass = null;
      const { from, to, toElement, perToken } = call;
      const bytes = 4 * perToken * tokens;
      const at = to.offset + 4 * toElement;
      encoder.copyBufferToBuffer(from.buffer, from.offset, to.buffer, at, bytes);
    }
  }
  pass?.end();
}

function dispatchCall(pass: GPUComputePassEncoder, { program, group }: Call, tokens: number): void {
  if (!program.pipeline) throw new Error(`${program.name} was recorded before ready()`);
  const [x, y, z] = program.grid(tokens);
  pass.setPipeline(program.pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(x, y, z);
}

/** Bytes for people: "341 MB". */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
