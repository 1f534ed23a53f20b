"""Records that the parts of the package hand each other: messages and samples, features, packed batches.

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

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

IGNORE_INDEX = -100
"""Label of a position that carries no loss (the value torch's cross entropy ignores)."""

QUESTION = "<question>"
"""Key of an item, which no encoder has, under which stands the text of its message, where its connector reads that."""

Layer = int | Literal["final"]
"""A hidden layer of an encoder: 0 is what enters its first block, k what leaves block k, -1 what leaves the last one;
``final`` is the state after the norm that follows the last block."""

Grid = tuple[int, ...]
"""(rows, cols) | (time, rows, cols) | (time,) | (nodes,)."""


def time_steps(grid: Grid) -> int:
    """Number of parts of equal size, one after the other in time, that a grid's tokens fall into; 1 for a picture."""
    # two axes are a picture's rows and columns, else the first is time or nodes; a connector without places gives (0,)
    return 1 if len(grid) == 2 else max(1, grid[0])


@dataclass(frozen=True)
class PositionScheme:
    """Rule by which an LLM counts positions; ``batches/positions.py`` applies it.

    ``sequential``: 0, 1, 2, ... over text and media alike, one axis. ``mrope``: time, rows and columns on axes of their
    own (Qwen2-VL, Wang et al. 2024, arXiv 2409.12191); text counts alike on all three.
    """

    name: Literal["sequential", "mrope"] = "sequential"
    per_second: float | None = None
    """Positions on the axis of time that a second of a clip takes (Qwen2.5-VL); None: each step in time takes one."""

    @property
    def axes(self) -> int:
        """P, number of axes."""
        return 1 if self.name == "sequential" else 3


SEQUENTIAL = PositionScheme()
"""The scheme of every LLM that was not made for media."""


@dataclass(frozen=True)
class Span:
    """One span of an item's layout in the text: a separator, then as many places as its grid has."""

    separator: str
    """Text in front of it (a time, a newline); empty: none."""
    grid: Grid
    control: bool = False
    """Whether control tokens of the LLM in that text are read as such."""
    interval: float | None = None
    """Seconds from one of the grid's steps in time to the next; None: not known, or there is one."""
    front: str = ""
    """Of an item's first span: text of the LLM in front of ``Place.around``'s, control tokens included."""

    @property
    def length(self) -> int:
        """Number of places."""
        return prod(self.grid)


@dataclass(frozen=True)
class Tiling:
    """Tiles of one picture, row by row, and behind them or in front a view of all of it."""

    rows: int
    cols: int
    first: bool = False
    """Whether the view of all of it stands in front; then it is there beside a single tile too."""

    @property
    def whole(self) -> bool:
        """Whether the view of all of it is there besides; a single tile is that view itself, unless it is ``first``."""
        return self.first or self.rows * self.cols > 1

    @property
    def n(self) -> int:
        """Pictures that the encoder sees."""
        return self.rows * self.cols + self.whole


@dataclass(frozen=True)
class Cut:
    """How one picture is cut, and its size: all that decides how the tokens of its tiles are put together."""

    tiling: Tiling
    width: int
    """In pixels, as it was before anything was done to it."""
    height: int

    def numbers(self) -> list[int]:
        """As it goes through batches and caches beside an item's features, int64[5]."""
        return [self.tiling.rows, self.tiling.cols, int(self.tiling.first), self.width, self.height]

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Cut:
        """What :meth:`numbers` gives."""
        rows, cols, first, width, height = numbers
        return cls(Tiling(rows, cols, bool(first)), width, height)


@dataclass(frozen=True)
class Place:
    """How the LLM reads that an item of one placeholder stands somewhere; an item's tokens take the place of one token.

    With ``token`` a message is handed to the chat template in parts, as published multimodal models have it, and the
    template writes that token for an item. Else the place stands where the message's text has it.
    """

    key: str
    """Placeholder."""
    token: str | None = None
    """The LLM's own token for an item."""
    modality: str = "image"
    """Type of the message's part, where there is a ``token``."""
    around: tuple[str, str] = ("", "")
    """Text of the LLM, control tokens included, in front of every item and behind it."""
    bidirectional: bool = False
    """Whether the tokens of one item see each other in both directions; of one with several spans, those of a span."""
    fronted: bool = False
    """Whether text in front of ``around``'s depends on the item (``Span.front``), which is then measured before a
    conversation is tokenised."""

    @property
    def surrounded(self) -> bool:
        """Whether text of the LLM may stand next to an item."""
        return self.fronted or any(self.around)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation in OpenAI's form. ``text`` holds placeholders (``<image>``) where media belong."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    text: str


class Stored(ABC):
    """One media item that lies inside a larger file (a tar shard, a table) and is read when its rank needs it.

    Equal ones hold the same item; safe to pickle and to read from several threads.
    """

    @abstractmethod
    def load(self) -> bytes | Path:
        """Return the item's file, or its path; MediaError where it cannot be read."""


@dataclass(frozen=True)
class Among:
    """A media item that is not the only one of its placeholder in its conversation; only for inputs that mind that."""

    item: Any


def identity(item: Any) -> Hashable | None:
    """Equal for media items that are the same as far as their path, place or bytes tell, without reading them.

    None for one in memory (an array, a picture), whose pixels nobody compares.
    """
    if isinstance(item, str):
        return Path(item)
    try:
        hash(item)
    except TypeError:
        return None
    return item


@dataclass(frozen=True)
class Sample:
    """One conversation with its media: what a dataset yields, a benchmark asks and an API request becomes."""

    name: str
    """Unique and readable: ``<dataset>:<line or id>``; errors and logs name it."""
    messages: tuple[Message, ...]
    media: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Placeholder -> items in order of their places in the text; an item is a path (a graph's may end in ``#17``, the
    node it is about), ``bytes``, :class:`Stored` or what the encoder takes besides (a ``PIL.Image``)."""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Placeholder -> what each of its items is in words (a transcript, a caption), for a stage with ``distill``; absent
    where the data do not say."""

    def items(self, key: str, minds_others: bool) -> tuple[Any, ...]:
        """Items of a placeholder; of several each says so (:class:`Among`) where its input ``minds_others``."""
        found = self.media[key]
        return tuple(map(Among, found)) if minds_others and len(found) > 1 else found


class QuestionReader(ABC):
    """Reads the text of the message that shows an item, for a connector that asks for it (``Projector.questions``).

    Where tensors are said, names -> tensors on the CPU; they become ``Features.extras``.
    """

    @abstractmethod
    def read(self, text: str) -> dict[str, torch.Tensor]:
        """Tensors of a text, without batch axis; TooLongError for one that the connector has no place for."""

    @abstractmethod
    def collate(self, items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Tensors of the texts of N items, N first."""

    @abstractmethod
    def blank(self) -> dict[str, torch.Tensor]:
        """Tensors of a short text, for a rank without items: all that learns takes part in it."""

    @abstractmethod
    def settings(self) -> Any:
        """All that the tensors of a text depend on, as plain JSON."""


@dataclass(frozen=True)
class Features:
    """Encoder output for a batch of N items, which may differ in size along the first axis of their grid."""

    layers: Mapping[Layer, torch.Tensor]
    """Layer as asked for in the recipe (-2, -1, 3, "final") -> float[N, T, D]; class tokens are dropped already unless
    the recipe keeps them."""
    mask: torch.Tensor
    """bool[N, T], True where a token is real."""
    grid: tuple[int, ...]
    """(rows, cols) | (time, rows, cols) | (time,) | (nodes,); T is its product; raster order. Of the largest item."""
    grids: tuple[tuple[int, ...], ...] | None = None
    """Grid of each item where they differ: its tokens come first, the rest of its T is padding. None: all ``grid``."""
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Further tensors, first axis N: ``edges`` int64[N, 2, E] (-1: none), ``centres`` float[N, T, 3]; ``pictures``
    int64[N, n, 2] where an item is pictures of unlike shape: rows and columns of each, in order (-1: none)."""

    def concatenated(self) -> torch.Tensor:
        """All layers side by side in the order asked for: float[N, T, D * len(layers)]."""
        # here, not above: the command line and the checks of a recipe start without torch
        import torch

        values = list(self.layers.values())
        return values[0] if len(values) == 1 else torch.cat(values, dim=-1)

    def item_grids(self) -> tuple[tuple[int, ...], ...]:
        """Grid of each of the N items."""
        return (self.grid,) * len(self.mask) if self.grids is None else self.grids

    def only(self, items: torch.Tensor, grid: tuple[int, ...]) -> Features:
        """Those items, int64[n] on the CPU, which all have this grid, without padding."""
        tokens, there = prod(grid), items.to(self.mask.device, non_blocking=True)
        layers = {index: layer[there, :tokens] for index, layer in self.layers.items()}
        # what decides shapes stays on the CPU, whatever the rest is on
        extras = {name: value[items if value.device == items.device else there] for name, value in self.extras.items()}
        return Features(layers, self.mask[there, :tokens], grid, None, extras)


@dataclass(frozen=True)
class Segment:
    """A stretch of a packed row whose positions see each other causally, and all of its prefix."""

    start: int
    end: int
    prefix: tuple[int, int] | None = None
    """Start and end of the stretch of the row that it goes on from; None: it begins a conversation."""


@dataclass(frozen=True)
class Bidirectional:
    """A stretch of one conversation whose positions see each other in both directions; what lies before it they see as
    any others do."""

    start: int
    end: int
    windowed: bool = True
    """Whether a sliding window ends what a position sees behind it here too, as among a picture's tokens in Gemma 3;
    False: it sees all of the stretch whatever the window, as in PaliGemma 2's prefix."""

    def moved(self, by: int) -> Bidirectional:
        """The same elsewhere in the row."""
        return Bidirectional(self.start + by, self.end + by, self.windowed)


@dataclass(frozen=True)
class Batch:
    """One packed row: B conversations end to end, no pad tokens; attention stays within each conversation."""

    input_ids: torch.Tensor
    """int64[S]; placeholder positions hold 0 and are overwritten by connector output."""
    labels: torch.Tensor
    """int64[S], aligned with ``input_ids`` (not shifted); IGNORE_INDEX where no loss is, and at each first position."""
    position_ids: torch.Tensor
    """int64[P, S], 0.. within each conversation on each of the P axes of the position scheme."""
    cu_seqlens: torch.Tensor
    """int32[B + 1], boundaries of the conversations in S; starts at 0, ends at S."""
    sequence_ids: torch.Tensor
    """int64[S], which conversation a position belongs to."""
    media_ids: torch.Tensor
    """int64[S], which item of ``media[placeholder]`` a position shows (counted per placeholder); -1 at text."""
    media: dict[str, dict[str, dict[str, torch.Tensor]]]
    """Placeholder -> encoder key -> inputs of ``encoder.forward``, collated over the N items of this batch (a
    placeholder without items is absent)."""
    media_positions: dict[str, torch.Tensor]
    """Placeholder -> int64[M], positions in S its tokens fill, item after item, in raster order."""
    item_starts: dict[str, torch.Tensor]
    """Placeholder -> int64[N], position in S of each item's first place, or of what follows an item without places."""
    item_sequence: dict[str, torch.Tensor]
    """Placeholder -> int64[N], conversation of each item."""
    names: list[str]
    """B sample names."""
    dataset_names: list[str]
    """B data keys of the recipe; empty text where a conversation is of none (an evaluation, a request)."""
    user_turn: torch.Tensor | None = None
    """int64[S], number of the user's message a position's text belongs to, in its conversation; -1 elsewhere and at
    places. None where no part asked for it (``Connector.reads_user_turn``)."""
    segments: tuple[Segment, ...] | None = None
    """Where conversations that begin alike share their beginning: all stretches of the row in order. Such a tree counts
    as one of the B conversations. None: each conversation is one stretch."""
    n_conversations: int | None = None
    """Samples in the row, those of a tree counted each; None: B."""
    bidirectional: tuple[Bidirectional, ...] = ()
    """Stretches of the row that are not causal, in order; none overlaps another."""
    origin: Batch | None = None
    """The batch on the CPU of which this one is a copy."""
    teacher: Batch | None = None
    """The same conversations in words, with the same labels in the same order, where a stage has ``distill``."""

    @property
    def host(self) -> Batch:
        """The same batch on the CPU, where there is one: what is read from it makes nobody wait for a GPU."""
        return self if self.origin is None else self.origin

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.names) if self.n_conversations is None else self.n_conversations

    @property
    def n_labels(self) -> int:
        """Number of supervised positions."""
        return int((self.labels != IGNORE_INDEX).sum())

    @property
    def n_tokens(self) -> int:
        """S, all of them real tokens."""
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """Copy of this batch with every tensor on ``device``; of pinned ones nobody waits for it."""
        # to the CPU it would be handed over before its numbers are there
        ahead = not str(device).startswith("cpu")
        origin = self.host if ahead and self.host.input_ids.device.type == "cpu" else None
        teacher = None if self.teacher is None else self.teacher.to(device)
        return replace(self._each(lambda tensor: tensor.to(device, non_blocking=ahead)), origin=origin, teacher=teacher)

    def pinned(self) -> Batch:
        """Copy of this batch in memory from which a GPU copies by itself, while its last step still runs."""
        teacher = None if self.teacher is None else self.teacher.pinned()
        return replace(self._each(lambda tensor: tensor.pin_memory()), teacher=teacher)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: changed(inner) for key, inner in value.items()}
            return change(value) if hasattr(value, "to") and not isinstance(value, Batch) else value

        return Batch(**{name: changed(value) for name, value in vars(self).items()})
