// mla_attend: attention of QUERIES (token, head) pairs over one slice of one segment of the latent cache, unfinished.
//
//   score[n, s] = SCALE (qa[n] . latent[s] + q[n, NOPE..] . key[s])        position s <= that of n's token
//   top[n] = max_s score      sum[n] = sum_s e^(score - top)      part[n] = sum_s e^(score - top) latent[s]
//
// Shapes  qa [T, HEADS, LATENT] queries in the latent's terms   q [T, HEADS, NOPE + SHARED] of which the shared part is read
//         cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
//         stats [T, HEADS, SLICES] of (top, sum)   parts [T, HEADS, SLICES, LATENT]
// Grid    (SLICES, T HEADS / QUERIES): all heads read the same rows, so tokens and heads are one axis n = t HEADS + h.
//         Slices divide the rows in use, whatever their number; one without rows says sum = 0 and writes no part.
// Links   cache_{f32,f16}, outer, step
// Oracle  test/reference/mla.ts attendSlice
// Segments follow one another in the order of positions: the one at FIRST = 0 begins, the others go on with its slices.
// A tile is ROWS cache rows by QUERIES. Scores: each lane has four queries of one row, and both sides pass through workgroup
// memory STAGE vec4s of columns at a time. Sums: each lane has a quarter of the queries and every 64th vec4 of the latent, one or two
// fours of queries and one or two vec4s, each in a matrix of its own: what an index chose would not stay in registers.
const HEADS = 32u;
const LATENT = 512u;
const SHARED = 64u;
const NOPE = 128u;
const SCALE = 0.07216878364870322;
const FIRST = 0u;
const SEGMENT = 4096u;
const SLICES = 64u;
const QUERIES = 32u; // 16 or 32
const LOWEST = -3.4e38;
const WIDTH = (LATENT + SHARED) / 4u;
const FOURS = QUERIES / 4u;
const ROWS = 256u / FOURS;
const STAGE = 8u;
const OWN = QUERIES / 16u; // fours of queries whose sums a lane keeps
const COLUMNS = (LATENT / 4u + 63u) / 64u; // vec4s of the latent it keeps of each: 1 or 2
@group(0) @binding(0) var<storage, read> qa: array<vec4f>;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> cache: array<CacheWord>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4f>;
var<workgroup> query_tile: array<vec4f, STAGE * (QUERIES + 1u)>; // [column, query]; the odd lengths spread the banks
var<workgroup> cache_tile: array<vec4f, STAGE * (ROWS + 1u)>; // [column, row]
var<workgroup> weights: array<vec4f, ROWS * FOURS>; // [row, four queries]: scores, then e^(score - top)
var<workgroup> tops: array<vec4f, FOURS>;
var<workgroup> rescale: array<vec4f, FOURS>;

fn query(n: u32, column: u32) -> vec4f {
  if (n >= step.tokens * HEADS || column >= WIDTH) {
    return vec4f();
  }
  if (column < LATENT / 4u) {
    return SCALE * qa[n * (LATENT / 4u) + column];
  }
  return SCALE * q[n * ((NOPE + SHARED) / 4u) + NOPE / 4u + column - LATENT / 4u];
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
// Vec4 `at` of the latents of four rows; a row past the last one repeats it, and weighs nothing.
fn latents(row: u32, last: u32, at: u32) -> mat4x4f {
  let first = min(at, LATENT / 4u - 1u);
  return mat4x4f(
    cache_load(cache[row * WIDTH + first]), cache_load(cache[min(row + 1u, last) * WIDTH + first]),
    cache_load(cache[min(row + 2u, last) * WIDTH + first]), cache_load(cache[min(row + 3u, last) * WIDTH + first]),
  );
}
// Four rows of the tile added to the sums of four queries: a column of m per query.
fn add_rows(m: mat4x4f, rows: mat4x4f, at: u32) -> mat4x4f {
  let two = add_outer(add_outer(m, rows[0], weights[at]), rows[1], weights[at + FOURS]);
  return add_outer(add_outer(two, rows[2], weights[at + 2u * FOURS]), rows[3], weights[at + 3u * FOURS]);
}
fn sum_rows(at: u32) -> vec4f {
  return weights[at] + weights[at + FOURS] + weights[at + 2u * FOURS] + weights[at + 3u * FOURS];
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
  let share = (used + SLICES * ROWS - 1u) / (SLICES * ROWS) * ROWS; // rows of a slice: whole tiles
  let start = slice * share;
  let end = min(start + share, used);
  if (FIRST > 0u && start >= end) {
    return;
  }

  // The row and the four queries whose scores are this lane's; the queries and columns whose sums are.
  let own_row = lane % ROWS;
  let four = lane / ROWS;
  let visible = vec4u(step.position) + (vec4u(first_n + 4u * four) + vec4u(0u, 1u, 2u, 3u)) / HEADS;
  let own_four = lane / 64u * OWN;
  let column = lane % 64u;
  let n = first_n + 4u * own_four;
  var sums = vec4f();
  var more_sums = vec4f(); // of the second four
  var near = mat4x4f(); // of the first four and column
  var more_columns = mat4x4f();
  var more_queries = mat4x4f();
  var more_both = mat4x4f();
  if (FIRST > 0u) { // go on where the segment before left off
    let at = min(column, LATENT / 4u - 1u);
    let more = min(column + 64u, LATENT / 4u - 1u);
    sums = transpose(stats_before(n, slice))[1];
    near = parts_before(n, slice, at);
    if (COLUMNS > 1u) {
      more_columns = parts_before(n, slice, more);
    }
    if (OWN > 1u) {
      more_sums = transpose(stats_before(n + 4u, slice))[1];
      more_queries = parts_before(n + 4u, slice, at);
    }
    if (OWN > 1u && COLUMNS > 1u) {
      more_both = parts_before(n + 4u, slice, more);
    }
  }
  if (lane < FOURS) {
    tops[lane] = transpose(stats_before(first_n + 4u * lane, slice))[0];
  }
  workgroupBarrier();

  for (var row0 = start; row0 < end; row0 += ROWS) {
    var scores = vec4f();
    for (var stage = 0u; stage < WIDTH; stage += STAGE) {
      workgroupBarrier();
      for (var i = lane; i < STAGE * QUERIES; i += 256u) {
        let n = i / STAGE;
        query_tile[i % STAGE * (QUERIES + 1u) + n] = query(first_n + n, stage + i % STAGE);
      }
      for (var i = lane; i < STAGE * ROWS; i += 256u) {
        let r = i / STAGE;
        let at = stage + i % STAGE;
        var word: CacheWord;
        if (row0 + r < end && at < WIDTH) {
          word = cache[(row0 + r) * WIDTH + at];
        }
        cache_tile[i % STAGE * (ROWS + 1u) + r] = cache_load(word);
      }
      workgroupBarrier();
      for (var k = 0u; k < STAGE; k++) {
        let c = cache_tile[k * (ROWS + 1u) + own_row];
        let a = k * (QUERIES + 1u) + 4u * four;
        scores += vec4f(dot(query_tile[a], c), dot(query_tile[a + 1u], c), dot(query_tile[a + 2u], c), dot(query_tile[a + 3u], c));
      }
    }
    let row = row0 + own_row;
    let hidden = (vec4u(FIRST + row) > visible) | vec4<bool>(row >= end);
    weights[own_row * FOURS + four] = select(scores, vec4f(LOWEST), hidden);
    workgroupBarrier();
    if (lane < FOURS) {
      var top = tops[lane];
      for (var r = 0u; r < ROWS; r++) {
        top = max(top, weights[r * FOURS + lane]);
      }
      rescale[lane] = exp(tops[lane] - top);
      tops[lane] = top;
    }
    workgroupBarrier();
    weights[own_row * FOURS + four] = select(exp(scores - tops[four]), vec4f(), hidden);
    workgroupBarrier();
    let f = rescale[own_four];
    sums *= f;
    near = scale_columns(near, f);
    if (COLUMNS > 1u) {
      more_columns = scale_columns(more_columns, f);
    }
    if (OWN > 1u) {
      more_sums *= rescale[own_four + 1u];
      more_queries = scale_columns(more_queries, rescale[own_four + 1u]);
    }
    if (OWN > 1u && COLUMNS > 1u) {
      more_both = scale_columns(more_both, rescale[own_four + 1u]);
    }
    for (var r = 0u; r < min(ROWS, end - row0); r += 4u) {
      let at = r * FOURS + own_four;
      let rows = latents(row0 + r, end - 1u, column);
      sums += sum_rows(at);
      near = add_rows(near, rows, at);
      if (OWN > 1u) {
        more_sums += sum_rows(at + 1u);
        more_queries = add_rows(more_queries, rows, at + 1u);
      }
      if (COLUMNS > 1u) {
        let more = latents(row0 + r, end - 1u, column + 64u);
        more_columns = add_rows(more_columns, more, at);
        if (OWN > 1u) {
          more_both = add_rows(more_both, more, at + 1u);
        }
      }
    }
  }

  if (column == 0u) {
    keep_stats(n, slice, tops[own_four], sums);
    if (OWN > 1u) {
      keep_stats(n + 4u, slice, tops[own_four + 1u], more_sums);
    }
  }
  if (start < end) {
    keep_parts(n, slice, column, near);
    if (COLUMNS > 1u) {
      keep_parts(n, slice, column + 64u, more_columns);
    }
    if (OWN > 1u) {
      keep_parts(n + 4u, slice, column, more_queries);
    }
    if (OWN > 1u && COLUMNS > 1u) {
      keep_parts(n + 4u, slice, column + 64u, more_both);
    }
  }
}
