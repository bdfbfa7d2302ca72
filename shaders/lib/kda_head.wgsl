// kda_head: everything a head of a KDA layer does with one token, between the projections in and out, as kda_places has it; in little code,
// since a large model's weights pass through the cache between two calls and take the code with them.
//
// Links   kda_places, matrix_* for F, another as b for G, activation, kda_{unwatched,watched}, sum_{tree,subgroup}, and from the kernel
//         given(i, h), number i of the head's q | k | v as projected; `low` is to be filled before
const SHARERS = SUM_LANES / GATE_FOURS; // lanes that share four rows of F or G
var<workgroup> low: array<vec4f, 2u * RANK / 4u>; // f | o_g

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

// Row d of S, decayed; rows past the last are nothing.
fn decayed(h: u32, d: u32, columns: u32) -> vec4f {
  return select(0.0, decay[min(d, K - 1u)], d < K) * S[(h * K + min(d, K - 1u)) * FOURS + columns];
}
fn take(h: u32, d: u32, columns: u32, q_scale: f32, k_scale: f32) {
  let row = decayed(h, d, columns);
  held += row * (mixed[K + min(d, K - 1u)] * k_scale);
  found += row * (mixed[min(d, K - 1u)] * q_scale);
}

// The head's four y of this lane's columns, which its STRANDS lanes all have. `strength` is beta before its sigmoid; `low` is there.
fn take_token(h: u32, strength: f32, lane: Lane) -> vec4f {
  for (var i = lane.index; i < 2u * K + V; i += SUM_LANES) {
    mixed[i] = convolve(i, h);
  }
  workgroupBarrier();

  // Lengths of q and k and their product; on the way, rows of F and G by several lanes each.
  var products = vec4f();
  for (var d = lane.index; d < K; d += SUM_LANES) {
    products += vec4f(mixed[d] * mixed[d], mixed[K + d] * mixed[K + d], mixed[d] * mixed[K + d], 0.0);
  }
  let row = 4u * (lane.index / SHARERS);
  var gates = vec4f();
  if (row < K) {
    for (var b = lane.index % SHARERS; b < RANK / BLOCK; b += SHARERS) {
      gates += four(F_FIRST + h * K + row, b, low[quad(b, 0u)], low[quad(b, 1u)]);
    }
  } else if (row < K + V) {
    for (var b = lane.index % SHARERS; b < RANK / BLOCK_b; b += SHARERS) {
      gates += four_b(G_FIRST + h * V + row - K, b, low[RANK / 4u + quad_b(b, 0u)], low[RANK / 4u + quad_b(b, 1u)]);
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
  for (var d = part; d < K; d += 4u * STRANDS) { // columns rows are on their way at once
    take(h, d, columns, q_scale, k_scale);
    take(h, d + STRANDS, columns, q_scale, k_scale);
    take(h, d + 2u * STRANDS, columns, q_scale, k_scale);
    take(h, d + 3u * STRANDS, columns, q_scale, k_scale);
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
