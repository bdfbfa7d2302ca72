// expert_down: the second layers of one token's experts and of the shared one, weighted, added to the residual row.
//
//   x[r] += sum_j weights[j] sum_c D[e, r, c] act[j, c] + sum_c D_b[r, c] act[TOP, c]        e = ids[j]
//
// Shapes  chosen [ids [TOP] | from 64: bits of weights [TOP] | ..] u32   act [TOP, COLS | COLS_b]   x [ROWS]
//         D [COUNT ROWS, COLS]: experts FIRST .. FIRST + COUNT - 1, any format   D_b [ROWS, COLS_b], any format
// Grid    (ROWS / 4): one workgroup makes four rows; lanes stride over the blocks of all their experts
// Links   matrix_* for D, another as b for D_b, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts moe
// Of several parts, each adds what its experts say; the one with SHARED = 1 adds the shared expert, too.
const ROWS = 2304u;
const FIRST = 0u;
const COUNT = 256u;
const TOP = 8u;
const SHARED = 1u;
const PER_SLOT = COLS / BLOCK;
@group(0) @binding(0) var<storage, read> chosen: array<u32>;
@group(0) @binding(1) var<storage, read> act: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(SUM_LANES)
fn expert_down(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let row = 4u * group.x;
  let last = ROWS - 1u;
  var acc = vec4f();
  for (var n = lane.index; n < TOP * PER_SLOT; n += SUM_LANES) {
    let slot = n / PER_SLOT;
    let b = n % PER_SLOT;
    let expert = chosen[slot] - FIRST; // wraps around for an expert before this part
    if (expert < COUNT) {
      let weight = bitcast<f32>(chosen[64u + slot]);
      let a0 = weight * act[slot * (COLS / 4u) + quad(b, 0u)];
      let a1 = weight * act[slot * (COLS / 4u) + quad(b, 1u)];
      for (var r = 0u; r < 4u; r++) {
        let d = block(expert * ROWS + min(row + r, last), b);
        acc[r] += dot(d[0], a0) + dot(d[1], a1);
      }
    }
  }
  if (SHARED == 1u) {
    for (var b = lane.index; b < COLS_b / BLOCK_b; b += SUM_LANES) {
      let a0 = act[TOP * (COLS / 4u) + quad_b(b, 0u)];
      let a1 = act[TOP * (COLS / 4u) + quad_b(b, 1u)];
      for (var r = 0u; r < 4u; r++) {
        let d = block_b(min(row + r, last), b);
        acc[r] += dot(d[0], a0) + dot(d[1], a1);
      }
    }
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < 4u && row + lane.index < ROWS) {
    x[row + lane.index] += total[lane.index];
  }
}
