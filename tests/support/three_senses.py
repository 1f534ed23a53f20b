"""Three senses in one tiny model: pictures, and sounds and clips of different lengths; for tests of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmllm.connectors.base import Connector, Projector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.base import Encoder
from mmllm.model.item_text import ItemText
from mmllm.model.model import MultimodalLM
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.testing.tiny.models import copied_vision
from mmllm.types import Features, Grid
from tests.support.parts import tiny_llm
from tests.support.talks import talk


class Steps(Processor):
    """Items (seed, length): ``length`` steps of half a second with a plane of ``plane`` tokens each."""

    modality = "audio"

    def __init__(self, plane: tuple[int, ...], dim: int) -> None:
        self.plane, self.dim = plane, dim

    def read(self, media: tuple[int, int]) -> Item:
        """float[length * tokens of a step, dim], and the length."""
        seed, length = media
        noise = torch.randn(length * prod(self.plane), self.dim, generator=torch.Generator().manual_seed(seed))
        return {"values": noise, "length": torch.tensor(length)}

    def measure(self, media: tuple[int, int]) -> ItemInfo:
        """The length alone."""
        return {"length": torch.tensor(media[1])}

    def grid(self, info: ItemInfo) -> tuple[int, ...]:
        """(time, *plane)."""
        return int(info["length"]), *self.plane

    def seconds(self, info: ItemInfo) -> list[float]:
        """Half a second each."""
        return [0.5 * step for step in range(int(info["length"]))]

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Padded with numbers that would show."""
        values = pad_sequence([item["values"] for item in items], batch_first=True, padding_value=7.0)
        return {"values": values, "length": torch.stack([item["length"] for item in items])}

    def blank(self) -> Item:
        """One step of silence."""
        return {"values": torch.zeros(prod(self.plane), self.dim), "length": torch.tensor(1)}


class Stretched(Encoder):
    """Features of ``Steps``: the tokens of one item look at each other, never at padding."""

    def __init__(self, plane: tuple[int, ...] = (), dim: int = 12) -> None:
        super().__init__(layers=(-1,))
        self.processor = Steps(plane, dim)
        self.plane, self.dim = plane, dim
        torch.manual_seed(len(plane))
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """Ragged features; grids only where they differ."""
        values, length = inputs["values"], inputs["length"]
        sizes = length * prod(self.plane)
        mask = torch.arange(values.shape[1], device=values.device) < sizes[:, None]
        with torch.set_grad_enabled(self.learns()):
            seen = torch.tanh(self.first(values)).masked_fill(~mask[..., None], 0.0)
            seen = self.second(seen + seen.sum(dim=1, keepdim=True) / sizes[:, None, None])
        grids = tuple((n, *self.plane) for n in length.tolist())
        return Features({-1: seen}, mask, max(grids), grids if len(set(grids)) > 1 else None)


class Ragged(Projector):
    """A connector for tests that accepts padding: one token per step of time, the mean over its plane."""

    accepts_padding = True

    def __init__(self, *, dim: int, llm_dim: int) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        self.out = nn.Linear(dim, llm_dim)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """One for each step."""
        return grid[0], 1, 1

    def forward(self, features: Features) -> Tensor:
        """float[N, most steps, llm_dim]; what is beyond an item's own steps is large, so that it would show."""
        x = features.concatenated()
        means = x.unflatten(1, (features.grid[0], -1)).mean(dim=2)
        real = features.mask.unflatten(1, (features.grid[0], -1)).all(dim=2)
        return self.out(means).masked_fill(~real[..., None], 1e4)


def read_seeds(shape: tuple[int, ...]) -> Callable[[int], dict[str, Tensor]]:
    """What replaces ``read`` of an image encoder: an item is the seed of random pixels."""

    def read(media: int) -> dict[str, Tensor]:
        return {"pixels": torch.randn(shape, generator=torch.Generator().manual_seed(media))}

    return read


def three_senses(family: str = "llama", video: str = "pool", times: str | None = None) -> MultimodalLM:
    """``image`` (4 tokens a picture), ``audio`` (1 a step), ``video`` (2 a step; ``ragged``: 1) and LoRA.

    ``times`` stands before each step of a clip.
    """
    llm = tiny_llm(family)
    image = copied_vision()
    image.processor.read = read_seeds(tuple(image.processor.blank()["pixels"].shape))  # type: ignore[method-assign]
    encoders: dict[str, Encoder] = {"image": image, "audio": Stretched(), "video": Stretched((2, 2))}
    torch.manual_seed(7)
    connectors: dict[str, Connector] = {
        "image": PoolConnector(dim=image.dim, llm_dim=llm.dim, grid=[2, 2]),
        "audio": MlpConnector(dim=12, llm_dim=llm.dim),
        "video": Ragged(dim=12, llm_dim=llm.dim)
        if video == "ragged"
        else PoolConnector(dim=12, llm_dim=llm.dim, stride=[1, 2, 1]),
        "lora": LoraConnector(llm_dim=llm.dim, rank=2, alpha=4),
    }
    texts = {"video": ItemText(times=times)}
    model = MultimodalLM(llm, encoders, connectors, {key: key for key in encoders}, texts=texts)
    for layer in model.connectors["lora"].layers.values():  # type: ignore[union-attr]
        nn.init.normal_(layer.b.weight, std=0.1)
    return model.requires_grad_(False).eval()


TALKS = (
    talk(
        "all three",
        "<image> then <audio> then <video>?",
        "Red.",
        "<video> and <image><audio>: more?",
        "There are 4.",
        image=(1, 2),
        audio=((3, 3), (4, 1)),
        video=((5, 2), (6, 4)),
    ),
    talk("text", "How many shapes?", "Two circles."),
    talk("sounds", "<audio><audio>", "A cat.", audio=((7, 5), (8, 2))),
    talk("clip", "What? <video>", "Left.", video=((9, 3),)),
    talk("picture", "<image>", "A sign.", image=(10,)),
)
"""Conversations that differ in what they hold; sounds and clips differ in length."""
