// expert_down: the second layers of one token's experts and of the shared one, weighted, added to the residual row.
//
//   x[r] += sum_j weights[j] sum_c D[e, r, c] act[j, c] + sum_c D_b[r, c] act[TOP, c]        e = ids[j]
//
// Shapes  chosen [ids [TOP] | from 64: bits of weights [TOP] | ..] u32   act [TOP, COLS | COLS_b]   x [ROWS]
//         D [COUNT ROWS, COLS]: experts FIRST .. FIRST + COUNT - 1, any format   D_b [ROWS, COLS_b], any format
// Grid    (ROWS / 4): one workgroup makes four rows; lanes stride over the blocks of all their experts
// Links   matrix_* for D, another as b for D_b, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts moe
// Of several parts, each adds what its experts say; the one with SHARED = 1 adds the shared expert, too. ROWS is a multiple of 4.
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
  var acc = vec4f();
  for (var n = lane.index; n < TOP * PER_SLOT; n += SUM_LANES) {
    let slot = n / PER_SLOT;
    let b = n % PER_SLOT;
    let expert = chosen[slot] - FIRST; // wraps around for an expert before this part
    let first = slot * (COLS / 4u);
    // An expert of another part adds nothing, without a branch: no load waits for one.
    let weight = select(0.0, bitcast<f32>(chosen[64u + slot]), expert < COUNT);
    let at = min(expert, COUNT - 1u) * ROWS + row;
    acc += four(at, b, weight * act[first + quad(b, 0u)], weight * act[first + quad(b, 1u)]);
  }
  if (SHARED == 1u) {
    for (var b = lane.index; b < COLS_b / BLOCK_b; b += SUM_LANES) {
      let first = TOP * (COLS / 4u);
      acc += four_b(row, b, act[first + quad_b(b, 0u)], act[first + quad_b(b, 1u)]);
    }
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < 4u) {
    x[row + lane.index] += total[lane.index];
  }
}
