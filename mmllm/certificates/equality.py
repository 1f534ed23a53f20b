"""Logits of text, bit for bit: the model in use beside the bare one, alone, beside media, cached and answered.

Alone and in a cached decoding the bare model runs as transformers runs it. Where conversations share a pass, a sum may
be rounded by the shape of the whole pass; there the bare model takes the language model's place in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded
from mmllm.generation.answers import Request
from mmllm.generation.generator import Generator
from mmllm.generation.sampling import Sampling
from mmllm.llms.causal_lm import CausalLM
from mmllm.llms.head import shallow
from mmllm.model.model import MultimodalLM

STEPS = 4
"""Tokens that are decoded after each text."""
ROUNDING = 1e-4
"""Largest difference from transformers' own forward that is rounding, as a share of the spread of its logits: some
families' attention is computed in another order there (windows, soft-caps)."""


@dataclass
class Compared:
    """Outcome of one way of asking."""

    way: str
    texts: int = 0
    positions: int = 0
    """Positions whose logits were compared."""
    equal: bool = True
    """Whether all bits were."""
    largest: float = 0.0
    """Largest difference of two logits."""
    first: str = ""
    """Where they first differ."""
    rounding: float = 0.0
    """Share of the spread up to which a difference is rounding; 0: all bits have to be equal."""
    share: float = 0.0
    """Largest difference as a share of the spread."""

    @property
    def holds(self) -> bool:
        """Whether nothing but rounding differs, where that may."""
        return self.equal or self.share <= self.rounding

    def add(self, name: str, ours: Tensor, theirs: Tensor) -> None:
        """Compare float[P, V] of a text."""
        self.positions += len(theirs)
        width = min(ours.shape[-1], theirs.shape[-1])  # rows of new tokens have no counterpart
        ours, theirs = ours[..., :width], theirs[..., :width]
        if ours.shape == theirs.shape and torch.equal(ours, theirs) and ours.dtype == theirs.dtype:
            return
        if self.equal:
            self.equal, self.first = False, name
        if ours.shape == theirs.shape:
            difference = float((ours.float() - theirs.float()).abs().max())
            spread = float(theirs.float().max() - theirs.float().min()) or 1.0
        else:
            difference, spread = float("inf"), 1.0
        self.largest, self.share = max(self.largest, difference), max(self.share, difference / spread)


@dataclass(frozen=True)
class Own:
    """What transformers' own model gives of one text."""

    logits: Tensor
    """float[S, V]"""
    steps: tuple[Tensor, ...]
    """float[V] at the last position, then after each of the tokens."""
    tokens: tuple[int, ...]
    """The likeliest, each fed in turn."""


@torch.inference_mode()
def own_logits(bare: Any, ids: Sequence[int]) -> Own:
    """Ask the bare model, before anything is done to it."""
    given = torch.tensor([list(ids)], device=bare.device)
    whole = bare(input_ids=given, use_cache=False).logits[0]
    # as generate asks: a head that is applied to all positions at once may round otherwise
    output = bare(input_ids=given, use_cache=True, logits_to_keep=1)
    steps, tokens = [output.logits[0, -1]], []
    for _ in range(STEPS):
        tokens.append(int(steps[-1].argmax()))
        following = torch.tensor([[tokens[-1]]], device=bare.device)
        output = bare(input_ids=following, past_key_values=output.past_key_values, use_cache=True)
        steps.append(output.logits[0, -1])
    return Own(whole, tuple(steps), tuple(tokens))


def beside(model: MultimodalLM, llm: CausalLM) -> MultimodalLM:
    """The model with another language model in place of its own, without anything that works inside that."""
    clone: MultimodalLM = shallow(model)
    clone._modules["llm"] = llm
    return clone


def compare(
    model: MultimodalLM, bare: MultimodalLM, texts: Sequence[Encoded], media: Sequence[Encoded], own: Sequence[Own]
) -> Iterator[Compared]:
    """Compare all ways; ``bare``: of :func:`beside`, ``own``: what transformers gave of each text."""
    yield _alone(model, texts, own)
    yield _cached(model, texts, own)
    yield _packed("packed, text alone", model, bare, texts)
    row = _among(texts, media)
    if media:
        yield _packed("packed, beside media", model, bare, row)
    yield _decoded(model, bare, row)
    yield from _answered(model, bare, texts, media)


def _among(texts: Sequence[Encoded], media: Sequence[Encoded]) -> list[Encoded]:
    """Texts with the conversations with media between them."""
    half = len(texts) // 2
    return [*texts[:half], *media, *texts[half:]]


def _batch(model: MultimodalLM, row: Sequence[Encoded]) -> Any:
    return collate(row, model.inputs, model.llm.positions).to(model.llm.device)


@torch.inference_mode()
def _alone(model: MultimodalLM, texts: Sequence[Encoded], own: Sequence[Own]) -> Compared:
    found = Compared("alone, beside transformers' own forward", len(texts), rounding=ROUNDING)
    for one, theirs in zip(texts, own, strict=True):
        found.add(one.name, model.logits(_batch(model, [one])), theirs.logits)
    return found


def _cached(model: MultimodalLM, texts: Sequence[Encoded], own: Sequence[Own]) -> Compared:
    found = Compared("cached, beside transformers' own decoding", len(texts), rounding=ROUNDING)
    for one, theirs in zip(texts, own, strict=True):
        state = model.prefill(_batch(model, [one]))
        rows = [state.logits[0]]
        for token in theirs.tokens:
            state = model.decode(state, torch.tensor([token], device=model.llm.device))
            rows.append(state.logits[0])
        found.add(one.name, torch.stack(rows), torch.stack(theirs.steps))
    return found


@torch.inference_mode()
def _packed(way: str, model: MultimodalLM, bare: MultimodalLM, row: Sequence[Encoded]) -> Compared:
    found = Compared(way, sum(not one.media for one in row))
    lengths = [len(one.ids) for one in row]
    pairs = zip(row, *(which.logits(_batch(which, row)).split(lengths) for which in (model, bare)), strict=True)
    for one, ours, theirs in pairs:
        if not one.media:
            found.add(one.name, ours, theirs)
    return found


def _decoded(model: MultimodalLM, bare: MultimodalLM, row: Sequence[Encoded]) -> Compared:
    found = Compared("decoded in padded rows, beside media", sum(not one.media for one in row))
    states = [which.prefill(_batch(which, row)) for which in (model, bare)]
    text = [number for number, one in enumerate(row) if not one.media]
    for step in range(STEPS + 1):
        ours, theirs = (state.logits for state in states)
        for number in text:
            found.add(f"{row[number].name}, token {step + 1}", ours[number][None], theirs[number][None])
        chosen = theirs.argmax(dim=-1)  # fed to both, so that a later token is compared on the same text
        states = [which.decode(state, chosen) for which, state in zip((model, bare), states, strict=True)]
    return found


def _answered(
    model: MultimodalLM, bare: MultimodalLM, texts: Sequence[Encoded], media: Sequence[Encoded]
) -> Iterator[Compared]:
    """By the engine of the server: all at once, and once more when what was read is known to it."""
    ours, theirs = _Asked(model), _Asked(bare)
    for way, row in (
        ("answered by the server's engine, beside media", _among(texts, media)),
        ("answered again, after conversations that begin alike", [*media, *reversed(texts)]),
    ):
        found = Compared(way, len(texts))
        for one, here, there in zip(row, ours.ask(row), theirs.ask(row), strict=True):
            if not one.media:
                found.add(one.name, here, there)
        yield found


class _Asked:
    """An engine whose logits are kept."""

    def __init__(self, model: MultimodalLM) -> None:
        self.generator = Generator(model)
        # all answers as long as they may be: an end of one would change the passes of the others
        self.generator.end_ids = frozenset()
        self._kept: dict[int, list[Tensor]] = {}
        way = self.generator.engine.way
        advance = way.advance

        def kept() -> Iterator[tuple[dict[str, Any], list[Request], Tensor]]:
            for metrics, requests, logits in advance():
                for request, row in zip(requests, logits, strict=True):
                    self._kept.setdefault(id(request), []).append(row.clone())
                yield metrics, requests, logits

        way.__dict__["advance"] = kept

    def ask(self, row: Sequence[Encoded]) -> list[Tensor]:
        """Logits float[STEPS, V] of each answer."""
        self._kept.clear()
        requests = [self.generator.submit(one, Sampling(STEPS)) for one in row]
        while not all(request.done for request in requests):
            self.generator.engine.step(rows=len(requests))
        for request in requests:
            if request.error is not None:
                raise request.error
        return [torch.stack(self._kept[id(request)]) for request in requests]
