// mla_attend_token: attention of one token over one slice of one segment of the latent cache, unfinished.
//
//   score[h, s] = SCALE (qa[h] . latent[s] + q[h, NOPE..] . key[s])        position s <= the token's
//   top[h] = max_s score      sum[h] = sum_s e^(score - top)      part[h] = sum_s e^(score - top) latent[s]
//
// Shapes  qa [HEADS, LATENT] queries in the latent's terms   q [HEADS, NOPE + SHARED] of which the shared part is read
//         cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
//         stats [HEADS, SLICES] of (top, sum)   parts [HEADS, SLICES, LATENT]
// Grid    (HEADS / 4, SLICES): four heads a workgroup; those of a slice side by side, since they read the same rows.
//         Slices divide the rows in use, whatever their number, by eights where a tile has more; one without rows says sum = 0
//         and writes no part.
// Links   cache_{f32,f16}, step
// Oracle  test/reference/mla.ts attendSlice
// Segments follow one another in the order of positions: the one at FIRST = 0 begins, the others go on with its slices.
// A tile is ROWS cache rows: so many that few barriers come, so few that they are in the nearest cache when they are read again.
// Scores: eight lanes share a row, each with every eighth vec4 of it; the queries of four heads lie in workgroup memory, component by
// component. Sums: a lane has two heads of one vec4 of the latent, through all rows of the tile.
// Little code in loops: a call is short, and long code takes longer to come than to run.
// LATENT and SHARED are multiples of 4, LATENT is 512 at most.
const HEADS = 32u;
const LATENT = 512u;
const SHARED = 64u;
const NOPE = 128u;
const SCALE = 0.07216878364870322;
const FIRST = 0u;
const SEGMENT = 4096u;
const SLICES = 64u;
const LOWEST = -3.4e38;
const LANES = 256u;
const ROWS = 32u;
const SHARERS = LANES / ROWS;
const COLUMNS = LATENT / 4u; // vec4s
const WIDTH = (LATENT + SHARED) / 4u;
const PER_LANE = (WIDTH + SHARERS - 1u) / SHARERS; // vec4s of a row
const ROUNDS = (PER_LANE + 3u) / 4u;
const AT_ONCE = (PER_LANE + ROUNDS - 1u) / ROUNDS; // that a lane asks for at once: 4 at most
const PADDED = ROUNDS * AT_ONCE * SHARERS;
@group(0) @binding(0) var<storage, read> qa: array<vec4f>;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> cache: array<CacheWord>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4f>;
var<workgroup> queries: array<vec4f, 4u * PADDED>; // [component, vec4 of a row] of four heads; past the row's end 0
var<workgroup> shares: array<vec4f, LANES>; // [row, sharer] scores of four heads
var<workgroup> scores: array<vec4f, ROWS>;
var<workgroup> weights: array<vec2f, 2u * ROWS>; // [pair of heads, row]
var<workgroup> rescale: vec4f; // of what was summed under a lower top

// Vec4 i of a head's query; of a head past the last, the last one's.
fn query(head: u32, i: u32) -> vec4f {
  let h = min(head, HEADS - 1u);
  if (i < COLUMNS) {
    return qa[h * COLUMNS + i];
  }
  return q[h * ((NOPE + SHARED) / 4u) + NOPE / 4u + i - COLUMNS];
}
// (top, sum) of the segments before. What they left as a part is read only where they said something.
fn before(head: u32, slice: u32) -> vec2f {
  if (FIRST == 0u || head >= HEADS) {
    return vec2f(LOWEST, 0.0);
  }
  return stats[head * SLICES + slice];
}
fn part_before(head: u32, slice: u32, column: u32) -> vec4f {
  if (before(head, slice).y == 0.0) {
    return vec4f();
  }
  return parts[(head * SLICES + slice) * COLUMNS + column];
}
// Vec4 i of a row that begins at `at`: asked for, and multiplied with the queries of four heads; past the row's end those are 0.
fn ask(at: u32, i: u32) -> CacheWord {
  return cache[at + min(i, WIDTH - 1u)];
}
fn add_scores(sum: vec4f, i: u32, word: CacheWord) -> vec4f {
  let c = cache_load(word);
  let near = fma(queries[PADDED + i], vec4f(c.y), fma(queries[i], vec4f(c.x), sum));
  return fma(queries[3u * PADDED + i], vec4f(c.w), fma(queries[2u * PADDED + i], vec4f(c.z), near));
}
fn latent(row: u32, end: u32, column: u32) -> vec4f {
  return cache_load(cache[min(row, end - 1u) * WIDTH + column]); // a row past the last repeats it, and weighs nothing
}
fn add_row(part: mat2x4f, row: vec4f, weight: vec2f) -> mat2x4f {
  return mat2x4f(fma(row, vec4f(weight.x), part[0]), fma(row, vec4f(weight.y), part[1]));
}

@compute @workgroup_size(LANES)
fn mla_attend_token(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let slice = group.y;
  let head = 4u * group.x;
  let used = min(max(step.position + 1u, FIRST) - FIRST, SEGMENT);
  let least = (used + SLICES - 1u) / SLICES;
  let grain = select(8u, ROWS, least > ROWS);
  let share = (least + grain - 1u) / grain * grain; // rows of a slice: whole tiles, or less than one
  let start = slice * share;
  let end = min(start + share, used);
  if (FIRST > 0u && start >= end) {
    return;
  }

  for (var i = lane; i < PADDED; i += LANES) {
    var m = mat4x4f();
    if (i < WIDTH) {
      m = transpose(mat4x4f(query(head, i), query(head + 1u, i), query(head + 2u, i), query(head + 3u, i)));
    }
    queries[i] = m[0];
    queries[PADDED + i] = m[1];
    queries[2u * PADDED + i] = m[2];
    queries[3u * PADDED + i] = m[3];
  }
  // Of the lanes that have a row each: the highest score so far, the same of all, and the sum of their own rows.
  var top = vec4f(LOWEST);
  var sum = vec4f();
  if (FIRST > 0u && lane < ROWS) {
    let said = transpose(mat4x2f(before(head, slice), before(head + 1u, slice), before(head + 2u, slice), before(head + 3u, slice)));
    top = said[0];
    sum = select(vec4f(), said[1], lane == 0u);
  }
  let pair = lane / COLUMNS;
  let column = lane % COLUMNS;
  let own_head = head + 2u * pair;
  let adds = pair < 2u; // where a latent has fewer than 512 numbers, not all lanes have some to add up
  var part = mat2x4f();
  if (FIRST > 0u && adds) {
    part = mat2x4f(part_before(own_head, slice, column), part_before(own_head + 1u, slice, column));
  }
  workgroupBarrier();

  for (var row0 = start; row0 < end; row0 += ROWS) {
    let rows = min(ROWS, end - row0);
    let at = min(row0 + lane / SHARERS, end - 1u) * WIDTH;
    var found = vec4f();
    for (var i = lane % SHARERS; i < PADDED; i += AT_ONCE * SHARERS) {
      let w0 = ask(at, i);
      let w1 = ask(at, i + SHARERS);
      let w2 = ask(at, i + 2u * SHARERS);
      let w3 = ask(at, i + 3u * SHARERS);
      found = add_scores(found, i, w0);
      if (AT_ONCE > 1u) {
        found = add_scores(found, i + SHARERS, w1);
      }
      if (AT_ONCE > 2u) {
        found = add_scores(found, i + 2u * SHARERS, w2);
      }
      if (AT_ONCE > 3u) {
        found = add_scores(found, i + 3u * SHARERS, w3);
      }
    }
    shares[lane] = found;
    workgroupBarrier();
    if (lane < ROWS) {
      var score = vec4f();
      for (var i = 0u; i < SHARERS; i++) {
        score += shares[lane * SHARERS + (i + lane) % SHARERS]; // lanes side by side begin in different banks
      }
      scores[lane] = select(vec4f(LOWEST), SCALE * score, lane < rows);
    }
    workgroupBarrier();
    if (lane < ROWS) {
      let last = top;
      for (var r = 0u; r < rows; r++) {
        top = max(top, scores[r]);
      }
      let weight = exp(scores[lane] - top); // of a row past the last 0
      let factor = exp(last - top);
      sum = sum * factor + weight;
      weights[lane] = weight.xy;
      weights[ROWS + lane] = weight.zw;
      if (lane == 0u) {
        rescale = factor;
      }
    }
    workgroupBarrier();
    if (adds) {
      let two = select(rescale.zw, rescale.xy, pair == 0u);
      part = mat2x4f(part[0] * two.x, part[1] * two.y);
      for (var r = 0u; r < rows; r += 4u) {
        let c0 = latent(row0 + r, end, column);
        let c1 = latent(row0 + r + 1u, end, column);
        let c2 = latent(row0 + r + 2u, end, column);
        let c3 = latent(row0 + r + 3u, end, column);
        let w = pair * ROWS + r;
        part = add_row(add_row(part, c0, weights[w]), c1, weights[w + 1u]);
        part = add_row(add_row(part, c2, weights[w + 2u]), c3, weights[w + 3u]);
      }
    }
    workgroupBarrier();
  }

  if (lane < ROWS) {
    scores[lane] = sum;
  }
  workgroupBarrier();
  if (lane < 4u && head + lane < HEADS) {
    var total = 0.0;
    for (var r = 0u; r < ROWS; r++) {
      total += scores[r][lane];
    }
    stats[(head + lane) * SLICES + slice] = vec2f(top[lane], total);
  }
  if (adds && start < end) {
    if (own_head < HEADS) {
      parts[(own_head * SLICES + slice) * COLUMNS + column] = part[0];
    }
    if (own_head + 1u < HEADS) {
      parts[((own_head + 1u) * SLICES + slice) * COLUMNS + column] = part[1];
    }
  }
}
