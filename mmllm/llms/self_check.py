"""The guard at construction of an LLM: packed, padded and cached passes must give the model's own logits.

It runs eight tokens through all three, so a family whose positions, masks, attention sinks or head work otherwise is
refused with a sentence instead of training silently on wrong hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from mmllm.errors import MmllmError
from mmllm.hooks.context import ForwardContext
from mmllm.hooks.passes import left_padded, next_token, text_context
from mmllm.hooks.shards import full_shape


class Passes(Protocol):
    """The part of the wrapper that the check uses."""

    model: PreTrainedModel

    @property
    def device(self) -> torch.device:
        """Device of the embeddings."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Data type that the blocks compute in."""
        ...

    def embed(self, ids: torch.Tensor, ctx: ForwardContext) -> torch.Tensor:
        """Embeddings of ids."""
        ...

    def __call__(self, embeds: torch.Tensor, ctx: ForwardContext) -> torch.Tensor:
        """Hidden states of a packed row."""
        ...

    def logits(self, hidden: torch.Tensor, ctx: ForwardContext) -> torch.Tensor:
        """Logits of hidden states."""
        ...

    def decode(self, embeds: torch.Tensor, ctx: ForwardContext, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits of the last position of padded rows."""
        ...

    def new_cache(self) -> Any:
        """An empty cache."""
        ...


LENGTHS = (5, 3)
"""Tokens of the two conversations of the check; unequal, so that one is padded and grouping by length is used."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 5e-2}
"""Largest difference allowed, as a share of the largest logit."""


def _conversations(model: PreTrainedModel) -> list[torch.Tensor]:
    weight = model.get_input_embeddings().weight
    ids = (torch.arange(sum(LENGTHS), device=weight.device) * 7 + 3) % full_shape(weight)[0]
    return list(ids.split(LENGTHS))


@torch.no_grad()
def reference_logits(model: PreTrainedModel) -> torch.Tensor:
    """float[8, V]: the model's own logits of each conversation alone; MmllmError where its forward fails."""
    mask = [torch.ones_like(ids)[None] for ids in _conversations(model)]
    pairs = zip(_conversations(model), mask, strict=True)
    with _failing(model, "the model's own forward"):
        rows = [model(input_ids=ids[None], attention_mask=ones, use_cache=False).logits[0] for ids, ones in pairs]
    return torch.cat(rows)


@torch.no_grad()
def check_logits(llm: Passes, reference: torch.Tensor, tolerance: float | None = None) -> None:
    """Compare the wrapper's passes with ``reference``; ``tolerance``: as a share of its largest, default by dtype.

    Raises:
        MmllmError: they differ, or one of the passes fails.
    """
    with _failing(llm.model, "a packed or cached pass"):
        _check_passes(llm, reference, tolerance)


def _check_passes(llm: Passes, reference: torch.Tensor, tolerance: float | None) -> None:
    conversations = _conversations(llm.model)
    ids = torch.cat(conversations)
    ctx = text_context(ids, torch.tensor([0, LENGTHS[0], sum(LENGTHS)], dtype=torch.int32, device=llm.device))
    embeds = llm.embed(ids, ctx)
    _compare(llm, llm.logits(llm(embeds, ctx), ctx), reference, "packed", tolerance)
    last = torch.stack([reference[LENGTHS[0] - 1], reference[-1]])
    # without their last tokens first: the cache is what the step then reads
    before = text_context(
        torch.cat([one[:-1] for one in conversations]),
        torch.tensor([0, LENGTHS[0] - 1, sum(LENGTHS) - 2], dtype=torch.int32, device=llm.device),
    )
    _compare(llm, _cached(llm, before, torch.stack([one[-1] for one in conversations])), last, "cached", tolerance)


@torch.no_grad()
def gives_chosen(llm: Passes) -> bool:
    """Whether the states of chosen positions are the same where the last block runs for these only."""
    ids = torch.cat(_conversations(llm.model))
    ctx = text_context(ids, torch.tensor([0, LENGTHS[0], sum(LENGTHS)], dtype=torch.int32, device=llm.device))
    embeds = llm.embed(ids, ctx)
    chosen = torch.tensor([1, 3, LENGTHS[0] + 1], device=llm.device)
    whole = llm(embeds, ctx)[chosen].float()
    try:
        some = llm(embeds, replace(ctx, wanted=chosen)).float()
    # what a block does with fewer rows than it was made for is not known beforehand; it then runs on all of them
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return some.shape == whole.shape and bool((some - whole).abs().max() <= TOLERANCE[llm.dtype] * whole.abs().max())


@contextmanager
def _failing(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Make one sentence of what a model's code raises: a config that its class does not fit, an unsupported family."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MmllmError(f"{type(model).__name__} cannot be used: {what} fails: {reason}") from error


def _cached(llm: Passes, packed: ForwardContext, ids: torch.Tensor) -> torch.Tensor:
    """float[2, V]: logits of the last tokens ``ids`` int64[2], after the rest was fed left-padded."""
    ctx = left_padded(packed, [length - 1 for length in LENGTHS])
    cache = llm.new_cache()
    llm.decode(llm.embed(ctx.input_ids, ctx), ctx, ctx.attention_mask, cache)
    mask = torch.nn.functional.pad(ctx.attention_mask, (0, 1), value=True)
    ctx = next_token(ctx, ids)
    return llm.decode(llm.embed(ctx.input_ids, ctx), ctx, mask, cache)


def _compare(llm: Passes, ours: torch.Tensor, theirs: torch.Tensor, what: str, tolerance: float | None) -> None:
    difference = (ours.float() - theirs.float()).abs().max()
    allowed = (TOLERANCE[llm.dtype] if tolerance is None else tolerance) * theirs.float().abs().max()
    if not difference <= allowed:  # also true of nan
        raise MmllmError(
            f"{type(llm.model).__name__} cannot be used: its {what} logits differ by {float(difference):.2g} from its "
            f"own forward (allowed {float(allowed):.2g}); its attention or positions are of an unsupported kind"
        )
