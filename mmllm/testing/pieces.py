"""Conversations read in pieces beside each other, as answers are made, and compared with the whole pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from mmllm.model.model import MultimodalLM
from mmllm.model.reading import Conversation, KeyValues, Reader
from mmllm.testing.llm_connector_subject import per_row
from mmllm.testing.tiny.rows import Row, batch_of, shortened

SAID = 1
"""Tokens at the end of each row that are its answer's."""
STEPS = ((3, 9, 5, 2, 9), (99, 1, 0, 99, 20), (1, 99, 99, 0, 99))
"""New tokens of each row in each pass, over and over: pieces end inside items, beside others that pause."""


def difference(model: MultimodalLM, rows: tuple[Row, ...], steps: Sequence[Sequence[int]] = STEPS) -> float:
    """Largest difference to the logits of the whole pass at every position that ends what is known of a row.

    A row's last tokens are read as an answer's: the next one is known only once the one before it was read.
    """
    expected, reader = per_row(model, rows), Reader(model)
    talks = [_begun(model, reader, row) for row in rows]
    ids = [batch_of(model, (row,)).input_ids.tolist() for row in rows]
    worst = 0.0
    for sizes in cycle(steps):
        parts = [(talk, min(size, talk.unread)) for talk, size in zip(talks, sizes, strict=False) if talk.unread]
        if not parts:
            break
        # a bidirectional stretch is one piece
        parts = [(talk, talk.readable(size)) for talk, size in parts if size]
        _, logits = reader.read(parts) if parts else (None, ())
        ended = [talk for talk, _ in parts if not talk.unread]
        for talk, found in zip(ended, logits, strict=True):
            number, place = talks.index(talk), talk.stored.length - 1
            worst = max(worst, float((found - expected[number][place]).abs().max()))
            talk.said += ids[number][place + 1 : place + 2]
    assert all(talk.stored.length == len(one) for talk, one in zip(talks, ids, strict=True))
    return worst


def _begun(model: MultimodalLM, reader: Reader, row: Row) -> Conversation:
    """A conversation of which nothing was read yet, its items shown one by one."""
    batch = shortened(batch_of(model, (row,)), SAID)
    shown = {}
    for key, media in batch.media.items():
        n = len(batch.item_starts[key])
        items = [{name: {w: v[i] for w, v in one.items()} for name, one in media.items()} for i in range(n)]
        shown[key] = reader.show(key, items, [row.source] * n)
    return reader.begin(batch, shown, KeyValues(batch.n_tokens + SAID))
