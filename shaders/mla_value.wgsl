// mla_value: join what the slices of the cache said to one token's heads (log-sum-exp), and unfold the values from it.
//
//   context[h] = slices joined        o[h, r] = sum_c W[h, r, c] context[h, c]
//
// Shapes  as slices has them, LATENT = COLS   o [HEADS, VALUES]
//         W [HEADS VALUES, LATENT] in any matrix_* format
// Grid    (VALUES / GROUP, HEADS): one workgroup joins its head and makes GROUP rows
// Links   matrix_*, slices, shares, and a sum, which says what a Lane is and how many there are
// Oracle  test/reference/mla.ts mergeSlices, unfoldValues
// VALUES and GROUP are multiples of 4, GROUP is 4 SUM_LANES at most. A lane asks for its first block before the slices are joined.
const HEADS = 32u;
const VALUES = 128u;
const GROUP = 16u;
const LATENT = COLS;
const BLOCKS = COLS / BLOCK;
const FOURS = GROUP / 4u;
const ROUNDS = (BLOCKS - 1u) / clamp(SUM_LANES / FOURS, 1u, BLOCKS) + 1u;
const SHARERS = (BLOCKS - 1u) / ROUNDS + 1u; // lanes that share four rows
const SHARES = FOURS * SHARERS;
@group(0) @binding(0) var<storage, read_write> o: array<vec4f>;

@compute @workgroup_size(SUM_LANES)
fn mla_value(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let first = group.x * FOURS;
  let own = min(first + lane.index / SHARERS, VALUES / 4u - 1u); // rows past the end are the last
  let row = group.y * VALUES + 4u * own;
  let begin = lane.index % SHARERS;
  let asked = ask_four(row, begin); // travels while the slices are joined
  take_context(group.y, lane);
  var acc = asked_four(asked, begin, context[quad(begin, 0u)], context[quad(begin, 1u)]);
  for (var b = begin + SHARERS; b < BLOCKS; b += SHARERS) {
    acc += four(row, b, context[quad(b, 0u)], context[quad(b, 1u)]);
  }
  if (lane.index < SHARES) {
    sums[lane.index] = acc;
  }
  workgroupBarrier();
  let made = first + lane.index;
  if (lane.index < FOURS && made < VALUES / 4u) {
    o[group.y * (VALUES / 4u) + made] = together(lane.index, SHARERS);
  }
}
