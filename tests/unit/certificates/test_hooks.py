"""Hooks are run without numbers: whatever they could do to a text is seen, also what no sample would show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmllm import hooks
from mmllm.certificates.attached import hooks_of
from mmllm.certificates.changes import Change
from mmllm.certificates.passes import watched
from mmllm.connectors.base import LLMAdapter
from mmllm.hooks import ForwardContext, Handle
from mmllm.testing.tiny import deep_fusion, llm_adapters
from mmllm.testing.tiny.models import with_adapter, with_fusion
from tests.unit.certificates.conftest import Pair


class Planted(LLMAdapter):
    """A connector for pictures that does what it is told."""

    goes_on = positionwise = True

    def __init__(self, attach: Callable[[Any, Planted], Handle]) -> None:
        super().__init__(llm_dim=32)
        self.how = attach

    def attach(self, llm: Any) -> Handle:
        return self.how(llm, self)


def behind(change: Callable[..., Tensor]) -> Callable[[Any, Planted], Handle]:
    """Attaches behind block 0: ``change(connector, ctx, x, y)``."""
    return lambda llm, connector: llm.after_block(0, partial(change, connector))


def by_ids(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    ids = ctx.input_ids if y.dim() == 3 else ctx.input_ids.flatten()
    return torch.where((ids == 17)[..., None], y * 2, y)


def by_branch(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    return y * 2 if 17 in ctx.input_ids.flatten().tolist() else y


def by_size(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x.abs().amax(-1, keepdim=True) > 1e30, y * 2, y)


def in_place(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    x.mul_(2)
    return y


def in_place_of_a_view(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    y[:, -1:].mul_(2)
    return y


def when_decoding(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    return y * 2 if ctx.cu_seqlens is None and y.shape[1] == 1 else connector.select(ctx, y * 2, y)


def everywhere_beside_media(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    return y * 2 if any(bool(one.any()) for one in ctx.has_media.values()) else y


def shifted(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    return connector.select(ctx, y, y.roll(1, dims=1))


def keeps_numbers(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    torch.zeros(y.shape).copy_(y)
    return y


def selecting(connector: Planted, ctx: ForwardContext, x: Tensor, y: Tensor) -> Tensor:
    wide = torch.cat([y, y * 2], dim=-1).double()
    return connector.select(ctx, wide[..., y.shape[-1] :].to(y.dtype), wide[..., : y.shape[-1]].to(y.dtype))


def doubled(connector: Planted, ctx: ForwardContext, *values: Tensor) -> Tensor:
    return values[-1] * 2


def doubled_attention(connector: Planted, ctx: ForwardContext, query: Tensor, y: Tensor, scale: float) -> Tensor:
    return y * 2


LEAKS: dict[str, tuple[str, Callable[[Any, Planted], Handle]]] = {
    "at_some_ids": ("changed", behind(by_ids)),
    "in_texts_with_some_id": ("not shown", behind(by_branch)),
    "at_numbers_no_sample_has": ("changed", behind(by_size)),
    "into_its_input": ("changed", behind(in_place)),
    "into_a_part_of_its_output": ("changed", behind(in_place_of_a_view)),
    "while_decoding": ("changed", behind(when_decoding)),
    "beside_media_only": ("changed", behind(everywhere_beside_media)),
    "by_moving_positions": ("changed", behind(shifted)),
    "into_what_is_kept": ("not shown", behind(keeps_numbers)),
    "into_logits": ("changed", lambda llm, one: llm.after_logits(partial(doubled, one))),
    "at_the_head": ("changed", lambda llm, one: llm.after_head(partial(doubled, one))),
    "into_an_attention": ("changed", lambda llm, one: llm.extend_attention(0, partial(doubled_attention, one))),
    "before_a_layer": (
        "changed",
        lambda llm, one: llm.before_linear("model.layers.0.mlp.up_proj", partial(doubled, one)),
    ),
    "at_the_embeddings": ("changed", lambda llm, one: llm.after_embed(partial(doubled, one))),
    "behind_the_last_norm": ("changed", lambda llm, one: llm.after_final_norm(partial(doubled, one))),
    "around_the_mlp": ("changed", lambda llm, one: llm.after_mlp(0, partial(doubled, one))),
}
HARMLESS = "chooses_and_moves"


@pytest.fixture(scope="module")
def found(pair: Pair) -> dict[str, Change]:
    """Connector -> what is found, all planted at once: each hook is held to what it was given itself."""
    ways = {key: attach for key, (_, attach) in LEAKS.items()} | {HARMLESS: behind(selecting)}
    handles = []
    for key, attach in ways.items():
        connector = Planted(attach).bind(key, ("image",))
        handles.append(connector.attach(pair.model.llm))
        pair.model.connectors[key] = connector
    seen = pair.hooks()
    Handle.of(handles).remove()
    for key in ways:
        del pair.model.connectors[key]
    return {one.part.removeprefix("connectors."): one for one in seen}


def test_a_lora_for_pictures_changes_no_text(pair: Pair) -> None:
    watch = watched(pair.model, 0)
    assert not watch.changes and not watch.failed and set(watch.seen) == {one.place for one in hooks_of(pair.model)}
    assert len(watch.seen) == 2, "one for each q_proj"


def test_a_lora_without_when_is_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.model.connectors["lora"], "when", None)
    (found,) = pair.hooks()
    assert found.part == "connectors.lora" and found.verdict == "changed"
    assert found.what.startswith("2 of its 2 hooks, the first model.layers.0.self_attn.q_proj: forward hook 0 (mmllm.")
    assert found.why == "LoraConnector works in every conversation"


@pytest.mark.parametrize("leak", LEAKS)
def test_whatever_a_connector_does_to_texts_is_seen(leak: str, found: dict[str, Change]) -> None:
    assert found[leak].verdict == LEAKS[leak][0] and "hooks, the first " in found[leak].what, found[leak]


def test_nothing_else_is_found(found: dict[str, Change]) -> None:
    assert found.keys() == LEAKS.keys(), "moving and choosing positions is no change, nor is a LoRA for pictures"


def test_a_hook_of_nobody_is_named_whatever_it_does(pair: Pair) -> None:
    layer = pair.llm.model.layers[1]
    torch_hook = layer.register_forward_hook(lambda module, args, output: None)
    ours = hooks.after(layer, lambda ctx, x, y: y, pair.model.llm.scope)
    found = pair.hooks()
    torch_hook.remove()
    ours.remove()
    assert [one.part for one in found] == [f"llm: model.layers.1: forward hook {number}" for number in (0, 1)]
    assert all("of no connector" in one.what and "test_hooks" in one.what for one in found)


@pytest.mark.parametrize("name", ["inner_adaptor", "graph_adapter"])
def test_connectors_are_followed(name: str) -> None:
    if name in llm_adapters.TINY:
        model = with_adapter(llm_adapters.TINY[name], when=("image",))
    else:
        model = with_fusion(deep_fusion.TINY[name])
    with torch.no_grad():
        for parameter in model.connectors.parameters():
            parameter.add_(0.1)
    watch = watched(model, 0)
    assert watch.seen and not watch.changes and not watch.failed, watch.changes
