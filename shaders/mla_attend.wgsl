// mla_attend: attention of QUERIES (token, head) pairs over one slice of one segment of the latent cache, unfinished; one token alone
// has mla_attend_token.
//
//   score[n, s] = SCALE (qa[n] . latent[s] + q[n, NOPE..] . key[s])        position s <= that of n's token
//   top[n] = max_s score      sum[n] = sum_s e^(score - top)      part[n] = sum_s e^(score - top) latent[s]
//
// Shapes  qa [T, HEADS, LATENT] queries in the latent's terms   q [T, HEADS, NOPE + SHARED] of which the shared part is read
//         cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
//         stats [T, HEADS, SLICES] of (top, sum)   parts [T, HEADS, SLICES, LATENT]
// Grid    (SLICES, T HEADS / QUERIES): all heads read the same rows, so tokens and heads are one axis n = t HEADS + h.
//         Slices divide the rows in use, whatever their number, by eights where a tile has more; one without rows says sum = 0
//         and writes no part.
// Links   cache_{f32,f16}, outer, step
// Oracle  test/reference/mla.ts attendSlice
// Segments follow one another in the order of positions: the one at FIRST = 0 begins, the others go on with its slices.
// A tile is ROWS cache rows by QUERIES. Scores: a lane has four queries of eight rows, and of the columns every SHARERS-th vec4,
// so that it multiplies more often than it reads; lanes side by side read side by side, and add up through workgroup
// memory. Sums: each lane has a quarter of the queries and every 64th vec4 of the latent, two fours of queries and one
// or two vec4s, each in a matrix of its own: what an index chose would not stay in registers.
const HEADS = 32u;
const LATENT = 512u;
const SHARED = 64u;
const NOPE = 128u;
const SCALE = 0.07216878364870322;
const FIRST = 0u;
const SEGMENT = 4096u;
const SLICES = 64u;
const QUERIES = 32u;
const ROWS = 64u;
const LOWEST = -3.4e38;
const WIDTH = (LATENT + SHARED) / 4u;
const FOURS = QUERIES / 4u;
const SHARERS = 2048u / (ROWS * FOURS); // lanes that share the columns of four queries and eight rows
const COLUMNS = (LATENT / 4u + 63u) / 64u; // vec4s of the latent it keeps of each: 1 or 2
@group(0) @binding(0) var<storage, read> qa: array<vec4f>;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> cache: array<CacheWord>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4f>;
var<workgroup> tile: array<vec4f, ROWS * FOURS>; // [row, four queries]: scores, then e^(score - top)
var<workgroup> side: array<vec4f, 256>; // what each lane found: a top, in the end a sum
var<workgroup> tops: array<vec4f, FOURS>;
var<workgroup> rescale: array<vec4f, FOURS>;

// Vec4 `column` of four queries, as columns 4 `column` .. of all four. Past the last query the last one is repeated.
fn queries(n: u32, column: u32) -> mat4x4f {
  let m = min(vec4u(n, n + 1u, n + 2u, n + 3u), vec4u(step.tokens * HEADS - 1u));
  if (column < LATENT / 4u) {
    let at = m * (LATENT / 4u) + column;
    return transpose(mat4x4f(qa[at.x], qa[at.y], qa[at.z], qa[at.w]));
  }
  let at = m * ((NOPE + SHARED) / 4u) + NOPE / 4u + column - LATENT / 4u;
  return transpose(mat4x4f(q[at.x], q[at.y], q[at.z], q[at.w]));
}
// A vec4 of eight rows.
struct Eight {
  w0: CacheWord,
  w1: CacheWord,
  w2: CacheWord,
  w3: CacheWord,
  w4: CacheWord,
  w5: CacheWord,
  w6: CacheWord,
  w7: CacheWord,
}
fn eight_rows(at0: vec4u, at1: vec4u, column: u32) -> Eight {
  let i = min(column, WIDTH - 1u);
  return Eight(
    cache[at0.x + i], cache[at0.y + i], cache[at0.z + i], cache[at0.w + i],
    cache[at1.x + i], cache[at1.y + i], cache[at1.z + i], cache[at1.w + i],
  );
}
// Scores of four queries with a row, four columns more.
fn add_scores(scores: vec4f, m: mat4x4f, word: CacheWord) -> vec4f {
  let c = cache_load(word);
  return fma(m[3], vec4f(c.w), fma(m[2], vec4f(c.z), fma(m[1], vec4f(c.y), fma(m[0], vec4f(c.x), scores))));
}

// (top, sum) of the segments before; a part is not read where they said nothing, since then nothing was written.
fn before(n: u32, slice: u32) -> vec2f {
  if (FIRST == 0u || n >= step.tokens * HEADS) {
    return vec2f(LOWEST, 0.0);
  }
  return stats[n * SLICES + slice];
}
fn part_before(n: u32, slice: u32, at: u32) -> vec4f {
  if (before(n, slice).y == 0.0) {
    return vec4f();
  }
  return parts[(n * SLICES + slice) * (LATENT / 4u) + at];
}
fn keep(n: u32, slice: u32, top: f32, sum: f32) {
  if (n < step.tokens * HEADS) {
    stats[n * SLICES + slice] = vec2f(top, sum);
  }
}
fn keep_part(n: u32, slice: u32, at: u32, part: vec4f) {
  if (n < step.tokens * HEADS) {
    parts[(n * SLICES + slice) * (LATENT / 4u) + at] = part;
  }
}

fn parts_before(n: u32, slice: u32, at: u32) -> mat4x4f {
  return mat4x4f(
    part_before(n, slice, at), part_before(n + 1u, slice, at), part_before(n + 2u, slice, at), part_before(n + 3u, slice, at),
  );
}
fn keep_parts(n: u32, slice: u32, at: u32, part: mat4x4f) {
  if (at < LATENT / 4u) {
    keep_part(n, slice, at, part[0]);
    keep_part(n + 1u, slice, at, part[1]);
    keep_part(n + 2u, slice, at, part[2]);
    keep_part(n + 3u, slice, at, part[3]);
  }
}
fn stats_before(n: u32, slice: u32) -> mat4x2f {
  return mat4x2f(before(n, slice), before(n + 1u, slice), before(n + 2u, slice), before(n + 3u, slice));
}
fn keep_stats(n: u32, slice: u32, top: vec4f, sum: vec4f) {
  keep(n, slice, top.x, sum.x);
  keep(n + 1u, slice, top.y, sum.y);
  keep(n + 2u, slice, top.z, sum.z);
  keep(n + 3u, slice, top.w, sum.w);
}
// Scores of four queries with the eight rows of a lane, joined with those of the other columns.
fn join_scores(at: u32, scores: vec4f, begins: bool) {
  tile[at] = select(tile[at], vec4f(), begins) + scores;
}
// Vec4 `at` of the latents of four rows; a row past the last one repeats it, and weighs nothing.
fn latents(row: u32, last: u32, at: u32) -> mat4x4f {
  let first = min(at, LATENT / 4u - 1u);
  return mat4x4f(
    cache_load(cache[min(row, last) * WIDTH + first]), cache_load(cache[min(row + 1u, last) * WIDTH + first]),
    cache_load(cache[min(row + 2u, last) * WIDTH + first]), cache_load(cache[min(row + 3u, last) * WIDTH + first]),
  );
}
// Four rows of the tile added to the sums of four queries: a column of m per query.
fn add_rows(m: mat4x4f, rows: mat4x4f, at: u32) -> mat4x4f {
  let two = add_outer(add_outer(m, rows[0], tile[at]), rows[1], tile[at + FOURS]);
  return add_outer(add_outer(two, rows[2], tile[at + 2u * FOURS]), rows[3], tile[at + 3u * FOURS]);
}
fn scale_columns(m: mat4x4f, f: vec4f) -> mat4x4f {
  return mat4x4f(m[0] * f.x, m[1] * f.y, m[2] * f.z, m[3] * f.w);
}

@compute @workgroup_size(256)
fn mla_attend(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let slice = group.x;
  let first_n = group.y * QUERIES;
  let end_n = min(first_n + QUERIES, step.tokens * HEADS);
  let seen = step.position + (end_n - 1u) / HEADS + 1u; // positions that the last token of the tile sees
  let used = min(max(seen, FIRST) - FIRST, SEGMENT);
  let least = (used + SLICES - 1u) / SLICES;
  let grain = select(8u, ROWS, least > ROWS);
  let share = (least + grain - 1u) / grain * grain; // rows of a slice: whole tiles, or less than one
  let start = slice * share;
  let end = min(start + share, used);
  if (FIRST > 0u && start >= end) {
    return;
  }

  // Multiplying, a lane has every fourth column from `share_column` on of four queries and eight rows; weighing, two rows of
  // four queries; summing, its queries and columns.
  let share_column = lane % SHARERS;
  let four_and_eight = lane / SHARERS;
  let ask_four = four_and_eight % 4u + four_and_eight / 8u % (FOURS / 4u) * 4u;
  let high = four_and_eight / 4u % 2u + four_and_eight / (2u * FOURS) * 2u;
  let score_four = lane % FOURS;
  let pair = lane / FOURS;
  let visible = vec4u(step.position) + (vec4u(first_n + 4u * score_four) + vec4u(0u, 1u, 2u, 3u)) / HEADS;
  let own_four = lane / 64u * 2u;
  let column = lane % 64u;
  let n = first_n + 4u * own_four;
  var sum = vec4f(); // of this lane's rows
  var near = mat4x4f(); // of the first four and column
  var more_columns = mat4x4f();
  var more_queries = mat4x4f();
  var more_both = mat4x4f();
  if (FIRST > 0u) { // go on where the segment before left off
    let at = min(column, LATENT / 4u - 1u);
    let more = min(column + 64u, LATENT / 4u - 1u);
    if (pair == 0u) {
      sum = transpose(stats_before(first_n + 4u * score_four, slice))[1];
    }
    near = parts_before(n, slice, at);
    if (COLUMNS > 1u) {
      more_columns = parts_before(n, slice, more);
    }
    more_queries = parts_before(n + 4u, slice, at);
    if (COLUMNS > 1u) {
      more_both = parts_before(n + 4u, slice, more);
    }
  }
  if (lane < FOURS) {
    tops[lane] = transpose(stats_before(first_n + 4u * lane, slice))[0];
  }

  let ask = first_n + 4u * ask_four;
  for (var row0 = start; row0 < end; row0 += ROWS) {
    let own_rows = row0 + 8u * high + vec4u(0u, 1u, 2u, 3u);
    let at0 = min(own_rows, vec4u(end - 1u)) * WIDTH; // a row past the last one repeats it, and is hidden below
    let at1 = min(own_rows + 4u, vec4u(end - 1u)) * WIDTH;
    var s0 = vec4f();
    var s1 = vec4f();
    var s2 = vec4f();
    var s3 = vec4f();
    var s4 = vec4f();
    var s5 = vec4f();
    var s6 = vec4f();
    var s7 = vec4f();
    if (own_rows.x < end) {
      for (var column = share_column; column < WIDTH; column += SHARERS) {
        let c = eight_rows(at0, at1, column);
        let m = queries(ask, column);
        s0 = add_scores(s0, m, c.w0);
        s1 = add_scores(s1, m, c.w1);
        s2 = add_scores(s2, m, c.w2);
        s3 = add_scores(s3, m, c.w3);
        s4 = add_scores(s4, m, c.w4);
        s5 = add_scores(s5, m, c.w5);
        s6 = add_scores(s6, m, c.w6);
        s7 = add_scores(s7, m, c.w7);
      }
    }
    for (var turn = 0u; turn < SHARERS; turn++) {
      workgroupBarrier();
      if (share_column == turn) {
        let at = 8u * high * FOURS + ask_four;
        join_scores(at, s0, turn == 0u);
        join_scores(at + FOURS, s1, turn == 0u);
        join_scores(at + 2u * FOURS, s2, turn == 0u);
        join_scores(at + 3u * FOURS, s3, turn == 0u);
        join_scores(at + 4u * FOURS, s4, turn == 0u);
        join_scores(at + 5u * FOURS, s5, turn == 0u);
        join_scores(at + 6u * FOURS, s6, turn == 0u);
        join_scores(at + 7u * FOURS, s7, turn == 0u);
      }
    }
    workgroupBarrier();
    let at_pair = 2u * pair * FOURS + score_four;
    let row = row0 + 2u * pair;
    let hidden0 = (vec4u(FIRST + row) > visible) | vec4<bool>(row >= end);
    let hidden1 = (vec4u(FIRST + row + 1u) > visible) | vec4<bool>(row + 1u >= end);
    let score0 = select(SCALE * tile[at_pair], vec4f(LOWEST), hidden0);
    let score1 = select(SCALE * tile[at_pair + FOURS], vec4f(LOWEST), hidden1);
    side[lane] = max(score0, score1);
    workgroupBarrier();
    if (lane < 4u * FOURS) { // tops by quarters of the rows, each where its quarter begins
      let begin = lane / FOURS * 64u + score_four;
      var top = side[begin];
      for (var i = FOURS; i < 64u; i += FOURS) {
        top = max(top, side[begin + i]);
      }
      side[begin] = top;
    }
    workgroupBarrier();
    if (lane < FOURS) {
      let top = max(max(max(side[lane], side[lane + 64u]), max(side[lane + 128u], side[lane + 192u])), tops[lane]);
      rescale[lane] = exp(tops[lane] - top);
      tops[lane] = top;
    }
    workgroupBarrier();
    let weight0 = select(exp(score0 - tops[score_four]), vec4f(), hidden0);
    let weight1 = select(exp(score1 - tops[score_four]), vec4f(), hidden1);
    tile[at_pair] = weight0;
    tile[at_pair + FOURS] = weight1;
    sum = sum * rescale[score_four] + weight0 + weight1;
    workgroupBarrier();
    let f = rescale[own_four];
    near = scale_columns(near, f);
    if (COLUMNS > 1u) {
      more_columns = scale_columns(more_columns, f);
    }
    more_queries = scale_columns(more_queries, rescale[own_four + 1u]);
    if (COLUMNS > 1u) {
      more_both = scale_columns(more_both, rescale[own_four + 1u]);
    }
    for (var r = 0u; r < min(ROWS, end - row0); r += 4u) {
      let at = r * FOURS + own_four;
      let rows = latents(row0 + r, end - 1u, column);
      near = add_rows(near, rows, at);
      more_queries = add_rows(more_queries, rows, at + 1u);
      if (COLUMNS > 1u) {
        let more = latents(row0 + r, end - 1u, column + 64u);
        more_columns = add_rows(more_columns, more, at);
        more_both = add_rows(more_both, more, at + 1u);
      }
    }
  }

  workgroupBarrier();
  side[lane] = sum;
  workgroupBarrier();
  if (lane < FOURS) {
    var total = side[lane];
    for (var i = FOURS; i < 256u; i += FOURS) {
      total += side[lane + i];
    }
    keep_stats(first_n + 4u * lane, slice, tops[lane], total);
  }
  if (start < end) {
    keep_parts(n, slice, column, near);
    if (COLUMNS > 1u) {
      keep_parts(n, slice, column + 64u, more_columns);
    }
    keep_parts(n + 4u, slice, column, more_queries);
    if (COLUMNS > 1u) {
      keep_parts(n + 4u, slice, column + 64u, more_both);
    }
  }
}
