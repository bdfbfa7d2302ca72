// matrix_q8_0: a weight matrix [rows, COLS], signed bytes, groups of 32 columns; four rows lie side by side.
//
//   w = d q              exact in f32
//
// Shapes  codes [rows / 4, COLS/4 + COLS/64] vec4u: one component a row. First the codes: word j has columns 4j .. 4j+3, the first
//         in the lowest byte. Then f16 scales, 2^10 d: of two groups, four rows of the first in .xy
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<vec4u>;
const BLOCK = 8u;
const FOUR_WORDS = COLS / 4u + (COLS / 32u + 1u) / 2u;

// Columns 8b .. 8b+7 of a row.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let at = (row / 4u) * FOUR_WORDS;
  let low = codes[at + 2u * b][row % 4u];
  let high = codes[at + 2u * b + 1u][row % 4u];
  let pair = unpack2x16float(codes[at + COLS / 4u + b / 8u][((b / 2u) & 2u) | ((row / 2u) & 1u)]);
  let d = 0x1p-2f * select(pair.x, pair.y, (row & 1u) == 1u);
  return array<vec4f, 2>(d * byte_codes(low), d * byte_codes(high));
}

// What four() reads, which can be asked for before there is an x, and of how many blocks at once. row is a multiple of 4.
const AT_ONCE = 2u;
struct Four {
  low: vec4u,
  high: vec4u,
  pairs: vec4u,
}
fn ask_four(row: u32, b: u32) -> Four {
  let at = (row / 4u) * FOUR_WORDS;
  return Four(codes[at + 2u * b], codes[at + 2u * b + 1u], codes[at + COLS / 4u + b / 8u]);
}

// A compiler puts off each load until its turn, if it can: then blocks that were asked for at once come one after another. It
// cannot where the first one's words are kept back by bits of all of them, anded with a zero that it does not know to be one.
fn bits_of(asked: Four) -> u32 {
  return asked.low.x | asked.high.x | asked.pairs.x;
}
fn kept_back(asked: Four, zero: u32) -> Four {
  return Four(asked.low | vec4u(zero), asked.high | vec4u(zero), asked.pairs);
}

// Rows row .. row + 3 times x, the columns of block b in the order of quad().
fn four(row: u32, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  return asked_four(ask_four(row, b), b, x0, x1);
}
fn asked_four(asked: Four, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  let low = asked.low;
  let high = asked.high;
  let pair = select(asked.pairs.xy, asked.pairs.zw, (b & 4u) != 0u);
  let d = 0x1p-2f * vec4f(unpack2x16float(pair.x), unpack2x16float(pair.y));
  return d * vec4f(
    dot(byte_codes(low.x), x0) + dot(byte_codes(high.x), x1),
    dot(byte_codes(low.y), x0) + dot(byte_codes(high.y), x1),
    dot(byte_codes(low.z), x0) + dot(byte_codes(high.z), x1),
    dot(byte_codes(low.w), x0) + dot(byte_codes(high.w), x1),
  );
}

// q / 256 of the four signed bytes of a word. As the highest bits of a mantissa, their sign turned over, codes need no
// conversion: that is 3/2 + q / 256. The 3/2 of every code goes before the sum, which would else be of larger numbers and less exact.
fn byte_codes(word: u32) -> vec4f {
  let bits = vec4u(word << 15u, word << 7u, word >> 1u, word >> 9u);
  return bitcast<vec4f>((bits & vec4u(0x7f8000u)) ^ vec4u(0x3fc00000u)) - 1.5;
}

// Which four columns quad i of block b holds, in vec4s along the row.
fn quad(b: u32, i: u32) -> u32 {
  return 2u * b + i;
}
