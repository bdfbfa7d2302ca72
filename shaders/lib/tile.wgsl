// tile: TILE_ROWS rows of a weight matrix times TILE_TOKENS rows of x, by 64 lanes in registers.
//
//   y[n, r] = sum_c W[r, c] x[n, c]
//
// The kernel declares x (vec4f) and y (f32) and says where their rows begin: x_start(n) in vec4s, y_start(n) in f32.
// A stage brings 32 columns of both sides into registers, while the one before is multiplied, and then into workgroup memory as
// [column, four rows]; each lane adds the products of its 4 or 8 rows and its 4 or 8 tokens. Fours are stored at their index
// XOR 2 (column / 8): so neither writes nor reads of neighbouring lanes meet in a bank. Needs outer, and a matrix_*.
const TILE_ROWS = 64u; // 32 or 64
const TILE_TOKENS = 64u; // 32 or 64
const TILE_LANES = 64u;
const ROW_FOURS = TILE_ROWS / 4u;
const TOKEN_FOURS = TILE_TOKENS / 4u;
var<workgroup> w_tile: array<vec4f, 32u * ROW_FOURS>;
var<workgroup> x_tile: array<vec4f, 32u * TOKEN_FOURS>;

// Eight columns of four rows, a column per vec4.
fn w_keep(at: u32, low: mat4x4f, high: mat4x4f) {
  w_tile[at] = low[0];
  w_tile[at + ROW_FOURS] = low[1];
  w_tile[at + 2u * ROW_FOURS] = low[2];
  w_tile[at + 3u * ROW_FOURS] = low[3];
  w_tile[at + 4u * ROW_FOURS] = high[0];
  w_tile[at + 5u * ROW_FOURS] = high[1];
  w_tile[at + 6u * ROW_FOURS] = high[2];
  w_tile[at + 7u * ROW_FOURS] = high[3];
}
fn x_keep(at: u32, low: mat4x4f, high: mat4x4f) {
  x_tile[at] = low[0];
  x_tile[at + TOKEN_FOURS] = low[1];
  x_tile[at + 2u * TOKEN_FOURS] = low[2];
  x_tile[at + 3u * TOKEN_FOURS] = low[3];
  x_tile[at + 4u * TOKEN_FOURS] = high[0];
  x_tile[at + 5u * TOKEN_FOURS] = high[1];
  x_tile[at + 6u * TOKEN_FOURS] = high[2];
  x_tile[at + 7u * TOKEN_FOURS] = high[3];
}

// Rows w_row.. of W, for rows y_row.. of y (rows of them exist); rows n_first.. of x (count of them exist).
fn tile_product(w_row: u32, y_row: u32, rows: u32, n_first: u32, count: u32, lane: u32) {
  // Loading, a lane has a block of 8 columns of four rows of W, of four rows of x, or both.
  let b = lane % 4u;
  let w_four = lane / 4u;
  let x_four = (lane - (TILE_LANES - 4u * TOKEN_FOURS)) / 4u; // the last lanes; wraps around for the others
  let w_rows = w_row + min(4u * w_four + vec4u(0u, 1u, 2u, 3u), vec4u(rows - 1u));
  let n = n_first + min(4u * x_four + vec4u(0u, 1u, 2u, 3u), vec4u(count - 1u));
  let x_first = vec4u(x_start(n.x), x_start(n.y), x_start(n.z), x_start(n.w));
  // Multiplying, it has rows 4 (lane / 8).. and 32 on, tokens 4 (lane % 8).. and 32 on.
  let w_own = lane / 8u;
  let x_own = lane % 8u;
  var near = mat4x4f(); // a column per token
  var more_rows = mat4x4f();
  var more_tokens = mat4x4f();
  var more_both = mat4x4f();
  var w_low: mat4x4f; // of each, columns 0 .. 3 and 4 .. 7
  var w_high: mat4x4f;
  var x_low: mat4x4f;
  var x_high: mat4x4f;
  for (var first = 0u; first < COLS / BLOCK + 4u; first += 4u) {
    if (first > 0u) {
      workgroupBarrier();
      if (w_four < ROW_FOURS) {
        w_keep(8u * b * ROW_FOURS + (w_four ^ (2u * b)), w_low, w_high);
      }
      if (x_four < TOKEN_FOURS) {
        x_keep(8u * b * TOKEN_FOURS + (x_four ^ (2u * b)), x_low, x_high);
      }
      workgroupBarrier();
    }
    if (first < COLS / BLOCK) { // on their way while the stage before is multiplied
      if (w_four < ROW_FOURS) {
        let r0 = block(w_rows.x, first + b);
        let r1 = block(w_rows.y, first + b);
        let r2 = block(w_rows.z, first + b);
        let r3 = block(w_rows.w, first + b);
        w_low = transpose(mat4x4f(r0[0], r1[0], r2[0], r3[0]));
        w_high = transpose(mat4x4f(r0[1], r1[1], r2[1], r3[1]));
      }
      if (x_four < TOKEN_FOURS) {
        let q0 = x_first + quad(first + b, 0u);
        let q1 = x_first + quad(first + b, 1u);
        x_low = transpose(mat4x4f(x[q0.x], x[q0.y], x[q0.z], x[q0.w]));
        x_high = transpose(mat4x4f(x[q1.x], x[q1.y], x[q1.z], x[q1.w]));
      }
    }
    if (first > 0u) {
      for (var k = 0u; k < 32u; k++) {
        let swap = 2u * (k / 8u);
        let w0 = w_tile[k * ROW_FOURS + (w_own ^ swap)];
        let x0 = x_tile[k * TOKEN_FOURS + (x_own ^ swap)];
        near = add_outer(near, w0, x0);
        if (TILE_ROWS > 32u) {
          more_rows = add_outer(more_rows, w_tile[k * ROW_FOURS + 8u + (w_own ^ swap)], x0);
        }
        if (TILE_TOKENS > 32u) {
          let x1 = x_tile[k * TOKEN_FOURS + 8u + (x_own ^ swap)];
          more_tokens = add_outer(more_tokens, w0, x1);
          if (TILE_ROWS > 32u) {
            more_both = add_outer(more_both, w_tile[k * ROW_FOURS + 8u + (w_own ^ swap)], x1);
          }
        }
      }
    }
  }
  // Matrices are indexed by constants throughout: a variable would move them out of registers.
  tile_write(near, 4u * w_own, rows, 4u * x_own, count, n_first, y_row);
  if (TILE_ROWS > 32u) {
    tile_write(more_rows, 4u * w_own + 32u, rows, 4u * x_own, count, n_first, y_row);
  }
  if (TILE_TOKENS > 32u) {
    tile_write(more_tokens, 4u * w_own, rows, 4u * x_own + 32u, count, n_first, y_row);
  }
  if (TILE_ROWS > 32u && TILE_TOKENS > 32u) {
    tile_write(more_both, 4u * w_own + 32u, rows, 4u * x_own + 32u, count, n_first, y_row);
  }
}

fn tile_write(m: mat4x4f, row: u32, rows: u32, token: u32, count: u32, n_first: u32, y_row: u32) {
  if (token < count) {
    tile_write_token(y_start(n_first + token) + y_row, row, rows, m[0]);
  }
  if (token + 1u < count) {
    tile_write_token(y_start(n_first + token + 1u) + y_row, row, rows, m[1]);
  }
  if (token + 2u < count) {
    tile_write_token(y_start(n_first + token + 2u) + y_row, row, rows, m[2]);
  }
  if (token + 3u < count) {
    tile_write_token(y_start(n_first + token + 3u) + y_row, row, rows, m[3]);
  }
}

// Four rows of one token, those that exist.
fn tile_write_token(at: u32, row: u32, rows: u32, values: vec4f) {
  if (row < rows) {
    y[at + row] = values.x;
  }
  if (row + 1u < rows) {
    y[at + row + 1u] = values.y;
  }
  if (row + 2u < rows) {
    y[at + row + 2u] = values.z;
  }
  if (row + 3u < rows) {
    y[at + row + 3u] = values.w;
  }
}
