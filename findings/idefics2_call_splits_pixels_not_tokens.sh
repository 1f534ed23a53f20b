#!/usr/bin/env bash
# Idefics2Processor: a call without image splitting still writes the tokens of five pictures.
#
# Guess: processor(images=..., text=..., do_image_splitting=False) turns the splitting off for this call, in the pixels and in
# the text.
# Seen (transformers 5.23.0, torch 2.15.0): in the pixels alone. The image processor gives one picture instead of five, but the
# prompt still gets 5 x 64 picture tokens, because the processor asks the attribute of its image processor and not the call;
# inside images_kwargs it is the same. The model then refuses (tokens 320, features 64). The other way round, with the
# attribute False and the keyword True, there are five pictures and the tokens of one. Only setting
# processor.image_processor.do_image_splitting fits both.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 tokenizers==0.23.3 pillow==13.0.0 numpy==2.4.6
cat > look.py <<'PY'
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


def pair(**options):
    out = processor(images=picture(64, 64), text="<image> look", return_tensors="pt", **options)
    return out["pixel_values"].shape[1], int((out["input_ids"] == processor.image_token_id).sum()), out


torch.manual_seed(0)
images = tf.Idefics2ImageProcessor(do_image_splitting=True, size={"shortest_edge": 28, "longest_edge": 56})
processor = tf.Idefics2Processor(images, tokenizer(["look"]), image_seq_len=64)
*plain, _ = pair()
*called, given = pair(do_image_splitting=False)
*nested, _ = pair(images_kwargs={"do_image_splitting": False})
images.do_image_splitting = False
*attribute, fitting = pair()
*reverse, _ = pair(do_image_splitting=True)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = tf.Idefics2Config(
    image_token_id=processor.image_token_id,
    vision_config={**sizes, "image_size": 56, "patch_size": 14},
    perceiver_config={"hidden_size": 16, "resampler_n_latents": 64, "resampler_depth": 1, "resampler_n_heads": 2,
                      "resampler_head_dim": 8, "num_key_value_heads": 1},
    text_config={"model_type": "mistral", "vocab_size": 32, "num_key_value_heads": 1, "pad_token_id": 1, **sizes},
)
model = tf.Idefics2ForConditionalGeneration(config).eval()
with torch.no_grad():
    model(**fitting)
    try:
        model(**given)
        refused = ""
    except ValueError as error:
        refused = str(error)
print("transformers", tf.__version__, "torch", torch.__version__)
print("(pictures, picture tokens): splitting", plain, "- keyword False", called, "- in images_kwargs", nested)
print("attribute False", attribute, "- attribute False, keyword True", reverse)
print("guess for keyword False:", attribute, "- the model says:", refused)
assert plain == [5, 320] and attribute == [1, 64]
assert called == nested == [1, 320] and reverse == [5, 64] and "do not match" in refused
PY
OMP_NUM_THREADS=1 env/bin/python look.py
