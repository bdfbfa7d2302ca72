// kda_head: everything a head of a KDA layer does with one token, between the projections in and out.
//
//   q, k, v = silu(convolution of the last TAPS inputs)      q, k to unit length, q times K^-1/2
//   g = a softplus(F f + dt)      beta = sigmoid(b)      gate = sigmoid(G o_g)
//   S <- Diag(exp g) S,  u = beta (v - S^T k),  S <- S + k u^T,  o = S^T q
//   y = o (mean o^2 + EPS)^-1/2 w gate
//
// Shapes  S [H, K, V]   tails [TAPS - 1, C], C = q | k | v of all heads   F [H K, RANK] from row F_FIRST, G [H V, RANK] from row G_FIRST
//         constants [.. BEFORE | conv [C, TAPS] | dt [H K] | a [H] | w [V]]
// Links   matrix_* for F, another as b for G, activation, kda_{unwatched,watched}, sum_{tree,subgroup}, and from the kernel
//         given(i, h), number i of the head's q | k | v as projected; `low` is to be filled before
// A workgroup per head; a lane has four value columns and every STRANDS-th row of them.
// BEFORE, F_FIRST and G_FIRST are multiples of 4, K and V of 8, SUM_LANES of V / 4; it is (K + V) / 4 or more.
const H = 32u;
const K = 128u;
const V = 128u;
const TAPS = 4u;
const BEFORE = 0u;
const F_FIRST = 0u;
const G_FIRST = 0u;
const EPS = 0.00001;
const RANK = COLS;
const C = H * (2u * K + V);
const FOURS = V / 4u;
const STRANDS = SUM_LANES / FOURS; // lanes that share four value columns
const GATE_FOURS = (K + V) / 4u;
const SHARERS = SUM_LANES / GATE_FOURS; // lanes that share four rows of F or G
@group(0) @binding(1) var<storage, read> constants: array<f32>;
@group(0) @binding(2) var<storage, read_write> tails: array<f32>;
@group(0) @binding(3) var<storage, read_write> S: array<vec4f>;
var<workgroup> mixed: array<f32, 2u * K + V>; // q | k | v of this head
var<workgroup> low: array<vec4f, 2u * RANK / 4u>; // f | o_g
var<workgroup> decay: array<f32, K>;
var<workgroup> gate: array<f32, V>;
var<workgroup> sums: array<vec4f, 2u * SUM_LANES>;
var<private> held: vec4f; // of this lane's rows: S^T k and S^T q, before the write
var<private> found: vec4f;

fn constant(i: u32) -> f32 {
  return constants[BEFORE + i];
}

// Where number i of this head's q | k | v lies among those of all heads.
fn channel(i: u32, h: u32) -> u32 {
  return select(select(2u * H * K + h * V + i - 2u * K, H * K + h * K + i - K, i < 2u * K), h * K + i, i < K);
}

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

// Row d written; returns its energy.
fn write_row(h: u32, d: u32, columns: u32, before: vec4f, k_scale: f32, u: vec4f) -> f32 {
  if (d >= K) {
    return 0.0;
  }
  let written = before + mixed[K + d] * k_scale * u;
  S[(h * K + d) * FOURS + columns] = written;
  return dot(written, written);
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
