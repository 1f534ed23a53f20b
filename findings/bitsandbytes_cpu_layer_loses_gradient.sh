#!/usr/bin/env bash
# A 4-bit layer that has once run without gradients passes none from then on, on a CPU with AVX512-BF16.
#
# Guess: Linear4bit is frozen, so passes change nothing of it: evaluating a QLoRA model between two stretches of training
# leaves outputs and gradients as they were.
# Seen (bitsandbytes 0.50.2, torch 2.13.0, a CPU with avx512_bf16): in eval mode the first pass whose input needs no gradient
# repacks the weight in place (other bytes, other shape). Later passes, in training mode too, run a kernel without a
# backward: the output says that it has a gradient function, backward() ends with a warning, and the input's gradient is
# None. In a network with residual connections the loss still falls, as gradients go around the layer. Outputs differ
# too, as the kernel computes in bfloat16. A layer whose `support_avx512bf16_for_cpu` is set to False, or any layer on
# another CPU, keeps its weight, outputs and gradients.
# Ends with status 1 if that is no longer so; says so and ends with 0 on a CPU without that extension.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 bitsandbytes==0.50.2 numpy
cat > look.py <<'PY'
import warnings

import bitsandbytes as bnb
import torch

print("bitsandbytes", bnb.__version__, "torch", torch.__version__)
if not bnb.functional.has_avx512bf16():
    print("this CPU has no avx512_bf16: nothing to see here")
    raise SystemExit
warnings.simplefilter("ignore")


def layer(packs):
    torch.manual_seed(0)
    made = torch.nn.Linear(256, 128, bias=False)
    found = bnb.nn.Linear4bit(256, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    found.load_state_dict(made.state_dict())
    found = found.to("cpu")
    found.support_avx512bf16_for_cpu &= packs
    return found


def gradient(found, x):
    x = x.clone().requires_grad_()
    found.train()(x).square().sum().backward()
    return x.grad


x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
seen = {}
for packs in (True, False):
    found = layer(packs)
    before, bytes_before = gradient(found, x), found.weight.detach().clone()
    with torch.no_grad():
        found.eval()(x)
    after, weight = gradient(found, x), found.weight.detach()
    same = weight.shape == bytes_before.shape and torch.equal(weight, bytes_before)
    seen[packs] = same, None if after is None else torch.equal(before, after)
    print("may repack" if packs else "may not", "| weight as before:", same, "| gradient as before:", seen[packs][1])
assert seen[True] == (False, None)
assert seen[False] == (True, True)
PY
env/bin/python look.py
