// outer: m + a b^T, sixteen products held in registers: column j of m gains a b[j].
fn add_outer(m: mat4x4f, a: vec4f, b: vec4f) -> mat4x4f {
  return mat4x4f(
    fma(a, vec4f(b.x), m[0]),
    fma(a, vec4f(b.y), m[1]),
    fma(a, vec4f(b.z), m[2]),
    fma(a, vec4f(b.w), m[3]),
  );
}
