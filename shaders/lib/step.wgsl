// step: what differs from one call of a plan to the next.
//   tokens    rows in this call, 1 in decode       position    of the first of them in the conversation, from 0
struct Step {
  tokens: u32,
  position: u32,
}
@group(2) @binding(0) var<uniform> step: Step;
