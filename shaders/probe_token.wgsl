// probe_token: what one token did to all memories, from what kda_watched saw of it, and which experts it chose, into its record.
//
//   sums, beta, and the two middle ones of g over the key channels, for the median half-life: where probe_trace puts them
//   ids and bits of weights: where probe_choice puts them
//
// Shapes  watched [LAYERS, WATCHED] as kda_watched leaves each layer's row   chosen [ROUTERS, CHOSEN] u32: ids, from 64 on weights
//         records [RING, ROW] u32, the row of position p at p % RING; of it, bits of [LAYERS, H, 5 BLOCKS + 3]: sums by block, beta,
//         g, g; and from CHOICES [ROUTERS, 2 TOP]
// Grid    (H, LAYERS + 1): the last row's first workgroup is for the experts. kda_watched adds up all columns at once, so all
//         blocks but the first are 0
// Links   step
// Oracle  test/reference/kda.ts step
const LAYERS = 20u;
const H = 32u;
const K = 128u;
const V = 128u;
const WATCHED = 20736u;
const BLOCKS = 4u;
const RING = 256u;
const ROW = 15136u;
const ROUTERS = 26u;
const CHOSEN = 384u;
const TOP = 8u;
const CHOICES = 14720u;
const SUMS = 5u;
const G = H * (2u * K + V);
const BETA = G + H * (K + V);
const LANES = 64u;
@group(0) @binding(0) var<storage, read> watched: array<f32>;
@group(0) @binding(1) var<storage, read> chosen: array<u32>;
@group(0) @binding(2) var<storage, read_write> records: array<u32>;
var<workgroup> g: array<f32, K>;

@compute @workgroup_size(LANES)
fn probe_token(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  if (group.y == LAYERS) {
    for (var i = lane + select(0u, 2u * TOP * ROUTERS, group.x > 0u); i < 2u * TOP * ROUTERS; i += LANES) {
      let n = i % (2u * TOP);
      records[step.position % RING * ROW + CHOICES + i] = chosen[i / (2u * TOP) * CHOSEN + select(64u + n - TOP, n, n < TOP)];
    }
    return;
  }
  let h = group.x;
  let first = group.y * WATCHED;
  let out = step.position % RING * ROW + (group.y * H + h) * (SUMS * BLOCKS + 3u);
  for (var d = lane; d < K; d += LANES) {
    g[d] = watched[first + G + h * K + d];
  }
  workgroupBarrier();
  for (var i = lane; i < SUMS * BLOCKS; i += LANES) {
    records[out + i] = select(0u, bitcast<u32>(watched[first + BETA + H + SUMS * h + i % SUMS]), i < SUMS);
  }
  if (lane == 0u) {
    records[out + SUMS * BLOCKS] = bitcast<u32>(watched[first + BETA + h]);
  }
  for (var d = lane; d < K; d += LANES) { // the middle ones by their rank: as many are smaller, equals in order
    var rank = 0u;
    for (var other = 0u; other < K; other++) {
      rank += u32(g[other] < g[d] || (g[other] == g[d] && other < d));
    }
    if (rank == (K - 1u) / 2u) {
      records[out + SUMS * BLOCKS + 1u] = bitcast<u32>(g[d]);
    }
    if (rank == K / 2u) {
      records[out + SUMS * BLOCKS + 2u] = bitcast<u32>(g[d]);
    }
  }
}
