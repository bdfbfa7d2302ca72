"""How long FLA's Triton `chunk_kda` takes forward on this GPU; one JSON object on standard output.

    python3 tools/peers/fla.py [--tokens 8192] [--heads 32] [--runs 20] [--repeat 20] [--layer]

Needs torch with CUDA, triton and flash-linear-attention. The shapes are those of Kimi Linear: B = 1, K = V = 128, q k v beta
bf16, an f32 memory that stands before and one that is handed back. Gates are what FLA's layer makes of its own initial values.

  plain   q and k have unit length, g is a natural logarithm in f32, beta is in (0, 1): what the chain of kernels here gets.
          Inside: cumulative sums of g, the pairs of a chunk, the inverse, W and U, the walk over chunks, the outputs.
  layer   where asked for, as FLA's layer calls it: unit length, gates and sigmoid inside, g before its activation in bf16.

A timing is the time between two CUDA events around `repeat` calls, divided by their number; the first call of each kind, which
tunes every kernel (a minute and a half on an H100), and three timings after it do not count. Microseconds.
"""

import argparse
import json
import math
import statistics
import sys
import time

sys.path.pop(0)  # this file's own folder, where `fla` would be this file

import fla
import torch
import torch.nn.functional as F
import triton
from fla.ops.kda import chunk_kda

parser = argparse.ArgumentParser()
parser.add_argument('--tokens', type=int, default=8192)
parser.add_argument('--heads', type=int, default=32)
parser.add_argument('--runs', type=int, default=20)
parser.add_argument('--repeat', type=int, default=20)
parser.add_argument('--layer', action='store_true')
arg = parser.parse_args()

T, H, K = arg.tokens, arg.heads, 128
torch.manual_seed(0)
half = {'device': 'cuda', 'dtype': torch.bfloat16}
full = {'device': 'cuda', 'dtype': torch.float32}

raw_q, raw_k, v, raw_g = (torch.randn(1, T, H, K, **half) for _ in range(4))
raw_beta = torch.randn(1, T, H, **half)
memory = torch.randn(1, H, K, K, **full)
A_log = torch.log(torch.empty(H, **full).uniform_(1, 16))
dt = torch.exp(torch.rand(H * K, **full) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
dt_bias = dt + torch.log(-torch.expm1(-dt))

q, k = (F.normalize(x.float(), dim=-1).to(torch.bfloat16) for x in (raw_q, raw_k))
g = -torch.exp(A_log)[:, None] * F.softplus(raw_g.float() + dt_bias.view(H, K))
beta = torch.sigmoid(raw_beta.float()).to(torch.bfloat16)
memories = {'initial_state': memory, 'output_final_state': True}

CALLS = {
    'plain': lambda: chunk_kda(q, k, v, g, beta, **memories),
    'layer': lambda: chunk_kda(
        raw_q, raw_k, v, raw_g, raw_beta, A_log=A_log, dt_bias=dt_bias, use_qk_l2norm_in_kernel=True,
        use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True, state_v_first=True, **memories,
    ),
}


def timings(call):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for run in range(arg.runs + 3):
        start.record()
        for _ in range(arg.repeat):
            call()
        end.record()
        end.synchronize()
        if run >= 3:
            times.append(1000 * start.elapsed_time(end) / arg.repeat)
    return times


def kernels(call):
    """Microseconds of each kernel of one call."""
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(arg.repeat):
            call()
        torch.cuda.synchronize()
    return {e.key[:60]: round(e.self_device_time_total / arg.repeat, 1) for e in seen.key_averages()}


result = {
    'fla': fla.__version__,
    'torch': torch.__version__,
    'triton': triton.__version__,
    'adapter': torch.cuda.get_device_name(),
    'tokens': T,
    'heads': H,
}
with torch.inference_mode():
    for name, call in CALLS.items():
        if name == 'layer' and not arg.layer:
            continue
        began = time.time()
        o, after = call()
        torch.cuda.synchronize()
        print(f'{name}: tuned in {time.time() - began:.0f} s', file=sys.stderr)
        if not (o.isfinite().all() and after.isfinite().all()):
            raise SystemExit(f'{name}: results are not finite')
        times = timings(call)
        result[name] = {
            'median': statistics.median(times), 'least': min(times), 'most': max(times), 'runs': len(times),
            'kernels': kernels(call),
        }
print(json.dumps(result, indent=2))
