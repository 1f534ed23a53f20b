"""IAA: its equations in plain torch, private parts as each family has them, and two branches shared out by text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmllm.connectors.base import Connector
from mmllm.connectors.llm_adapters.inner_adaptor import PRIVATE, InnerAdaptorConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.errors import MmllmError
from mmllm.model.loss import label_nll
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny.models import copied_vision
from mmllm.types import IGNORE_INDEX, Batch
from tests.support.assemblies import Row, batch_of, shortened
from tests.support.forward import embedded, logits, per_row
from tests.support.inside import ROWS, WITH_IMAGE
from tests.support.parts import FAMILIES, randomise, tiny_llm
from tests.support.plain_llama import layer, rms, weights_of

REQUEST = "the red square"


def branched(family: str = "llama", when: tuple[str, ...] | None = ("image",), **branches: object) -> MultimodalLM:
    """A tiny LLM with a projector and an inner adaptor per branch, all weights random."""
    llm, encoder = tiny_llm(family), copied_vision()
    torch.manual_seed(4)
    connectors: dict[str, Connector] = {"image": PoolConnector(dim=encoder.dim, llm_dim=llm.dim, grid=[2, 2])}
    for key, words in branches.items():
        connectors[key] = InnerAdaptorConnector(llm_dim=llm.dim, **words)  # type: ignore[arg-type]
        connectors[key].when = when
    model = MultimodalLM(llm, {"image": encoder}, connectors, {"image": "image"}).requires_grad_(False).eval()
    for number, key in enumerate(branches):
        randomise(connectors[key], seed=number)
    return model


@pytest.mark.parametrize("private", [(), ("embeddings",), PRIVATE], ids=["layers", "embeddings", "all"])
@pytest.mark.parametrize("position", ["inside", "input"])
@torch.no_grad()
def test_equals_the_papers_equations(position: str, private: tuple[str, ...]) -> None:
    model = branched(inner={"after": [0, 2], "position": position, "private": private})
    batch = batch_of(model, (ROWS[2],))
    found = logits(model, batch)
    state, learned = model.llm.model.state_dict(), model.connectors["inner"].state_dict()
    table = learned["private.embeddings.weight"] if private else state["model.embed_tokens.weight"]
    shown = batch.media_ids >= 0
    h = torch.where(shown[:, None], embedded(model, batch), table[batch.input_ids])
    frozen = [weights_of(state, f"model.layers.{index}.") for index in range(4)]
    inner = {index: weights_of(learned, f"layers.{index}.") for index in (0, 2)}
    if position == "input":
        for weights in inner.values():
            h = layer(h, weights)
    for index in range(4):
        h = layer(h, frozen[index])
        if position == "inside" and index in inner:
            h = layer(h, inner[index])
    h = rms(h, learned["private.norm.weight"] if "norm" in private else state["model.norm.weight"])
    expected = h @ (learned["private.head.weight"] if "head" in private else state["lm_head.weight"]).T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_copies_are_what_the_family_has(family: str) -> None:
    """Each layer starts as the frozen one; embeddings come with the family's scale; head with its soft-cap."""
    llm = tiny_llm(family)
    connector = InnerAdaptorConnector(llm_dim=llm.dim, after=[1, 3], private=PRIVATE)
    model = MultimodalLM(llm, {}, {"inner": connector}, {}).eval()
    for index in (1, 3):
        copied, frozen = connector.layers[str(index)].state_dict(), llm.blocks[index].state_dict()
        assert copied.keys() == frozen.keys()
        assert all(torch.equal(copied[name], frozen[name]) for name in frozen)
    batch = batch_of(model, (Row(2, (9,)),))
    start, plain = logits(model, batch), llm.model.get_input_embeddings().forward(batch.input_ids)
    assert torch.equal(embedded(model, batch), plain)
    connector.private["embeddings"].weight.mul_(2)  # type: ignore[operator,union-attr]
    torch.testing.assert_close(embedded(model, batch), 2 * plain)
    connector.private["embeddings"].weight.div_(2)  # type: ignore[operator,union-attr]
    connector.private["head"].weight.mul_(100)  # type: ignore[operator,union-attr]
    assert not torch.allclose(logits(model, batch), start, atol=1e-2)
    if family == "gemma2":
        assert logits(model, batch).abs().max() <= 3


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "opt", "smollm3"])
@torch.no_grad()
def test_all_layers_before_block_0(family: str) -> None:
    """They attend as block 0 does, also where they come from one with another window; zeroed they change nothing."""
    words = {"after": [0, 1, 3], "position": "input"}
    model = branched(family, inner=words)
    batch = batch_of(model, ROWS)
    last = [int(ids[-1]) for ids in batch.input_ids.split(batch.cu_seqlens.diff().tolist())]
    state = model.decode(model.prefill(shortened(batch, 1)), torch.tensor(last))
    expected = torch.stack([row[-1] for row in per_row(model, batch)])
    torch.testing.assert_close(state.logits, expected, atol=2e-5, rtol=1e-4)
    bare = MultimodalLM(tiny_llm(family), {}, {}, {})
    zero = InnerAdaptorConnector(llm_dim=bare.llm.dim, init="zero", **words)  # type: ignore[arg-type]
    text = batch_of(bare, (Row(2, (9,)),))
    before = logits(bare, text)
    zero.attach(bare.llm)
    assert torch.equal(logits(bare, text), before)
    randomise(zero)
    assert not torch.allclose(logits(bare, text), before, atol=1e-2)


@torch.no_grad()
def test_private_head_at_label_positions_of_a_mixed_row() -> None:
    """The loss takes each conversation's own head, in one piece or in chunks; text-only rows have the LLM's."""
    model = branched(inner={"after": [1], "private": PRIVATE})
    batch = batch_of(model, ROWS)
    found = logits(model, batch)
    at = (batch.labels != IGNORE_INDEX).nonzero().squeeze(-1)
    expected = F.cross_entropy(found[at - 1], batch.labels[at], reduction="sum")
    torch.testing.assert_close(model(batch)[0], expected)
    ctx, states = model.hidden(batch)
    torch.testing.assert_close(label_nll(model.llm, states, batch.labels, ctx, chunk=2), expected)
    bare = branched()
    for number, (own, plain) in enumerate(zip(per_row(model, batch), per_row(bare, batch), strict=True)):
        assert torch.equal(own, plain) == (number not in WITH_IMAGE)


def asked(model: MultimodalLM) -> Batch:
    """``ROWS`` whose first and second conversation (with a picture and without) hold the words of ``REQUEST``."""
    ids = model.llm.tokenizer(REQUEST, add_special_tokens=False)["input_ids"]
    first = Row(1, ("image", len(ids) + 5))
    second = Row(2, (len(ids) + 5,))
    batch = batch_of(model, (first, second, *ROWS[2:]))
    new = batch.input_ids.clone()
    for start in (4, int(batch.cu_seqlens[1])):
        new[start : start + len(ids)] = torch.tensor(ids)
    return replace(batch, input_ids=new)


@torch.no_grad()
def test_two_branches_by_what_the_text_says() -> None:
    """The request with a picture goes through one branch, other pictures through the other, text through none."""
    words = {"after": [0, 2], "private": PRIVATE}
    branches = {"general": {**words, "without_text": REQUEST}, "grounding": {**words, "with_text": REQUEST}}
    model = branched(**branches)
    batch = asked(model)
    both = per_row(model, batch)
    for removed, untouched in (("grounding", {1, 2, 3}), ("general", {1})):
        model.handles[removed].remove()  # type: ignore[union-attr]
        rows = per_row(model, batch)
        assert {n for n in range(4) if torch.equal(rows[n], both[n])} == untouched, removed
    bare = branched()
    for row, plain in zip(rows, per_row(bare, batch), strict=True):
        assert torch.equal(row, plain)


@torch.no_grad()
def test_branches_in_generation() -> None:
    """Cached decoding keeps each conversation in its branch, when rows finish too; nothing but the text says which."""
    words = {"after": [0, 2], "private": PRIVATE}
    branches = {"general": {**words, "without_text": REQUEST}, "grounding": {**words, "with_text": REQUEST}}
    model = branched(**branches)
    batch = replace(asked(model), dataset_names=[""] * 4)
    rows, ids = per_row(model, batch), batch.input_ids.split(batch.cu_seqlens.diff().tolist())
    state, other = (model.prefill(shortened(batch, 2)) for _ in range(2))
    torch.testing.assert_close(state.logits, stacked(rows, -3), atol=2e-5, rtol=1e-4)
    state = model.decode(state, torch.tensor([int(row[-2]) for row in ids]))
    model.decode(other, torch.tensor([5] * 4))
    torch.testing.assert_close(state.logits, stacked(rows, -2), atol=2e-5, rtol=1e-4)
    state = model.select(state, torch.tensor([0, 3]))
    state = model.decode(state, torch.tensor([int(ids[0][-1]), int(ids[3][-1])]))
    torch.testing.assert_close(state.logits, stacked([rows[0], rows[3]], -1), atol=2e-5, rtol=1e-4)


def stacked(rows: list[Tensor], at: int) -> Tensor:
    """float[B, V] at one place of each row."""
    return torch.stack([row[at] for row in rows])


@torch.no_grad()
def test_two_branches_by_placeholder() -> None:
    """An encoder key per branch: each with a projector of its own, chosen by which placeholder a picture fills."""
    llm, encoders = tiny_llm(), {key: copied_vision() for key in ("image", "region")}
    connectors: dict[str, Connector] = {}
    for key in encoders:
        connectors[key] = PoolConnector(dim=encoders[key].dim, llm_dim=llm.dim, grid=[2, 2])
        connectors[f"inner_{key}"] = InnerAdaptorConnector(llm_dim=llm.dim, after=[0], private=PRIVATE)
        connectors[f"inner_{key}"].when = (key,)
    model = MultimodalLM(llm, encoders, connectors, {key: key for key in encoders}).eval()
    for key, connector in connectors.items():
        randomise(connector, seed=len(key))
    batch = batch_of(model, (Row(1, ("image", 5)), Row(2, ("region", 5)), Row(3, (5,))))
    both = per_row(model, batch)
    model.handles["inner_region"].remove()  # type: ignore[union-attr]
    one = per_row(model, batch)
    assert [torch.equal(a, b) for a, b in zip(both, one, strict=True)] == [True, False, True]


@torch.no_grad()
def test_float32_copies_in_a_bfloat16_llm() -> None:
    """Zeroed, they hand on what the LLM computed; embeddings are rounded as the LLM rounds them."""
    for family in ("llama", "gemma3"):
        llm = tiny_llm(family)
        llm.to(torch.bfloat16)
        bare = MultimodalLM(llm, {}, {}, {})
        batch = batch_of(bare, (Row(2, (9,)), Row(3, (4,))))
        before = logits(bare, batch)
        connector = InnerAdaptorConnector(llm_dim=llm.dim, after=[0, 3], init="zero", private=["embeddings"])
        model = MultimodalLM(llm, {}, {"inner": connector}, {})
        assert {p.dtype for p in connector.parameters()} == {torch.float32}
        assert torch.equal(logits(model, batch), before)
        assert torch.isfinite(model.prefill(batch).logits).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"after": []}, "at least one layer"),
        ({"after": [1, 1]}, "only once"),
        ({"after": [4]}, "layers 0 to 3"),
        ({"after": [-1]}, "layers 0 to 3"),
        ({"after": [0], "init": "random"}, "copy or zero"),
        ({"after": [0], "private": ["tokens"]}, "embeddings, norm, head"),
        ({"after": [0], "position": "output"}, "inside or input"),
        ({"after": [0], "with_text": ""}, "hold some text"),
    ],
)
def test_wrong_words_are_one_sentence(words: dict[str, object], said: str) -> None:
    with pytest.raises(MmllmError, match=said):
        branched(inner=words)


def test_a_branch_by_text_needs_when() -> None:
    with pytest.raises(MmllmError, match="add when"):
        branched(when=None, inner={"after": [0], "with_text": "box"})
