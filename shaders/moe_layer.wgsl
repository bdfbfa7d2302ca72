// moe_layer: the experts of one token and the shared one, from the residual row to what they add to it, in one call.
//
//   h = (mean x^2 + NORM_EPS)^-1/2 w x
//   act = weight silu(G[e] h) (U[e] h)      of each chosen expert e      act = silu(C h) (C h, from row SHARED on)      of the shared one
//   rows[PART_TO + g][r] = sum of E[e, r, u] act[u] over the units u of workgroup g
//
// Shapes  rows [.., D]: see residual   constants, chosen: see router_early   G, U [EXPERTS WIDTH, D]   C [2 SHARED, D]
//         E [EXPERTS D, WIDTH], for the shared expert [D, SHARED]; all in any format each
// Grid    (SLICES): units are slot 0's WIDTH, slot 1's, .., then SHARED; each workgroup takes the next UNITS, all of one expert
// Links   matrix_* for G, others as b for U, c for C, d and e for E, activation, residual, router_early, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts moe
// UNITS divides WIDTH and SHARED; it is a multiple of 32, of 256 where d or e come in blocks of 256, and SUM_LANES at most.
// Rows PART_TO .. PART_TO + SLICES - 1 are none of those that residual reads or writes.
// The call is one chain of waits for memory: what can travel together is written out, since no loop of loads overlaps with itself.
const SLICES = 32u;
const PART_TO = 11u;
const WIDTH = COLS_d;
const SHARED = COLS_e;
const UNITS = (TOP * WIDTH + SHARED) / SLICES;
const FOURS = UNITS / 4u;
const HALF = SUM_LANES / 2u; // lanes for gate, and as many for up
const SHARERS = HALF / FOURS; // lanes that share four rows
const APART = SHARERS + 1u; // in sums, so that lanes which read at once meet in no bank
var<workgroup> sums: array<vec4f, 2u * FOURS * APART>; // of gate, then of up
var<workgroup> act: array<vec4f, FOURS>;

fn norm_weight(i: u32) -> vec4f {
  return constants[i];
}

// Four rows of gate, up or the shared expert times a share of the normed row; blocks past the end are nothing.
fn gate_block(row: u32, b: u32) -> vec4f {
  let at = min(b, COLS / BLOCK - 1u);
  return select(0.0, 1.0, b < COLS / BLOCK) * four(row, at, normed[quad(at, 0u)], normed[quad(at, 1u)]);
}
fn gate_rows(row: u32, share: u32) -> vec4f {
  var sum = vec4f();
  for (var b = share; b < COLS / BLOCK; b += 5u * SHARERS) {
    let near = gate_block(row, b) + gate_block(row, b + SHARERS);
    let far = gate_block(row, b + 2u * SHARERS) + gate_block(row, b + 3u * SHARERS) + gate_block(row, b + 4u * SHARERS);
    sum += near + far;
  }
  return sum;
}
fn up_block(row: u32, b: u32) -> vec4f {
  let at = min(b, COLS_b / BLOCK_b - 1u);
  return select(0.0, 1.0, b < COLS_b / BLOCK_b) * four_b(row, at, normed[quad_b(at, 0u)], normed[quad_b(at, 1u)]);
}
fn up_rows(row: u32, share: u32) -> vec4f {
  var sum = vec4f();
  for (var b = share; b < COLS_b / BLOCK_b; b += 5u * SHARERS) {
    let near = up_block(row, b) + up_block(row, b + SHARERS);
    let far = up_block(row, b + 2u * SHARERS) + up_block(row, b + 3u * SHARERS) + up_block(row, b + 4u * SHARERS);
    sum += near + far;
  }
  return sum;
}
fn shared_block(row: u32, b: u32) -> vec4f {
  let at = min(b, COLS_c / BLOCK_c - 1u);
  return select(0.0, 1.0, b < COLS_c / BLOCK_c) * four_c(row, at, normed[quad_c(at, 0u)], normed[quad_c(at, 1u)]);
}
fn shared_rows(row: u32, share: u32) -> vec4f {
  var sum = vec4f();
  for (var b = share; b < COLS_c / BLOCK_c; b += 5u * SHARERS) {
    let near = shared_block(row, b) + shared_block(row, b + SHARERS);
    let far = shared_block(row, b + 2u * SHARERS) + shared_block(row, b + 3u * SHARERS) + shared_block(row, b + 4u * SHARERS);
    sum += near + far;
  }
  return sum;
}

// Of the SHARERS sums from `begin` on, i .. i + 3; those past the last are nothing.
fn four_sums(begin: u32, i: u32) -> vec4f {
  let live = select(vec4f(), vec4f(1.0), vec4u(i, i + 1u, i + 2u, i + 3u) < vec4u(SHARERS));
  let last = begin + SHARERS - 1u;
  let near = live.x * sums[begin + i] + live.y * sums[min(begin + i + 1u, last)];
  return near + live.z * sums[min(begin + i + 2u, last)] + live.w * sums[min(begin + i + 3u, last)];
}

// Four rows of the second layer times act, which begins at column `first`.
fn down_block(row: u32, b: u32, first: u32) -> vec4f {
  return four_d(row, b, act[quad_d(b, 0u) - first / 4u], act[quad_d(b, 1u) - first / 4u]);
}
fn down_rows(row: u32, first: u32) -> vec4f {
  var sum = vec4f();
  for (var b = first / BLOCK_d; b < (first + UNITS) / BLOCK_d; b += 4u) {
    let near = down_block(row, b, first) + down_block(row, b + 1u, first);
    sum += near + (down_block(row, b + 2u, first) + down_block(row, b + 3u, first));
  }
  return sum;
}
fn shared_down_block(row: u32, b: u32, first: u32) -> vec4f {
  return four_e(row, b, act[quad_e(b, 0u) - first / 4u], act[quad_e(b, 1u) - first / 4u]);
}
fn shared_down_rows(row: u32, first: u32) -> vec4f {
  var sum = vec4f();
  for (var b = first / BLOCK_e; b < (first + UNITS) / BLOCK_e; b += 4u) {
    let near = shared_down_block(row, b, first) + shared_down_block(row, b + 1u, first);
    sum += near + (shared_down_block(row, b + 2u, first) + shared_down_block(row, b + 3u, first));
  }
  return sum;
}

@compute @workgroup_size(SUM_LANES)
fn moe_layer(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let unit = group.x * UNITS;
  let slot = min(unit / WIDTH, TOP); // TOP: the shared expert
  let first = unit - slot * WIDTH;
  let asked = ask_router(lane); // travels with the residual row
  let scale = take_residual(group.x == 0u, lane);
  var expert = 0u;
  if (slot < TOP) {
    expert = choose(slot, asked, scale, lane);
  }

  let gates = lane.index < HALF;
  let place = lane.index % HALF;
  let at = min(place / SHARERS, FOURS - 1u);
  let share = place % SHARERS;
  let row = first + 4u * at;
  var sum = vec4f();
  if (slot == TOP) {
    sum = shared_rows(select(SHARED + row, row, gates), share);
  } else if (gates) {
    sum = gate_rows(expert * WIDTH + row, share);
  } else {
    sum = up_rows(expert * WIDTH + row, share);
  }
  if (place < FOURS * SHARERS) {
    sums[select(FOURS * APART, 0u, gates) + at * APART + share] = scale * sum;
  }
  workgroupBarrier();
  if (lane.index < FOURS) {
    var gate = vec4f();
    var up = vec4f();
    for (var s = 0u; s < SHARERS; s += 4u) {
      gate += four_sums(lane.index * APART, s);
      up += four_sums((FOURS + lane.index) * APART, s);
    }
    var weight = 1.0;
    if (slot < TOP) {
      weight = weight_of(expert);
    }
    act[lane.index] = weight * vec4f(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up;
  }
  workgroupBarrier();

  for (var n = lane.index; n < D / 4u; n += SUM_LANES) {
    var part = vec4f();
    if (slot < TOP) {
      part = down_rows(expert * D + 4u * n, first);
    } else {
      part = shared_down_rows(4u * n, first);
    }
    rows[(PART_TO + group.x) * (D / 4u) + n] = part;
  }
  if (group.x == 0u) {
    tell_choice(lane);
  }
}
