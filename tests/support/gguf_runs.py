"""Runs and tokenizers that are written for llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mmllm.exporting.gguf.vocabulary import RULES
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny.encoders import write_clip
from mmllm.testing.tiny.llms import CHAT_TEMPLATE, CORPUS
from tests.support.parts import tiny_vision_folder
from tests.support.training import finish, start, tiny_recipe, train_here

AROUND = 'connectors.image.around=["<img>", "</img>"]'
CLIP, OPEN = "encoders.image.model=CLIP", "encoders.image={type: open_clip, model: OPEN, layers: [-2]}"
GEMMA = (
    "connectors.image={type: pool, from: image, grid: [2, 2], norm: rms, norm_after: true, depth: 1, bias: false, "
    'eps: 1.0e-6, attends: bidirectional, around: ["<start_of_image>", "<end_of_image>"]}'
)
SHUFFLE = "connectors.image={type: pixel_shuffle, from: image}"


def assembled(folder: Path) -> Path:
    """A SigLIP tower, an mlp and a Llama with LoRA, assembled by hand and trained."""
    siglip = tiny_vision_folder(folder, "siglip")
    recipe = tiny_recipe(folder, steps=3)
    recipe.write_text(recipe.read_text().replace(str(folder / "tiny-clip-0"), str(siglip)), encoding="utf-8")
    assert finish(start(train_here, recipe, folder / "run")) == [0]
    write_clip(
        str(new_folder(folder / "open-clip")),
        {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3},
        {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    )
    return folder / "run"


def new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def changed(run: Path, *overrides: str) -> tuple[Any, MultimodalLM]:
    """Recipe and model of the run with other words, and connectors with numbers that show."""
    told = [one.replace("CLIP", str(run.parent / "tiny-clip-0")) for one in overrides]
    recipe = load_recipe(
        run.parent / "recipe.yaml", [one.replace("OPEN", str(run.parent / "open-clip")) for one in told]
    )
    model = build(recipe, "cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.connectors.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return recipe, model


def byte_level(rule: str, digits: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of the rule, one of llama.cpp's names; ``llama-bpe`` with a beginning in front of every text."""
    starts = rule == "llama-bpe"
    made = Tokenizer(models.BPE(ignore_merges=starts))
    known = {name: split for (split, _), name in RULES.items()}
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule not in known)]
    if rule in known:
        steps.insert(0, pre_tokenizers.Split(Regex(known[rule]), "isolated"))
    elif digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    words = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<s>"]
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=384, special_tokens=special, **words))
    return dressed(made, starts, pad_token="<|pad|>", eos_token="<|im_end|>")


def dressed(made: Tokenizer, starts: bool, **words: str) -> PreTrainedTokenizerFast:
    if starts:
        number = made.token_to_id("<s>")
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", number)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", **words)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = ("{{ bos_token }}" if starts else "") + CHAT_TEMPLATE
    return fast
