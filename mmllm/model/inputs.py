"""What a loader worker needs of an encoder and its connector: read an item, count its places, collate items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmllm.connectors.base import Connector
from mmllm.errors import MediaError

if TYPE_CHECKING:
    from mmllm.encoders.base import Encoder


class Reader:
    """One encoder key's way from media to inputs and places; runs on the CPU and needs no weights."""

    def __init__(self, encoder: Encoder, connector: Connector) -> None:
        """``connector`` is the one whose ``from`` is this encoder."""
        self.encoder = encoder
        self.connector = connector
        self.times = connector.times

    def read(self, media: Any) -> dict[str, torch.Tensor]:
        """One item (path, bytes, PIL image) -> inputs without batch axis; MediaError where it cannot be read."""
        return self.encoder.read(media)

    def measure(self, media: Any) -> Mapping[str, torch.Tensor]:
        """What ``tokens`` and ``marks`` need of an item, as cheap as its kind allows; MediaError as in ``read``."""
        return self.encoder.measure(media)

    def tokens(self, inputs: Mapping[str, torch.Tensor] | None) -> int | None:
        """Places the item takes; for ``None`` the number that holds for every item, if there is one."""
        if inputs is None:
            grid = self.encoder.fixed_grid()
            return None if grid is None or self.times is not None else self.connector.tokens(grid)
        return self.connector.tokens(self.encoder.grid(inputs))

    def marks(self, inputs: Mapping[str, torch.Tensor]) -> list[str]:
        """Texts that stand before each of the equal parts in time of an item's places; none: they follow each other.

        Raises:
            MediaError: the item has no times.
        """
        if self.times is None:
            return []
        seconds = self.encoder.seconds(inputs)
        if seconds is None:
            raise MediaError("its connector has `times`, but its encoder knows no times; remove the word")
        steps = self.connector.steps(self.encoder.grid(inputs))
        size = len(seconds) / steps  # of a part: the time of its first frame is shown
        return [self.times.format(n=n + 1, s=seconds[int(n * size)]) for n in range(steps)]

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Inputs of N items with the batch axis."""
        return self.encoder.collate(items)
