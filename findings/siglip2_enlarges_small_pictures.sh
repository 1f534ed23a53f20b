#!/usr/bin/env bash
# SigLIP 2 at "native" resolution enlarges small pictures until they fill max_num_patches.
#
# Guess: the NaFlex image processor keeps a picture that fits and shrinks a larger one; max_num_patches is a ceiling ("at most
# this number of patches"), so an icon costs a few patches and raising the ceiling for documents leaves icons as they were.
# Seen (transformers 5.23.0, torch 2.15.0): every square picture from 9 x 9 to 512 x 512 becomes 16 x 16 patches at the default
# of 256, and 32 x 32 at 1024: with the ceiling raised, a 64 x 64 thumbnail, 16 patches of its own, takes 1024. Only the
# aspect ratio is kept. The search for the scale ends at 100, so at 256 a picture under 3 pixels stays below (2 x 2: 13 x 13).
# Who wants the picture's own resolution sets max_num_patches for each picture.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 pillow==13.0.0 numpy==2.4.6
cat > look.py <<'PY'
import numpy as np
import torch
import transformers as tf
from PIL import Image

processor = tf.Siglip2ImageProcessor()


def grid(width, height, most):
    pic = Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8))
    out = processor(pic, max_num_patches=most, return_tensors="pt")
    shape = tuple(out["spatial_shapes"][0].tolist())
    assert int(out["pixel_attention_mask"].sum()) == shape[0] * shape[1]
    return shape


sides = (9, 16, 64, 256, 512)
seen = {most: [grid(side, side, most) for side in sides] for most in (256, 1024)}
own = [(-(-side // 16),) * 2 for side in sides]
tiny = grid(2, 2, 256)
fitted = grid(64, 64, 16)
print("transformers", tf.__version__, "torch", torch.__version__)
print("squares of", sides, "pixels, patches at 256:", seen[256], "- at 1024:", seen[1024])
print("guess at 1024:", own)
print("2 x 2 pixels at 256:", tiny, "- 64 x 64 at 16:", fitted)
assert seen == {256: [(16, 16)] * 5, 1024: [(32, 32)] * 5}
assert own[-1] == (32, 32) and tiny == (13, 13) and fitted == (4, 4)
PY
OMP_NUM_THREADS=1 env/bin/python look.py
