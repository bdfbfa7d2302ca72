// kda_head_early: everything a head of a KDA layer does with one token, between the projections in and out, as kda_places has it, for
// models of few small heads.
//
// Links   kda_places, matrix_* for F, another as b for G, activation, kda_{unwatched,watched}, sum_{tree,subgroup}, and from the kernel
//         given(i, h), number i of the head's q | k | v as projected; `low` is to be filled before, and decay[0] with the head's b
// What depends on no other lane is asked for by ask_head, so that it travels while the kernel makes the projections.
const BUNDLES = clamp(STRANDS / 2u, 1u, 4u); // in which the strands are added up
const SHARERS = min(SUM_LANES / GATE_FOURS, RANK / min(BLOCK, BLOCK_b)); // lanes that share four rows of F or G
var<workgroup> low: array<f32, 2u * RANK>; // f | o_g

// Four taps of a channel, the newest first, and the three inputs that are older than this token's.
struct Taps {
  weights: vec4f,
  past: vec3f,
}
// Weight and input of the token so many `back`; 0 where the convolution does not reach.
fn ask_tap(c: u32, back: u32) -> vec2f {
  let j = TAPS - 1u - min(back, TAPS - 1u);
  return select(vec2f(), vec2f(constant(c * TAPS + j), tails[j * C + c]), back < TAPS);
}
fn ask_taps(i: u32, h: u32) -> Taps {
  let c = channel(min(i, MIXED - 1u), h);
  let near = ask_tap(c, 1u);
  let far = ask_tap(c, 2u);
  let farthest = ask_tap(c, 3u);
  return Taps(
    vec4f(constant(c * TAPS + TAPS - 1u), near.x, far.x, farthest.x),
    vec3f(near.y, far.y, farthest.y),
  );
}
fn shift(c: u32, back: u32, x: f32) {
  if (back + 1u < TAPS) {
    let j = TAPS - 1u - back;
    tails[(j - 1u) * C + c] = x;
  }
}
fn convolve(i: u32, h: u32, asked: Taps) -> f32 {
  let c = channel(i, h);
  let last = given(i, h);
  var sum = dot(asked.weights, vec4f(last, asked.past));
  for (var back = TAPS - 1u; back > 3u; back--) {
    let older = ask_tap(c, back);
    sum += older.x * older.y;
    shift(c, back, older.y);
  }
  shift(c, 3u, asked.past.z);
  shift(c, 2u, asked.past.y);
  shift(c, 1u, asked.past.x);
  tails[(TAPS - 2u) * C + c] = last;
  return silu(sum);
}

// Block b of four rows of F or G: its lane's share.
fn gate_row(lane: Lane) -> u32 {
  return 4u * (lane.index / SHARERS);
}
fn forget_block(asked: Four, b: u32) -> vec4f {
  let i = 4u * quad(b, 0u);
  let j = 4u * quad(b, 1u);
  return asked_four(asked, b, vec4f(low[i], low[i + 1u], low[i + 2u], low[i + 3u]), vec4f(low[j], low[j + 1u], low[j + 2u], low[j + 3u]));
}
fn open_block(asked: Four_b, b: u32) -> vec4f {
  let i = RANK + 4u * quad_b(b, 0u);
  let j = RANK + 4u * quad_b(b, 1u);
  return asked_four_b(asked, b, vec4f(low[i], low[i + 1u], low[i + 2u], low[i + 3u]), vec4f(low[j], low[j + 1u], low[j + 2u], low[j + 3u]));
}

// What a lane needs first of all that lies in memory.
struct Asked {
  taps: Taps,
  forget: Four,
  open: Four_b,
  dt: f32,
  a: f32,
  weights: vec4f, // of the norm
  rows: mat4x4f, // of S, before the decay
}
fn ask_head(h: u32, lane: Lane) -> Asked {
  let row = gate_row(lane);
  let b = lane.index % SHARERS;
  var forget = Four();
  var open = Four_b();
  if (row < K) {
    forget = ask_four(F_FIRST + h * K + row, b);
  } else if (row < K + V) {
    open = ask_four_b(G_FIRST + h * V + row - K, b);
  }
  let w = C * TAPS + H * K + H + 4u * (lane.index % FOURS);
  var rows = mat4x4f(ask_row(h, 0u, lane), vec4f(), vec4f(), vec4f());
  if (K > STRANDS) {
    rows[1] = ask_row(h, 1u, lane);
  }
  if (K > 2u * STRANDS) {
    rows[2] = ask_row(h, 2u, lane);
    rows[3] = ask_row(h, 3u, lane);
  }
  return Asked(
    ask_taps(lane.index, h),
    forget,
    open,
    constant(C * TAPS + h * K + min(lane.index, K - 1u)),
    constant(C * TAPS + H * K + h),
    vec4f(constant(w), constant(w + 1u), constant(w + 2u), constant(w + 3u)),
    rows,
  );
}

// Row n of the lane's four columns of S; rows past the last are nothing.
fn row_of(n: u32, lane: Lane) -> u32 {
  return lane.index / FOURS + n * STRANDS;
}
fn ask_row(h: u32, n: u32, lane: Lane) -> vec4f {
  return S[(h * K + min(row_of(n, lane), K - 1u)) * FOURS + lane.index % FOURS];
}
fn decayed(row: vec4f, d: u32) -> vec4f {
  return select(0.0, decay[min(d, K - 1u)], d < K) * row;
}
fn take(row: vec4f, d: u32, q_scale: f32, k_scale: f32) {
  held += row * (mixed[K + min(d, K - 1u)] * k_scale);
  found += row * (mixed[min(d, K - 1u)] * q_scale);
}

// Component r of what `sharers` lanes found from `begin` on.
fn one_share(begin: u32, i: u32, sharers: u32, r: u32) -> f32 {
  return select(0.0, sums[begin + min(i, sharers - 1u)][r], i < sharers);
}
fn row_together(begin: u32, sharers: u32, r: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < sharers; i += 8u) { // eight are on their way at once
    let near = (one_share(begin, i, sharers, r) + one_share(begin, i + 1u, sharers, r))
      + (one_share(begin, i + 2u, sharers, r) + one_share(begin, i + 3u, sharers, r));
    let far = (one_share(begin, i + 4u, sharers, r) + one_share(begin, i + 5u, sharers, r))
      + (one_share(begin, i + 6u, sharers, r) + one_share(begin, i + 7u, sharers, r));
    sum += near + far;
  }
  return sum;
}

// What strand i left of number n, held and found of each column four in turn; strands past the last are nothing.
fn strand(i: u32, n: u32) -> vec4f {
  let first = select(0u, SUM_LANES, n >= FOURS) + n % FOURS;
  return select(0.0, 1.0, i < STRANDS) * sums[first + min(i, STRANDS - 1u) * FOURS];
}
fn bundle(i: u32, n: u32) -> vec4f {
  return select(0.0, 1.0, i < BUNDLES) * sums[min(i, BUNDLES - 1u) * 2u * FOURS + n];
}
fn bundled(n: u32) -> vec4f {
  return (bundle(0u, n) + bundle(1u, n)) + (bundle(2u, n) + bundle(3u, n));
}

// Four y of the head, but for the scale that take_token returns. They lie in the second half of sums.
fn opened(columns: u32) -> vec4f {
  return sums[SUM_LANES + columns];
}

// Leaves what opened() reads; a barrier too. `asked` is what ask_head gave.
fn take_token(h: u32, asked: Asked, lane: Lane) -> f32 {
  if (lane.index < MIXED) {
    mixed[lane.index] = convolve(lane.index, h, asked.taps);
  }
  if (SUM_LANES < MIXED) {
    for (var i = lane.index + SUM_LANES; i < MIXED; i += SUM_LANES) {
      mixed[i] = convolve(i, h, ask_taps(i, h));
    }
  }
  workgroupBarrier();
  let strength = decay[0];

  // Lengths of q and k and their product; on the way, rows of F and G by several lanes each.
  var products = vec4f();
  for (var d = lane.index; d < K; d += SUM_LANES) {
    products += vec4f(mixed[d] * mixed[d], mixed[K + d] * mixed[K + d], mixed[d] * mixed[K + d], 0.0);
  }
  let row = gate_row(lane);
  var gates = vec4f();
  if (row < K) {
    let first = lane.index % SHARERS;
    gates = forget_block(asked.forget, first);
    if (SHARERS < RANK / BLOCK) {
      for (var b = first + SHARERS; b < RANK / BLOCK; b += SHARERS) {
        gates += forget_block(ask_four(F_FIRST + h * K + row, b), b);
      }
    }
  } else if (row < K + V) {
    let first = lane.index % SHARERS;
    gates = open_block(asked.open, first);
    if (SHARERS < RANK / BLOCK_b) {
      for (var b = first + SHARERS; b < RANK / BLOCK_b; b += SHARERS) {
        gates += open_block(ask_four_b(G_FIRST + h * V + row - K, b), b);
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
    let sum = row_together((r / 4u) * SHARERS, SHARERS, r % 4u);
    if (r < K) {
      var dt = asked.dt;
      if (r != lane.index) {
        dt = constant(C * TAPS + h * K + r);
      }
      let g = apply(asked.a * softplus(sum + dt), factors.x);
      see_gate(h, r, g);
      decay[r] = exp(g);
    } else {
      gate[r - K] = sigmoid(sum);
    }
  }
  workgroupBarrier();

  let columns = lane.index % FOURS;
  let part = lane.index / FOURS;
  let d0 = row_of(0u, lane);
  let d1 = row_of(1u, lane);
  let d2 = row_of(2u, lane);
  let d3 = row_of(3u, lane);
  let r0 = decayed(asked.rows[0], d0);
  let r1 = decayed(asked.rows[1], d1);
  let r2 = decayed(asked.rows[2], d2);
  let r3 = decayed(asked.rows[3], d3);
  take(r0, d0, q_scale, k_scale);
  take(r1, d1, q_scale, k_scale);
  take(r2, d2, q_scale, k_scale);
  take(r3, d3, q_scale, k_scale);
  for (var n = 4u; n * STRANDS < K; n += 4u) { // four rows are on their way at once
    take(decayed(ask_row(h, n, lane), row_of(n, lane)), row_of(n, lane), q_scale, k_scale);
    take(decayed(ask_row(h, n + 1u, lane), row_of(n + 1u, lane)), row_of(n + 1u, lane), q_scale, k_scale);
    take(decayed(ask_row(h, n + 2u, lane), row_of(n + 2u, lane)), row_of(n + 2u, lane), q_scale, k_scale);
    take(decayed(ask_row(h, n + 3u, lane), row_of(n + 3u, lane)), row_of(n + 3u, lane), q_scale, k_scale);
  }
  sums[lane.index] = held;
  sums[SUM_LANES + lane.index] = found;
  workgroupBarrier();
  var sum = vec4f();
  if (lane.index < 2u * BUNDLES * FOURS) {
    let n = lane.index % (2u * FOURS);
    for (var i = lane.index / (2u * FOURS); i < STRANDS; i += 8u * BUNDLES) {
      let near = (strand(i, n) + strand(i + BUNDLES, n)) + (strand(i + 2u * BUNDLES, n) + strand(i + 3u * BUNDLES, n));
      let far = (strand(i + 4u * BUNDLES, n) + strand(i + 5u * BUNDLES, n)) + (strand(i + 6u * BUNDLES, n) + strand(i + 7u * BUNDLES, n));
      sum += near + far;
    }
  }
  workgroupBarrier();
  if (lane.index < 2u * BUNDLES * FOURS) {
    sums[lane.index] = sum;
  }
  workgroupBarrier();
  held = bundled(columns);
  found = bundled(FOURS + columns);
  let beta = apply(sigmoid(strength), factors.y);
  let v = 2u * K + 4u * columns;
  let u = beta * (vec4f(mixed[v], mixed[v + 1u], mixed[v + 2u], mixed[v + 3u]) - held);
  var energy = write_row(h, d0, columns, r0, k_scale, u) + write_row(h, d1, columns, r1, k_scale, u);
  energy += write_row(h, d2, columns, r2, k_scale, u) + write_row(h, d3, columns, r3, k_scale, u);
  for (var n = 4u; n * STRANDS < K; n += 4u) {
    let e0 = row_of(n, lane);
    let e1 = row_of(n + 1u, lane);
    let e2 = row_of(n + 2u, lane);
    let e3 = row_of(n + 3u, lane);
    let s0 = decayed(ask_row(h, n, lane), e0);
    let s1 = decayed(ask_row(h, n + 1u, lane), e1);
    let s2 = decayed(ask_row(h, n + 2u, lane), e2);
    let s3 = decayed(ask_row(h, n + 3u, lane), e3);
    energy += write_row(h, e0, columns, s0, k_scale, u) + write_row(h, e1, columns, s1, k_scale, u);
    energy += write_row(h, e2, columns, s2, k_scale, u) + write_row(h, e3, columns, s3, k_scale, u);
  }
  see_write(h, columns, part == 0u, held, beta, u, energy, lane);
  let o = found + total.z * q_scale * k_scale * u;
  if (part == 0u) {
    let open = vec4f(gate[4u * columns], gate[4u * columns + 1u], gate[4u * columns + 2u], gate[4u * columns + 3u]);
    sums[SUM_LANES + columns] = o * asked.weights * open;
  }
  return inverseSqrt(workgroup_sum_one(select(0.0, dot(o, o), part == 0u), lane) / f32(V) + EPS);
}
