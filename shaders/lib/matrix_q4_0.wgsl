// matrix_q4_0: a weight matrix [rows, COLS], 4 bits, groups of 32 columns; four rows lie side by side.
//
//   w = d (q - 8)        exact in f32
//
// Shapes  codes [rows / 4, COLS/8 + COLS/64] vec4u: one component a row. First the codes: word j of a group has columns 4j+t in
//         the low, 16+4j+t in the high nibbles of byte t. Then f16 scales, 2^10 d: of two groups, four rows of the first in .xy
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<vec4u>;
const BLOCK = 8u;
const FOUR_WORDS = COLS / 8u + (COLS / 32u + 1u) / 2u;

// The eight columns of word b of a row; quad() says which.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let at = (row / 4u) * FOUR_WORDS;
  let word = codes[at + b][row % 4u];
  let pair = unpack2x16float(codes[at + COLS / 8u + b / 8u][((b / 2u) & 2u) | ((row / 2u) & 1u)]);
  let d = 0x1p-6f * select(pair.x, pair.y, (row & 1u) == 1u);
  return array<vec4f, 2>(d * (low_codes(word) - 1.5), d * (high_codes(word) - 1.5));
}

// What four() reads, which can be asked for before there is an x, and of how many blocks at once. row is a multiple of 4.
const AT_ONCE = 2u;
struct Four {
  words: vec4u,
  pairs: vec4u,
}
fn ask_four(row: u32, b: u32) -> Four {
  let at = (row / 4u) * FOUR_WORDS;
  return Four(codes[at + b], codes[at + COLS / 8u + b / 8u]);
}

// A compiler puts off each load until its turn, if it can: then blocks that were asked for at once come one after another. It
// cannot where the first one's words are kept back by bits of all of them, anded with a zero that it does not know to be one.
fn bits_of(asked: Four) -> u32 {
  return asked.words.x | asked.pairs.x;
}
fn kept_back(asked: Four, zero: u32) -> Four {
  return Four(asked.words | vec4u(zero), asked.pairs);
}

// W[row .. row + 3, eight columns of word b] times x, in the order of quad().
// Sums of (1 + q / 16) x: what every code has too much is taken off at once, 3/2 of the sum of x.
fn four(row: u32, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  return asked_four(ask_four(row, b), b, x0, x1);
}
fn asked_four(asked: Four, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  let words = asked.words;
  let pair = select(asked.pairs.xy, asked.pairs.zw, (b & 4u) != 0u);
  let d = 0x1p-6f * vec4f(unpack2x16float(pair.x), unpack2x16float(pair.y));
  let sums = vec4f(
    dot(low_codes(words.x), x0) + dot(high_codes(words.x), x1),
    dot(low_codes(words.y), x0) + dot(high_codes(words.y), x1),
    dot(low_codes(words.z), x0) + dot(high_codes(words.z), x1),
    dot(low_codes(words.w), x0) + dot(high_codes(words.w), x1),
  );
  return d * (sums - 1.5 * dot(vec4f(1.0), x0 + x1));
}

// 1 + q / 16 of the low and of the high nibbles: as the highest bits of a half's mantissa, two at a time, codes need no more.
fn low_codes(word: u32) -> vec4f {
  return one_and(word << 6u, word >> 2u);
}
fn high_codes(word: u32) -> vec4f {
  return one_and(word << 2u, word >> 6u);
}
fn one_and(even: u32, odd: u32) -> vec4f {
  let a = unpack2x16float((even & 0x3c003c0u) | 0x3c003c00u);
  let b = unpack2x16float((odd & 0x3c003c0u) | 0x3c003c00u);
  return vec4f(a.x, b.x, a.y, b.y);
}

// Which four columns quad i of block b holds, in vec4s along the row: the low nibbles are columns 4j .. 4j+3 of their
// group of 32, the high ones 16+4j .. 16+4j+3, with j = b mod 4.
fn quad(b: u32, i: u32) -> u32 {
  return (b / 4u) * 8u + b % 4u + 4u * i;
}
