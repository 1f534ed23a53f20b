"""The base of every processor: what reads one encoder's media on the CPU, for the loader and the server.

No weights, no device; small when pickled, so that a process of its own may read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmllm.processors.content import Content, of_file
from mmllm.types import Grid

Item = dict[str, Tensor]
"""Tensors that ``read`` gives of one media item, without the N axis, on the CPU."""
ItemInfo = Mapping[str, Tensor]
"""Tensors that ``measure`` gives of one: all that ``grid`` and ``seconds`` ask for."""


class Processor(ABC):
    """Reads the media of one encoder, which offers it as ``encoder.processor``.

    Workers and caches belong to the process that uses it: a pickled processor holds settings alone.
    """

    modality: str
    """Kind of media it reads, a key of ``mmllm.modalities``: ``image``."""
    deterministic: bool = True
    """Whether ``read`` gives the same tensors each time; False where it draws at random, as augmentation does."""

    @abstractmethod
    def read(self, media: Any) -> Item:
        """Decode one item (path, bytes or an opened object), ready for the encoder's ``forward``.

        Raises:
            MediaError: it cannot be read or is over a limit.
        """

    def measure(self, media: Any) -> ItemInfo:
        """Find what ``grid`` and ``seconds`` need of one item, without decoding where its kind allows that.

        Raises:
            MediaError: as ``read``, as far as it is seen without decoding.
        """
        return self.read(media)

    def content(self, media: Any) -> Content | None:
        """What decides what ``read`` gives of this item beside the processor's own settings; None: not known, so its
        features are computed each time. By default a path or the bytes of a file.

        Raises:
            MediaError: as ``read``, where it has to look inside.
        """
        return of_file(media)

    @property
    def extra_tokens(self) -> int:
        """Tokens of each picture that show no patch of it and stand in front of those that do; there is no map then,
        and a grid's last axes are (1, n)."""
        return 0

    @abstractmethod
    def grid(self, info: ItemInfo) -> Grid:
        """Shape of the tokens of one item that was read or measured, e.g. (rows, cols); T is its product."""

    def seconds(self, info: ItemInfo) -> Sequence[float] | None:
        """Time of each index of the grid's first axis in seconds; None for what has no time."""
        return None

    def fixed_grid(self) -> Grid | None:
        """The grid that every item has whatever it shows, so lengths are known unread; None where it depends."""
        return None

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Inputs of N single items -> inputs of ``forward``: every tensor stacked on a new first axis N."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    @abstractmethod
    def blank(self) -> Item:
        """Inputs of one blank item, as ``read`` would give them: what a rank without media runs, times zero."""
