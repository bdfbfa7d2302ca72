/** What is asked of a graphics adapter, and what is taken where there is more. */
import { PalimpsestError } from './protocol.ts';

/** The least any adapter must offer; tests run on exactly this. Storage bytes are per binding. */
export const FLOOR = {
  storageBuffers: 10,
  bindingBytes: 128 * 1024 * 1024,
  workgroupBytes: 16 * 1024,
  invocations: 256,
} as const;

/** Of workgroups, more than the floor: asked for where the adapter has it. Kernels with subgroup matrices need the bytes. */
export const ROOMY = { invocations: 1024, workgroupBytes: 32 * 1024 };

/** Fails: LimitTooSmall, with the first limit that is below the floor. */
export function refuseBelowFloor(has: GPUSupportedLimits): void {
  const need: [string, number, number][] = [
    ['storage buffers per shader stage', has.maxStorageBuffersPerShaderStage, FLOOR.storageBuffers],
    ['bytes in one storage binding', has.maxStorageBufferBindingSize, FLOOR.bindingBytes],
    ['bytes of workgroup memory', has.maxComputeWorkgroupStorageSize, FLOOR.workgroupBytes],
    ['invocations per workgroup', has.maxComputeInvocationsPerWorkgroup, FLOOR.invocations],
  ];
  for (const [what, offered, floor] of need) {
    if (offered < floor) {
      throw new PalimpsestError(
        'LimitTooSmall',
        `This adapter offers ${offered} ${what}; ${floor} are needed. Another browser or a newer driver may offer more.`,
      );
    }
  }
}
