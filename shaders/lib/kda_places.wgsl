// kda_places: where the numbers of a KDA layer's head lie, in memory and among the lanes of its workgroup; kda_head and kda_head_early
// say what is done with them.
//
//   q, k, v = silu(convolution of the last TAPS inputs)      q, k to unit length, q times K^-1/2
//   g = a softplus(F f + dt)      beta = sigmoid(b)      gate = sigmoid(G o_g)
//   S <- Diag(exp g) S,  u = beta (v - S^T k),  S <- S + k u^T,  o = S^T q
//   y = o (mean o^2 + EPS)^-1/2 w gate
//
// Shapes  S [H, K, V]   tails [TAPS - 1, C], C = q | k | v of all heads   F [H K, RANK] from row F_FIRST, G [H V, RANK] from row G_FIRST
//         constants [.. BEFORE | conv [C, TAPS] | dt [H K] | a [H] | w [V]]
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
const MIXED = 2u * K + V;
const FOURS = V / 4u;
const STRANDS = SUM_LANES / FOURS; // lanes that share four value columns
const GATE_FOURS = (K + V) / 4u;
@group(0) @binding(1) var<storage, read> constants: array<f32>;
@group(0) @binding(2) var<storage, read_write> tails: array<f32>;
@group(0) @binding(3) var<storage, read_write> S: array<vec4f>;
var<workgroup> mixed: array<f32, MIXED>; // q | k | v of this head
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

// Row d written; returns its energy.
fn write_row(h: u32, d: u32, columns: u32, before: vec4f, k_scale: f32, u: vec4f) -> f32 {
  if (d >= K) {
    return 0.0;
  }
  let written = before + mixed[K + d] * k_scale * u;
  S[(h * K + d) * FOURS + columns] = written;
  return dot(written, written);
}
