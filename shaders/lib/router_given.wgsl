// router_given: the experts are chosen already. Same function as router_own and router_logits: link one.
//
// Shapes  chosen [ids [TOP] | ..] u32
@group(5) @binding(0) var<storage, read> chosen: array<u32>;

fn choose(slot: u32, speaks: bool, lane: Lane) -> u32 {
  return chosen[slot];
}
