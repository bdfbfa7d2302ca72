// kda_token: everything a head of a KDA layer does with one token, between the projections in and out.
//
//   q, k, v = silu(convolution of the last TAPS inputs)      q, k to unit length, q times K^-1/2
//   g = a softplus(F f + dt)      beta = sigmoid(b)      gate = sigmoid(G o_g)
//   S <- Diag(exp g) S,  u = beta (v - S^T k),  S <- S + k u^T,  o = S^T q
//   y = o (mean o^2 + EPS)^-1/2 w gate
//
// Shapes  inputs [q | k | v | f, o_g [RANK] | b [H]] with q, k [H, K], v [H, V]   y [H, V]   S [H, K, V]   tails [TAPS - 1, C]
//         constants [conv [C, TAPS] | dt [H K] | a [H] | w [V]]   F [H K, RANK] from row F_FIRST, G [H V, RANK] from row G_FIRST
// Grid    (H): one workgroup of at least V lanes per head
// Links   matrix_* for F, another as b for G, activation, kda_{unwatched,watched}, sum_{tree,subgroup}
// Oracle  test/reference/kda.ts shortConv, gates, writeStrengths, step, outNorm
const H = 32u;
const K = 128u;
const V = 128u;
const TAPS = 4u;
const F_FIRST = 0u;
const G_FIRST = 0u;
const EPS = 0.00001;
const RANK = COLS;
const C = H * (2u * K + V);
const PARTS = SUM_LANES / V; // lanes that share a value column
const ROWS = (K + PARTS - 1u) / PARTS; // rows of a column that a lane keeps
@group(0) @binding(0) var<storage, read> inputs: array<f32>;
@group(0) @binding(1) var<storage, read> constants: array<f32>;
@group(0) @binding(2) var<storage, read_write> tails: array<f32>;
@group(0) @binding(3) var<storage, read_write> S: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
var<workgroup> mixed: array<f32, 2u * K + V>; // q | k | v of this head
var<workgroup> low: array<vec4f, 2u * RANK / 4u>; // f | o_g
var<workgroup> decay: array<f32, K>;
var<workgroup> gate: array<f32, V>;
var<workgroup> sums: array<vec2f, SUM_LANES>;

// Where number i of this head's q | k | v lies among those of all heads.
fn channel(i: u32, h: u32) -> u32 {
  return select(select(2u * H * K + h * V + i - 2u * K, H * K + h * K + i - K, i < 2u * K), h * K + i, i < K);
}

fn convolve(i: u32, h: u32) -> f32 {
  let c = channel(i, h);
  let last = inputs[c];
  var sum = constants[c * TAPS + TAPS - 1u] * last;
  for (var j = 0u; j + 1u < TAPS; j++) {
    let x = tails[j * C + c];
    sum += constants[c * TAPS + j] * x;
    if (j > 0u) {
      tails[(j - 1u) * C + c] = x;
    }
  }
  tails[(TAPS - 2u) * C + c] = last;
  return silu(sum);
}

@compute @workgroup_size(SUM_LANES)
fn kda_token(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let h = group.x;
  for (var i = lane.index; i < 2u * RANK / 4u; i += SUM_LANES) {
    low[i] = vec4f(inputs[C + 4u * i], inputs[C + 4u * i + 1u], inputs[C + 4u * i + 2u], inputs[C + 4u * i + 3u]);
  }
  var squares = vec4f();
  for (var i = lane.index; i < 2u * K + V; i += SUM_LANES) {
    let m = convolve(i, h);
    mixed[i] = m;
    squares += m * m * vec4f(f32(i < K), f32(i >= K && i < 2u * K), 0.0, 0.0);
  }
  let total = workgroup_sum(squares, lane); // a barrier too: mixed and low are there
  let q_scale = inverseSqrt((total.x + EPS) * f32(K));
  let k_scale = inverseSqrt(total.y + EPS);
  see_inputs(h, q_scale, k_scale, lane);
  let factors = changed(h);

  for (var row = lane.index; row < K + V; row += SUM_LANES) {
    var sum = 0.0;
    if (row < K) {
      for (var b = 0u; b < RANK / BLOCK; b++) {
        let f = block(F_FIRST + h * K + row, b);
        sum += dot(f[0], low[quad(b, 0u)]) + dot(f[1], low[quad(b, 1u)]);
      }
      let g = apply(constants[C * TAPS + H * K + h] * softplus(sum + constants[C * TAPS + h * K + row]), factors.x);
      see_gate(h, row, g);
      decay[row] = exp(g);
    } else {
      for (var b = 0u; b < RANK / BLOCK; b++) {
        let g = block_b(G_FIRST + h * V + row - K, b);
        sum += dot(g[0], low[RANK / 4u + quad_b(b, 0u)]) + dot(g[1], low[RANK / 4u + quad_b(b, 1u)]);
      }
      gate[row - K] = sigmoid(sum);
    }
  }
  workgroupBarrier();

  let column = lane.index % V;
  let part = lane.index / V;
  let own = part < PARTS;
  var memory: array<f32, ROWS>;
  var held = vec2f(); // of this lane's rows: S^T k and S^T q, before the write
  var qk = 0.0;
  for (var i = 0u; i < ROWS; i++) {
    let d = part + i * PARTS;
    if (own && d < K) {
      memory[i] = decay[d] * S[(h * K + d) * V + column];
      held += memory[i] * vec2f(mixed[K + d] * k_scale, mixed[d] * q_scale);
    }
  }
  for (var d = 0u; d < K; d++) {
    qk += mixed[d] * mixed[K + d];
  }
  sums[lane.index] = held;
  workgroupBarrier();
  held = vec2f();
  for (var i = 0u; i < PARTS; i++) {
    held += sums[i * V + column];
  }
  let beta = apply(sigmoid(inputs[C + 2u * RANK + h]), factors.y);
  let u = beta * (mixed[2u * K + column] - held.x);
  var energy = 0.0;
  for (var i = 0u; i < ROWS; i++) {
    let d = part + i * PARTS;
    if (own && d < K) {
      let written = memory[i] + mixed[K + d] * k_scale * u;
      S[(h * K + d) * V + column] = written;
      energy += written * written;
    }
  }
  see_write(h, column, part == 0u, held.x, beta, u, energy, lane);
  let o = held.y + qk * q_scale * k_scale * u;
  let scale = inverseSqrt(workgroup_sum(vec4f(select(0.0, o * o, part == 0u)), lane).x / f32(V) + EPS);
  if (part == 0u) {
    y[h * V + column] = o * scale * constants[C * TAPS + H * K + H + column] * gate[column];
  }
}
