"""What GraphAdapter's fusion of a node and the LLM's state becomes: a state for the LLM's head, or one of C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.errors import MmllmError, SampleError
from mmllm.hooks import ForwardContext
from mmllm.hooks.points import LLMHookPoints
from mmllm.types import IGNORE_INDEX, Batch

_RELEASED_SCALE = 0.1210
"""Of the first weights of the classes' map, in the released code (hxttkl/GraphAdapter @012c8a6)."""


class Fuse(nn.Module):
    """Fusion u = Wb SiLU(Wa [Wg z ; Wp e]) and a map of it; all but the classes' without biases.

    The map is Wext, with ``skip`` added to e and zero at first, or with ``classes`` the linear one onto them.
    """

    def __init__(self, hidden: int, llm_hidden: int, skip: bool, classes: int = 0) -> None:
        super().__init__()
        self.skip = skip
        self.of_graph = nn.Linear(hidden, hidden, bias=False)
        self.of_text = nn.Linear(llm_hidden, hidden, bias=False)
        self.wide = nn.Linear(2 * hidden, 10 * hidden, bias=False)
        self.back = nn.Linear(10 * hidden, hidden, bias=False)
        # names of their own: `start:` from a run of the first stage then leaves what the second has no use for
        if classes:
            self.classes = nn.Linear(hidden, classes)
            with torch.no_grad():
                weight = self.classes.weight
                weight.copy_((weight - weight.mean() / weight.std()) * _RELEASED_SCALE)
        else:
            self.output = nn.Linear(hidden, llm_hidden, bias=False)
            if skip:
                nn.init.zeros_(self.output.weight)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Fuse ``z`` float[M, h] and ``e`` float[M, D]: float[M, D], or float[M, C]; in the dtype of ``e``."""
        both = torch.cat([self.of_graph(z), self.of_text(e.to(z.dtype))], dim=-1)
        u = self.back(F.silu(self.wide(both)))
        if hasattr(self, "classes"):
            return self.classes(u).to(e.dtype)
        made = self.output(u).to(e.dtype)
        return made + e if self.skip else made


@dataclass(frozen=True)
class FirstWords:
    """Where the assistant's answers begin in an LLM's ids, and the id that each class begins with there."""

    header: tuple[int, ...]
    """Ids that the chat template has in front of every answer."""
    ids: tuple[int, ...]
    """One for each class, all different."""

    @classmethod
    def of(cls, llm: LLMHookPoints, classes: Sequence[str]) -> FirstWords:
        """Read from conversations that the LLM's chat template renders.

        Raises:
            MmllmError: two classes begin alike, or nothing fixed stands in front of an answer.
        """
        header, ids = llm.beginnings(classes)
        by_id: dict[int, str] = {}
        for number, name in zip(ids, classes, strict=True):
            if number in by_id:
                raise MmllmError(
                    f'connector graph_adapter classes: "{by_id[number]}" and "{name}" begin with one token '
                    f'("{llm.tokenizer.decode([number])}"), by which an answer is told; give them names that do not.'
                )
            by_id[number] = name
        if not header:
            raise MmllmError(
                "connector graph_adapter classes: this LLM's chat template has nothing fixed in front of an answer, so "
                "where it begins cannot be told; leave classes out."
            )
        return cls(header, ids)

    def begins(self, ctx: ForwardContext, places: Tensor | None) -> Tensor:
        """bool[M], whether an answer begins behind ``places`` int64[M] of a packed row (None: the last of each row)."""
        flat = ctx.input_ids.flatten()
        width = ctx.input_ids.shape[1]
        if places is None:
            places = torch.arange(1, len(ctx.input_ids) + 1, device=flat.device) * width - 1
        found = places % width >= len(self.header) - 1  # a step of a cached decoding has one position
        for back, token in enumerate(reversed(self.header)):
            found = found & (flat[(places - back).clamp(min=0)] == token)
        return found

    def check(self, batch: Batch, key: str) -> None:
        """SampleError where a conversation with items of ``key`` has an answer that begins as no class does."""
        labels = batch.labels
        said = (labels != IGNORE_INDEX) & (labels.roll(1) == IGNORE_INDEX)
        shown = torch.isin(batch.sequence_ids, batch.item_sequence[key])
        wrong = (said & shown & ~torch.isin(labels, torch.tensor(self.ids))).nonzero()
        if len(wrong):
            raise SampleError(
                f"{batch.names[int(batch.sequence_ids[wrong[0]])]}: its answer begins with none of the classes of "
                f"connectors.{key}; name them all there, or leave classes out"
            )

    def over_vocabulary(self, scores: Tensor, vocabulary: int) -> Tensor:
        """Log-probabilities float[M, C] of the classes as those of V tokens, float[M, V]; all others impossible."""
        ids = torch.tensor(self.ids, device=scores.device)
        return scores.new_full((len(scores), vocabulary), -torch.inf).index_copy(1, ids, scores)
