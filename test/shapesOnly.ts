/**
 * A GPU for shapes: Dawn's null backend, which compiles and validates everything and computes nothing, with buffers that
 * are cut short. A model of any size fits; what it would not be allowed to bind or dispatch is still refused.
 *
 * The null backend allows 8 storage buffers per stage and the floor 10: a program with more than 8 is compiled on the
 * adapter of the kernel tests, and an empty one stands in for it.
 */
import { nodeGpu, nullGpu } from '../tools/nodeGpu.ts';
import { FLOOR } from '../workers/limits.ts';

/** More than any tensor has that parts are bound of. */
const KEPT_BYTES = 512 * 1024;
const NULL_STORAGE_BUFFERS = 8;

/** `programs` gets the label of every pipeline made. */
export function shapesOnlyGpu(programs: string[]): GPU {
  const gpu = nullGpu();
  return {
    wgslLanguageFeatures: gpu.wgslLanguageFeatures,
    async requestAdapter() {
      const adapter = (await gpu.requestAdapter())!;
      const { features, info } = adapter;
      const limits: Record<string, number> = {};
      for (const name in adapter.limits) limits[name] = adapter.limits[name as 'maxBufferSize'];
      limits.maxStorageBuffersPerShaderStage = FLOOR.storageBuffers;
      const requestDevice = async (wanted: GPUDeviceDescriptor) => {
        const requiredLimits = { ...wanted.requiredLimits };
        delete requiredLimits.maxStorageBuffersPerShaderStage;
        const device = await adapter.requestDevice({ ...wanted, requiredLimits });
        return withoutContents(device, await computingDevice(), programs);
      };
      return { limits, features, info, requestDevice };
    },
  } as unknown as GPU;
}

let computing: Promise<GPUDevice> | undefined;

/** A device that has the floor's storage buffers, and subgroups where the adapter has them. */
function computingDevice(): Promise<GPUDevice> {
  computing ??= (async () => {
    const adapter = (await (
      await nodeGpu({ toggles: ['disable_workgroup_init'] })
    ).requestAdapter())!;
    return adapter.requestDevice({
      requiredFeatures: (['subgroups', 'shader-f16'] as const).filter((f) =>
        adapter.features.has(f),
      ),
      requiredLimits: { maxStorageBuffersPerShaderStage: FLOOR.storageBuffers },
    });
  })();
  return computing;
}

function withoutContents(device: GPUDevice, other: GPUDevice, programs: string[]): GPUDevice {
  const { queue, limits } = device;
  const createBuffer = device.createBuffer.bind(device);
  const createShaderModule = device.createShaderModule.bind(device);
  const createBindGroup = device.createBindGroup.bind(device);
  const createBindGroupLayout = device.createBindGroupLayout.bind(device);
  const createPipelineLayout = device.createPipelineLayout.bind(device);
  const createComputePipelineAsync = device.createComputePipelineAsync.bind(device);
  const createCommandEncoder = device.createCommandEncoder.bind(device);
  const empty = createShaderModule({ code: '@compute @workgroup_size(1) fn empty() {}' });
  const sizes = new Map<GPUBuffer, number>();
  /** What stands for parts of buffers that were cut short, by where they begin. */
  const standIns = new Map<GPUBuffer, Map<number, GPUBuffer>>();
  const layouts = new Map<GPUBindGroupLayout, GPUBindGroupLayoutDescriptor>();
  const codes = new Map<GPUShaderModule, string>();
  /** Layouts with more storage buffers than the null backend allows, as they were wanted; what is left here binds the others. */
  const larger = new Map<GPUBindGroupLayout, GPUBindGroupLayoutDescriptor>();
  const largerPipelines = new Map<GPUPipelineLayout, GPUBindGroupLayoutDescriptor>();

  return Object.assign(device, {
    createBuffer(wanted: GPUBufferDescriptor) {
      if (wanted.size > limits.maxBufferSize) {
        throw new Error(`${wanted.label}: ${wanted.size} bytes, ${limits.maxBufferSize} allowed`);
      }
      const buffer = createBuffer({ ...wanted, size: Math.min(wanted.size, KEPT_BYTES) });
      sizes.set(buffer, wanted.size);
      return buffer;
    },
    createCommandEncoder() {
      const encoder = createCommandEncoder();
      const copy = encoder.copyBufferToBuffer.bind(encoder);
      return Object.assign(encoder, {
        copyBufferToBuffer(from: GPUBuffer, at: number, to: GPUBuffer, toAt: number, size: number) {
          if (at + size > sizes.get(from)! || toAt + size > sizes.get(to)!) {
            throw new Error(`${size} bytes of ${from.label} are more than it or ${to.label} has`);
          }
          if (Math.max(at, toAt) + size <= KEPT_BYTES) copy(from, at, to, toAt, size);
        },
      });
    },
    createShaderModule(wanted: GPUShaderModuleDescriptor) {
      const module = createShaderModule(wanted);
      codes.set(module, wanted.code);
      return module;
    },
    createBindGroupLayout(wanted: GPUBindGroupLayoutDescriptor) {
      const entries = [...wanted.entries];
      const storage = entries.filter((entry) => entry.buffer?.type !== 'uniform');
      const fits = storage.length <= NULL_STORAGE_BUFFERS;
      const layout = createBindGroupLayout(
        fits ? wanted : { entries: storage.slice(0, NULL_STORAGE_BUFFERS) },
      );
      layouts.set(layout, wanted);
      if (!fits) larger.set(layout, wanted);
      return layout;
    },
    createPipelineLayout(wanted: GPUPipelineLayoutDescriptor) {
      const layout = createPipelineLayout(wanted);
      const [group, ...more] = wanted.bindGroupLayouts;
      const full = larger.get(group!);
      if (full && more.length > 0) throw new Error('a larger layout stands alone');
      if (full) largerPipelines.set(layout, full);
      return layout;
    },
    createBindGroup(wanted: GPUBindGroupDescriptor) {
      refuseClashes(wanted, layouts.get(wanted.layout)!);
      const whole = [...wanted.entries].map(({ binding, resource }) => {
        const { buffer, offset = 0, size } = resource as GPUBufferBinding;
        if (
          offset % limits.minStorageBufferOffsetAlignment > 0 ||
          offset + size! > sizes.get(buffer)!
        )
          throw new Error(
            `${wanted.label}: ${size} bytes from ${offset} are no part of ${buffer.label}`,
          );
        if (offset + size! <= KEPT_BYTES) return { binding, resource };
        const parts = standIns.get(buffer) ?? new Map<number, GPUBuffer>();
        standIns.set(buffer, parts);
        const { usage } = buffer;
        const part = parts.get(offset) ?? createBuffer({ size: KEPT_BYTES, usage });
        parts.set(offset, part);
        return { binding, resource: { buffer: part } };
      });
      if (!larger.has(wanted.layout)) return createBindGroup({ ...wanted, entries: whole });
      const bound = [...larger.get(wanted.layout)!.entries]
        .filter((entry) => entry.buffer?.type !== 'uniform')
        .slice(0, NULL_STORAGE_BUFFERS)
        .map((entry) => entry.binding);
      const entries = whole.filter((entry) => bound.includes(entry.binding));
      return createBindGroup({ layout: wanted.layout, entries });
    },
    async createComputePipelineAsync(wanted: GPUComputePipelineDescriptor) {
      programs.push(wanted.label!);
      const layout = wanted.layout as GPUPipelineLayout;
      const full = largerPipelines.get(layout);
      if (!full) return createComputePipelineAsync(wanted);
      const module = other.createShaderModule({ code: codes.get(wanted.compute.module)! });
      await other.createComputePipelineAsync({
        layout: other.createPipelineLayout({
          bindGroupLayouts: [other.createBindGroupLayout(full)],
        }),
        compute: { ...wanted.compute, module },
      });
      return createComputePipelineAsync({ layout, compute: { module: empty } });
    },
    queue: {
      writeBuffer: () => {},
      submit: (commands: GPUCommandBuffer[]) => queue.submit(commands),
      onSubmittedWorkDone: () => queue.onSubmittedWorkDone(),
    },
  });
}

/** Of a buffer that a call writes it may bind other parts only, and these to be written as well. */
function refuseClashes(
  { label, entries }: GPUBindGroupDescriptor,
  layout: GPUBindGroupLayoutDescriptor,
): void {
  const types = new Map([...layout.entries].map((e) => [e.binding, e.buffer?.type]));
  const places = [...entries].map(({ binding, resource }) => {
    const { buffer, offset = 0, size = 0 } = resource as GPUBufferBinding;
    return { buffer, offset, end: offset + size, written: types.get(binding) === 'storage' };
  });
  places.forEach((a, i) => {
    for (const b of places.slice(i + 1)) {
      const one = a.buffer === b.buffer && (a.written || b.written);
      if (one && !(a.written && b.written && (a.end <= b.offset || b.end <= a.offset))) {
        throw new Error(`${label}: writes to what else it binds of ${a.buffer.label}`);
      }
    }
  });
}
