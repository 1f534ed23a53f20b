"""The multimodal model of a recipe: encode, project, merge, run the LLM, take the loss at label positions.

``build`` makes it, ``training`` calls ``forward``, ``generation`` calls ``prefill`` and ``decode``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from mmllm.connectors.base import Connector, DeepFusion, EncoderAdapter, LLMAdapter, Projector
from mmllm.encoders.base import Encoder
from mmllm.encoders.float32_buffers import float32_buffers
from mmllm.errors import RecipeError, SampleError
from mmllm.hooks import EncoderContext, ForwardContext, Handle
from mmllm.hooks.passes import context_of, left_padded, next_token, select_rows
from mmllm.hooks.shards import is_split
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.decoding_state import DecodingState
from mmllm.model.distillation import LabelStates, distilled
from mmllm.model.empty import never_empty
from mmllm.model.inputs import Input, Item
from mmllm.model.item_text import ItemText
from mmllm.model.loss import head_places, label_log_likelihoods, nll_at, without_labels
from mmllm.model.merge import merge_embeddings
from mmllm.model.project import project
from mmllm.model.shared_weights import check_shared, share
from mmllm.types import QUESTION, Batch, Features, Place

if TYPE_CHECKING:
    from mmllm.features.encoder_cache import EncoderCache
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
        inputs: Mapping[str, str | Sequence[str]],
        recipe: Recipe | None = None,
        *,
        adapts: Mapping[str, Sequence[str]] | None = None,
        texts: Mapping[str, ItemText] | None = None,
        shares: Mapping[str, str] | None = None,
    ) -> None:
        """Put parts together and attach the connectors to the LLM and the encoders.

        Args:
            llm: the frozen LLM.
            encoders: key -> frozen encoder.
            connectors: key -> connector.
            inputs: key of each connector that takes features -> key of its encoder, or keys of several.
            recipe: kept for those who need to know what this was made from.
            adapts: connector key -> keys of the encoders in whose blocks it works.
            texts: connector key -> text of the LLM that belongs to an item.
            shares: connector key -> key of the one in front of it whose weights it uses.
        """
        super().__init__()
        self.recipe = recipe
        self.llm = llm
        self.encoders = nn.ModuleDict(encoders)
        self.connectors = nn.ModuleDict(connectors)
        self.shares = dict(shares or {})
        """Connector key -> key of the one whose weights are its own; these are part of that one."""
        for key, owner in self.shares.items():
            share(connectors[key], connectors[owner], f"connectors.{key}", f"connectors.{owner}")
        self.inputs: dict[str, Input] = {}
        """Placeholder, which is its connector's key -> how its items become tokens."""
        for key, names in inputs.items():
            chosen = [names] if isinstance(names, str) else list(names)
            connector = connectors[key]
            if not isinstance(connector, Projector | DeepFusion):
                raise RecipeError(
                    f"connectors.{key}: {type(connector).__name__} takes no features, and `from` gives it those of "
                    f"{', '.join(chosen)}; leave `from` out, or use a Projector or DeepFusion."
                )
            self.inputs[key] = Input(key, {n: encoders[n] for n in chosen}, connector, (texts or {}).get(key))
        """Connector key -> what it began with, where the recipe says `start`."""
        self._check_causal()
        self.adapts = {key: tuple(names) for key, names in (adapts or {}).items() if names}
        """Connector key -> keys of the encoders in whose blocks it works."""
        self.handles: dict[str, Handle] = {}
        """Connector key -> takes it out of the LLM and the encoders."""
        with torch.random.fork_rng(devices=[]):
            for key, connector in connectors.items():
                seed_for(recipe.seed if recipe is not None else 0, _stream(key, connector))
                self._attach(connector.bind(key, connector.when))
        for key, owner in self.shares.items():
            check_shared(connectors[key], connectors[owner], f"connectors.{key}", f"connectors.{owner}")

    def _check_causal(self) -> None:
        """Refuse connectors that need a causal LLM where it is not."""
        words = [f"connectors.{key}.attends" for key, entry in self.inputs.items() if entry.text.bidirectional]
        words += ["llm.attention"] * self.llm.prefix
        for key, connector in self._connectors().items():
            if words and connector.causal_only:
                raise RecipeError(
                    f"{words[0]}: connectors.{key} ({type(connector).__name__}) works in causal LLMs only, where no "
                    "position sees one behind it; remove the word, or the connector"
                )

    def _attach(self, connector: Connector) -> None:
        self.handles[connector.key] = Handle.of(self._attached(connector))

    def detach(self) -> None:
        """Take all connectors out of the LLM and the encoders, which others may share."""
        Handle.of(self.handles.values()).remove()

    @contextmanager
    def attached(self, keys: Iterable[str] | None = None) -> Iterator[None]:
        """Put connectors in again, those of ``keys`` (default: all), until the end of a ``with``."""
        try:
            for key in self.connectors if keys is None else keys:
                self._attach(self._connectors()[key])
            yield
        finally:
            self.detach()

    def _attached(self, connector: Connector) -> list[Handle]:
        """Hook a connector in where its base class says."""
        handles = [connector.attach(self.llm)] if isinstance(connector, LLMAdapter) else []
        if isinstance(connector, EncoderAdapter):
            if not handles and not self.adapts.get(connector.key):
                raise RecipeError(
                    f"connectors.{connector.key}: {type(connector).__name__} works inside encoders; say in which: "
                    f"adapts={{{connector.key!r}: [...]}}, of {', '.join(self.encoders) or 'none'}."
                )
            for name in self.adapts.get(connector.key, ()):
                encoder = self._encoder(name)
                encoder.adapters.append(connector)
                handles += [Handle(partial(encoder.adapters.remove, connector)), connector.attach(encoder, name)]
        return handles

    def train(self, mode: bool = True) -> Self:
        """Connectors follow ``mode``; encoders and the LLM stay in eval mode."""
        super().train(mode)
        self.connectors.train(mode)  # last: layers of theirs may also sit in the LLM
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Cast or move, but let the buffers that a frozen model computes in float32 stay in it."""
        # private in torch (read in 2.15): the one way that to(), half() and DeepSpeed's bfloat16() all take
        with float32_buffers(self.llm, *self.encoders.values()):
            return super()._apply(fn, recurse)

    def cast(self, dtype: torch.dtype) -> None:
        """Let the frozen parts compute in ``dtype``; connectors and new tokens stay in float32."""
        with float32_buffers(self.llm, *self.encoders.values()):
            for part in (self.llm.model, *self.encoders.values()):
                part.to(dtype)

    @property
    def device(self) -> torch.device:
        """Device of the LLM's embeddings."""
        return self.llm.device

    @property
    def places(self) -> list[Place]:
        """How the LLM reads items, one for each placeholder."""
        return [entry.place for entry in self.inputs.values()]

    @property
    def reads_user_turn(self) -> bool:
        """Whether a connector reads where the user's messages are."""
        return any(connector.reads_user_turn for connector in self.connectors.values())

    @property
    def positionwise(self) -> bool:
        """Whether the last block may run at chosen positions: all connectors in the LLM work position by position."""
        inside = [one for one in self.connectors.values() if isinstance(one, LLMAdapter)]
        # a mask for fewer positions would be another one, and so would every one drawn after it
        return all(one.positionwise and not (one.has_dropout and self.training) for one in inside)

    def forward(self, batch: Batch, taught: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Sum of the negative log likelihood over label positions and the connectors' extra loss: float32 scalars;
        and their metrics. Of a batch with a teacher the first is :func:`distilled` with the weight ``taught``.

        A batch without media, labels or even tokens gives a 0 to which every trainable parameter is attached, so that
        no rank waits for another.
        """
        batch = never_empty(batch)
        ctx, embeds = self.embed(batch)
        here = head_places(batch.host.labels)
        places = here.to(batch.labels.device, non_blocking=True)
        states = self._states(embeds, ctx, places, here)
        if batch.teacher is None or without_labels(batch.host.labels, here):
            nll = nll_at(self.llm, states, batch.labels, places, ctx)
        else:
            shown, teacher = LabelStates(states, places, ctx), self._teacher(batch.teacher)
            nll = distilled(self.llm, shown, teacher, batch.labels[places + 1], taught)
        return nll, self._extra_loss(ctx, nll), self.metrics(ctx)

    @torch.no_grad()
    def _teacher(self, batch: Batch) -> LabelStates:
        """Of the LLM that reads a batch of text."""
        ctx = context_of(batch, self.inputs)
        here = head_places(batch.host.labels)
        places = here.to(batch.labels.device, non_blocking=True)
        embeds = self.llm.embed(batch.input_ids, ctx)
        return LabelStates(self._states(embeds, replace(ctx, text_embeds=embeds), places, here), places, ctx)

    @torch.inference_mode()
    def log_likelihoods(self, batch: Batch) -> torch.Tensor:
        """Log likelihood of each label of a packed batch, float32[M] in the order of the row, in nats."""
        ctx, embeds = self.embed(batch)
        here = head_places(batch.host.labels)
        places = here.to(batch.labels.device, non_blocking=True)
        return label_log_likelihoods(self.llm, self._states(embeds, ctx, places, here), batch.labels, places, ctx)

    def hidden(self, batch: Batch) -> tuple[ForwardContext, torch.Tensor]:
        """Context of the pass over a packed batch, and the LLM's final hidden states, float[S, D_hidden]."""
        ctx, embeds = self.embed(batch)
        return ctx, self.llm(embeds, ctx)

    def _states(
        self, embeds: torch.Tensor, ctx: ForwardContext, places: torch.Tensor, here: torch.Tensor
    ) -> torch.Tensor:
        """Final hidden states at ``places`` int64[M] of the row, on the CPU ``here``: float[M, D_hidden]."""
        if self.positionwise:
            return self.llm(embeds, replace(ctx, wanted=places, wanted_here=here))
        return self.llm(embeds, ctx)[places]

    def logits(self, batch: Batch) -> torch.Tensor:
        """float[S, V] at every position of a packed batch; for looking at, training asks at label positions only."""
        ctx, hidden = self.hidden(batch)
        return self.llm.logits(hidden, ctx, torch.arange(len(hidden), device=hidden.device))

    def embed(self, batch: Batch) -> tuple[ForwardContext, torch.Tensor]:
        """Context of the pass over a packed batch, and its embeddings with the media merged in, float[S, D].

        Raises:
            SampleError: an item's places and its connector's tokens differ in number, or media of an unknown key.
        """
        unknown = sorted({*batch.media, *batch.media_positions} - self.inputs.keys())
        if unknown:
            known = ", ".join(self.inputs) or "none"
            raise SampleError(f"{', '.join(batch.names)}: media of {unknown[0]!r}, but the placeholders are {known}")
        if batch.media and len(batch.position_ids) != self.llm.positions.axes:
            raise ValueError(
                f"positions on {len(batch.position_ids)} axes, but the LLM counts on {self.llm.positions.axes}; "
                "collate with scheme=model.llm.positions"
            )
        ctx = context_of(batch, self.inputs)
        text = embeds = self.llm.embed(batch.input_ids, ctx)
        ctx = replace(ctx, text_embeds=text)
        for key in self.inputs:  # the same order on every rank: ZeRO-3 gathers weights as parts are called
            if key in batch.media:
                tokens, counts = self.project(key, batch.media[key], ctx, batch.host.media[key])
                embeds = merge_embeddings(embeds, tokens, counts, batch, key)
            elif key in batch.media_positions:
                raise SampleError(f"{', '.join(batch.names)}: <{key}> has places in the text but no media")
            elif self.training and self._takes_part(key):
                embeds = embeds + self._nothing(key, ctx).to(embeds.dtype)
        return ctx, embeds

    def encode(self, key: str, inputs: Item, ctx: ForwardContext, here: Item | None = None) -> list[Features]:
        """Features of the N items of ``inputs`` (collated) from each encoder of the placeholder ``key``; ``here``: the
        same inputs on the CPU, where they are known there."""
        found = []
        entry = self.inputs[key]
        for name, encoder in entry.encoders.items():
            context = EncoderContext()
            if encoder.adapters:
                known = (ctx if ctx.host is None else ctx.host).item_sequence
                # a batch without such media still runs them where they learn, and has no owners of any
                owners = known[key].tolist() if key in known else []
                context = EncoderContext(dataset_names=tuple(ctx.dataset_names[owner] for owner in owners))
            with torch.set_grad_enabled(encoder.learns()), encoder.scope.open(context):
                run = partial(run_encoder, encoder)
                cache = entry.caches.get(name)
                given = inputs[name] if here is None else _with_host(inputs[name], here[name], cache or encoder)
                found.append(run(given) if cache is None else cache.features(given, run))
        if QUESTION in inputs:
            found[0] = replace(found[0], extras={**found[0].extras, **inputs[QUESTION]})
        return found

    def project(
        self, key: str, inputs: Item, ctx: ForwardContext, here: Item | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        """Tokens of the N items of ``inputs`` (collated) in the LLM's width, float[M, D], and how many of each."""
        return project(self.inputs[key].connector, self.encode(key, inputs, ctx, here), ctx)

    def _nothing(self, key: str, ctx: ForwardContext) -> torch.Tensor:
        """A zero that the encoders and the connector of ``key`` took part in."""
        # not self.device: with ZeRO-3 looking at a weight gathers it, which the other ranks would not do here
        device = ctx.input_ids.device
        here = self.inputs[key].blank()
        blank = {name: {word: value.to(device) for word, value in one.items()} for name, one in here.items()}
        return self.project(key, blank, ctx, here)[0].sum() * 0.0

    def _takes_part(self, key: str) -> bool:
        """Whether a batch without this media must still run its encoders and connector."""
        entry = self.inputs[key]
        modules: list[nn.Module] = [entry.connector, *entry.encoders.values()]
        modules += [adapter for encoder in entry.encoders.values() for adapter in encoder.adapters]
        tensors = [tensor for module in modules for tensor in module.parameters()]
        # ZeRO-3 marks what it partitions with `ds_id`: then even frozen weights are gathered by all ranks together
        return any(tensor.requires_grad or is_split(tensor) for tensor in tensors)

    def _extra_loss(self, ctx: ForwardContext, like: torch.Tensor) -> torch.Tensor:
        losses = [connector.extra_loss(ctx) for connector in self._connectors().values()]
        given = [loss.float() for loss in losses if loss is not None]
        return torch.stack(given).sum() if given else torch.zeros_like(like)

    def metrics(self, ctx: ForwardContext) -> dict[str, Any]:
        """Connector key -> its metrics of the pass ``ctx``, see ``Connector.metrics``."""
        found = {key: one.metrics(ctx) for key, one in self._connectors().items() if one.has_metrics}
        return {key: values for key, values in found.items() if values}

    # ---- decoding

    @torch.inference_mode()
    def prefill(self, batch: Batch) -> DecodingState:
        """Read the conversations of a packed batch, each into a row of its own."""
        packed, embeds = self.embed(batch)
        lengths = batch.host.cu_seqlens.diff().tolist()
        ctx = left_padded(packed, lengths)
        # on the left, unlike in training: every row then ends at the same position, where its next token goes
        rows = embeds.new_zeros(*ctx.attention_mask.shape, embeds.shape[-1])
        rows[ctx.attention_mask] = embeds
        cache = self.llm.new_cache()
        logits = self.llm.decode(rows, ctx, ctx.attention_mask, cache)
        return DecodingState(ctx, ctx.attention_mask, cache, logits)

    @torch.inference_mode()
    def decode(self, state: DecodingState, ids: torch.Tensor) -> DecodingState:
        """Feed one token ``ids`` int64[B] to each row; the new state's ``logits`` are those of the token after it."""
        ctx = next_token(state.ctx, ids)
        mask = torch.cat([state.attention_mask, state.attention_mask.new_ones(len(ids), 1)], dim=-1)
        logits = self.llm.decode(self.llm.embed(ctx.input_ids, ctx), ctx, mask, state.cache)
        return DecodingState(ctx, mask, state.cache, logits)

    @torch.inference_mode()
    def select(self, state: DecodingState, rows: torch.Tensor) -> DecodingState:
        """Go on with these rows only, int64[n]; the others are finished."""
        state.cache.batch_select_indices(rows)
        ctx = select_rows(state.ctx, rows)
        return DecodingState(ctx, state.attention_mask[rows], state.cache, state.logits[rows])

    def _connectors(self) -> dict[str, Connector]:
        return dict(self.connectors.items())  # type: ignore[arg-type]

    def adapters_of(self, key: str) -> list[nn.Module]:
        """Connectors that work inside an encoder, in the order in which they were attached."""
        return list(self._encoder(key).adapters)

    def _encoder(self, key: str) -> Encoder:
        module = self.encoders[key]
        assert isinstance(module, Encoder)
        return module


def seed_for(seed: int, key: str) -> None:
    """Seed torch for the weights of ``key``, so that they do not depend on which other connectors there are."""
    torch.manual_seed((seed + zlib.crc32(key.encode())) % 2**63)


def _stream(key: str, connector: nn.Module) -> str:
    """What to seed with for the weights that a connector makes when it is attached.

    The key itself is spent where ``__init__`` made weights: the same numbers again would start pairs of them equal.
    """
    return key if next(connector.parameters(), None) is None else f"{key} (attached)"


def _with_host(
    inputs: Mapping[str, torch.Tensor], here: Mapping[str, torch.Tensor], reader: Encoder | EncoderCache
) -> Mapping[str, torch.Tensor]:
    """``inputs`` with those from ``here``, the same on the CPU, that ``reader`` reads as numbers."""
    return {name: here[name] if reader.on_host(name) else value for name, value in inputs.items()}


def run_encoder(encoder: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Features:
    """Features of collated inputs, which are brought to the encoder's dtype."""
    features: Features = encoder(**_cast(inputs, encoder))
    return features


def _cast(inputs: Mapping[str, torch.Tensor], encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Floating inputs in the encoder's dtype: loaders give float32, weights may be bfloat16."""
    weight = next(encoder.parameters(), None)
    if weight is None:
        return dict(inputs)
    return {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
