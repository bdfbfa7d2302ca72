// kda_watched: what a head does with one token in kda_token, told; and its gates, changed. Same functions as kda_unwatched: link one.
//
//   g <- factor g      beta <- strength beta      for tokens at `from` or later; of several changes the product; 1 and 1 change no bit
//
// Shapes  watched [q | k | v | g | u | beta | sums [H, 5]], q scaled, q and k of unit length, q, k, g [H, K], v, u [H, V], beta [H]
//         sums = |u|^2, held . v, |held|^2, |v|^2, |S|^2 after the token      changes [CHANGES, H] of (factor, strength, from, 0)
// Links   step, and what kda_token links
const CHANGES = 1u;
const G_AT = H * (2u * K + V);
const U_AT = G_AT + H * K;
const BETA_AT = U_AT + H * V;
@group(4) @binding(0) var<storage, read_write> watched: array<f32>;
@group(4) @binding(1) var<uniform> changes: array<vec4u, CHANGES * H>; // bits: a position read as f32 could be flushed to 0

fn changed(h: u32) -> vec2f {
  var factors = vec2f(1.0);
  for (var i = 0u; i < CHANGES; i++) {
    let change = changes[i * H + h];
    if (step.position >= change.z) {
      factors *= bitcast<vec2f>(change.xy);
    }
  }
  return factors;
}
fn apply(value: f32, factor: f32) -> f32 {
  return value * factor;
}
fn see_inputs(h: u32, q_scale: f32, k_scale: f32, lane: Lane) {
  for (var i = lane.index; i < 2u * K + V; i += SUM_LANES) {
    watched[channel(i, h)] = mixed[i] * select(select(1.0, k_scale, i < 2u * K), q_scale, i < K);
  }
}
fn see_gate(h: u32, d: u32, g: f32) {
  watched[G_AT + h * K + d] = g;
}
// By all lanes, each with value columns 4 columns ..; `first` are those that speak for them, energy is each lane's own share of |S|^2.
fn see_write(h: u32, columns: u32, first: bool, held: vec4f, beta: f32, u: vec4f, energy: f32, lane: Lane) {
  let at = 2u * K + 4u * columns;
  let v = vec4f(mixed[at], mixed[at + 1u], mixed[at + 2u], mixed[at + 3u]);
  let products = vec4f(dot(u, u), dot(held, v), dot(held, held), dot(v, v));
  let sums = workgroup_sum(select(vec4f(), products, first), lane);
  let squares = workgroup_sum(vec4f(energy), lane).x;
  if (first) {
    let to = U_AT + h * V + 4u * columns;
    watched[to] = u.x;
    watched[to + 1u] = u.y;
    watched[to + 2u] = u.z;
    watched[to + 3u] = u.w;
  }
  if (lane.index == 0u) {
    let to = BETA_AT + H + 5u * h;
    watched[BETA_AT + h] = beta;
    watched[to] = sums.x;
    watched[to + 1u] = sums.y;
    watched[to + 2u] = sums.z;
    watched[to + 3u] = sums.w;
    watched[to + 4u] = squares;
  }
}
