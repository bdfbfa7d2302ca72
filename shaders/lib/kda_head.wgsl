// kda_head: everything a head of a KDA layer does with one token, between the projections in and out, as kda_places has it; in little code,
// since a large model's weights pass through the cache between two calls and take the code with them.
//
// Links   kda_places, matrix_* for F, another as b for G, activation, kda_{unwatched,watched}, sum_{tree,subgroup}, and from the kernel
//         given(i, h), number i of the head's q | k | v as projected; `low` is to be filled before
const SHARERS = SUM_LANES / GATE_FOURS; // lanes that share four rows of F or G
var<workgroup> low: array<vec4f, 2u * RANK / 4u>; // f | o_g

// What the convolution of number i of the head's q | k | v reads, where there are four taps; and the convolution.
struct Taps {
  inputs: vec4f, // oldest first
  weights: vec4f,
}
fn ask_taps(i: u32, h: u32) -> Taps {
  let c = channel(i, h);
  let weights = vec4f(constant(c * TAPS), constant(c * TAPS + 1u), constant(c * TAPS + 2u), constant(c * TAPS + 3u));
  return Taps(vec4f(tails[c], tails[C + c], tails[2u * C + c], given(i, h)), weights);
}
fn convolve_four(asked: Taps, i: u32, h: u32) -> f32 {
  let c = channel(i, h);
  let x = asked.inputs;
  let w = asked.weights;
  tails[c] = x.y;
  tails[C + c] = x.z;
  tails[2u * C + c] = x.w;
  return silu(w.w * x.w + w.x * x.x + w.y * x.y + w.z * x.z);
}
// And for any number of them.
fn convolve(i: u32, h: u32) -> f32 {
  let c = channel(i, h);
  let last = given(i, h);
  var sum = constant(c * TAPS + TAPS - 1u) * last;
  for (var j = 0u; j + 1u < TAPS; j++) {
    let x = tails[j * C + c];
    sum += constant(c * TAPS + j) * x;
    if (j > 0u) {
      tails[(j - 1u) * C + c] = x;
    }
  }
  tails[(TAPS - 2u) * C + c] = last;
  return silu(sum);
}
fn convolve_all(h: u32, lane: Lane) {
  if (TAPS != 4u) {
    for (var i = lane.index; i < MIXED; i += SUM_LANES) {
      mixed[i] = convolve(i, h);
    }
    return;
  }
  for (var i = lane.index; i < MIXED; i += 2u * SUM_LANES) { // two are on their way at once
    let further = select(i, i + SUM_LANES, i + SUM_LANES < MIXED);
    let near = ask_taps(i, h);
    let far = ask_taps(further, h);
    mixed[i] = convolve_four(near, i, h);
    if (further != i) {
      mixed[further] = convolve_four(far, further, h);
    }
  }
}

// Row d of S, decayed; rows past the last are nothing.
fn decayed(h: u32, d: u32, columns: u32) -> vec4f {
  return select(0.0, decay[min(d, K - 1u)], d < K) * S[(h * K + min(d, K - 1u)) * FOURS + columns];
}
fn take(row: vec4f, d: u32, q_scale: f32, k_scale: f32) {
  held += row * (mixed[K + min(d, K - 1u)] * k_scale);
  found += row * (mixed[min(d, K - 1u)] * q_scale);
}

// The head's four y of this lane's columns, which its STRANDS lanes all have. `strength` is beta before its sigmoid; `low` is there.
// `zero` is 0, but no compiler knows.
fn take_token(h: u32, strength: f32, zero: u32, lane: Lane) -> vec4f {
  convolve_all(h, lane);
  workgroupBarrier();

  // Lengths of q and k and their product; on the way, rows of F and G by several lanes each.
  var products = vec4f();
  for (var d = lane.index; d < K; d += SUM_LANES) {
    products += vec4f(mixed[d] * mixed[d], mixed[K + d] * mixed[K + d], mixed[d] * mixed[K + d], 0.0);
  }
  let row = 4u * (lane.index / SHARERS);
  var gates = vec4f();
  if (row < K) {
    for (var b = lane.index % SHARERS; b < RANK / BLOCK; b += 2u * SHARERS) {
      let c = min(b + SHARERS, RANK / BLOCK - 1u);
      let far = ask_four(F_FIRST + h * K + row, c);
      var near = ask_four(F_FIRST + h * K + row, b);
      near = kept_back(near, zero & (bits_of(near) | bits_of(far)));
      gates += asked_four(near, b, low[quad(b, 0u)], low[quad(b, 1u)]);
      if (b + SHARERS < RANK / BLOCK) {
        gates += asked_four(far, c, low[quad(c, 0u)], low[quad(c, 1u)]);
      }
    }
  } else if (row < K + V) {
    for (var b = lane.index % SHARERS; b < RANK / BLOCK_b; b += 2u * SHARERS) {
      let c = min(b + SHARERS, RANK / BLOCK_b - 1u);
      let far = ask_four_b(G_FIRST + h * V + row - K, c);
      var near = ask_four_b(G_FIRST + h * V + row - K, b);
      near = kept_back_b(near, zero & (bits_of_b(near) | bits_of_b(far)));
      gates += asked_four_b(near, b, low[RANK / 4u + quad_b(b, 0u)], low[RANK / 4u + quad_b(b, 1u)]);
      if (b + SHARERS < RANK / BLOCK_b) {
        gates += asked_four_b(far, c, low[RANK / 4u + quad_b(c, 0u)], low[RANK / 4u + quad_b(c, 1u)]);
      }
    }
  }
  sums[lane.index] = gates;
  let total = workgroup_sum(products, lane); // a barrier too: sums are there
  let q_scale = inverseSqrt((total.x + EPS) * f32(K));
  let k_scale = inverseSqrt(total.y + EPS);
  see_inputs(h, q_scale, k_scale, lane);
  let factors = changed(h);
  for (var r = lane.index; r < K + V; r += SUM_LANES) {
    var sum = 0.0;
    for (var i = 0u; i < SHARERS; i++) {
      sum += sums[(r / 4u) * SHARERS + i][r % 4u];
    }
    if (r < K) {
      let g = apply(constant(C * TAPS + H * K + h) * softplus(sum + constant(C * TAPS + h * K + r)), factors.x);
      see_gate(h, r, g);
      decay[r] = exp(g);
    } else {
      gate[r - K] = sigmoid(sum);
    }
  }
  workgroupBarrier();

  let columns = lane.index % FOURS;
  let part = lane.index / FOURS;
  for (var d = part; d < K; d += 8u * STRANDS) { // eight rows are on their way at once
    let r0 = decayed(h, d, columns);
    let r1 = decayed(h, d + STRANDS, columns);
    let r2 = decayed(h, d + 2u * STRANDS, columns);
    let r3 = decayed(h, d + 3u * STRANDS, columns);
    let r4 = decayed(h, d + 4u * STRANDS, columns);
    let r5 = decayed(h, d + 5u * STRANDS, columns);
    let r6 = decayed(h, d + 6u * STRANDS, columns);
    let r7 = decayed(h, d + 7u * STRANDS, columns);
    take(r0, d, q_scale, k_scale);
    take(r1, d + STRANDS, q_scale, k_scale);
    take(r2, d + 2u * STRANDS, q_scale, k_scale);
    take(r3, d + 3u * STRANDS, q_scale, k_scale);
    take(r4, d + 4u * STRANDS, q_scale, k_scale);
    take(r5, d + 5u * STRANDS, q_scale, k_scale);
    take(r6, d + 6u * STRANDS, q_scale, k_scale);
    take(r7, d + 7u * STRANDS, q_scale, k_scale);
  }
  sums[lane.index] = held;
  sums[SUM_LANES + lane.index] = found;
  workgroupBarrier();
  held = vec4f();
  found = vec4f();
  for (var i = 0u; i < STRANDS; i++) {
    held += sums[i * FOURS + columns];
    found += sums[SUM_LANES + i * FOURS + columns];
  }
  let beta = apply(sigmoid(strength), factors.y);
  let v = 2u * K + 4u * columns;
  let u = beta * (vec4f(mixed[v], mixed[v + 1u], mixed[v + 2u], mixed[v + 3u]) - held);
  var energy = 0.0;
  for (var d = part; d < K; d += 4u * STRANDS) {
    let r0 = decayed(h, d, columns);
    let r1 = decayed(h, d + STRANDS, columns);
    let r2 = decayed(h, d + 2u * STRANDS, columns);
    let r3 = decayed(h, d + 3u * STRANDS, columns);
    energy += write_row(h, d, columns, r0, k_scale, u) + write_row(h, d + STRANDS, columns, r1, k_scale, u);
    energy += write_row(h, d + 2u * STRANDS, columns, r2, k_scale, u) + write_row(h, d + 3u * STRANDS, columns, r3, k_scale, u);
  }
  see_write(h, columns, part == 0u, held, beta, u, energy, lane);
  let o = found + total.z * q_scale * k_scale * u;
  let scale = inverseSqrt(workgroup_sum(vec4f(select(0.0, dot(o, o), part == 0u)), lane).x / f32(V) + EPS);
  let w = C * TAPS + H * K + H + 4u * columns;
  let weights = vec4f(constant(w), constant(w + 1u), constant(w + 2u), constant(w + 3u));
  let opened = vec4f(gate[4u * columns], gate[4u * columns + 1u], gate[4u * columns + 2u], gate[4u * columns + 3u]);
  return o * scale * weights * opened;
}
