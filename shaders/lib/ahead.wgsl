// ahead: what the call after this one reads, brought into the GPU's cache by workgroups past those that compute.
//
// Shapes  ahead [..] vec4u, words of any meaning: read, and let go
// Links   a sum with SUM_LANES lanes
// A call of few workgroups leaves most of a GPU idle, and the next one begins with a wait for weights that nobody has read since the
// last token. WARMERS workgroups share them; 0 do nothing.
const WARMERS = 24u;
const STRIDE = max(WARMERS, 1u) * SUM_LANES;
@group(0) @binding(3) var<storage, read> ahead: array<vec4u>;

// Four words of a lane, all on their way at once; past the last they are repeated.
fn ahead_words(i: u32, last: u32) -> vec4u {
  let near = ahead[min(i, last)] | ahead[min(i + STRIDE, last)];
  return near | (ahead[min(i + 2u * STRIDE, last)] | ahead[min(i + 3u * STRIDE, last)]);
}
// Whether any bit that `mask` has is in a warmer's share. For a mask of 0, if no compiler knows that it is: then the words are read, and
// the answer is no.
fn warm(warmer: u32, mask: u32, lane: Lane) -> bool {
  let last = arrayLength(&ahead) - 1u;
  var bits = vec4u();
  for (var i = warmer * SUM_LANES + lane.index; i <= last; i += 4u * STRIDE) {
    bits |= ahead_words(i, last);
  }
  return any((bits & vec4u(mask)) != vec4u());
}
