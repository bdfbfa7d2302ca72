// mla_token: what one token asks of the latent cache, and its own row there.
//
//   qa[h, r] = sum_c W[h, r, c] q[h, c]        c < NOPE = COLS: queries in the latent's terms
//   row(position) = [ c[..LATENT] (mean c[..LATENT]^2 + EPS)^-1/2 w | c[LATENT..] ]
//
// Shapes  inputs [q [HEADS, NOPE + SHARED] | from LATENT_AT: c [LATENT + SHARED]]   w [LATENT]   qa [HEADS, LATENT]
//         W [HEADS LATENT, NOPE] in any matrix_* format
//         cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
// Grid    (LATENT / GROUP HEADS + 1): GROUP rows of a head each; the last workgroup appends, if the segment has the position
// Links   matrix_*, shares, latent_row, cache_{f32,f16}, step, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts absorbQueries, latentRows
// LATENT and GROUP are multiples of 4, GROUP is 4 SUM_LANES at most. Rows are short: few lanes share four of them, so that a workgroup
// makes many.
const HEADS = 32u;
const LATENT = 512u;
const SHARED = 64u;
const LATENT_AT = 6144u;
const EPS = 0.00001;
const FIRST = 0u;
const SEGMENT = 4096u;
const GROUP = 64u;
const GROUPS = (LATENT + GROUP - 1u) / GROUP; // of a head
const BLOCKS = COLS / BLOCK;
const FOURS = GROUP / 4u;
const ROUNDS = (BLOCKS - 1u) / clamp(SUM_LANES / FOURS, 1u, BLOCKS) + 1u;
const SHARERS = (BLOCKS - 1u) / ROUNDS + 1u; // lanes that share four rows
const SHARES = FOURS * SHARERS;
@group(0) @binding(0) var<storage, read> inputs: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> qa: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> cache: array<CacheWord>;

fn latent_value(i: u32) -> vec4f {
  return inputs[i];
}
fn latent_weight(i: u32) -> vec4f {
  return w[i];
}

// Block b of four rows; blocks past the end are nothing, rows past it the last.
fn row_block(head: u32, four_rows: u32, b: u32) -> vec4f {
  let at = min(b, BLOCKS - 1u);
  let first = head * ((COLS + SHARED) / 4u);
  let there = b < BLOCKS;
  let x0 = select(vec4f(), inputs[first + quad(at, 0u)], there);
  let x1 = select(vec4f(), inputs[first + quad(at, 1u)], there);
  return four(head * LATENT + 4u * min(four_rows, LATENT / 4u - 1u), at, x0, x1);
}

@compute @workgroup_size(SUM_LANES)
fn mla_token(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.x / GROUPS;
  if (head == HEADS) {
    append_latent(step.position, LATENT_AT / 4u, lane);
    return;
  }
  let first = group.x % GROUPS * FOURS;
  let own = first + lane.index / SHARERS;
  var acc = vec4f();
  for (var b = lane.index % SHARERS; b < BLOCKS; b += 2u * SHARERS) { // two are on their way at once
    acc += row_block(head, own, b) + row_block(head, own, b + SHARERS);
  }
  if (lane.index < SHARES) {
    sums[lane.index] = acc;
  }
  workgroupBarrier();
  let made = first + lane.index;
  if (lane.index < FOURS && made < LATENT / 4u) {
    qa[head * (LATENT / 4u) + made] = together(lane.index, SHARERS);
  }
}
