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
// A lane asks for two blocks before it multiplies; and for what waits for no choice, x and the beginning of the shared expert,
// before it has the choice.
const ROWS = 2304u;
const FIRST = 0u;
const COUNT = 256u;
const TOP = 8u;
const SHARED = 1u;
const PER_SLOT = COLS / BLOCK;
const BLOCKS = TOP * PER_SLOT;
const AHEAD = select(1u, AT_ONCE, BLOCKS > SUM_LANES); // blocks that a lane asks for at once
const SHARED_BLOCKS = COLS_b / BLOCK_b;
@group(0) @binding(0) var<storage, read> chosen: array<u32>;
@group(0) @binding(1) var<storage, read> act: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
var<workgroup> ids: array<u32, TOP>; // within this part
var<workgroup> weights: array<f32, TOP>; // 0 of an expert in another part, without a branch: no load waits for one

// Block n of all slots', in four rows from `row` on, asked for (where there is none, the last) and multiplied.
fn ask(row: u32, n: u32) -> Four {
  let at = min(n, BLOCKS - 1u);
  return ask_four(ids[at / PER_SLOT] * ROWS + row, at % PER_SLOT);
}
fn product(asked: Four, n: u32) -> vec4f {
  let slot = n / PER_SLOT;
  let b = n % PER_SLOT;
  let first = slot * (COLS / 4u);
  return weights[slot] * asked_four(asked, b, act[first + quad(b, 0u)], act[first + quad(b, 1u)]);
}
// The same of the shared expert.
struct AskedShared {
  four: Four_b,
  act: mat2x4f,
}
fn ask_shared(row: u32, b: u32) -> AskedShared {
  let at = min(b, SHARED_BLOCKS - 1u);
  let first = TOP * (COLS / 4u);
  return AskedShared(ask_four_b(row, at), mat2x4f(act[first + quad_b(at, 0u)], act[first + quad_b(at, 1u)]));
}
fn product_shared(asked: AskedShared, b: u32) -> vec4f {
  let there = SHARED_BLOCKS % SUM_LANES == 0u || b < SHARED_BLOCKS;
  let x0 = select(vec4f(), asked.act[0], there);
  let x1 = select(vec4f(), asked.act[1], there);
  return asked_four_b(asked.four, min(b, SHARED_BLOCKS - 1u), x0, x1);
}

@compute @workgroup_size(SUM_LANES)
fn expert_down(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let row = 4u * group.x;
  let zero = group.y; // 0, but no compiler knows
  let before = x[row + lane.index % 4u];
  var always = AskedShared();
  if (SHARED == 1u) {
    always = ask_shared(row, lane.index);
  }
  for (var slot = lane.index; slot < TOP; slot += SUM_LANES) {
    let expert = chosen[slot] - FIRST; // wraps around for an expert before this part
    ids[slot] = min(expert, COUNT - 1u);
    weights[slot] = select(0.0, bitcast<f32>(chosen[64u + slot]), expert < COUNT);
  }
  var acc = vec4f();
  workgroupBarrier();
  for (var n = lane.index; n < BLOCKS; n += AHEAD * SUM_LANES) {
    var b0 = ask(row, n);
    var b1 = Four();
    if (AHEAD > 1u) {
      b1 = ask(row, n + SUM_LANES);
      b0 = kept_back(b0, zero & (bits_of(b0) | bits_of(b1) | bits_of_b(always.four)));
    }
    acc += product(b0, n);
    if (AHEAD > 1u && n + SUM_LANES < BLOCKS) {
      acc += product(b1, n + SUM_LANES);
    }
  }
  if (SHARED == 1u) {
    acc += product_shared(always, lane.index);
  }
  if (SHARED == 1u && SHARED_BLOCKS > SUM_LANES) {
    for (var b = lane.index + SUM_LANES; b < SHARED_BLOCKS; b += SUM_LANES) {
      acc += product_shared(ask_shared(row, b), b);
    }
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < 4u) {
    x[row + lane.index] = before + total[lane.index];
  }
}
