"""Routing written as text: which experts an item is for, read from the message that shows it; for ``mova``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmllm.errors import MmllmError, SampleError
from mmllm.processors.question import TokenizedQuestion
from mmllm.types import QuestionReader

EXPERTS = "experts"
"""Name of the choice in an item and in ``Features.extras``, and what a line of routing begins with."""
NONE = "none"
"""What such a line says where no expert is wanted."""
_LINE = re.compile(rf"^\s*{EXPERTS}:(.*)$", re.MULTILINE)


def routed(answer: str, names: Sequence[str], most: int = 3) -> str:
    """The line of routing that an LLM's free answer means: the first ``most`` experts that it names as whole words.

    For the second request of two: the first asks which experts help, with a line ``experts: none`` of its own.
    """
    found = [word for word in re.findall(r"\w+", answer) if word in names]
    return f"{EXPERTS}: {' '.join(list(dict.fromkeys(found))[:most]) or NONE}"


class RoutedQuestion(QuestionReader):
    """Reads the line ``experts: a b`` of a message, and the rest of it in ids of a text encoder's tokenizer.

    ``experts: none`` chooses none, and a message without such a line all of them.
    """

    def __init__(self, names: Sequence[str], text: TokenizedQuestion | None) -> None:
        """``names`` of the experts, in order; ``text`` reads what else the message says, None: nothing does."""
        wrong = [name for name in names if not re.fullmatch(r"\w+", name) or name == NONE]
        if wrong or len(set(names)) < len(names):
            raise MmllmError(
                f"connector mova experts: {list(names)} must be names of letters, digits and _, none twice, and none "
                f'of them "{NONE}", which stands for no expert.'
            )
        self.names, self.text = tuple(names), text

    def read(self, text: str) -> dict[str, Tensor]:
        """``{"experts": bool[E]}``, and what the text's reader gives.

        Raises:
            SampleError: an expert that there is not, or two lines.
        """
        lines = _LINE.findall(text)
        if len(lines) > 1:
            raise SampleError(f'the message with the item has {len(lines)} lines "{EXPERTS}: ..."; keep one')
        chosen = set(self.names) if not lines else set(re.split(r"[\s,]+", lines[0].strip())) - {"", NONE}
        unknown = sorted(chosen - set(self.names))
        if unknown:
            raise SampleError(
                f'the line "{EXPERTS}:" of the message with the item names {", ".join(unknown)}; known: '
                f"{', '.join(self.names)}, or {NONE}"
            )
        found = {EXPERTS: torch.tensor([name in chosen for name in self.names])}
        return found if self.text is None else {**found, **self.text.read(_LINE.sub("", text).strip())}

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Of N items ``{"experts": bool[N, E]}``, and what the text's reader gives."""
        found = {EXPERTS: torch.stack([item[EXPERTS] for item in items])}
        return found if self.text is None else {**found, **self.text.collate(items)}

    def blank(self) -> dict[str, Tensor]:
        """A text of one letter, for all experts."""
        return self.read("a")

    def settings(self) -> Any:
        """The names, and what the tokenizer does with a text."""
        return {EXPERTS: list(self.names), "text": None if self.text is None else self.text.settings()}
