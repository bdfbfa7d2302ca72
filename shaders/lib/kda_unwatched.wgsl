// kda_unwatched: nobody looks into kda_token, and nothing in it is changed. Same functions as kda_watched: link one.
fn changed(h: u32) -> vec2f {
  return vec2f(1.0);
}
fn apply(value: f32, factor: f32) -> f32 {
  return value;
}
fn see_inputs(h: u32, q_scale: f32, k_scale: f32, lane: Lane) {}
fn see_gate(h: u32, d: u32, g: f32) {}
fn see_write(h: u32, columns: u32, first: bool, held: vec4f, beta: f32, u: vec4f, energy: f32, lane: Lane) {}
