// swiglu: the gated activation between a network's two layers.
//
//   act = silu(gate) up
//
// Shapes  act [T SLOTS, WIDTH]   gate, up: row n starts at GATE_FIRST or UP_FIRST + n STRIDE, in f32 (multiples of 4), so
//         that both may be buffers of their own or halves of one; SLOTS rows per token (the chosen experts)
// Grid    (WIDTH / 256, SLOTS, T): four numbers per lane
// Links   activation
// Oracle  test/reference/layers.ts silu
const WIDTH = 1024u;
const SLOTS = 8u;
const GATE_FIRST = 0u;
const UP_FIRST = 0u;
const STRIDE = 1024u;
@group(0) @binding(0) var<storage, read> gate: array<vec4f>;
@group(0) @binding(1) var<storage, read> up: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> act: array<vec4f>;
@compute @workgroup_size(64)
fn swiglu(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = group.x * 64u + lane;
  if (i >= WIDTH / 4u) {
    return;
  }
  let n = group.z * SLOTS + group.y;
  let g = gate[(GATE_FIRST + n * STRIDE) / 4u + i];
  let open = g * vec4f(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
  act[n * (WIDTH / 4u) + i] = open * up[(UP_FIRST + n * STRIDE) / 4u + i];
}
