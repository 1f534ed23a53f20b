"""The frozen parts and data that speed is measured with: made once, with random weights, in standard folders.

A CLIP ViT of 6 blocks x 384 (224 pixels, patches of 14: 256 tokens), a Qwen2 of 8 blocks x 512 (MLP 1408, 8 heads over
4 of keys and values), pictures of 640 x 480 and conversations about them whose lengths are fixed lists.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.random_parts import llm_folder, vit_folder

FOLDER = Path("runs/speed-parts")
PATCHES = 256
SHAPES = {32_000: "8x512", 151_936: "8x512, 152k"}
"""Vocabulary -> shape of the LLM in ``random_parts``."""
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful "
    "assistant.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Qwen2's template, without marks of what the assistant says."""


def made(vocab: int = 32_000, folder: Path = FOLDER) -> Path:
    """Folder with ``vit``, ``llm_<vocab>``, ``img`` and ``shapes``; what is missing is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, make in ((folder / "tok", _tokenizer), (folder / "img", _pictures), (folder / "shapes", _shapes)):
        if not path.exists():
            make(path)
    vit_folder(folder / "vit", "6x384")
    llm_folder(folder / f"llm_{vocab}", SHAPES[vocab], tokenizer=folder / "tok")
    return folder


def conversations(folder: Path, name: str, lengths: list[int], pictures: int, images: str = "img") -> Path:
    """Write ``name``.jsonl: one conversation of about so many text tokens for each of ``lengths``, question first.

    Conversation i is about picture ``i % pictures`` of the folder ``images``.
    """
    from transformers import AutoTokenizer

    path = folder / f"{name}.jsonl"
    if path.exists():
        return path
    tokenizer = AutoTokenizer.from_pretrained(folder / "tok")
    draw = random.Random(7)
    known = sorted({word for word in _text().split() if word.isalpha() and 2 < len(word) < 12})

    def text(n: int) -> str:
        words: list[str] = []
        while len(tokenizer(" ".join(words), add_special_tokens=False).input_ids) < n:
            words.append(draw.choice(known))
        return " ".join(words)

    rows = []
    for number, length in enumerate(lengths):
        asked = max(4, round(length * 0.35) - 20)  # the template's own tokens are about 24
        question = {"role": "user", "content": "<image>\n" + text(asked)}
        answer = {"role": "assistant", "content": text(max(4, length - asked - 24))}
        rows.append({"messages": [question, answer], "image": [f"{images}/{number % pictures}.jpg"]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mixed_lengths(n: int, seed: int) -> list[int]:
    """Text tokens of ``n`` conversations: every other one log-uniform in 40 .. 300, the rest uniform in it."""
    draw = random.Random(seed)
    found = []
    for number in range(n):
        length = math.exp(draw.uniform(math.log(16), math.log(300))) if number % 2 == 0 else draw.randint(16, 300)
        found.append(max(40, round(length)))
    return found


def _text() -> str:
    """Everything written in this repository, which is the same for everyone who measures."""
    files = sorted([*Path().glob("*.md"), *Path("docs").rglob("*.md"), *Path("mmllm").rglob("*.py")])
    return "\n".join(path.read_text() for path in files)


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=31_000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_text().split("\n"), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[special[1], special[3]],
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)


def _shapes(folder: Path) -> None:
    """Four pictures that are cut into unlike numbers of tiles."""
    _pictures(folder, [(640, 480), (480, 640), (700, 300), (400, 400)])


def _pictures(folder: Path, sizes: Sequence[tuple[int, int]] = ((640, 480),) * 32) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    draw = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        small = Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        noise = draw.integers(-12, 12, (height, width, 3))
        pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
