"""Conversations written down as words and media, and packed as a loader would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.datasets.chat import Chat
from mmllm.datasets.modelnet import ModelNet
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny.datasets import write_modelnet
from mmllm.types import Batch, Message, Sample


def talk(name: str, *texts: str, **media: tuple[Any, ...]) -> Sample:
    """A conversation of user and assistant in turn."""
    roles = ("user", "assistant")
    return Sample(name, tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)), media)


def encoded(model: MultimodalLM, samples: Sequence[Sample], train: bool = True) -> list[Encoded]:
    """The samples as a loader would encode them."""
    prompter = Prompter(model.llm.tokenizer, list(model.inputs), model.reads_user_turn)
    return [encode(sample, prompter, model.inputs, model.llm.context, train) for sample in samples]


def packed(model: MultimodalLM, samples: Sequence[Sample], train: bool = True) -> Batch:
    """The samples in one packed row."""
    return collate(encoded(model, samples, train), model.inputs)


def object_talks(folder: Path, n: int = 3) -> list[Sample]:
    """One of text, and ``n`` about the objects of ModelNet's tiny folder, which is written to ``folder``."""
    write_modelnet(folder, "train")
    source = ModelNet(str(folder))
    return [talk("text", "the cat?", "sat"), *(source[index] for index in range(n))]


def document_talks(folder: Path, n: int = 3) -> list[Sample]:
    """One of text, and ``n`` about documents of different lengths from a file of conversations in ``folder``."""
    rows = []
    for number, text in enumerate(("tea 3 milk 7", "w1 w2", "w5 w6 w7 w8 w9 tea 7")):
        (folder / f"{number}.txt").write_text(text)
        turns = [{"role": "user", "content": "<document> tea?"}, {"role": "assistant", "content": str(number)}]
        rows.append(json.dumps({"messages": turns, "document": f"{number}.txt"}) + "\n")
    (folder / "chat.jsonl").write_text("".join(rows))
    source = Chat(str(folder / "chat.jsonl"))
    return [talk("text", "the cat?", "sat"), *(source[index] for index in range(n))]
