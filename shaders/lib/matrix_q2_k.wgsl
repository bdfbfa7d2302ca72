// matrix_q2_k: a weight matrix [rows, COLS], 2 bits, superblocks of 256 columns, groups of 16.
//
//   w = (d s) q - dmin m     s and m of 4 bits per group; both products are exact, so the difference is rounded once
//
// Shapes  codes  [rows, COLS/16] u32: word 8n+p of a superblock has columns 128n+32j+4p+t in bits 2j, 2j+1 of byte t
//         scales [rows, COLS/256, 5] u32: 16 bytes with s in the low and m in the high nibble; then f16 d, f16 dmin
// A word holds two blocks: block b has its bit pairs j = 0, 1 for b mod 32 < 16, else j = 2, 3, of word b mod 16.
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<u32>;
@group(1) @binding(1) var<storage, read> scales: array<u32>;
const BLOCK = 8u;

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
  let super_block = row * (COLS / 256u) + b / 32u;
  let index = b % 16u;
  let upper = (b / 16u) % 2u;
  let pairs = codes[super_block * 16u + index] >> (4u * upper);
  let dm = f16_pair(scales[super_block * 5u + 4u]);
  let groups = scales[super_block * 5u + (index / 8u) * 2u + upper] >> (8u * ((index / 4u) % 2u));
  let s = dm.x * vec2f(vec2u(groups, groups >> 16u) & vec2u(15u));
  let m = dm.y * vec2f(vec2u(groups >> 4u, groups >> 20u) & vec2u(15u));
  return array<vec4f, 2>(
    s.x * vec4f(bytes(pairs & 0x03030303u)) - m.x,
    s.y * vec4f(bytes((pairs >> 2u) & 0x03030303u)) - m.y,
  );
}

// Which four columns quad i of block b holds, in vec4s along the row.
fn quad(b: u32, i: u32) -> u32 {
  let word = b % 16u;
  let pair = 2u * ((b / 16u) % 2u) + i;
  return (b / 32u) * 64u + (word / 8u) * 32u + pair * 8u + word % 8u;
}
