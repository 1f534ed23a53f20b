#!/usr/bin/env bash
# An int8 weight-only layer of torchao keeps a floating copy of its weight from the forward to the backward pass.
#
# Guess: a frozen layer in int8 takes a byte for each weight in training too, as one of bitsandbytes or of QLoRA does: what
# learns before it needs the weight for its gradient, and the weight is there in int8.
# Seen (torchao 0.18.0, torch 2.13.0, CPU): the layer multiplies by `qdata.to(x.dtype)`, an ordinary product, and autograd
# saves that converted copy of every layer. Between forward and backward a stack of eight holds its int8 weights and all of
# them in float32 besides: 1.25 times what the plain frozen stack holds, which saves nothing. In bfloat16 likewise: 1.5 times.
# Recomputing each layer in the backward pass (activation checkpointing) avoids it.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 torchao==0.18.0 numpy
cat > look.py <<'PY'
import torch
import torchao
from torch.autograd.graph import saved_tensors_hooks
from torchao.quantization import Int8WeightOnlyConfig, quantize_

print("torchao", torchao.__version__, "torch", torch.__version__)
WIDTH, DEPTH = 512, 8


def held(dtype, quantised):
    """Bytes between forward and backward: of the weights, and of what autograd saved that is none of them."""
    torch.manual_seed(0)
    stack = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)])
    stack = stack.to(dtype).requires_grad_(False)
    if quantised:
        quantize_(stack, Int8WeightOnlyConfig())
    own = [tensor for w in stack.parameters() for tensor in ((w.qdata, w.scale) if quantised else (w,))]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in own}
    weights = sum(storages.values())
    saved = []

    def save(tensor):
        saved.append(tensor)  # held here, so that no address is used twice
        return tensor

    x = torch.randn(4, WIDTH, dtype=dtype, requires_grad=True)
    with saved_tensors_hooks(save, lambda tensor: tensor):
        y = stack(x)
    for tensor in saved:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    y.sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    return weights, sum(storages.values()) - weights


for dtype in (torch.float32, torch.bfloat16):
    plain, quantised = held(dtype, False), held(dtype, True)
    print(dtype, "plain: weights, saved", plain, "| int8: weights, saved", quantised)
    floats = WIDTH * WIDTH * DEPTH * dtype.itemsize
    assert plain == (floats, 0)
    assert quantised[0] < 1.01 * WIDTH * WIDTH * DEPTH + 1e5 and quantised[1] >= floats
PY
env/bin/python look.py
