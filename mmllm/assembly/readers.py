"""What a loader worker needs of an encoder and its connector: read an item, count its places, collate items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mmllm.connectors.connector import Connector

if TYPE_CHECKING:
    from mmllm.encoders.encoder import Encoder


class Reader:
    """One encoder key's way from media to inputs and places; runs on the CPU and needs no weights."""

    def __init__(self, encoder: Encoder, connector: Connector) -> None:
        """``connector`` is the one whose ``from`` is this encoder."""
        self.encoder = encoder
        self.connector = connector

    def read(self, media: Any) -> dict[str, torch.Tensor]:
        """One item (path, bytes, PIL image) -> inputs without batch axis; MediaError where it cannot be read."""
        return self.encoder.read(media)

    def tokens(self, inputs: dict[str, torch.Tensor] | None) -> int | None:
        """Places the item takes; for ``None`` the number that holds for every item, if there is one."""
        if inputs is None:
            grid = self.encoder.fixed_grid()
            return None if grid is None else self.connector.tokens(grid)
        return self.connector.tokens(self.encoder.grid(inputs))

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Inputs of N items with the batch axis."""
        return self.encoder.collate(items)
