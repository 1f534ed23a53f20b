"""Attention that is not causal everywhere: pictures whose tokens see each other, and prefixes, in every kind of pass.

The windows of these models are shorter than a picture and than a prefix, and Gemma 2 caps its scores.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.errors import MmllmError, RecipeError
from mmllm.hooks.passes import left_padded
from mmllm.model import trainable
from mmllm.model.item_text import ItemText
from mmllm.model.model import MultimodalLM
from mmllm.model.sharing import check_sharing
from mmllm.testing.pieces import difference
from mmllm.testing.tiny.models import copied_vision
from mmllm.testing.tiny.rows import Row, batch_of, begun_alike, shortened
from mmllm.types import Batch, Bidirectional
from tests.support.parts import randomise, tiny_llm, tiny_model

WINDOW = 6
PICTURE = 16
ROWS = (
    Row(1, (4, "image", 5)),
    Row(2, (11,)),
    Row(3, (2, "image", "image", 3, "image", 7)),
    Row(4, ("image", 9)),
)
"""A picture, none, two side by side and a third, and one at the very start."""
WAYS = ("pictures", "prefix", "both")
FAMILIES = ("llama", "gemma2", "gemma3")


def made(family: str = "llama", way: str = "pictures") -> MultimodalLM:
    """A tiny model whose pictures are 16 tokens; its LoRA has random weights."""
    llm, encoder = tiny_llm(family), copied_vision()
    llm.prefix = way != "pictures"
    torch.manual_seed(5)
    connectors = {"image": MlpConnector(dim=encoder.dim, llm_dim=llm.dim), "lora": LoraConnector(llm_dim=llm.dim)}
    texts = {"image": ItemText(bidirectional=way != "prefix")}
    model = MultimodalLM(llm, {"image": encoder}, connectors, {"image": "image"}, texts=texts)
    randomise(model.connectors, seed=2)
    return model.requires_grad_(False).eval()


def masks(stretches: list[Bidirectional], length: int) -> dict[str, Tensor]:
    """bool[S, S] of a conversation by kind of layer, as transformers' Gemma 3 and PaliGemma have them."""
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    full, sliding = k <= q, (k <= q) & (q - k < WINDOW)
    for one in stretches:
        same = (q >= one.start) & (q < one.end) & (k >= one.start) & (k < one.end)
        full = full | same
        sliding = sliding | (same & (q - k < WINDOW) if one.windowed else same)
    return {"full_attention": full, "sliding_attention": sliding}


@torch.no_grad()
def by_transformers(model: MultimodalLM, family: str, row: Row) -> Tensor:
    """float[S, V]: logits of a model of transformers of the same weights, under a mask written out."""
    batch = batch_of(model, (row,))
    _, embeds = model.embed(batch)
    theirs = tiny_model(family)
    theirs.set_attn_implementation("eager")
    least = torch.finfo(torch.float32).min
    found = masks(list(batch.bidirectional), batch.n_tokens)
    given: Any = {kind: torch.where(mask, 0.0, least)[None, None] for kind, mask in found.items()}
    given = given if family != "llama" else given["full_attention"]
    return theirs(inputs_embeds=embeds[None], attention_mask=given).logits[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_attend_as_a_mask_written_out(family: str, way: str) -> None:
    model = made(family, way)
    model.handles["lora"].remove()
    batch = batch_of(model, ROWS)
    assert bool(batch.bidirectional)
    rows = model.logits(batch).split(batch.cu_seqlens.diff().tolist())
    for row, found in zip(ROWS, rows, strict=True):
        torch.testing.assert_close(found, by_transformers(model, family, row), atol=5e-5, rtol=1e-4)
    model.llm.prefix = False
    model.inputs["image"].text = ItemText()
    assert not torch.allclose(model.logits(batch_of(model, ROWS)), torch.cat(rows), atol=1e-2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_decoding_and_pieces_are_the_whole_pass(family: str, way: str) -> None:
    """Batched as alone too: rows are of unlike length, padded or beside each other."""
    model = made(family, way)
    batch = batch_of(model, ROWS)
    lengths = batch.cu_seqlens.diff().tolist()
    whole = model.logits(batch).split(lengths)
    ids = batch.input_ids.split(lengths)
    # a prompt ends before what is said: with a prefix it is all that sees itself
    state = model.prefill(shortened(batch, 3))
    for place in (-4, -3, -2, -1):
        if place > -4:
            state = model.decode(state, torch.stack([row[place] for row in ids]))
        torch.testing.assert_close(state.logits, torch.stack([row[place] for row in whole]), atol=5e-5, rtol=1e-4)
    assert difference(model, ROWS) < 5e-5


def learned(model: MultimodalLM, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss over these batches, and gradients."""
    model.zero_grad()
    total = torch.stack([model(batch)[0] for batch in batches]).sum()
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("way", ["pictures", "prefix"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_packed_learns_as_unpacked(family: str, way: str) -> None:
    """With recomputed blocks, and with the last block at label positions or at all of them."""
    model = made(family, way)
    trainable.set_trainable(model, {"connectors.image": 1e-2, "connectors.lora": 1e-2})
    assert model.positionwise and model.llm.prunes
    loss, expected = learned(model, [batch_of(model, (row,)) for row in ROWS])
    for recompute, prunes in ((False, True), (True, True), (False, False)):
        model.llm.gradient_checkpointing(recompute)
        model.llm.prunes = prunes
        found, gradients = learned(model, [batch_of(model, ROWS)])
        torch.testing.assert_close(found, loss)
        for name in expected:
            torch.testing.assert_close(gradients[name], expected[name], atol=1e-4, rtol=1e-3, msg=name)


def test_pictures_in_a_shared_beginning_see_each_other() -> None:
    """Conversations about one picture are a tree; what all of a prompt sees would differ from one to the other."""
    model = made("gemma3")
    trainable.set_trainable(model, {"connectors.image": 1e-2})
    alone, shared = begun_alike(model)
    assert shared.bidirectional == (Bidirectional(4, 4 + PICTURE),)
    (loss, expected), (found, gradients) = learned(model, [alone]), learned(model, [shared])
    torch.testing.assert_close(found, loss)
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], atol=1e-5, rtol=1e-3)
    with pytest.raises(RecipeError, match=r"stages\.one\.share_prefix: with llm\.attention prefix"):
        check_sharing(made(way="prefix"), "stages.one")


@torch.no_grad()
def test_neighbours_in_a_pack_change_nothing() -> None:
    model = made("gemma2", "both")
    alone = model.logits(batch_of(model, (ROWS[2],)))
    others = batch_of(model, (Row(9, ("image", 4)), ROWS[2], Row(8, ("image", 3))))
    start, end = others.cu_seqlens[1:3].tolist()
    torch.testing.assert_close(model.logits(others)[start:end], alone, atol=2e-5, rtol=1e-4)


def test_a_stretch_is_never_read_in_part() -> None:
    from mmllm.llms.stored_keys import KeyValues, StoredKeys

    with pytest.raises(ValueError, match="positions 0 to 3 hold part of the bidirectional stretch"):
        StoredKeys.of([KeyValues(9)], [3], [Bidirectional(1, 5)])


def test_stretches_of_padded_rows_end_where_their_rows_do() -> None:
    model = made()
    batch = batch_of(model, ROWS)
    ctx, _ = model.embed(batch)
    padded = left_padded(ctx, batch.cu_seqlens.diff().tolist())
    places = sorted(place for one in padded.bidirectional for place in range(one.start, one.end))
    assert places == sorted(padded.media_positions["image"].tolist())


def test_tokens_of_an_item_cannot_attend_where_there_are_none() -> None:
    from mmllm.connectors.deep_fusion.gated_cross_attention import GatedCrossAttentionConnector
    from mmllm.model.inputs import Input

    connector = GatedCrossAttentionConnector(dim=16, llm_dim=32)
    with pytest.raises(MmllmError, match=r"connectors\.image: `attends` is about the tokens of an item"):
        Input("image", {"image": copied_vision()}, connector, ItemText(bidirectional=True))


def test_a_connector_that_needs_a_causal_llm_refuses_by_name() -> None:
    class Running(LoraConnector):
        """Would keep a sum over positions."""

        causal_only = True

    llm, encoder = tiny_llm(), copied_vision()
    parts: Any = {"image": MlpConnector(dim=encoder.dim, llm_dim=llm.dim), "sum": Running(llm_dim=llm.dim)}
    inputs = {"image": "image"}
    MultimodalLM(llm, {"image": encoder}, parts, inputs).handles["sum"].remove()
    texts = {"image": ItemText(bidirectional=True)}
    with pytest.raises(RecipeError, match=r"connectors\.image\.attends: connectors\.sum \(Running\) works in causal"):
        MultimodalLM(llm, {"image": encoder}, parts, inputs, texts=texts)
    llm.prefix = True
    with pytest.raises(RecipeError, match=r"llm\.attention: connectors\.sum \(Running\) works in causal LLMs only"):
        MultimodalLM(llm, {"image": encoder}, parts, inputs)
