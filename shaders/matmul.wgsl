// matmul: a chunk of tokens through a matrix, or through a stack of matrices (heads). What matvec does, for many tokens.
//
//   y[t, n, r] = sum_c W[W_FIRST + n ROWS + r, c] x[t, n, c]
//
// Shapes  x [T, .., COLS]   y [T, .., ROWS]   W [BATCH ROWS, COLS] in any matrix_* format
//         x of (t, n) starts at X_FIRST + t X_TOKEN + n X_BATCH, y at Y_FIRST + t Y_TOKEN + n Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / TILE_ROWS, T / TILE_TOKENS, BATCH): one workgroup per tile of y
// Links   matrix_*, outer, tile, step
// Oracle  test/reference/layers.ts linear
const ROWS = 2304u;
const BATCH = 1u;
const W_FIRST = 0u;
const X_FIRST = 0u;
const X_TOKEN = 2304u;
const X_BATCH = 0u;
const Y_FIRST = 0u;
const Y_TOKEN = 2304u;
const Y_BATCH = 0u;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
var<private> matrix: u32;
fn x_start(t: u32) -> u32 {
  return (X_FIRST + t * X_TOKEN + matrix * X_BATCH) / 4u;
}
fn y_start(t: u32) -> u32 {
  return Y_FIRST + t * Y_TOKEN + matrix * Y_BATCH;
}
@compute @workgroup_size(TILE_LANES)
fn matmul(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  matrix = group.z;
  let row = group.x * TILE_ROWS;
  let token = group.y * TILE_TOKENS;
  let rows = min(ROWS - row, TILE_ROWS);
  tile_product(W_FIRST + matrix * ROWS + row, row, rows, token, min(step.tokens - token, TILE_TOKENS), lane);
}
