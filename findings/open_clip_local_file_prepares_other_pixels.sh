#!/usr/bin/env bash
# The same SigLIP weights are given other pixels when open_clip loads them from a file of their own than under their tag.
#
# Guess: create_model_from_pretrained("ViT-B-16-SigLIP", pretrained=...) returns the preprocessing of that architecture,
# wherever the weights lie: mean and deviation 0.5, picture squashed to the square.
# Seen (open_clip 3.3.0, torch 2.15.0): mean, deviation and resizing belong to the tag ("webli"), not to the architecture. A
# local path has no tag, so without a warning OpenAI's CLIP values are used and the picture's edges are cut off instead of
# squashed. Weights are random here; only what is done to the pixels is looked at.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 open_clip_torch==3.3.0
cat > look.py <<'PY'
import io
import logging

import open_clip
import torch
from open_clip import create_model, create_model_from_pretrained, get_pretrained_cfg
from safetensors.torch import save_file

warned = io.StringIO()
name, tag = "ViT-B-16-SigLIP", "webli"
told = get_pretrained_cfg(name, tag)
model = create_model(name)
save_file({key: value.contiguous() for key, value in model.state_dict().items()}, "weights.safetensors")
logging.basicConfig(stream=warned, level=logging.WARNING, force=True)
_, transform = create_model_from_pretrained(name, pretrained="weights.safetensors")
by_tag = open_clip.image_transform(
    224, is_train=False, mean=told["mean"], std=told["std"], resize_mode=told["resize_mode"], interpolation=told["interpolation"]
)
kinds = [[type(step).__name__ for step in one.transforms] for one in (by_tag, transform)]
means = [one.transforms[-1].mean for one in (by_tag, transform)]
print("open_clip", open_clip.__version__, "torch", torch.__version__)
print("guess, and what the tag says:", kinds[0], tuple(means[0]))
print("local file of the same architecture:", kinds[1], tuple(means[1]))
print("warnings:", warned.getvalue() or "none")
assert tuple(means[0]) == (0.5, 0.5, 0.5) and tuple(means[1]) == (0.48145466, 0.4578275, 0.40821073)
assert "CenterCrop" in kinds[1] and "CenterCrop" not in kinds[0] and not warned.getvalue()
PY
env/bin/python look.py
