// matrix_q5_k: a weight matrix [rows, COLS], 5 bits, superblocks of 256 columns, groups of 32.
//
//   w = (d s) q - dmin m     s and m of 6 bits per group; both products are exact, so the difference is rounded once
//
// Shapes  codes  [rows, ROW_WORDS] u32. First COLS/8 words of low bits: word 8k+p of a superblock has columns 64k+4p+t in
//                the low, 64k+32+4p+t in the high nibbles of byte t. Then COLS/32 words of fifth bits: word p of a superblock
//                has those of columns 64k+4p+t in bit 2k, of 64k+32+4p+t in bit 2k+1 of byte t
//         scales [rows, COLS/256] vec4u: f16 d, f16 dmin, then 12 bytes of 6-bit s and m
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<u32>;
@group(1) @binding(1) var<storage, read> scales: array<vec4u>;
const BLOCK = 8u;
const ROW_WORDS = COLS / 8u + COLS / 32u;

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

// The 6-bit pairs of superblock scales for 64 columns k of four: two of s, then two of m. Byte j of y and z has s and m of
// group j < 4 in its low six bits; s and m of group 4+j are the nibbles of byte j of w and, above those, the two bits left.
fn six_bits(packed: vec4u, k: u32) -> vec4f {
  let late = k >= 2u;
  let s = select(packed.y & 0x3f3f3f3fu, (packed.w & 0x0f0f0f0fu) | ((packed.y >> 2u) & 0x30303030u), late);
  let m = select(packed.z & 0x3f3f3f3fu, ((packed.w >> 4u) & 0x0f0f0f0fu) | ((packed.z >> 2u) & 0x30303030u), late);
  let first = 16u * (k % 2u);
  return vec4f((vec4u(s, s, m, m) >> vec4u(first, first + 8u, first, first + 8u)) & vec4u(63u));
}

// The eight columns of word b of a row; quad() says which.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let k = (b / 8u) % 4u;
  let word = codes[row * ROW_WORDS + b];
  let fifths = codes[row * ROW_WORDS + COLS / 8u + (b / 32u) * 8u + b % 8u] >> (2u * k);
  let packed = scales[row * (COLS / 256u) + b / 32u];
  let dm = f16_pair(packed.x);
  let g = six_bits(packed, k);
  let first = (word & 0x0f0f0f0fu) | ((fifths & 0x01010101u) << 4u);
  let second = ((word >> 4u) & 0x0f0f0f0fu) | (((fifths >> 1u) & 0x01010101u) << 4u);
  return array<vec4f, 2>(
    (dm.x * g.x) * vec4f(bytes(first)) - dm.y * g.z,
    (dm.x * g.y) * vec4f(bytes(second)) - dm.y * g.w,
  );
}

// Which four columns quad i of block b holds, in vec4s along the row: low nibbles, then the group 32 columns on.
fn quad(b: u32, i: u32) -> u32 {
  return (b / 8u) * 16u + b % 8u + 8u * i;
}
