#!/usr/bin/env bash
# Gemma3Processor does not follow the do_pan_and_scan of its own folder.
#
# Guess: "do_pan_and_scan": true in a folder's preprocessor_config.json turns the crops on for who loads that folder, as
# the sizes there do.
# Seen (transformers 5.23.0, torch 2.15.0): the loaded image processor says True and, called alone, gives 4 pictures for a wide
# one; the processor that holds it gives 1, without a warning, since its own default (False) goes into every call as if the
# caller had asked for it. The limits are replaced likewise: with the keyword the crops come on, but at least 256 pixels wide
# whatever pan_and_scan_min_crop_size the folder names. Only keywords in the call count.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 tokenizers==0.23.3 pillow==13.0.0 numpy==2.4.6
cat > look.py <<'PY'
import json
import pathlib

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers


def tokenizer(words, **special):
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<pad>", *words, *special.values()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=special
    )


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


folder = pathlib.Path("folder")
tokens = tokenizer(["look"], boi_token="<start>", eoi_token="<end>", image_token="<soft>")
tokens.save_pretrained(folder)
tf.Gemma3ImageProcessor(
    do_pan_and_scan=True,
    pan_and_scan_min_crop_size=64,
    pan_and_scan_max_num_crops=4,
    pan_and_scan_min_ratio_to_activate=1.2,
    size={"height": 28, "width": 28},
).save_pretrained(folder)
(folder / "processor_config.json").write_text(json.dumps({"processor_class": "Gemma3Processor", "image_seq_length": 4}))
said = json.loads((folder / "preprocessor_config.json").read_text())["do_pan_and_scan"]
processor = tf.AutoProcessor.from_pretrained(folder)
kept = processor.image_processor.do_pan_and_scan
soft = tokens.convert_tokens_to_ids("<soft>")


def pair(pic, **options):
    out = processor(images=pic, text="<start> look", return_tensors="pt", **options)
    return len(out["pixel_values"]), int((out["input_ids"] == soft).sum())


wide, small = picture(900, 300), picture(300, 100)
alone = [len(processor.image_processor(pic, return_tensors="pt")["pixel_values"]) for pic in (wide, small)]
default = [pair(pic) for pic in (wide, small)]
asked = [pair(pic, do_pan_and_scan=True) for pic in (wide, small)]
full = [pair(pic, do_pan_and_scan=True, pan_and_scan_min_crop_size=64) for pic in (wide, small)]
print("transformers", tf.__version__, "torch", torch.__version__)
print("folder says", said, "- image processor says", kept)
print("pictures from the image processor alone, 900 x 300 and 300 x 100:", alone)
print("(pictures, picture tokens) from the processor:", default, "- guess", full)
print("with do_pan_and_scan=True in the call:", asked, "- with the smallest crop too:", full)
assert said is True and kept is True and alone == [4, 4]
assert default == [(1, 4), (1, 4)] and asked == [(4, 16), (1, 4)] and full == [(4, 16), (4, 16)]
PY
OMP_NUM_THREADS=1 env/bin/python look.py
