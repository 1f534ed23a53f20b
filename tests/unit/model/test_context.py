"""The context of a pass: the last item of each position in packed and padded rows, and in the steps of a decoding."""

from __future__ import annotations

import pytest
import torch

from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import context_of, left_padded, next_token, select_rows
from mmllm.hooks.pieces import Piece, Prompt, context_of_pieces
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, batch_of, tiny_assembly
from tests.support.inside import inside
from tests.support.parts import randomise

ROWS = (Row(1, (2, "image", 2, "image", 1)), Row(2, (3,)), Row(3, ("image", 2)))


def placeless() -> MultimodalLM:
    """Pictures take no places: a connector with all its features inside the LLM."""
    return inside("gated_cross_attention from image")


def test_items_of_a_packed_row() -> None:
    """Counted over the batch, from each item's start to the end of its conversation."""
    assembly = placeless()
    ctx = context_of(batch_of(assembly, ROWS), assembly.inputs)
    assert ctx.last_item["image"].tolist() == [[-1, -1, 0, 0, 1, -1, -1, -1, 2, 2]]
    assert ctx.item_sequence["image"].tolist() == [0, 0, 2]
    assert ctx.has_media["image"].tolist() == [True, False, True]
    assert not ctx.media_mask().any()


def test_items_that_stand_together() -> None:
    """At most one token between their starts, in one conversation; whole, and where its pieces stand beside others."""
    assembly = placeless()
    rows = (Row(1, (1, "image", "image", 1, "image", 2, "image", 1)), Row(2, ("image",)), Row(3, ("image", 1, "image")))
    ctx = context_of(batch_of(assembly, rows), assembly.inputs)
    assert ctx.item_groups["image"].tolist() == [0, 0, 0, 3, 4, 5, 5]
    prompts = [Prompt(context_of(batch_of(assembly, (row,)), assembly.inputs)) for row in (rows[0], rows[2])]
    pieces = context_of_pieces([Piece(prompts[1], 0, 1), Piece(prompts[0], 5, 0, 7), Piece(prompts[0], 0, 3)])
    assert pieces.item_groups["image"].tolist() == [0, 0, 2, 2, 2, 5, 6, 6, 6, 9]


def test_places_and_items_with_tokens() -> None:
    """A picture of four tokens owns them; the text after it still sees it; other keys are there without items."""
    assembly = tiny_assembly(lora=False)
    ctx = context_of(batch_of(assembly, (Row(1, (1, "image", 1)),)), assembly.inputs)
    assert ctx.last_item["image"].tolist() == [[-1, 0, 0, 0, 0, 0]]
    assert ctx.media_mask().tolist() == [[False, True, True, True, True, False]]
    assert ctx.last_item["page"].tolist() == [[-1] * 6] and not ctx.media_mask(["page"]).any()


def test_padded_rows_steps_and_rows_that_stay() -> None:
    """The same facts row by row; a step sees the last item and fills nothing; items keep their numbers."""
    assembly = placeless()
    ctx = left_padded(context_of(batch_of(assembly, ROWS), assembly.inputs), [5, 3, 2])
    assert ctx.last_item["image"].tolist() == [[-1, -1, 0, 0, 1], [-1] * 5, [-1, -1, -1, 2, 2]]
    assert ctx.attention_mask.sum(1).tolist() == [5, 3, 2] and ctx.sequence_ids[:, 0].tolist() == [0, 1, 2]
    step = next_token(ctx, torch.tensor([7, 8, 9]))
    assert step.input_ids.tolist() == [[7], [8], [9]] and step.position_ids.tolist() == [[[5], [3], [2]]]
    assert step.last_item["image"].tolist() == [[1], [-1], [2]]
    kept = select_rows(step, torch.tensor([2, 1]))
    assert kept.last_item["image"].tolist() == [[2], [-1]] and kept.item_sequence["image"].tolist() == [-1, -1, 0]
    assert kept.sequence_ids.tolist() == [[0], [1]] and next_token(kept, torch.tensor([1, 1])).last_item[
        "image"
    ].tolist() == [[2], [-1]]


def test_items_of_finished_rows_are_nobodys_ever_after() -> None:
    """Rows leave one after another: a picture of the first to leave must not become another conversation's."""
    assembly = placeless()
    ctx = left_padded(context_of(batch_of(assembly, ROWS), assembly.inputs), [5, 3, 2])
    kept = select_rows(next_token(ctx, torch.tensor([7, 8, 9])), torch.tensor([2, 1]))
    alone = select_rows(kept, torch.tensor([1]))
    assert alone.item_sequence["image"].tolist() == [-1, -1, -1]
    assert next_token(alone, torch.tensor([1])).last_item["image"].tolist() == [[-1]]


def test_places_are_found_again_in_padded_rows() -> None:
    """A place of the packed row is the same token in its own, left-padded row."""
    assembly = tiny_assembly(lora=False)
    batch = batch_of(assembly, (Row(1, (1, "image")), Row(2, (7,)), Row(3, (2, "image", 1))))
    ctx = left_padded(context_of(batch, assembly.inputs), batch.cu_seqlens.diff().tolist())
    assert ctx.media_mask().nonzero().tolist() == [[0, s] for s in (3, 4, 5, 6)] + [[2, s] for s in (2, 3, 4, 5)]


@torch.no_grad()
def test_an_item_at_the_very_end_is_seen_by_what_is_decoded() -> None:
    """No token of the prompt follows it: its start is the next conversation's first position, or past the row."""
    assembly = placeless()
    randomise(assembly.connectors["image"])
    rows = (Row(1, (3, "image")), Row(2, (4,)), Row(3, (2, "image")))
    batch = batch_of(assembly, rows)
    step = next_token(left_padded(context_of(batch, assembly.inputs), [3, 4, 2]), torch.tensor([5, 5, 5]))
    assert step.last_item["image"].tolist() == [[0], [-1], [1]]
    batch.media["image"]["image"]["pixels"][0] += 1.0
    other, first = assembly.prefill(batch), assembly.prefill(batch_of(assembly, rows))
    assert torch.equal(other.logits, first.logits)
    other, first = (assembly.decode(state, torch.tensor([5, 5, 5])) for state in (other, first))
    assert (other.logits != first.logits).any(dim=1).tolist() == [True, False, False]


# ---- the context is an argument


def test_a_hook_without_a_context_raises() -> None:
    """Whoever runs the LLM past the model gets an error instead of another pass's media."""
    model = inside("layerwise from image")
    randomise(model.connectors["image"])
    batch = batch_of(model, ROWS)
    model.hidden(batch)
    with pytest.raises(RuntimeError, match="a connector's hook ran without a forward context"):
        model.llm.model(input_ids=batch.input_ids[None])


def test_what_a_pass_leaves_is_not_found_by_the_next() -> None:
    """``notes`` are one pass's own; ``media`` are those of the conversations and go on with them."""
    model = tiny_assembly(lora=False)
    batch = batch_of(model, ROWS)
    ctx = context_of(batch, model.inputs)
    assert ctx.once("x", lambda: 1) == ctx.once("x", lambda: 2) == 1
    ctx.media["image"] = "kept"
    step = next_token(left_padded(ctx, batch.cu_seqlens.diff().tolist()), torch.tensor([1, 2, 3]))
    assert step.notes == {} and step.media is ctx.media
    assert isinstance(step, ForwardContext) and step.at_head(None).notes is step.notes
