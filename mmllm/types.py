"""What the parts of the flow hand each other: messages and samples, features, packed batches.

Axis letters used in every docstring and annotation comment:

======  =============================================================================================
``N``   items of one modality in a batch (images, clips, graphs)
``T``   tokens of one item: encoder patches (CLS dropped), or places in the LLM's sequence
``D``   width: of an encoder's features, or ``D_llm`` of the LLM's residual stream
``B``   conversations (sequences) in a batch
``R``   rows of one pass of the LLM: 1 packed row, or one per conversation while decoding
``S``   positions of one packed row, all conversations after each other, no pad tokens
``M``   a chosen subset of the S positions (label positions, placeholder positions)
``V``   vocabulary of the LLM
======  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IGNORE_INDEX = -100
"""Label of a position that carries no loss (the value torch's cross entropy ignores)."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation in OpenAI's form. ``text`` holds placeholders (``<image>``) where media belong."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    text: str


@dataclass(frozen=True)
class Sample:
    """One conversation with its media: what a source yields, a benchmark asks and an API request becomes."""

    name: str
    """Unique and readable: ``<source>:<line or id>``; errors and logs name it."""
    messages: tuple[Message, ...]
    media: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Encoder key -> items in order of their placeholders; an item is a path (a graph's may end in ``#17``, the node
    it is about), ``bytes`` or what the encoder takes besides (a ``PIL.Image``)."""


@dataclass(frozen=True)
class Features:
    """What an encoder says of N items, which may differ in size along the first axis of their grid."""

    layers: Mapping[int, torch.Tensor]
    """Layer index as asked for in the recipe (-2, -1, 3) -> float[N, T, D]; the CLS token is already dropped."""
    mask: torch.Tensor
    """bool[N, T], True where a token is real."""
    grid: tuple[int, ...]
    """(rows, cols) | (time, rows, cols) | (time,) | (nodes,); T is its product; raster order. Of the largest item."""
    grids: tuple[tuple[int, ...], ...] | None = None
    """Grid of each item where they differ: its tokens come first, the rest of its T is padding. None: all ``grid``."""
    facts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What else there is to know, first axis N: ``edges`` int64[N, 2, E] (-1: none), ``centres`` float[N, T, 3]."""

    def concatenated(self) -> torch.Tensor:
        """All layers side by side in the order asked for: float[N, T, D * len(layers)]."""
        import torch

        values = list(self.layers.values())
        return values[0] if len(values) == 1 else torch.cat(values, dim=-1)

    def item_grids(self) -> tuple[tuple[int, ...], ...]:
        """Grid of each of the N items."""
        return (self.grid,) * len(self.mask) if self.grids is None else self.grids

    def only(self, items: torch.Tensor, grid: tuple[int, ...]) -> Features:
        """Those items, int64[n], which all have this grid, without padding."""
        tokens = prod(grid)
        layers = {index: layer[items, :tokens] for index, layer in self.layers.items()}
        facts = {name: value[items] for name, value in self.facts.items()}
        return Features(layers, self.mask[items, :tokens], grid, None, facts)


@dataclass(frozen=True)
class EncoderPass:
    """What connectors inside an encoder know of its current pass: its blocks see float[rows, prefix + T, D]."""

    rows: tuple[int, ...]
    """Rows of the blocks that each of the N items makes, item after item: frames of a clip, 1 for a picture."""
    grid: tuple[int, ...]
    """(rows, cols) | (time,) of the T tokens of one row, behind its prefix."""
    prefix: int
    """Class and register tokens in front of each row."""
    mask: torch.Tensor | None = None
    """bool[rows, T], True where a token is real; None: all are."""


@dataclass
class Batch:
    """One packed row: B conversations end to end, no pad tokens; attention stays within each conversation."""

    input_ids: torch.Tensor
    """int64[S]; placeholder positions hold 0 and are overwritten by connector output."""
    labels: torch.Tensor
    """int64[S], aligned with ``input_ids`` (not shifted); IGNORE_INDEX where no loss is, and at each first position."""
    position_ids: torch.Tensor
    """int64[S], 0.. within each conversation."""
    cu_seqlens: torch.Tensor
    """int32[B + 1], boundaries of the conversations in S; starts at 0, ends at S."""
    sequence_ids: torch.Tensor
    """int64[S], which conversation a position belongs to."""
    media_ids: torch.Tensor
    """int64[S], which item of ``media[key]`` a placeholder position shows (counted per key); -1 at text positions."""
    media: dict[str, dict[str, torch.Tensor]]
    """Encoder key -> inputs of ``encoder.forward``, collated over the N items of this batch (absent when N = 0)."""
    places: dict[str, torch.Tensor]
    """Encoder key -> int64[M], positions in S its tokens fill, item after item, in raster order."""
    starts: dict[str, torch.Tensor]
    """Encoder key -> int64[N], position in S of each item's first place, or of what follows an item without places."""
    owners: dict[str, torch.Tensor]
    """Encoder key -> int64[N], conversation of each item."""
    names: list[str]
    """B sample names."""
    sources: list[str]
    """B data keys of the recipe; empty text where a conversation is of none (an evaluation, a request)."""
    questions: torch.Tensor | None = None
    """int64[S], number of the user's message a position's text belongs to, in its conversation; -1 elsewhere and at
    places. None where no part asked for it (``Connector.reads_questions``)."""

    @property
    def n_labels(self) -> int:
        """Number of supervised positions."""
        return int((self.labels != IGNORE_INDEX).sum())

    @property
    def n_tokens(self) -> int:
        """S, all of them real tokens."""
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """Copy of this batch with every tensor on ``device``."""

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: move(inner) for key, inner in value.items()}
            return value.to(device) if hasattr(value, "to") else value

        return Batch(**{name: move(value) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Pass:
    """What connectors inside the LLM know of its next pass over R rows of S positions.

    A packed row is R = 1; in decoding each of the B conversations is a row of its own, padded on the left. The
    mappings have every encoder key, also those without media here.
    """

    sequence_ids: torch.Tensor
    """int64[R, S], conversation 0 .. B - 1 of each position (pads too)."""
    real: torch.Tensor
    """bool[R, S], False at left pads."""
    present: Mapping[str, torch.Tensor]
    """bool[B], whether a conversation has media of this key."""
    items: Mapping[str, torch.Tensor]
    """int64[R, S], number of the last item that starts at or before a position, in its conversation; -1: none yet."""
    owners: Mapping[str, torch.Tensor]
    """int64[N], conversation of each item; -1: it is no longer there."""
    places: Mapping[str, torch.Tensor]
    """int64[M], positions in the flattened R * S that this key's tokens fill, item after item in raster order; empty
    in the steps of a cached decoding after its first pass."""
    sources: tuple[str, ...]
    """B data keys; empty text where unknown."""
    spoken: torch.Tensor
    """bool[R, S], positions that are supervised: what the assistant says, in training; none while it answers."""
    questions: torch.Tensor | None = None
    """int64[R, S], see ``Batch.questions``; all -1 in the steps of a cached decoding after its first pass."""

    def shows(self, keys: Iterable[str] | None = None) -> torch.Tensor:
        """bool[R, S]: positions filled by media, of these keys or of any."""
        flat = self.real.new_zeros(self.real.numel())
        for key in self.places if keys is None else keys:
            flat[self.places[key]] = True
        return flat.view(self.real.shape)
