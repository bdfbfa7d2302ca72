import { performance } from 'node:perf_hooks';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { nodeGpu, nullGpu } from '../../tools/nodeGpu.ts';

const errorsOf = async (device: GPUDevice, code: string): Promise<string[]> => {
  device.pushErrorScope('validation');
  const compiled = await device.createShaderModule({ code }).getCompilationInfo();
  await device.popErrorScope();
  return compiled.messages.filter((m) => m.type === 'error').map((m) => m.message);
};

test('nodeGpu computes', async () => {
  const adapter = await (await nodeGpu()).requestAdapter();
  const device = await adapter!.requestDevice();
  const code = `@group(0) @binding(0) var<storage, read_write> x: array<u32>;
    @compute @workgroup_size(64) fn square(@builtin(global_invocation_id) id: vec3u) { x[id.x] = id.x * id.x; }`;
  const pipeline = device.createComputePipeline({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }) },
  });
  const x = device.createBuffer({
    size: 1024,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
  });
  const seen = device.createBuffer({
    size: 1024,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: x } }],
    }),
  );
  pass.dispatchWorkgroups(4);
  pass.end();
  encoder.copyBufferToBuffer(x, 0, seen, 0, 1024);
  device.queue.submit([encoder.finish()]);
  await seen.mapAsync(GPUMapMode.READ);
  expect([...new Uint32Array(seen.getMappedRange())]).toEqual(
    Array.from({ length: 256 }, (_, i) => i * i),
  );
  device.destroy();
});

test('while SwiftShader computes, Node rests; what others put off until next is as prompt as ever', async () => {
  const adapter = await (await nodeGpu()).requestAdapter();
  const device = await adapter!.requestDevice();
  const code = `@group(0) @binding(0) var<storage, read_write> x: array<u32>;
    @compute @workgroup_size(4) fn long(@builtin(global_invocation_id) id: vec3u) {
      var s = id.x + 1u;
      for (var i = 0u; i < 40000000u; i++) { s ^= s << 13u; s ^= s >> 17u; s ^= s << 5u; }
      x[id.x] = s;
    }`;
  const pipeline = await device.createComputePipelineAsync({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }) },
  });
  const x = device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  const layout = pipeline.getBindGroupLayout(0);
  const entries = [{ binding: 0, resource: { buffer: x } }];
  pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
  pass.dispatchWorkgroups(1);
  pass.end();
  device.queue.submit([encoder.finish()]);

  const before = performance.eventLoopUtilization();
  const done = device.queue.onSubmittedWorkDone();
  const order: string[] = [];
  setTimeout(() => order.push('timeout'), 5);
  await new Promise<void>((resolve) => {
    setImmediate((word: string) => resolve(void order.push(word)), 'immediate');
  });
  expect(await promisify(setImmediate)('promised')).toBe('promised');
  await done;
  const { active, idle } = performance.eventLoopUtilization(before);
  expect(order).toEqual(['immediate', 'timeout']);
  expect(active + idle).toBeGreaterThan(30); // milliseconds: else there was nothing to wait for
  expect(active / (active + idle)).toBeLessThan(0.5);
  device.destroy();
});

test('nullGpu compiles the extensions that the software adapter lacks, and still refuses what is wrong', async () => {
  const adapter = await nullGpu().requestAdapter();
  const device = await adapter!.requestDevice({
    requiredFeatures: [...adapter!.features] as GPUFeatureName[],
  });
  expect(await errorsOf(device, 'enable f16; fn half() -> f16 { return 0.5h; }')).toEqual([]);
  expect(
    await errorsOf(
      device,
      `enable chromium_experimental_subgroup_matrix;
       fn tile() { var t: subgroup_matrix_result<f32, 8, 8>; _ = t; }`,
    ),
  ).toEqual([]);
  expect(await errorsOf(device, 'enable f16; fn half() -> f16 { return 0.5f; }')).not.toEqual([]);
});
