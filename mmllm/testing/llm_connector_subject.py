"""A connector inside the LLM under test, in tiny models that are asked for logits and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmllm.connectors.base import LLMAdapter
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny.models import ROWS
from mmllm.testing.tiny.rows import Row, batch_of


@dataclass(frozen=True)
class Subject:
    """A connector under test, as it is put into a tiny model."""

    build: Callable[..., MultimodalLM]
    """A new model, ``when`` given; the connector's weights as they start."""
    key: str
    family: str

    def of(self, model: MultimodalLM) -> LLMAdapter:
        """The connector under test."""
        connector = model.connectors[self.key]
        assert isinstance(connector, LLMAdapter)
        return connector

    def removed(self, model: MultimodalLM) -> MultimodalLM:
        """The model with the connector taken out of the LLM."""
        model.handles[self.key].remove()
        return model

    def learning(self, model: MultimodalLM) -> dict[str, nn.Parameter]:
        """Let the connector learn, alone: its weights by name."""
        name = f"connectors.{self.key}"
        trainable.set_trainable(model, {name: 1e-2})
        model.train()
        return trainable.learning(model, name)


def loss_of(model: MultimodalLM, rows: tuple[Row, ...] = ROWS) -> Tensor:
    """Loss and extra loss of the rows."""
    nll, extra, _ = model(batch_of(model, rows))
    return nll + extra


def two_steps(model: MultimodalLM, learning: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Two steps of training, away from weights of zero, behind which gradients are zero as well."""
    optimizer = torch.optim.SGD(learning.values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return optimizer


def per_row(model: MultimodalLM, rows: tuple[Row, ...]) -> list[Tensor]:
    """Logits float[S_b, V] of each conversation of a pack."""
    batch = batch_of(model, rows)
    return list(model.logits(batch).split(batch.cu_seqlens.diff().tolist()))
