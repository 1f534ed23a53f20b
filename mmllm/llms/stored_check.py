"""Whether an LLM's conversations may be read in pieces: stored keys and values must give the states of one packed pass.

Asked once of an LLM, when it is first to answer; training does not need to know.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from mmllm.hooks import ForwardContext, Scope
from mmllm.hooks.passes import text_context
from mmllm.llms.self_check import TOLERANCE, Passes
from mmllm.llms.stored_keys import KeyValues, StoredKeys

LENGTHS = (5, 3)
"""Tokens of the two conversations of the check."""
STEPS = ((2, 0), (2, 2), (1, 1))
"""New tokens of each in each pass: the second begins beside the first's middle, both end on one, as answers do."""


class Reads(Passes, Protocol):
    """The part of the wrapper that the check uses."""

    vocab_size: int
    scope: Scope[ForwardContext]

    def read(self, embeds: torch.Tensor, ctx: ForwardContext, stored: StoredKeys) -> torch.Tensor:
        """Hidden states of a row whose conversations go on."""
        ...


@torch.no_grad()
def position_bytes(llm: Reads) -> int:
    """Bytes of a position's keys and values, where conversations read in pieces have the states of one packed pass.

    0: they have not. So it is for models that keep something else of a position (recurrent blocks), or whose layers
    share what they keep.
    """
    ids = (torch.arange(sum(LENGTHS), device=llm.device) * 7 + 3) % llm.vocab_size
    with llm.scope.off():
        ctx = _context(ids, LENGTHS)
        whole = llm(llm.embed(ids, ctx), ctx).split(LENGTHS)
        stored = [KeyValues(length) for length in LENGTHS]
        rows = ids.split(LENGTHS)
        found: tuple[list[torch.Tensor], ...] = ([], [])
        for sizes in STEPS:
            for number, states in _step(llm, rows, stored, sizes):
                found[number].append(states)
    pairs = zip(whole, map(torch.cat, found), strict=True)
    right = all(bool((a - b).abs().max() <= TOLERANCE[llm.dtype] * a.abs().max()) for a, b in pairs)
    return stored[0].position_bytes if right else 0


def _context(ids: torch.Tensor, lengths: tuple[int, ...]) -> ForwardContext:
    bounds = torch.tensor([0, *lengths], device=ids.device).cumsum(0)
    return text_context(ids, bounds.to(torch.int32))


def _step(
    llm: Reads, rows: tuple[torch.Tensor, ...], stored: list[KeyValues], sizes: tuple[int, ...]
) -> list[tuple[int, torch.Tensor]]:
    """(number of the conversation, its states) of a pass over so many more tokens of each."""
    numbers = [number for number, size in enumerate(sizes) if size]
    lengths = tuple(sizes[number] for number in numbers)
    places = [torch.arange(stored[n].length, stored[n].length + sizes[n], device=llm.device) for n in numbers]
    ids = torch.cat([rows[n][place] for n, place in zip(numbers, places, strict=True)])
    ctx = replace(_context(ids, lengths), position_ids=torch.cat(places)[None, None])
    keys = StoredKeys.of([stored[n] for n in numbers], lengths)
    states = llm.read(llm.embed(ids, ctx), ctx, keys).split(lengths)
    for n in numbers:
        stored[n].length += sizes[n]
    return list(zip(numbers, states, strict=True))
