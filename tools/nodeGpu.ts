/**
 * WebGPU in Node: Dawn from the npm package `webgpu`, on the machine's GPU or on SwiftShader.
 *
 *   PALIMPSEST_ADAPTER=gpu          the machine's own Vulkan, Metal or Direct3D, or an error
 *   PALIMPSEST_ADAPTER=swiftshader  the CPU, the same on every machine (Linux x64); what the tests ask for
 *   unset                           the machine's own, and where it has none, SwiftShader
 */
import { constants } from 'node:os';
import { join } from 'node:path';
import { create, globals } from 'webgpu';
import { carriesChromium, unpackedChromium } from './chromium.ts';

interface NodeGpuOptions {
  /** Dawn's toggles to switch on, e.g. `vulkan_enable_f16_on_nvidia`, `allow_unsafe_apis`. */
  toggles?: string[];
  /** Those to switch off, e.g. `timestamp_quantization`. */
  without?: string[];
}

// Node aborts when what create() returned is collected while a device of it lives; a test runner drops modules.
const forever = globalThis as { palimpsestDawn?: GPU[]; palimpsestRests?: true };

/** How often in a row Dawn looks at once whether work is done, and how long it waits before each look after those. */
const HASTY_LOOKS = 32;
const REST_MS = 1;

/**
 * The `GPU` to request adapters from; also puts WebGPU's constants (`GPUBufferUsage`, ...) on `globalThis`.
 * Fails with an Error that says what was tried when no adapter answers.
 */
export async function nodeGpu(options: NodeGpuOptions = {}): Promise<GPU> {
  const wanted = process.env.PALIMPSEST_ADAPTER ?? 'any';
  if (!['any', 'gpu', 'swiftshader'].includes(wanted)) {
    throw new Error(`PALIMPSEST_ADAPTER is "${wanted}"; it can be gpu, swiftshader or unset.`);
  }
  const { toggles = [], without = [] } = options;
  const flags = [
    ...(toggles.length > 0 ? [`enable-dawn-features=${toggles.join(',')}`] : []),
    ...(without.length > 0 ? [`disable-dawn-features=${without.join(',')}`] : []),
  ];

  if (wanted !== 'swiftshader') {
    if (process.platform !== 'linux' || opensLibrary('libvulkan.so.1')) {
      const gpu = createDawn(flags);
      if (await gpu.requestAdapter()) return gpu;
    }
    if (wanted === 'gpu' || !carriesChromium) {
      throw new Error(
        'This machine offers no WebGPU adapter to Node. On Linux, Dawn needs libvulkan.so.1 (Debian: apt install ' +
          'libvulkan1) and the Vulkan driver of the GPU; on Linux x64 PALIMPSEST_ADAPTER=swiftshader needs neither.',
      );
    }
  }
  loadSwiftShader();
  restBetweenLooks();
  const gpu = createDawn(flags);
  if (!(await gpu.requestAdapter())) {
    throw new Error(
      `SwiftShader gave no adapter; VK_ICD_FILENAMES is ${process.env.VK_ICD_FILENAMES}. In a worker thread the ` +
        'variable must be set in the main thread: call loadSwiftShader() there.',
    );
  }
  return gpu;
}

/** A `GPU` that computes nothing: Dawn's null backend compiles every WGSL, extensions included, on any machine. */
export function nullGpu(options: NodeGpuOptions = {}): GPU {
  const { toggles = ['allow_unsafe_apis'] } = options;
  return createDawn(['backend=null', `enable-dawn-features=${toggles.join(',')}`]);
}

/**
 * Makes SwiftShader the Vulkan driver of this process. The driver is found through an environment variable that native
 * code reads, so where there are worker threads the main one must have called this (their `process.env` is a copy).
 */
export function loadSwiftShader(): void {
  const folder = unpackedChromium();
  process.env.VK_ICD_FILENAMES = join(folder, 'vk_swiftshader_icd.json');
  delete process.env.VK_DRIVER_FILES; // where set, it takes precedence
  // Opened here, the loader is there already when Dawn asks the system for "libvulkan.so.1".
  const loader = join(folder, 'libvulkan.so.1');
  if (!opensLibrary(loader))
    throw new Error(`${loader} does not load; remove ${folder} and try again.`);
}

/**
 * While anything is awaited, Dawn looks whether it is done in a setImmediate that sets the next one, without rest. On
 * SwiftShader that takes half of the processor from the very work that it waits for. Its callbacks have no source.
 */
function restBetweenLooks(): void {
  if (forever.palimpsestRests) return;
  forever.palimpsestRests = true;
  const { setImmediate, setTimeout } = globalThis;
  let looking = false;
  let looksInRow = 0;
  globalThis.setImmediate = new Proxy(setImmediate, {
    apply(_, self, args: Parameters<typeof setImmediate>): unknown {
      const [callback] = args;
      if (callback.name !== '' || !String(callback).includes('[native code]')) {
        return Reflect.apply(setImmediate, self, args);
      }
      looksInRow = looking ? looksInRow + 1 : 0;
      const look = () => {
        looking = true;
        try {
          callback();
        } finally {
          looking = false;
        }
      };
      return looksInRow < HASTY_LOOKS ? setImmediate(look) : setTimeout(look, REST_MS);
    },
  });
}

/** Loads a shared library into the process for good; false where there is none of that name. */
function opensLibrary(library: string): boolean {
  try {
    // 0x1000 is RTLD_NODELETE. What is no Node add-on makes dlopen throw, and stays open all the same.
    const { RTLD_NOW, RTLD_GLOBAL } = constants.dlopen;
    process.dlopen({ exports: {} }, library, RTLD_NOW | RTLD_GLOBAL | 0x1000);
  } catch (error) {
    return String(error).includes('did not self-register');
  }
  return true;
}

function createDawn(flags: string[]): GPU {
  Object.assign(globalThis, globals);
  const gpu = create(flags);
  (forever.palimpsestDawn ??= []).push(gpu);
  return gpu;
}
