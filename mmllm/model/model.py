"""The multimodal model of a recipe: encode, project, merge, run the LLM, take the loss at label positions.

``build`` makes it, ``stages`` train it through ``forward``, ``generate`` decodes from ``embed``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from mmllm.connectors.base import Connector, Handle
from mmllm.encoders.base import Encoder
from mmllm.errors import SampleError
from mmllm.llms.causal_lm import CausalLM
from mmllm.model import context
from mmllm.model.inputs import Reader
from mmllm.model.loss import label_nll
from mmllm.model.merge import merge_embeddings
from mmllm.model.project import project
from mmllm.types import IGNORE_INDEX, Batch, Features, Pass

if TYPE_CHECKING:
    from mmllm.recipe.models import Recipe


class MultimodalLM(nn.Module):
    """Frozen encoders, connectors and a frozen LLM. Encoders and LLM stay in eval mode whatever ``train()`` is called.

    Learned tensors are named ``connectors.<key>...`` also where they work inside the LLM.
    """

    def __init__(
        self,
        llm: CausalLM,
        encoders: Mapping[str, Encoder],
        connectors: Mapping[str, Connector],
        sources: Mapping[str, str],
        recipe: Recipe | None = None,
    ) -> None:
        """Put parts together and attach the connectors to the LLM.

        ``sources`` says which connector (value) takes each encoder's (key) features. ``recipe`` is kept for those who
        need to know what this was made from.
        """
        super().__init__()
        self.recipe = recipe
        self.sources = dict(sources)
        self.llm = llm
        self.encoders = nn.ModuleDict(encoders)
        self.connectors = nn.ModuleDict(connectors)
        self.handles: dict[str, Handle | None] = {}
        """Connector key -> takes it out of the LLM."""
        self.inner_handles: dict[str, Handle | None] = {}
        """Connector key -> takes it out of the encoders."""
        for key, name in self.sources.items():
            connectors[name].source = key
        with torch.random.fork_rng(devices=[]):
            for key, connector in connectors.items():
                seed_for(recipe.seed if recipe is not None else 0, key)  # those inside the LLM make their weights now
                self.handles[key] = connector.attach(llm)
                for name in connector.inside:
                    encoders[name].guests.append(connector)
                if connector.inside:
                    self.inner_handles[key] = connector.adapt({name: encoders[name] for name in connector.inside})

    def train(self, mode: bool = True) -> Self:
        """Connectors follow ``mode``; encoders and the LLM stay in eval mode."""
        super().train(mode)
        self.connectors.train(mode)  # last: layers of theirs may also sit in the LLM
        return self

    @property
    def device(self) -> torch.device:
        """Where the LLM's embeddings lie."""
        return self.llm.device

    @property
    def reads_questions(self) -> bool:
        """Whether a connector needs to know where the user's messages are."""
        return any(connector.reads_questions for connector in self.connectors.values())

    def readers(self) -> dict[str, Reader]:
        """Encoder key -> what a loader worker needs of it."""
        return {key: Reader(self._encoder(key), self._connector(key)) for key in self.sources}

    def media_tokens(self, key: str, inputs: Mapping[str, torch.Tensor]) -> int:
        """Places one item takes; ``inputs`` of one item as ``encoder.read`` gave them."""
        return self._connector(key).tokens(self._encoder(key).grid(dict(inputs)))

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the negative log likelihood over label positions, and the connectors' extra loss: float32 scalars.

        A batch without media, labels or even tokens gives a 0 to which every trainable parameter is attached, so that
        no rank waits for another.
        """
        batch = _never_empty(batch)
        self.route(self.flow(batch))
        hidden = self.llm.hidden(self.embed(batch), batch.position_ids, batch.cu_seqlens)
        nll = label_nll(self.llm, hidden, batch.labels)
        return nll, self._extra_loss(nll)

    def flow(self, batch: Batch) -> Pass:
        """Facts of the pass over a packed batch."""
        return context.packed(batch, self.sources)

    def route(self, flow: Pass, memories: Mapping[str, Any] | None = None) -> None:
        """Tell the connectors about the next pass of the LLM, before ``embed``; see ``Connector.route``.

        ``memories``: what ``memories()`` gave after ``embed``, in later passes over the same conversations.
        """
        for key, connector in self.connectors.items():
            assert isinstance(connector, Connector)
            connector.route(flow, None if memories is None else memories[key])

    def memories(self) -> dict[str, Any]:
        """Connector key -> what it keeps of the media of the last ``embed``."""
        return {key: connector.memory for key, connector in self.connectors.items()}

    def embed(self, batch: Batch) -> torch.Tensor:
        """Text embeddings with the media spliced in: float[S, D]; ``route`` comes before it.

        Raises:
            SampleError: an item's places and its connector's tokens differ in number, or media of an unknown key.
        """
        unknown = sorted({*batch.media, *batch.places} - self.sources.keys())
        if unknown:
            known = ", ".join(self.sources) or "none"
            raise SampleError(f"{', '.join(batch.names)}: media of {unknown[0]!r}, but the encoders are {known}")
        text = embeds = self.llm.embed(batch.input_ids)
        for key in self.sources:  # the same order on every rank: ZeRO-3 gathers weights as parts are called
            if key in batch.media:
                embeds = merge_embeddings(embeds, *self.connect(key, batch.media[key], text), batch, key)
            elif key in batch.places:
                raise SampleError(f"{', '.join(batch.names)}: <{key}> has places in the text but no media")
            elif self.training and self._takes_part(key):
                embeds = embeds + self._nothing(key, text).to(embeds.dtype)
        return embeds

    def connect(
        self, key: str, inputs: Mapping[str, torch.Tensor], text: torch.Tensor
    ) -> tuple[torch.Tensor, list[int]]:
        """What the N items of ``inputs`` (collated) say in the LLM's width: float[M, D], and how many of the M each.

        ``text`` float[S, D] are the embeddings of the row, for connectors that read it.
        """
        encoder, connector = self._encoder(key), self._connector(key)
        with torch.set_grad_enabled(encoder.learns()):
            features = encoder(**_cast(inputs, encoder))
        return project(connector, _cast_features(features, connector), text if connector.reads_text else None)

    def _nothing(self, key: str, text: torch.Tensor) -> torch.Tensor:
        """A zero that encoder and connector of ``key`` took part in."""
        encoder = self._encoder(key)
        # not self.device: with ZeRO-3 looking at a weight gathers it, which the other ranks would not do here
        inputs = {name: value.to(text.device) for name, value in encoder.collate([encoder.dummy()]).items()}
        return self.connect(key, inputs, text)[0].sum() * 0.0

    def _takes_part(self, key: str) -> bool:
        """Whether a batch without this media must still run its encoder and connector."""
        encoder = self._encoder(key)
        modules = [self._connector(key), encoder, *encoder.guests]
        tensors = [tensor for module in modules for tensor in module.parameters()]
        # ZeRO-3 marks what it partitions with `ds_id`: then even frozen weights are gathered by all ranks together
        return any(tensor.requires_grad or hasattr(tensor, "ds_id") for tensor in tensors)

    def _extra_loss(self, like: torch.Tensor) -> torch.Tensor:
        losses = [connector.extra_loss() for connector in self.connectors.values()]  # type: ignore[operator]
        given = [loss.float() for loss in losses if loss is not None]
        return torch.stack(given).sum() if given else torch.zeros_like(like)

    def _encoder(self, key: str) -> Encoder:
        module = self.encoders[key]
        assert isinstance(module, Encoder)
        return module

    def _connector(self, key: str) -> Connector:
        module = self.connectors[self.sources[key]]
        assert isinstance(module, Connector)
        return module


def seed_for(seed: int, key: str) -> None:
    """Seed torch for the connector ``key``, so that its weights do not depend on which others there are."""
    torch.manual_seed((seed + zlib.crc32(key.encode())) % 2**63)


def _never_empty(batch: Batch) -> Batch:
    """The batch itself, or one token without label where a rank got no sample."""
    if batch.n_tokens:
        return batch
    one = batch.input_ids.new_zeros(1)
    bounds = torch.tensor([0, 1], dtype=torch.int32, device=one.device)
    row: dict[str, Any] = {"input_ids": one, "labels": one + IGNORE_INDEX, "position_ids": one, "sequence_ids": one}
    row |= {name: {} for name in ("media", "places", "starts", "owners")}
    row["questions"] = None if batch.questions is None else one - 1
    return replace(batch, **row, media_ids=one - 1, cu_seqlens=bounds, names=["(no sample)"], sources=[""])


def _cast(inputs: Mapping[str, torch.Tensor], encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Floating inputs in the encoder's dtype: loaders give float32, weights may be bfloat16."""
    weight = next(encoder.parameters(), None)
    if weight is None:
        return dict(inputs)
    return {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def _cast_features(features: Features, connector: nn.Module) -> Features:
    """Features in the connector's dtype."""
    weight = next(connector.parameters(), None)
    if weight is None:
        return features
    return replace(features, layers={index: layer.to(weight.dtype) for index, layer in features.layers.items()})
