// eights: four rows of a matrix or eight, asked for and multiplied at once; with every matrix_* library.
//
// `eight` says whether it is eight: a kernel's constant, so that what is never used is never made.
struct Eight {
  upper: Four,
  lower: Four,
}
fn ask_eight(row: u32, b: u32, eight: bool) -> Eight {
  var lower = Four();
  if (eight) {
    lower = ask_four(row + 4u, b);
  }
  return Eight(ask_four(row, b), lower);
}
fn bits_of_eight(asked: Eight) -> u32 {
  return bits_of(asked.upper) | bits_of(asked.lower);
}
fn eight_kept_back(asked: Eight, zero: u32) -> Eight {
  return Eight(kept_back(asked.upper, zero), kept_back(asked.lower, zero));
}
fn asked_eight(asked: Eight, b: u32, x0: vec4f, x1: vec4f, eight: bool) -> mat2x4f {
  var lower = vec4f();
  if (eight) {
    lower = asked_four(asked.lower, b, x0, x1);
  }
  return mat2x4f(asked_four(asked.upper, b, x0, x1), lower);
}
