/** WebGPU whose devices can be destroyed from outside, as a driver's reset does, and that knows what they allocate. */
import { modelSources } from '../tools/nodeEngine.ts';
import { nodeGpu } from '../tools/nodeGpu.ts';
import { Gpu } from '../workers/gpu.ts';
import { LastingEngine, type LastingOptions } from '../workers/lasting.ts';
import { fixture } from './reference/golden.ts';

/** Devices made one after another; the last is the one in use. */
export class FragileGpu {
  readonly devices: GPUDevice[] = [];
  readonly #real: Promise<GPU>;
  /** Sees each device before anyone uses it. */
  readonly #prepare: (device: GPUDevice) => void;

  constructor(prepare: (device: GPUDevice) => void = () => {}) {
    this.#real = nodeGpu({ toggles: ['disable_workgroup_init'] });
    this.#prepare = prepare;
  }

  /** A device with the floor's limits. `tuning` as in test/workers/laid.ts. */
  open = async (tuning: 'gpu' | 'cpu' = 'cpu'): Promise<Gpu> => {
    const real = await this.#real;
    const watched = {
      wgslLanguageFeatures: real.wgslLanguageFeatures,
      requestAdapter: async (options?: GPURequestAdapterOptions) => {
        const adapter = await real.requestAdapter(options);
        return adapter && this.#watch(adapter);
      },
    } as GPU;
    const gpu = await Gpu.open(watched, { floor: true, features: ['subgroups'] });
    gpu.report.software = tuning === 'cpu';
    return gpu;
  };

  /** Take the device in use away. */
  lose(): void {
    this.devices.at(-1)!.destroy();
  }

  #watch(adapter: GPUAdapter): GPUAdapter {
    return new Proxy(adapter, {
      get: (target, name) => {
        if (name !== 'requestDevice') return read(target, name);
        return async (descriptor: GPUDeviceDescriptor) => {
          const device = await target.requestDevice(descriptor);
          this.devices.push(device);
          this.#prepare(device);
          return device;
        };
      },
    });
  }
}

function read(target: object, name: string | symbol): unknown {
  const value: unknown = Reflect.get(target, name);
  return typeof value === 'function' ? value.bind(target) : value;
}

/** The tiny golden model in an engine that outlives its devices. Its clock stands still unless given. */
export function openLasting(
  gpu: FragileGpu,
  options: Partial<LastingOptions> & { tuning?: 'gpu' | 'cpu' } = {},
): Promise<LastingEngine> {
  const { tuning = 'cpu', ...others } = options;
  return LastingEngine.load({
    open: () => gpu.open(tuning),
    shards: modelSources(fixture('tiny-f32.gguf')),
    contextTokens: 512,
    report: () => {},
    clock: () => 0,
    ...others,
  });
}
