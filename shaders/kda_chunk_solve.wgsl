// kda_chunk_solve: what each row of a chunk writes, whatever the memory holds; second of three for a prompt.
//
//   M = (I + Diag(beta) L)^-1 Diag(beta)        then u = M (v - what S says): all rows of the chunk at once
//
// Shapes  beta [T, H]   L, M [N, H, C (j), C (i)]: a vec4 is four rows of one column; of L what is below the diagonal is read, and of
//         M nothing is said above the diagonal of blocks
// Grid    (H, N): one workgroup per head and chunk
// Links   factor_*, step
// Oracle  test/reference/kda.ts chunkInverse
// In blocks of 16 x 16. A lane makes a column of a diagonal block's inverse, downwards: once x_m is known, the rows below give up
// beta L[i,m] x_m (forward substitution: powers of L would be quicker and lose digits where keys repeat). Then, block row by
// block row, with Y made in place of the block:
//   Y[i,j] = sum_{j<=m<i} beta L[i,m] X[m,j]        X[i,j] = - X[i,i] Y[i,j]
const H = 32u;
const C = 64u;
const QUADS = C / 4u;
const BLOCK = 64u; // vec4s of a block
@group(0) @binding(0) var<storage, read> beta: array<f32>;
@group(0) @binding(1) var<storage, read> L: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> M: array<factor4>;
var<workgroup> X: array<vec4f, 10u * BLOCK>; // blocks on and below the diagonal: [block, column, four rows]

fn block(i: u32, j: u32) -> u32 {
  return (i * (i + 1u) / 2u + j) * BLOCK;
}
fn strength(t: u32, h: u32) -> f32 {
  if (t < step.tokens) {
    return beta[t * H + h];
  }
  return 0.0; // rows past the end write nothing
}
fn strengths(t: u32, h: u32) -> vec4f {
  return vec4f(strength(t, h), strength(t + 1u, h), strength(t + 2u, h), strength(t + 3u, h));
}
fn keep(at: u32, c0: vec4f, c1: vec4f, c2: vec4f, c3: vec4f) {
  X[at] = c0;
  X[at + 4u] = c1;
  X[at + 8u] = c2;
  X[at + 12u] = c3;
}
// Four rows of block a times column c of block b.
fn times(a: u32, rows: u32, b: u32, c: u32) -> vec4f {
  var y = vec4f();
  for (var m = 0u; m < 4u; m++) {
    let column = X[b + 4u * c + m];
    let at = a + 16u * m + rows;
    y += column.x * X[at] + column.y * X[at + 4u] + column.z * X[at + 8u] + column.w * X[at + 12u];
  }
  return y;
}

@compute @workgroup_size(192)
fn kda_chunk_solve(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let start = group.y * C;
  // The lane's tile of four rows by four columns, on or below the diagonal.
  var row = 0u;
  var column = lane;
  while (column > row && row < QUADS) {
    row++;
    column -= row;
  }
  let tile = ((group.y * H + h) * C + 4u * column) * QUADS + row;
  let at = block(row / 4u, column / 4u) + 16u * (column % 4u) + row % 4u;
  if (row < QUADS) {
    let s = strengths(start + 4u * row, h);
    let below = vec4u(select(4u, 0u, row == column)) + vec4u(0u, 1u, 2u, 3u);
    keep(
      at,
      select(vec4f(), s * L[tile], below > vec4u(0u)),
      select(vec4f(), s * L[tile + QUADS], below > vec4u(1u)),
      select(vec4f(), s * L[tile + 2u * QUADS], below > vec4u(2u)),
      select(vec4f(), s * L[tile + 3u * QUADS], below > vec4u(3u)),
    );
    if (row > column && row / 4u == column / 4u) { // the tile above the diagonal, in a block that is on it
      keep(block(row / 4u, row / 4u) + 16u * (row % 4u) + column % 4u, vec4f(), vec4f(), vec4f(), vec4f());
    }
  }
  workgroupBarrier();

  // Diagonal blocks.
  let own = lane % 16u;
  let diagonal = block(lane / 16u, lane / 16u);
  var x0 = select(vec4f(), vec4f(1.0), vec4u(own) == vec4u(0u, 1u, 2u, 3u));
  var x1 = select(vec4f(), vec4f(1.0), vec4u(own) == vec4u(4u, 5u, 6u, 7u));
  var x2 = select(vec4f(), vec4f(1.0), vec4u(own) == vec4u(8u, 9u, 10u, 11u));
  var x3 = select(vec4f(), vec4f(1.0), vec4u(own) == vec4u(12u, 13u, 14u, 15u));
  if (lane < C) {
    for (var m = 0u; m < 15u; m++) {
      let four = select(select(x0, x1, m > 3u), select(x2, x3, m > 11u), m > 7u);
      let x = four[m % 4u];
      x0 -= x * X[diagonal + 4u * m];
      x1 -= x * X[diagonal + 4u * m + 1u];
      x2 -= x * X[diagonal + 4u * m + 2u];
      x3 -= x * X[diagonal + 4u * m + 3u];
    }
  }
  workgroupBarrier();
  if (lane < C) {
    X[diagonal + 4u * own] = x0;
    X[diagonal + 4u * own + 1u] = x1;
    X[diagonal + 4u * own + 2u] = x2;
    X[diagonal + 4u * own + 3u] = x3;
  }
  workgroupBarrier();

  // The blocks below, 64 lanes each: of a row of blocks all at once.
  let rows = lane % 4u;
  let c = lane % 64u / 4u;
  let j = lane / 64u;
  for (var i = 1u; i < 4u; i++) {
    let place = block(i, j) + 4u * c + rows;
    var y = vec4f();
    if (j < i) {
      for (var m = j; m < i; m++) {
        y += times(block(i, m), rows, block(m, j), c);
      }
    }
    workgroupBarrier();
    if (j < i) {
      X[place] = y;
    }
    workgroupBarrier();
    if (j < i) {
      y = times(block(i, i), rows, block(i, j), c);
    }
    workgroupBarrier();
    if (j < i) {
      X[place] = -y;
    }
    workgroupBarrier();
  }

  if (row < QUADS) {
    let s = strengths(start + 4u * column, h);
    M[tile] = factor4(X[at] * s.x);
    M[tile + QUADS] = factor4(X[at + 4u] * s.y);
    M[tile + 2u * QUADS] = factor4(X[at + 8u] * s.z);
    M[tile + 3u * QUADS] = factor4(X[at + 12u] * s.w);
    if (row > column && row / 4u == column / 4u) {
      let above = ((group.y * H + h) * C + 4u * row) * QUADS + column;
      M[above] = factor4();
      M[above + QUADS] = factor4();
      M[above + 2u * QUADS] = factor4();
      M[above + 3u * QUADS] = factor4();
    }
  }
}
