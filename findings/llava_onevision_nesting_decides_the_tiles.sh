#!/usr/bin/env bash
# LLaVA-OneVision: two brackets around the pictures of one prompt decide how many tokens each of them costs.
#
# Guess: for one prompt with two <image>, images=[a, b] and images=[[a, b]] are the same; the prompt says that both belong to
# it, and nested lists matter for batches alone.
# Seen (transformers 5.23.0, torch 2.15.0): the nested list counts as one sample of two pictures, each one resized whole: 1460
# picture tokens for two pictures of 1000 x 800 (the library's own sizes, 729 tokens a tile). The flat list counts as two
# samples of one picture each, and both are cut into tiles: 12118 tokens for the same prompt, and other pixels, without a
# warning. apply_chat_template nests, so the same conversation costs 1460 that way and 12118 where its text is rendered first
# and given to the processor with a flat list. Who trains on one form and serves the other shows the model other inputs.
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


template = (
    "{% for message in messages %}user {% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
)
processor = tf.LlavaOnevisionProcessor(
    tf.LlavaOnevisionImageProcessor(),
    tokenizer(["user", "compare"], image_token="<image>", video_token="<video>"),
    tf.LlavaOnevisionVideoProcessor(),
    num_image_tokens=729,
    vision_feature_select_strategy="full",
    chat_template=template,
)
a, b = picture(1000, 800, 0), picture(1000, 800, 1)
parts = [{"type": "image", "image": a}, {"type": "image", "image": b}, {"type": "text", "text": "compare"}]
talk = [{"role": "user", "content": parts}]
text = processor.apply_chat_template(talk)


def seen(out):
    return tuple(out["pixel_values"].shape[:2]), int((out["input_ids"] == processor.image_token_id).sum())


nested = seen(processor(images=[[a, b]], text=[text], return_tensors="pt"))
flat = seen(processor(images=[a, b], text=[text], return_tensors="pt"))
chat = seen(processor.apply_chat_template(talk, tokenize=True, return_dict=True, return_tensors="pt"))
print("transformers", tf.__version__, "torch", torch.__version__)
print("prompt:", text)
print("(pictures, tiles of each), picture tokens: [[a, b]]", nested, "- [a, b]", flat, "- apply_chat_template", chat)
print("guess: all three the same")
assert nested == chat == ((2, 1), 1460)
assert flat == ((2, 10), 12118)
PY
OMP_NUM_THREADS=1 env/bin/python look.py
