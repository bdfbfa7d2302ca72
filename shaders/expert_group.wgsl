// expert_group: sort a chunk's (token, slot) pairs by expert, and cut each expert's share into tiles for expert_matmul.
//
//   list[e, ..]  the indices t TOP + j with ids[t, j] = e, ascending
//   tiles[..]    (e, index in list, tokens of the tile <= TILE_TOKENS, 0), in the order of experts; then tiles of 0 tokens
//
// Shapes  ids [T, TOP] u32, an expert at most once per token   list [EXPERTS, T] u32
//         tiles [min(EXPERTS, T TOP) + T TOP / TILE_TOKENS] vec4u: as many as can be, whatever the router chose
// Grid    (1): each lane reads all ids, 1024 at a time, and picks those of its experts
// Links   step
// Oracle  the definition
const EXPERTS = 256u;
const TOP = 8u;
const TILE_TOKENS = 32u;
const LANES = 256u;
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> list: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4u>;
var<workgroup> strip: array<vec4u, 256>;
var<workgroup> counts: array<u32, EXPERTS>;

fn id_at(pair: u32, pairs: u32) -> u32 {
  return select(0xffffffffu, ids[min(pair, pairs - 1u)], pair < pairs);
}

@compute @workgroup_size(LANES)
fn expert_group(@builtin(local_invocation_index) lane: u32) {
  let pairs = step.tokens * TOP;
  for (var e0 = 0u; e0 < EXPERTS; e0 += LANES) {
    let e = e0 + lane;
    var count = 0u;
    for (var first = 0u; first < pairs; first += 4u * LANES) {
      workgroupBarrier();
      let p = first + 4u * lane;
      strip[lane] = vec4u(id_at(p, pairs), id_at(p + 1u, pairs), id_at(p + 2u, pairs), id_at(p + 3u, pairs));
      workgroupBarrier();
      for (var i = 0u; i < min(LANES, (pairs - first + 3u) / 4u); i++) {
        let is_own = strip[i] == vec4u(e);
        if (any(is_own)) {
          for (var j = 0u; j < 4u; j++) {
            if (is_own[j]) {
              list[e * step.tokens + count] = first + 4u * i + j;
              count++;
            }
          }
        }
      }
    }
    if (e < EXPERTS) {
      counts[e] = count;
    }
  }
  workgroupBarrier();
  var before = 0u; // tiles of the experts before
  for (var e = 0u; e < EXPERTS; e++) {
    let count = counts[e];
    if (e % LANES == lane) {
      for (var i = 0u; i < count; i += TILE_TOKENS) {
        tiles[before + i / TILE_TOKENS] = vec4u(e, e * step.tokens + i, min(count - i, TILE_TOKENS), 0u);
      }
    }
    before += (count + TILE_TOKENS - 1u) / TILE_TOKENS;
  }
  for (var i = before + lane; i < min(EXPERTS, pairs) + pairs / TILE_TOKENS; i += LANES) {
    tiles[i] = vec4u();
  }
}
