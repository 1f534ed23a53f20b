"""Tiny published models as they are imported, built without the comparison, and conversations about their media."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.importing import assembled
from mmllm.published.media.pictures import picture
from mmllm.published.media.sounds import signal, wav
from mmllm.published.source import Source
from mmllm.testing.tiny.published import CASES, PUBLISHED, published_folder
from mmllm.testing.tiny.published.folder import Published
from mmllm.types import Batch, Message, Sample
from tests.support.serving import file_bytes

KINDS = {
    "LLaVA-NeXT": "tiles stitched to one map, with learned newlines",
    "SmolVLM": "tiles with text between them",
    "Qwen2.5-VL": "positions on three axes, pictures at their own size",
    "Qwen3-VL": "interleaved positions, features added inside the LLM",
    "Mistral 3": "rows of tokens at a picture's own size",
    "LFM2-VL": "tiles beside a view of another shape, short convolutions in the LLM",
    "Ovis 2": "learned marks around a picture and between its tiles",
    "Llama 4": "tiles with text between columns and rows, experts, temperature by position",
    "Idefics2": "a resampler over padded pictures",
    "Gemma 3": "pictures whose tokens see each other",
    "PaliGemma 2": "a prefix that sees itself",
    "InstructBLIP, Llama": "a Q-Former that reads the question",
    "Llama 3.2 Vision": "blocks inside the LLM that read tiles",
    "DeepSeek-VL, two towers": "two towers to one connector",
    "Qwen2-Audio": "sounds of unlike length",
    "Granite Speech, a LoRA for sounds": "sounds of unlike length run apart, a LoRA where there is one",
}
"""Configuration of a published model -> what about it is not plain."""
SIZES = ((70, 40), (33, 64), (20, 20))
"""Width and height of pictures."""


def taken(case: str, folder: Path) -> MultimodalLM:
    """The model that importing this configuration gives; its files are in ``folder``, written there unless they are."""
    made = CASES[case]
    needed(PUBLISHED[made.name])
    if not folder.exists():
        published_folder(made.name, folder / "vlm", **made.changes)
    source = Source(str(folder / "vlm"), made.tiles)
    return assembled(source, source.sections(), folder, "taken")[1].requires_grad_(False).eval()


def needed(made: Published) -> None:
    """Skip where a package is not installed that the processor of this model needs."""
    if made.package is not None:
        pytest.importorskip(made.package)


def key_of(model: MultimodalLM) -> str:
    """What it takes beside text."""
    return "audio" if "audio" in model.inputs else "image"


def item(key: str, number: int) -> bytes:
    """A file with a picture or a sound, each number another of another size."""
    if key == "image":
        return file_bytes(picture(*SIZES[number % len(SIZES)]))
    return wav(signal(4000 + 3000 * number, 16000), 16000)


def said(key: str, question: str, answer: str | None, *shown: int) -> Sample:
    """A question about items of these numbers."""
    turns = [Message("user", f"<{key}>\n" * len(shown) + question)]
    turns += [] if answer is None else [Message("assistant", answer)]
    return Sample(question, tuple(turns), {key: tuple(item(key, one) for one in shown)} if shown else {})


def encoded(model: MultimodalLM, samples: Sequence[Sample], train: bool = True) -> list[Encoded]:
    """Their tokens and media."""
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)
    return [encode(one, prompter, model.inputs, model.llm.context, train=train) for one in samples]


def packed(model: MultimodalLM, samples: Sequence[Sample]) -> Batch:
    """They in one row, to learn from."""
    return collate(encoded(model, samples), model.inputs, model.llm.positions)
