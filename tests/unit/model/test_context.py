"""Facts of a pass: the last item of each position, in a packed row, in padded rows and in the steps of a decoding."""

from __future__ import annotations

import torch

from mmllm.generation.generator import Decoding
from mmllm.model import context
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, batch_of, tiny_assembly
from tests.support.inside import inside, randomise

ROWS = (Row(1, (2, "image", 2, "image", 1)), Row(2, (3,)), Row(3, ("image", 2)))


def placeless() -> MultimodalLM:
    """Pictures take no places: a connector with all its features inside the LLM."""
    return inside("gated_cross_attention from image")


def test_items_of_a_packed_row() -> None:
    """Counted over the batch, from each item's start to the end of its conversation."""
    assembly = placeless()
    flow = assembly.flow(batch_of(assembly, ROWS))
    assert flow.items["image"].tolist() == [[-1, -1, 0, 0, 1, -1, -1, -1, 2, 2]]
    assert flow.owners["image"].tolist() == [0, 0, 2]
    assert flow.present["image"].tolist() == [True, False, True]
    assert not flow.shows().any()


def test_places_and_items_with_tokens() -> None:
    """A picture of four tokens owns them; the text after it still sees it; other keys are there without items."""
    assembly = tiny_assembly(lora=False)
    flow = assembly.flow(batch_of(assembly, (Row(1, (1, "image", 1)),)))
    assert flow.items["image"].tolist() == [[-1, 0, 0, 0, 0, 0]]
    assert flow.shows().tolist() == [[False, True, True, True, True, False]]
    assert flow.items["page"].tolist() == [[-1] * 6] and not flow.shows(["page"]).any()


def test_padded_rows_steps_and_rows_that_stay() -> None:
    """The same facts row by row; a step sees the last item and fills nothing; items keep their numbers."""
    assembly = placeless()
    flow = context.padded(assembly.flow(batch_of(assembly, ROWS)), [5, 3, 2])
    assert flow.items["image"].tolist() == [[-1, -1, 0, 0, 1], [-1] * 5, [-1, -1, -1, 2, 2]]
    assert flow.real.sum(1).tolist() == [5, 3, 2] and flow.sequence_ids[:, 0].tolist() == [0, 1, 2]
    step = context.step(flow)
    assert step.items["image"].tolist() == [[1], [-1], [2]]
    kept = context.kept(step, torch.tensor([2, 1]))
    assert kept.items["image"].tolist() == [[2], [-1]] and kept.owners["image"].tolist() == [-1, -1, 0]
    assert kept.sequence_ids.tolist() == [[0], [1]] and context.step(kept).items["image"].tolist() == [[2], [-1]]


def test_places_are_found_again_in_padded_rows() -> None:
    """A place of the packed row is the same token in its own, left-padded row."""
    assembly = tiny_assembly(lora=False)
    batch = batch_of(assembly, (Row(1, (1, "image")), Row(2, (7,)), Row(3, (2, "image", 1))))
    flow = context.padded(assembly.flow(batch), batch.cu_seqlens.diff().tolist())
    assert flow.shows().nonzero().tolist() == [[0, s] for s in (3, 4, 5, 6)] + [[2, s] for s in (2, 3, 4, 5)]


@torch.no_grad()
def test_an_item_at_the_very_end_is_seen_by_what_is_decoded() -> None:
    """No token of the prompt follows it: its start is the next conversation's first position, or past the row."""
    assembly = placeless()
    randomise(assembly.connectors["image"])
    rows = (Row(1, (3, "image")), Row(2, (4,)), Row(3, (2, "image")))
    batch = batch_of(assembly, rows)
    step = context.step(context.padded(assembly.flow(batch), [3, 4, 2]))
    assert step.items["image"].tolist() == [[0], [-1], [1]]
    batch.media["image"]["pixels"][0] += 1.0
    other, first = Decoding(assembly, batch), Decoding(assembly, batch_of(assembly, rows))
    assert torch.equal(other.logits, first.logits)
    for decoding in (other, first):
        decoding.step([5, 5, 5])
    assert (other.logits != first.logits).any(dim=1).tolist() == [True, False, False]
