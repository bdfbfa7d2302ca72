// shares: four rows of a product whose columns several lanes share, added up through workgroup memory.
//
// Share number f SHARERS + i is what lane i of four rows f has found. A call has one barrier: between sums[..] = and together().
// Links   the kernel's SHARES, the most numbers of shares of its products
var<workgroup> sums: array<vec4f, SHARES>;

fn share(first: u32, i: u32, sharers: u32) -> vec4f {
  return select(vec4f(), sums[first + min(i, sharers - 1u)], i < sharers);
}

fn together(f: u32, sharers: u32) -> vec4f {
  var sum = vec4f();
  for (var i = 0u; i < sharers; i += 4u) { // four are on their way at once
    let first = f * sharers;
    sum += (share(first, i, sharers) + share(first, i + 1u, sharers)) + (share(first, i + 2u, sharers) + share(first, i + 3u, sharers));
  }
  return sum;
}
