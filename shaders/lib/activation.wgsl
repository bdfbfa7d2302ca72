// activation: the scalar functions of the model in forms that neither overflow nor lose small values.
fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x)); // in (0, 1], so neither branch overflows
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}
fn silu(x: f32) -> f32 {
  return x * sigmoid(x);
}
// softplus(x) = max(x, 0) + log1p(e), e = exp(-|x|). WGSL has no log1p, and log(1 + e) loses all of a small e, which is
// exactly where memory lasts longest; with s = e / (2 + e), log1p(e) = 2 atanh(s), whose series converges fast (s <= 1/3).
fn softplus(x: f32) -> f32 {
  let e = exp(-abs(x));
  let s = e / (2.0 + e);
  let p = s * s;
  let series = 1.0 + p * (1.0 / 3.0 + p * (1.0 / 5.0 + p * (1.0 / 7.0 + p * (1.0 / 9.0 + p * (1.0 / 11.0)))));
  return max(x, 0.0) + 2.0 * s * series;
}
