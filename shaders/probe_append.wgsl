// probe_append: keep what a layer read and wrote at one token, in the row that probe_keep would write.
//
//   row(position) = watched[.. ROW]
//
// Shapes  watched [q | k | v | g | u | beta | ..] as kda_watched leaves it   history [SEGMENT, ROW], positions FIRST .. FIRST + SEGMENT - 1
// Grid    (ROW / 256): a token outside this segment is left to the other segments
// Links   step
// Oracle  the input itself
const ROW = 20512u;
const FIRST = 0u;
const SEGMENT = 2048u;
@group(0) @binding(0) var<storage, read> watched: array<f32>;
@group(0) @binding(1) var<storage, read_write> history: array<f32>;
@compute @workgroup_size(256)
fn probe_append(@builtin(global_invocation_id) id: vec3u) {
  let row = step.position - FIRST; // wraps around for a token before this segment
  if (row < SEGMENT && id.x < ROW) {
    history[row * ROW + id.x] = watched[id.x];
  }
}
