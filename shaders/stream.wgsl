// stream: read a whole buffer once, as fast as it can be: the roofline that benchmarks hold other kernels against.
//
//   sink[lane] = xor of every word that the lane reads
//
// Neighbouring lanes read neighbouring 16 bytes; what is read has to reach memory, or a compiler would leave the reads out.
// Shapes  words [WORDS] u32   sink [LANES] u32
// Grid    (LANES / 256): a lane reads every LANES-th vector
// Links   none
// Oracle  the definition
const WORDS = 268435456u;
const LANES = 1048576u;
@group(0) @binding(0) var<storage, read> words: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> sink: array<u32>;
@compute @workgroup_size(256)
fn stream(@builtin(global_invocation_id) id: vec3u) {
  var x = vec4u();
  for (var i = id.x; i < WORDS / 4u; i += LANES) {
    x ^= words[i];
  }
  sink[id.x] = x.x ^ x.y ^ x.z ^ x.w;
}
