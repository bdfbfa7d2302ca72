// embed: the embedding rows of a call's tokens; and where each token last stood, for the repetition penalty.
//
//   x[t] = E[token[t]]        seen[token[t]] = position + t + 1, the largest of a call
//
// Shapes  tokens [T] u32, STRIDE words apart   x [T, COLS]   seen [vocabulary] u32, 0 = never   E [COUNT, COLS] in any matrix_* format
//         E may be a part of the rows: tokens FIRST .. FIRST + COUNT - 1; all others are left to the other parts
// Grid    (T): one workgroup copies one row
// Links   matrix_*, step
// Oracle  rows of the matrix itself
const FIRST = 0u;
const COUNT = 163840u;
const STRIDE = 1u;
@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> seen: array<atomic<u32>>;
@compute @workgroup_size(64)
fn embed(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let token = tokens[group.x * STRIDE];
  let row = token - FIRST; // wraps around for a token before this part
  if (row >= COUNT) {
    return;
  }
  for (var b = lane; b < COLS / BLOCK; b += 64u) {
    let e = block(row, b);
    x[group.x * (COLS / 4u) + quad(b, 0u)] = e[0];
    x[group.x * (COLS / 4u) + quad(b, 1u)] = e[1];
  }
  if (lane == 0u) {
    atomicMax(&seen[token], step.position + group.x + 1u); // a token may come twice in one call
  }
}
