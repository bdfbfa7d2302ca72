// probe_row: the row of a call's last token, as it is.
//
//   row[FIRST + i] = x[T - 1, i]
//
// Shapes  x [T, WIDTH] of any 4-byte numbers   row [.. WIDTH ..]
// Grid    (WIDTH / 64)
// Links   step
// Oracle  the input itself
const WIDTH = 2304u;
const FIRST = 0u;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> row: array<u32>;
@compute @workgroup_size(64)
fn probe_row(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < WIDTH) {
    row[FIRST + id.x] = x[(step.tokens - 1u) * WIDTH + id.x];
  }
}
