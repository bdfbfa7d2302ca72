// matrix_q6_k: a weight matrix [rows, COLS], 6 bits, superblocks of 256 columns, groups of 16.
//
//   w = (d s) (q - 32)       s a signed byte per group; exact in f32
//
// Shapes  codes  [rows, ROW_WORDS] u32. First COLS/8 words of low bits: word 16n+8h+p of a superblock has columns
//                128n+32h+4p+t in the low, 128n+64+32h+4p+t in the high nibbles of byte t. Then COLS/16 words of upper
//                bits: word 8n+p has those of the same columns in bits 2h, 2h+1 and 4+2h, 5+2h of byte t
//         scales [rows, COLS/256, 5] u32: 16 signed bytes, then f16 d
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<u32>;
@group(1) @binding(1) var<storage, read> scales: array<u32>;
const BLOCK = 8u;
const ROW_WORDS = COLS / 8u + COLS / 16u;

// The two f16 of a word. unpack2x16float may flush f16 subnormals to zero, so those are decoded as the integers they are.
fn f16_pair(word: u32) -> vec2f {
  let magnitude = vec2u(word, word >> 16u) & vec2u(0x7fffu);
  let sign = vec2u(word << 16u, word) & vec2u(0x80000000u);
  let subnormal = bitcast<vec2f>(bitcast<vec2u>(vec2f(magnitude) * 0x1p-24f) | sign);
  return select(unpack2x16float(word), subnormal, magnitude < vec2u(0x400u));
}

// The four bytes of a word, lowest first.
fn bytes(word: u32) -> vec4u {
  return (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
}

// The eight columns of word b of a row; quad() says which.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let n = (b / 16u) % 2u;
  let h = (b / 8u) % 2u;
  let p = b % 8u;
  let word = codes[row * ROW_WORDS + b];
  let upper = codes[row * ROW_WORDS + COLS / 8u + (b / 32u) * 16u + n * 8u + p] >> (2u * h);
  let super_block = 5u * (row * (COLS / 256u) + b / 32u);
  let d = f16_pair(scales[super_block + 4u]).x;
  // Groups 8n+2h+p/4 and, for the high nibbles, four on: the same byte of two words.
  let groups = vec2u(scales[super_block + 2u * n], scales[super_block + 2u * n + 1u]);
  let s = d * vec2f(bitcast<vec2i>(groups << vec2u(24u - 8u * (2u * h + p / 4u))) >> vec2u(24u));
  let first = (word & 0x0f0f0f0fu) | ((upper & 0x03030303u) << 4u);
  let second = ((word >> 4u) & 0x0f0f0f0fu) | (((upper >> 4u) & 0x03030303u) << 4u);
  return array<vec4f, 2>(s.x * (vec4f(bytes(first)) - 32.0), s.y * (vec4f(bytes(second)) - 32.0));
}

// Which four columns quad i of block b holds, in vec4s along the row: low nibbles, then the group 64 columns on.
fn quad(b: u32, i: u32) -> u32 {
  return (b / 16u) * 32u + b % 16u + 16u * i;
}
