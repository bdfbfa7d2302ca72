// cache_f16: four numbers of the latent cache as f16, half the memory; arithmetic stays f32. Same functions as cache_f32:
// link one. No shader-f16 needed.
alias CacheWord = vec2u;
fn cache_load(word: CacheWord) -> vec4f {
  return vec4f(unpack2x16float(word.x), unpack2x16float(word.y));
}
fn cache_store(values: vec4f) -> CacheWord {
  return vec2u(pack2x16float(values.xy), pack2x16float(values.zw)); // not clamped: that would hide a NaN
}
