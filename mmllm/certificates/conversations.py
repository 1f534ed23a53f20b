"""What a certificate asks a model: fixed and drawn texts, and conversations with media to stand beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmllm.batches.sample import Encoded, Item, encode
from mmllm.errors import SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.model.input_proxy import InputProxy
from mmllm.model.inputs import Input
from mmllm.model.model import MultimodalLM
from mmllm.types import Message, Sample

Turn = tuple[str, str]
"""Role and text."""
LONG: tuple[Turn, ...] = (("user", "A red square is left of the blue circle. " * 3 + "What is left of the circle?"),)
"""A text that is long enough for what is read of it to be kept."""
FIXED: tuple[tuple[Turn, ...], ...] = (
    (("user", "What is the capital of France?"),),
    (("user", "Count to five."), ("assistant", "1 2 3 4 5"), ("user", "And now backwards, please.")),
    (("user", "def f(x):\n    return x ** 2  # what does f(3) give?"),),
    (("user", "Größe, 漢字, עברית, 🙂: which scripts are these?"),),
    (("user", "a"),),
    LONG,
)
"""The same for every model."""
ROOM = 8
"""Positions that are left for an answer."""
PIECES = (4, 24)
"""Fewest and most tokens of a drawn text."""


def drawn(tokenizer: Any, n: int, seed: int) -> list[tuple[Turn, ...]]:
    """``n`` questions of tokens drawn from the whole vocabulary: what nobody has chosen."""
    generator = torch.Generator().manual_seed(seed)
    low, high = PIECES
    found: list[tuple[Turn, ...]] = []
    for _ in range(n):
        length = int(torch.randint(low, high + 1, (), generator=generator))
        ids = torch.randint(0, len(tokenizer), (length,), generator=generator).tolist()
        text = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        # a text of control characters alone is not a question
        found.append((("user", text or "?"),))
    return found


class DrawnInput(InputProxy):
    """An input whose items are drawn: of the sizes of a blank one, so that no file is needed of any modality."""

    def __init__(self, entry: Input, seed: int) -> None:
        super().__init__(entry)
        self._generator = torch.Generator().manual_seed(seed)

    def read(self, media: Any) -> Item:
        """Draw an item."""
        return {
            name: {word: self._drawn(value) for word, value in one.blank().items()}
            for name, one in self.entry.processors.items()
        }

    def _drawn(self, value: torch.Tensor) -> torch.Tensor:
        # times are float64, and whatever is counted is whole: these stay
        return torch.randn(value.shape, generator=self._generator) if value.dtype == torch.float32 else value

    def measure(self, media: Any) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Sizes of an item."""
        return {name: one.blank() for name, one in self.entry.processors.items()}


def encoded_texts(model: MultimodalLM, talks: Sequence[Sequence[Turn]]) -> list[Encoded]:
    """Conversations without media, as the model is fed them; those that its context has room for."""
    return _fitting(model, [_sample(f"text {n}", talk) for n, talk in enumerate(talks)], {})


def encoded_media(model: MultimodalLM, seed: int) -> list[Encoded]:
    """Conversations that show an item of each placeholder, at once and behind a text; with several, one with all."""
    inputs = {key: DrawnInput(entry, seed) for key, entry in model.inputs.items()}
    shown = [[key] for key in inputs] + ([list(inputs)] if len(inputs) > 1 else [])
    samples = []
    for keys in shown:
        name, items = f"media {', '.join(keys)}", {key: (None,) for key in keys}
        asked = ("user", "".join(f"<{key}>\n" for key in keys) + "What is it?")
        samples.append(_sample(name, [asked], items))
        # begins as a text does: what was read of that beginning must not be taken for the text's
        samples.append(_sample(f"{name}, later", [*LONG, ("assistant", "The red square."), asked], items))
    return _fitting(model, samples, inputs)


def _fitting(model: MultimodalLM, samples: Sequence[Sample], inputs: Mapping[str, DrawnInput]) -> list[Encoded]:
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)
    found = []
    for sample in samples:
        try:
            one = encode(sample, prompter, inputs, model.llm.context, False)
        except SampleError:  # too long, or a drawn text that the tokenizer has only as a special token
            continue
        if len(one.ids) + ROOM <= model.llm.context:
            found.append(one)
    return found


def _sample(name: str, talk: Sequence[Turn], items: Mapping[str, tuple[Any, ...]] | None = None) -> Sample:
    return Sample(name, tuple(Message(role, text) for role, text in talk), items or {})
