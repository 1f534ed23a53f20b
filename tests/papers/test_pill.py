"""PILL: its equations in plain torch, routing by modality, and the value gate that is no identity at zero."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmllm.connectors.llm_adapters.pill import PillConnector
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import text_context
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import batch_of
from tests.support.forward import logits, per_row
from tests.support.inside import ROWS, inside
from tests.support.parts import randomise, tiny_llm
from tests.support.plain_llama import layer, rms, weights_of

LENGTH, MEDIA = 11, slice(3, 8)


def context(media: slice = MEDIA) -> ForwardContext:
    """One conversation of ``LENGTH`` positions, some of them filled by one picture."""
    positions = torch.arange(LENGTH)[media]
    text = text_context(torch.zeros(LENGTH, dtype=torch.int64), torch.tensor([0, LENGTH], dtype=torch.int32))
    return replace(
        text,
        has_media={"image": torch.tensor([len(positions) > 0])},
        last_item={"image": torch.where(torch.arange(LENGTH) >= 3, 0, -1)[None]},
        item_sequence={"image": torch.zeros(1, dtype=torch.int64)},
        media_positions={"image": positions},
    )


def attached(**words: object) -> tuple[MultimodalLM, PillConnector]:
    """A tiny Llama with PILL, all weights random."""
    llm = tiny_llm()
    connector = PillConnector(llm_dim=llm.dim, width=5, **words)  # type: ignore[arg-type]
    model = MultimodalLM(llm, {}, {"pill": connector}, {})
    randomise(connector)
    return model, connector


def g(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """W_up (SiLU(W_g x) * W_d x)."""
    gate = x @ w["gate.weight"].T
    return (gate * torch.sigmoid(gate) * (x @ w["down.weight"].T)) @ w["up.weight"].T


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("value_gate", [False, True])
@torch.no_grad()
def test_equals_the_papers_equations(value_gate: bool, shared: bool) -> None:
    model, connector = attached(value_gate=value_gate, shared=shared)
    torch.manual_seed(2)
    embeds = h = torch.randn(LENGTH, 32)
    media = torch.zeros(LENGTH, dtype=torch.bool)
    media[MEDIA] = True
    state, learned = model.llm.model.state_dict(), connector.state_dict()
    for index in range(4):
        attention = weights_of(learned, f"attention.{index}.")
        text = weights_of(learned, f"{'both' if shared else 'text'}.{index}.")
        visual = weights_of(learned, f"visual.{index}.") or text

        def values(a: Tensor, v: Tensor, index: int = index) -> Tensor:
            gate = torch.tanh(a @ learned[f"gates.{index}.weight.weight"].T)
            return torch.where(media[:, None, None], gate[:, :, None] * v, v)

        h = layer(
            h, weights_of(state, f"model.layers.{index}."),
            before_attention=lambda n, w=attention: n + g(n, w),
            values=values if value_gate else None,
            before_mlp=lambda n, t=text, v=visual: n + torch.where(media[:, None], g(n, v), g(n, t)),
        )  # fmt: skip
    expected = rms(h, state["model.norm.weight"])
    torch.testing.assert_close(model.llm(embeds, context()), expected, atol=1e-5, rtol=1e-5)
    everywhere_alike = shared and not value_gate
    assert torch.allclose(model.llm(embeds, context(slice(0, 0))), expected, atol=1e-2) == everywhere_alike


@torch.no_grad()
def test_one_shared_adapter_has_as_many_weights() -> None:
    counts = [sum(p.numel() for p in attached(shared=shared)[1].parameters()) for shared in (False, True)]
    # 3 x 3 x 32 x 5 in three blocks, one less in the last; gates 2 x 32 in four
    assert counts == [11 * 3 * 32 * 5 + 4 * 2 * 32] * 2


@torch.no_grad()
def test_a_zero_value_gate_changes_conversations_with_media_only() -> None:
    """Visual keys still take their share of the softmax; the class says so by ``zero_init``."""
    model = inside("pill")
    connector = model.connectors["inner"]
    assert not connector.zero_init
    assert PillConnector(llm_dim=32, value_gate=False).zero_init
    start = per_row(model, batch_of(model, ROWS))
    model.handles["inner"].remove()  # type: ignore[union-attr]
    for row, with_pill, bare in zip(ROWS, start, per_row(model, batch_of(model, ROWS)), strict=True):
        assert torch.equal(with_pill, bare) == ("image" not in row.pieces)


@torch.no_grad()
def test_each_adapter_sees_its_modality_only() -> None:
    """Visual adapters and gates do nothing in a text-only batch; text adapters do."""
    model = inside("pill")
    connector = model.connectors["inner"]
    randomise(connector)
    batch = batch_of(model, (ROWS[1],))
    before = logits(model, batch)
    randomise(connector.visual, seed=8)  # type: ignore[arg-type]
    randomise(connector.gates, seed=8)  # type: ignore[arg-type]
    assert torch.equal(logits(model, batch), before)
    randomise(connector.text, seed=8)  # type: ignore[arg-type]
    assert not torch.allclose(logits(model, batch), before, atol=1e-3)


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "llama"])
def test_a_picture_at_the_very_start_gives_ordinary_gradients(family: str) -> None:
    """Its first position is not gated, so no norm meets an attention output of exactly 0."""
    model = inside("pill", family)
    gates = model.connectors["inner"].gates.requires_grad_(True)  # type: ignore[union-attr]
    norms = []
    for row in (ROWS[3], ROWS[0]):
        model.zero_grad()
        model(batch_of(model, (row,)))[0].backward()
        norms.append(torch.stack([p.grad.norm() for p in gates.parameters() if p.grad is not None]).max())
    assert 0 < norms[0] < 5 * norms[1]


def test_bad_width_is_one_sentence() -> None:
    with pytest.raises(MmllmError, match="width 0 must be at least 1"):
        PillConnector(llm_dim=32, width=0)
