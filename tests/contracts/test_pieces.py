"""Prompts read in pieces, beside others and over stored keys and values, whatever works inside the LLM.

A connector that says it ``goes_on`` gives the logits of the whole pass; the engine names those that do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import pytest
import torch

from mmllm.model.model import MultimodalLM
from mmllm.model.reading import Conversation, KeyValues, Reader, obstacles
from mmllm.testing.llm_connector_subject import per_row
from mmllm.testing.tiny.models import ROWS
from mmllm.testing.tiny.rows import Row, batch_of, shortened
from tests.support.inside import VARIANTS, connector_of, inside
from tests.support.parts import FAMILIES, randomise

SAID = 3
"""Tokens at the end of each row that are its answer's."""
WHOLE = ("iva from image",)
"""Those that need a whole prompt in one pass."""


def begun(model: MultimodalLM, row: Row, stored: KeyValues | None = None) -> Conversation:
    """A conversation of which nothing was read yet, its items shown one by one."""
    batch, reader = shortened(batch_of(model, (row,)), SAID), Reader(model)
    shown = {}
    for key, media in batch.media.items():
        n = len(batch.item_starts[key])
        items = [{name: {w: v[i] for w, v in one.items()} for name, one in media.items()} for i in range(n)]
        shown[key] = reader.show(key, items, [row.source] * n)
    return reader.begin(batch, shown, stored or KeyValues(batch.n_tokens + 4))


def differs(model: MultimodalLM, rows: Sequence[Row], steps: Sequence[Sequence[int]]) -> float:
    """Largest difference to the logits of the whole pass, where each pass reads so many more tokens of each row.

    A row's last tokens are read as an answer's.
    """
    expected, reader = per_row(model, rows), Reader(model)
    talks = [begun(model, row) for row in rows]
    ids = [batch_of(model, (row,)).input_ids.tolist() for row in rows]
    worst = 0.0
    for sizes in cycle(steps):
        if not any(talk.unread for talk in talks):
            break
        # of an answer one token at a time: the next is not known before
        parts = [(talk, min(size, talk.unread)) for talk, size in zip(talks, sizes, strict=True)]
        parts = [(talk, size) for talk, size in parts if size]
        if not parts:
            continue
        _, logits = reader.read(parts)
        ended = [talk for talk, _ in parts if not talk.unread]
        for talk, found in zip(ended, logits, strict=True):
            number = talks.index(talk)
            place = talk.stored.length - 1
            worst = max(worst, float((found - expected[number][place]).abs().max()))
            talk.said += ids[number][place + 1 : place + 2]
    assert all(talk.stored.length == len(one) for talk, one in zip(talks, ids, strict=True))
    return worst


STEPS = ((3, 0, 5, 2), (4, 5, 0, 6), (0, 9, 9, 1), (99, 1, 9, 9))
"""Pieces that begin and end inside items, beside others that pause."""


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_pieces_give_the_logits_of_the_whole(variant: str) -> None:
    model = inside(variant)
    randomise(connector_of(model, variant))
    if not connector_of(model, variant).goes_on:
        assert len(obstacles(model)) == 1 and type(connector_of(model, variant)).__name__ in obstacles(model)[0]
        assert variant in WHOLE
        return
    assert obstacles(model) == []
    assert differs(model, ROWS, STEPS) < 5e-5


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_pieces_in_every_family(family: str) -> None:
    """Sliding windows, soft-caps, learned positions and shared key heads as in the whole pass."""
    model = inside("lora", family)
    randomise(connector_of(model, "lora"))
    rows = (*ROWS, Row(9, (40, "image", 9)))
    assert obstacles(model) == []
    assert differs(model, rows, [(*sizes, 11) for sizes in STEPS]) < 5e-5
