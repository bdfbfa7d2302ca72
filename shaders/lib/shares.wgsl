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
  let first = f * sharers;
  for (var i = 0u; i < sharers; i += 8u) { // eight are on their way at once
    let near = (share(first, i, sharers) + share(first, i + 1u, sharers)) + (share(first, i + 2u, sharers) + share(first, i + 3u, sharers));
    let far = (share(first, i + 4u, sharers) + share(first, i + 5u, sharers)) + (share(first, i + 6u, sharers) + share(first, i + 7u, sharers));
    sum += near + far;
  }
  return sum;
}
