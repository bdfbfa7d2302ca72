// attend_whole: what one head of one token reads of a latent cache of few rows, by the head's one workgroup. Same function as
// slices: link one.
//
//   s[r] = SCALE (qa[head] . latent[r] + q[head, NOPE..] . key[r])        r <= position        context = softmax(s) . latent
//
// Shapes  qa [HEADS, LATENT]   q [HEADS, NOPE + SHARED] of which the shared part is read   context [LATENT] in workgroup memory
//         cache [.., LATENT + SHARED] words of cache_*, of the positions from 0 on, the token's own among them
// Links   cache_{f32,f16}, step, a sum with SUM_LANES lanes, a multiple of 16 and LATENT / 4 at least; the kernel's LATENT
// Oracle  test/reference/mla.ts attendSlice, mergeSlices
// A block of rows is read twice, the second time from the nearest cache. Scores: SCORERS lanes share the columns of a row, and a
// lane has four rows. Sums: READERS lanes share a column four, of the rows every READERS-th, each with a top of its own, so that
// no barrier waits for the top of all. Where rows are few, lanes that would have none repeat the last, which costs no memory.
const SHARED = 32u;
const NOPE = 64u;
const SCALE = 0.10206207261596577;
const LOWEST = -3.4e38;
const WIDTH = (LATENT + SHARED) / 4u;
const COLUMN_FOURS = LATENT / 4u;
const SCORERS = 8u;
const GROUPS = SUM_LANES / SCORERS; // lanes with the same columns
const ROWS = 4u * GROUPS; // of a block
const READERS = clamp(min(SUM_LANES / COLUMN_FOURS, SUM_LANES / 16u), 1u, 8u);
const OWN_ROWS = ((ROWS + READERS - 1u) / READERS + 7u) / 8u * 8u; // of a reader in a block, by eights; some may be nobody's
const APART = OWN_ROWS + 1u; // and SCORERS + 1: so that lanes which write at once meet in no bank
@group(5) @binding(0) var<storage, read> qa: array<vec4f>;
@group(5) @binding(1) var<storage, read> q: array<vec4f>;
@group(5) @binding(2) var<storage, read> cache: array<CacheWord>;
var<workgroup> found: array<vec4f, GROUPS * (SCORERS + 1u)>; // by each scorer of a group's four rows
var<workgroup> scores: array<f32, READERS * APART>; // by reader
var<workgroup> weights: array<f32, READERS * APART>; // e^(score - top)
var<workgroup> tops: array<f32, READERS>; // of a reader's rows in the block
var<workgroup> joined: array<vec4f, READERS * COLUMN_FOURS>;
var<workgroup> joined_stats: array<vec2f, READERS>;
var<workgroup> context: array<vec4f, COLUMN_FOURS>;

// Fours scorer, scorer + SCORERS, .. of a row, and of the query: eight at once. Past the last four the query is nothing.
struct Words {
  w0: CacheWord,
  w1: CacheWord,
  w2: CacheWord,
  w3: CacheWord,
  w4: CacheWord,
  w5: CacheWord,
  w6: CacheWord,
  w7: CacheWord,
}
struct Fours {
  f0: vec4f,
  f1: vec4f,
  f2: vec4f,
  f3: vec4f,
  f4: vec4f,
  f5: vec4f,
  f6: vec4f,
  f7: vec4f,
}
fn ask_word(row: u32, scorer: u32, j: u32) -> CacheWord {
  if (j * SCORERS >= WIDTH) {
    return CacheWord();
  }
  return cache[row * WIDTH + min(scorer + j * SCORERS, WIDTH - 1u)];
}
fn ask_words(row: u32, scorer: u32, j: u32) -> Words {
  return Words(
    ask_word(row, scorer, j), ask_word(row, scorer, j + 1u), ask_word(row, scorer, j + 2u), ask_word(row, scorer, j + 3u),
    ask_word(row, scorer, j + 4u), ask_word(row, scorer, j + 5u), ask_word(row, scorer, j + 6u), ask_word(row, scorer, j + 7u),
  );
}
fn query_four(head: u32, scorer: u32, j: u32) -> vec4f {
  let i = scorer + j * SCORERS;
  if ((j + 1u) * SCORERS <= COLUMN_FOURS || i < COLUMN_FOURS) {
    return qa[head * COLUMN_FOURS + i];
  }
  if (j * SCORERS >= WIDTH || i >= WIDTH) {
    return vec4f();
  }
  return q[head * ((NOPE + SHARED) / 4u) + NOPE / 4u + i - COLUMN_FOURS];
}
fn query_fours(head: u32, scorer: u32, j: u32) -> Fours {
  return Fours(
    query_four(head, scorer, j), query_four(head, scorer, j + 1u), query_four(head, scorer, j + 2u), query_four(head, scorer, j + 3u),
    query_four(head, scorer, j + 4u), query_four(head, scorer, j + 5u), query_four(head, scorer, j + 6u), query_four(head, scorer, j + 7u),
  );
}
fn product(f: Fours, w: Words) -> f32 {
  let near = (dot(f.f0, cache_load(w.w0)) + dot(f.f1, cache_load(w.w1))) + (dot(f.f2, cache_load(w.w2)) + dot(f.f3, cache_load(w.w3)));
  let far = (dot(f.f4, cache_load(w.w4)) + dot(f.f5, cache_load(w.w5))) + (dot(f.f6, cache_load(w.w6)) + dot(f.f7, cache_load(w.w7)));
  return near + far;
}
// What one scorer finds of its group's four rows of the block from `start` on; rows past the last repeat it, or are left out where
// no group has one. What is asked for together stands in one branch together: a branch between would part it.
fn four_rows(f: Fours, start: u32, group: u32, last: u32, scorer: u32, j: u32) -> vec4f {
  let own = min(start + group + GROUPS * vec4u(0u, 1u, 2u, 3u), vec4u(last));
  let w0 = ask_words(own.x, scorer, j);
  if (start + GROUPS > last) {
    return vec4f(product(f, w0), 0.0, 0.0, 0.0);
  }
  let w1 = ask_words(own.y, scorer, j);
  if (start + 2u * GROUPS > last) {
    return vec4f(product(f, w0), product(f, w1), 0.0, 0.0);
  }
  let w2 = ask_words(own.z, scorer, j);
  let w3 = ask_words(own.w, scorer, j);
  return vec4f(product(f, w0), product(f, w1), product(f, w2), product(f, w3));
}

// Row n of a reader in the block from `start` on: whether there is one, and its score.
fn there(reader: u32, n: u32, start: u32, last: u32) -> bool {
  let row = n * READERS + reader;
  return row < ROWS && start + row <= last;
}
fn score_of(reader: u32, n: u32, start: u32, last: u32) -> f32 {
  return select(LOWEST, scores[reader * APART + n], there(reader, n, start, last));
}
fn keep_score(row: u32, score: f32) {
  scores[row % READERS * APART + row / READERS] = score;
}
fn highest(tops: vec4f) -> f32 {
  return max(max(tops.x, tops.y), max(tops.z, tops.w));
}
// Four `column` of a reader's row n, and how much it weighs: nothing where there is none, which repeats the last.
fn ask_latent(reader: u32, n: u32, start: u32, last: u32, column: u32) -> CacheWord {
  return cache[min(start + n * READERS + reader, last) * WIDTH + column];
}
fn four_weights(reader: u32, n: u32) -> vec4f {
  let at = reader * APART + n;
  return vec4f(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]);
}

// (top, sum) that a reader left, and its part of four i.
fn joined_stat(reader: u32) -> vec2f {
  return select(vec2f(LOWEST, 0.0), joined_stats[min(reader, READERS - 1u)], reader < READERS);
}
fn joined_part(reader: u32, i: u32) -> vec4f {
  return joined[min(reader, READERS - 1u) * COLUMN_FOURS + i];
}
fn four_parts(reader: u32, i: u32) -> mat4x4f {
  return mat4x4f(joined_part(reader, i), joined_part(reader + 1u, i), joined_part(reader + 2u, i), joined_part(reader + 3u, i));
}
fn four_stats(reader: u32) -> mat2x4f {
  return transpose(mat4x2f(joined_stat(reader), joined_stat(reader + 1u), joined_stat(reader + 2u), joined_stat(reader + 3u)));
}

// By all lanes; a barrier too: context is there.
fn take_context(head: u32, lane: Lane) {
  let last = step.position;
  let scorer = lane.index % SCORERS;
  let group = lane.index / SCORERS;
  let reader = min(lane.index / COLUMN_FOURS, READERS - 1u);
  let column = lane.index % COLUMN_FOURS;
  let asked = query_fours(head, scorer, 0u);
  var top = LOWEST;
  var sum = 0.0;
  var acc = vec4f();
  for (var start = 0u; start <= last; start += ROWS) {
    var four = four_rows(asked, start, group, last, scorer, 0u);
    if (WIDTH > 8u * SCORERS) {
      for (var j = 8u; j * SCORERS < WIDTH; j += 8u) {
        four += four_rows(query_fours(head, scorer, j), start, group, last, scorer, j);
      }
    }
    found[group * (SCORERS + 1u) + scorer] = four;
    workgroupBarrier();
    if (lane.index < GROUPS) {
      let at = lane.index * (SCORERS + 1u);
      let near = (found[at] + found[at + 1u]) + (found[at + 2u] + found[at + 3u]);
      let score = SCALE * (near + ((found[at + 4u] + found[at + 5u]) + (found[at + 6u] + found[at + 7u])));
      keep_score(lane.index, score.x);
      keep_score(lane.index + GROUPS, score.y);
      keep_score(lane.index + 2u * GROUPS, score.z);
      keep_score(lane.index + 3u * GROUPS, score.w);
    }
    workgroupBarrier();
    if (lane.index < READERS * OWN_ROWS) {
      let owner = lane.index / OWN_ROWS;
      let n = lane.index % OWN_ROWS;
      var most = LOWEST;
      for (var i = 0u; i < OWN_ROWS && start + i * READERS <= last; i += 8u) {
        let near = vec4f(
          score_of(owner, i, start, last), score_of(owner, i + 1u, start, last),
          score_of(owner, i + 2u, start, last), score_of(owner, i + 3u, start, last),
        );
        let far = vec4f(
          score_of(owner, i + 4u, start, last), score_of(owner, i + 5u, start, last),
          score_of(owner, i + 6u, start, last), score_of(owner, i + 7u, start, last),
        );
        most = max(most, highest(max(near, far)));
      }
      weights[owner * APART + n] = select(0.0, exp(score_of(owner, n, start, last) - most), there(owner, n, start, last));
      if (n == 0u) {
        tops[owner] = most;
      }
    }
    workgroupBarrier();
    let before = top;
    top = max(before, tops[reader]);
    sum *= exp(before - top);
    acc *= exp(before - top);
    let scale = exp(tops[reader] - top);
    for (var n = 0u; n < OWN_ROWS && start + n * READERS <= last; n += 8u) { // eight are on their way at once
      let w0 = ask_latent(reader, n, start, last, column);
      let w1 = ask_latent(reader, n + 1u, start, last, column);
      let w2 = ask_latent(reader, n + 2u, start, last, column);
      let w3 = ask_latent(reader, n + 3u, start, last, column);
      let w4 = ask_latent(reader, n + 4u, start, last, column);
      let w5 = ask_latent(reader, n + 5u, start, last, column);
      let w6 = ask_latent(reader, n + 6u, start, last, column);
      let w7 = ask_latent(reader, n + 7u, start, last, column);
      let near = scale * four_weights(reader, n);
      let far = scale * four_weights(reader, n + 4u);
      sum += dot(near + far, vec4f(1.0));
      acc += (near.x * cache_load(w0) + near.y * cache_load(w1)) + (near.z * cache_load(w2) + near.w * cache_load(w3));
      acc += (far.x * cache_load(w4) + far.y * cache_load(w5)) + (far.z * cache_load(w6) + far.w * cache_load(w7));
    }
  }
  if (lane.index < READERS * COLUMN_FOURS) {
    joined[lane.index] = acc;
    if (column == 0u) {
      joined_stats[reader] = vec2f(top, sum);
    }
  }
  workgroupBarrier();
  if (lane.index < COLUMN_FOURS) {
    let near = four_stats(0u);
    let far = four_stats(4u);
    let most = highest(max(near[0], far[0]));
    let near_weights = exp(near[0] - most);
    let far_weights = exp(far[0] - most);
    let all = four_parts(0u, lane.index) * near_weights + four_parts(4u, lane.index) * far_weights;
    context[lane.index] = all / (dot(near_weights, near[1]) + dot(far_weights, far[1]));
  }
  workgroupBarrier();
}
