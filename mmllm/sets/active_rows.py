"""Which rows of a pass over several sets a connector works on: those of its own set's conversations that it is for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from mmllm.connectors.base import Connector
from mmllm.hooks import ForwardContext

One = TypeVar("One", bound=Connector)


def active_rows(ctx: ForwardContext, of: Mapping[Hashable, Sequence[One]]) -> Iterator[tuple[One, int, int]]:
    """Connectors of each owner with the rows (start, end) of a conversation in which they are active, in order."""
    lengths = _lengths(ctx)
    ends = list(accumulate(lengths))
    for stretch in ctx.stretches or ():
        for connector in of.get(stretch.owner, ()):
            for number, shown in enumerate(stretch.has_media, stretch.first):
                if lengths[number] and (connector.when is None or any(shown.get(key) for key in connector.when)):
                    yield connector, ends[number] - lengths[number], ends[number]


def _lengths(ctx: ForwardContext) -> list[int]:
    """Positions of each conversation in this pass, or of those that its last block is asked for."""
    if ctx.cu_seqlens is not None:
        return [int(n) for n in ctx.cu_seqlens.diff().tolist()]
    n = sum(len(one.has_media) for one in ctx.stretches or ())
    return [int(n) for n in ctx.sequence_ids.flatten().bincount(minlength=n).tolist()]
