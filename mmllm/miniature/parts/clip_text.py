"""The phrases a miniature CLIP compares picture cells with, and its word-level tokenizer (an ordinary folder)."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mmllm.miniature.parts.pictures import LABELS
from mmllm.miniature.world.words import every_word

CONTEXT = 24


def build_clip_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the world; the end token has the highest id, where open_clip's text tower reads out."""
    words = ["<pad>", "<unk>", *every_word(), "<end>"]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(",", "")
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    raw.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", len(words) - 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")


def label_phrases() -> dict[str, list[str]]:
    """For each label one phrase per class, such as "color red", "value 12" or "nothing color"."""
    return {
        name: [f"{name} {word}" if word != "nothing" else f"nothing {name}" for word in words]
        for name, words in LABELS.items()
    }


def cell_phrase(labels: list[int]) -> str:
    """Phrase for what one cell shows: "a1 red circle", "tea 12", "digit 7", "a1 nothing"."""
    named = {name: LABELS[name][label] for name, label in zip(LABELS, labels, strict=True)}
    if named["key"] != "nothing":
        return f"{named['key']} {named['value']}"
    if named["digit"] != "nothing":
        return f"digit {named['digit']}"
    if named["shape"] != "nothing":
        return f"{named['place']} {named['color']} {named['shape']}"
    return f"{named['place']} nothing"


def save_clip_tokenizer(out: Path) -> None:
    """Writes the tokenizer's files where open_clip's local-dir schema looks for them."""
    build_clip_tokenizer().save_pretrained(out)
