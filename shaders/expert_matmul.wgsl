// expert_matmul: a chunk of tokens, each through the experts chosen for it; the tokens of an expert together.
//
//   y[t, j, r] = sum_c W[ids[t, j], r, c] x[t, j, c]        for every slot j < TOP whose expert is in this part
//
// Shapes  list, tiles as expert_group wrote them   W [COUNT ROWS, COLS] in any matrix_* format: experts FIRST .. FIRST + COUNT - 1
//         x of (t, j) starts at X_FIRST + t X_TOKEN + j X_BATCH, y at Y_FIRST + t Y_TOKEN + j Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / TILE_ROWS, as many tiles as can be): a tile without tokens, or of an expert in another part, does nothing
// Links   matrix_*, outer, tile
// Oracle  test/reference/layers.ts linear, per expert
const ROWS = 1024u;
const TOP = 8u;
const FIRST = 0u;
const COUNT = 256u;
const X_FIRST = 0u;
const X_TOKEN = 2304u;
const X_BATCH = 0u;
const Y_FIRST = 0u;
const Y_TOKEN = 8192u;
const Y_BATCH = 1024u;
const EXPERTS = 256u; // of all parts: the grid's
@group(0) @binding(0) var<storage, read> list: array<u32>;
@group(0) @binding(1) var<storage, read> tiles: array<vec4u>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
fn x_start(n: u32) -> u32 {
  let pair = list[n];
  return (X_FIRST + pair / TOP * X_TOKEN + pair % TOP * X_BATCH) / 4u;
}
fn y_start(n: u32) -> u32 {
  let pair = list[n];
  return Y_FIRST + pair / TOP * Y_TOKEN + pair % TOP * Y_BATCH;
}
@compute @workgroup_size(TILE_LANES)
fn expert_matmul(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let tile = tiles[group.y];
  let expert = tile.x - FIRST; // wraps around for an expert before this part
  if (tile.z == 0u || expert >= COUNT) {
    return;
  }
  let row = group.x * TILE_ROWS;
  tile_product(expert * ROWS + row, row, min(ROWS - row, TILE_ROWS), tile.y, tile.z, lane);
}
