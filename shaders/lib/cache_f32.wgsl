// cache_f32: four numbers of the latent cache, as they are. Same functions as cache_f16: link one.
alias CacheWord = vec4f;
fn cache_load(word: CacheWord) -> vec4f {
  return word;
}
fn cache_store(values: vec4f) -> CacheWord {
  return values;
}
