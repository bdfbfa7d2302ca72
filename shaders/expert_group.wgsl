// expert_group: sort a chunk's (token, slot) pairs by expert, and cut each expert's share into tiles for expert_matmul.
//
//   list[e, ..]  the indices t TOP + j with ids[t, j] = e, ascending
//   tiles[..]    (e, index in list, tokens of the tile <= TILE_TOKENS, 0), in the order of experts; then tiles of 0 tokens
//
// Shapes  ids [T, TOP] u32, an expert at most once per token   list [EXPERTS, T] u32
//         tiles [min(EXPERTS, T TOP) + T TOP / TILE_TOKENS] vec4u: as many as can be, whatever the router chose
// Grid    (EXPERTS): every workgroup counts all pairs, since its tiles lie behind those of the experts before; then lists its own
// Links   step
// Oracle  the definition
const EXPERTS = 256u;
const TOP = 8u;
const TILE_TOKENS = 32u;
const LANES = 256u;
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> list: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4u>;
var<workgroup> counts: array<atomic<u32>, EXPERTS>; // pairs of each expert
var<workgroup> own: array<u32, LANES>; // pairs of this one in each lane's share

@compute @workgroup_size(LANES)
fn expert_group(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let expert = group.x;
  let pairs = step.tokens * TOP;
  let share = (pairs + LANES - 1u) / LANES; // a lane's pairs follow one another, so that the list ascends
  let first = min(lane * share, pairs);
  let end = min(first + share, pairs);
  for (var e = lane; e < EXPERTS; e += LANES) {
    atomicStore(&counts[e], 0u);
  }
  workgroupBarrier();
  var found = 0u;
  for (var p = first; p < end; p++) {
    let id = ids[p];
    atomicAdd(&counts[id], 1u);
    found += u32(id == expert);
  }
  own[lane] = found;
  workgroupBarrier();
  var at = expert * step.tokens;
  for (var i = 0u; i < lane; i++) {
    at += own[i];
  }
  for (var p = first; p < end; p++) {
    if (ids[p] == expert) {
      list[at] = p;
      at++;
    }
  }
  var before = 0u; // tiles of the experts before
  for (var e = 0u; e < expert; e++) {
    before += (atomicLoad(&counts[e]) + TILE_TOKENS - 1u) / TILE_TOKENS;
  }
  let count = atomicLoad(&counts[expert]);
  for (var i = lane * TILE_TOKENS; i < count; i += LANES * TILE_TOKENS) {
    tiles[before + i / TILE_TOKENS] = vec4u(expert, expert * step.tokens + i, min(count - i, TILE_TOKENS), 0u);
  }
  if (expert == EXPERTS - 1u) {
    let used = before + (count + TILE_TOKENS - 1u) / TILE_TOKENS;
    for (var i = used + lane; i < min(EXPERTS, pairs) + pairs / TILE_TOKENS; i += LANES) {
      tiles[i] = vec4u();
    }
  }
}
