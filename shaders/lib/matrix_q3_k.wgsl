// matrix_q3_k: a weight matrix [rows, COLS], 3 bits, superblocks of 256 columns, groups of 16.
//
//   w = d (s - 32) (q - 4)   s of 6 bits per group; exact in f32
//
// Shapes  codes  [rows, ROW_WORDS] u32. First COLS/16 words of low bits: word 8n+p of a superblock has columns
//                128n+32j+4p+t in bits 2j, 2j+1 of byte t. Then COLS/32 words of third bits: word p has them in bit 4n+j of byte t
//         scales [rows, COLS/256] vec4u: bytes 0-7 low nibbles of s 0-7 and, above them, of s 8-15; byte 8+i has the upper
//                two bits of s i, i+4, i+8, i+12; then f16 d
// A word holds two blocks: block b has its bit pairs j = 0, 1 for b mod 32 < 16, else j = 2, 3, of word b mod 16.
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<u32>;
@group(1) @binding(1) var<storage, read> scales: array<vec4u>;
const BLOCK = 8u;
const ROW_WORDS = COLS / 16u + COLS / 32u;

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

// Half of a word's sixteen columns; quad() says which.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let index = b % 16u;
  let n = index / 8u;
  let upper = (b / 16u) % 2u;
  let pairs = codes[row * ROW_WORDS + (b / 32u) * 16u + index] >> (4u * upper);
  let thirds = codes[row * ROW_WORDS + COLS / 16u + (b / 32u) * 8u + index % 8u] >> (4u * n + 2u * upper);
  let packed = scales[row * (COLS / 256u) + b / 32u];
  let low = (select(packed.x, packed.y, upper == 1u) >> (4u * n)) & 0x0f0f0f0fu;
  let high = (packed.z >> (4u * n + 2u * upper)) & 0x03030303u;
  let groups = (low | (high << 4u)) >> (8u * ((index / 4u) % 2u));
  let s = f16_pair(packed.w).x * (vec2f(vec2u(groups, groups >> 16u) & vec2u(63u)) - 32.0);
  let first = (pairs & 0x03030303u) | ((thirds & 0x01010101u) << 2u);
  let second = ((pairs >> 2u) & 0x03030303u) | (((thirds >> 1u) & 0x01010101u) << 2u);
  return array<vec4f, 2>(s.x * (vec4f(bytes(first)) - 4.0), s.y * (vec4f(bytes(second)) - 4.0));
}

// Which four columns quad i of block b holds, in vec4s along the row.
fn quad(b: u32, i: u32) -> u32 {
  let word = b % 16u;
  let pair = 2u * ((b / 16u) % 2u) + i;
  return (b / 32u) * 64u + (word / 8u) * 32u + pair * 8u + word % 8u;
}
