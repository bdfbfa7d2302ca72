// kda_chunk_solve: what each row of a chunk writes, whatever the memory holds; second of five for a prompt.
//
//   M = (I + Diag(beta) L)^-1 Diag(beta)        then u = M (v - what S says): all rows of the chunk at once
//
// Shapes  beta [T, H]   L [N, H, C (j), C (i)], read below the diagonal, replaced by M: lower triangular; blocks above are left
// Grid    (H, N): one workgroup per head and chunk
// Links   step
// Oracle  test/reference/kda.ts chunkInverse
// In blocks of B x B. A diagonal block is inverted row by row (x_i = - sum_j beta_i L[i,j] x_j, forward substitution: powers of
// L would be quicker and lose digits where keys repeat). Then, block row by block row, with Y made in place of the block:
//   Y[i,j] = sum_{j<=m<i} beta L[i,m] X[m,j]        X[i,j] = - X[i,i] Y[i,j]
const H = 32u;
const C = 64u;
const B = 16u;
const BLOCKS = C / B;
@group(0) @binding(0) var<storage, read> beta: array<f32>;
@group(0) @binding(1) var<storage, read_write> L: array<f32>;
var<workgroup> X: array<f32, BLOCKS * (BLOCKS + 1u) / 2u * B * (B + 1u)>; // blocks on and below the diagonal, rows of B + 1

fn place(i: u32, j: u32) -> u32 {
  let block = (i / B) * (i / B + 1u) / 2u + j / B;
  return (block * B + i % B) * (B + 1u) + j % B;
}
fn strength(t: u32, h: u32) -> f32 {
  if (t < step.tokens) {
    return beta[t * H + h];
  }
  return 0.0; // rows past the end write nothing
}

@compute @workgroup_size(256)
fn kda_chunk_solve(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let start = group.y * C;
  let matrix = (group.y * H + h) * C * C;
  for (var n = lane; n < C * C; n += 256u) {
    let i = n % C;
    let j = n / C;
    if (i > j) {
      X[place(i, j)] = strength(start + i, h) * L[matrix + n];
    } else if (i / B == j / B) {
      X[place(i, j)] = select(0.0, 1.0, i == j);
    }
  }
  workgroupBarrier();

  // Diagonal blocks: a lane per column of each.
  let first = lane / B * B;
  let own = lane % B;
  for (var r = 1u; r < B; r++) {
    var sum = 0.0;
    if (lane < C && own < r) {
      for (var m = 0u; m < r; m++) {
        sum += X[place(first + r, first + m)] * X[place(first + m, lane)];
      }
    }
    workgroupBarrier();
    if (lane < C && own < r) {
      X[place(first + r, lane)] = -sum;
    }
    workgroupBarrier();
  }

  // The blocks below: a lane per element. Y[i,j] takes its place only after every later use of L[i,j] is past.
  let r = lane / B;
  let c = lane % B;
  for (var i = B; i < C; i += B) {
    for (var j = 0u; j < i; j += B) {
      var y = 0.0;
      for (var m = j; m < i; m++) {
        y += X[place(i + r, m)] * X[place(m, j + c)];
      }
      workgroupBarrier();
      X[place(i + r, j + c)] = y;
      workgroupBarrier();
      var x = 0.0;
      for (var m = 0u; m < B; m++) {
        x -= X[place(i + r, i + m)] * X[place(i + m, j + c)];
      }
      workgroupBarrier();
      X[place(i + r, j + c)] = x;
      workgroupBarrier();
    }
  }

  for (var n = lane; n < C * C; n += 256u) {
    let i = n % C;
    let j = n / C;
    if (i / B >= j / B) {
      L[matrix + n] = X[place(i, j)] * strength(start + j, h);
    }
  }
}
