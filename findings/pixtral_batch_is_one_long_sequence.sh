#!/usr/bin/env bash
# Pixtral's vision tower: the pictures of one call are attended as one sequence, and cost grows with the square of their sum.
#
# Guess: a batch of 8 pictures costs at most 8 times one picture; each attends within itself, so a larger batch is never
# slower per picture.
# Seen (transformers 5.23.0, torch 2.15.0, CPU, one thread, sdpa, the default): all patches of the call become one sequence
# under a dense mask of patches x patches. 8 pictures of 512 x 512 in one call take about 7 times the time of 8 calls in the
# narrow tower below, and took 2.1 times in one layer of width 1024 and 4096 (not part of this script); the states are the
# same. The mask has 64 times the entries of one picture's: eight of 1024 x 1024 would need 32768 x 32768, 2 GiB in bfloat16.
# With "eager" or "sdpa", call picture by picture; the flash path passes lengths instead of a mask (read there, not run).
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 transformers==5.23.0
cat > look.py <<'PY'
import time

import torch
import transformers as tf

torch.manual_seed(0)
torch.set_num_threads(1)
config = tf.PixtralVisionConfig(
    hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=512, patch_size=16
)
model = tf.PixtralVisionModel(config).eval()
masks = []
model.transformer.layers[0].attention.register_forward_pre_hook(
    lambda module, args, kwargs: masks.append(kwargs["attention_mask"].shape), with_kwargs=True
)
pictures, sizes = torch.randn(8, 3, 512, 512), torch.tensor([[512, 512]] * 8)


def once():
    return model(pictures, image_sizes=sizes).last_hidden_state[0]


def each():
    return torch.cat([model(pictures[i : i + 1], image_sizes=sizes[i : i + 1]).last_hidden_state[0] for i in range(8)])


def timed(call):
    start = time.process_time()
    out = call()
    return time.process_time() - start, out


with torch.no_grad():
    once(), each()
    rounds = [(timed(once), timed(each)) for _ in range(3)]
together, apart = (min(round[kind][0] for round in rounds) for kind in (0, 1))
same = torch.allclose(rounds[0][0][1], rounds[0][1][1], atol=1e-4)
print("transformers", tf.__version__, "torch", torch.__version__, "attention", model.config._attn_implementation)
print("same states:", same, "- masks: one call", tuple(masks[0]), "- one picture", tuple(masks[1]))
print(f"processor seconds: one call {together:.2f}, eight calls {apart:.2f}, {together / apart:.1f} times; guess: at most 1")
assert same and masks[0][-2:] == (8192, 8192) and masks[1][-2:] == (1024, 1024)
assert together > 2 * apart
PY
OMP_NUM_THREADS=1 env/bin/python look.py
