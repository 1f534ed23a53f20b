"""The text of the message that shows an item, for a connector that reads it by a tokenizer of its own (``qformer``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmllm.errors import TooLongError
from mmllm.processors.settings import vocabulary
from mmllm.processors.tokenizer import ModelTokenizer
from mmllm.types import QuestionReader

IDS = "question"
"""Name of the ids in an item and in ``Features.extras``."""


class TokenizedQuestion(QuestionReader):
    """Text -> ids of another tokenizer than the LLM's, with the special tokens that it puts around a text itself."""

    def __init__(self, tokenizer: ModelTokenizer, most: int) -> None:
        """``most``: ids that the connector has positions for; nothing is cut."""
        self.tokenizer, self.most = tokenizer, most

    def read(self, text: str) -> dict[str, Tensor]:
        """``{"question": int64[L]}``, L at least 1; -1 stands where there is no text at all.

        Raises:
            TooLongError: more than ``most``.
        """
        ids = self.tokenizer.loaded(text).input_ids
        if len(ids) > self.most:
            raise TooLongError(
                f"the message with the item has {len(ids)} tokens of the tokenizer {self.tokenizer.model}, and the "
                f"connector that reads it has {self.most} positions; nothing is cut: shorten it"
            )
        return {IDS: torch.tensor(ids or [-1], dtype=torch.int64)}

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Texts of N items -> ``{"question": int64[N, most L]}``, -1 behind a shorter one."""
        rows = [item[IDS] for item in items]
        return {IDS: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)}

    def blank(self) -> dict[str, Tensor]:
        """A text of one letter."""
        return self.read("a")

    def settings(self) -> Any:
        """What the tokenizer does with a text."""
        return vocabulary(self.tokenizer.loaded)
