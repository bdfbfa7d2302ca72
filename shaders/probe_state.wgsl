// probe_state: a small picture of each head's memory.
//
//   cells[h, a, b] = sqrt( mean of S^2 over block (a, b) of 8 by 8 )        blocks as equal as K and V allow
//
// Shapes  S [H, K, V]   cells [.., H, 8, 8], this layer's from FIRST
// Grid    (64, H): a workgroup per block
// Links   sum_{tree,subgroup}
// Oracle  the definition
const H = 32u;
const K = 128u;
const V = 128u;
const FIRST = 0u;
const SIDE = 8u;
@group(0) @binding(0) var<storage, read> S: array<f32>;
@group(0) @binding(1) var<storage, read_write> cells: array<f32>;
@compute @workgroup_size(SUM_LANES)
fn probe_state(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let h = group.y;
  let top = group.x / SIDE * K / SIDE;
  let left = group.x % SIDE * V / SIDE;
  let rows = (group.x / SIDE + 1u) * K / SIDE - top;
  let columns = (group.x % SIDE + 1u) * V / SIDE - left;
  var squares = vec4f();
  for (var i = lane.index; i < rows * columns; i += SUM_LANES) {
    let s = S[(h * K + top + i / columns) * V + left + i % columns];
    squares.x += s * s;
  }
  let total = workgroup_sum(squares, lane).x;
  if (lane.index == 0u) {
    cells[FIRST + h * SIDE * SIDE + group.x] = sqrt(total / f32(rows * columns));
  }
}
