"""Serial and parallel adapters: whole blocks written from the papers' equations give the same, to 1e-5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.connectors.base import Connector
from mmllm.connectors.layers.bottleneck import Bottleneck
from mmllm.connectors.llm_adapters.parallel_adapter import ParallelAdapterConnector
from mmllm.connectors.llm_adapters.series_adapter import SeriesAdapterConnector
from mmllm.errors import MmllmError
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, batch_of
from tests.support.forward import logits
from tests.support.parts import randomise, tiny_llm, tiny_model

ROWS = (Row(1, (8,)), Row(2, (12,)))
Weights = dict[str, Tensor]


def assembled(made: type[Connector], family: str = "llama", **words: Any) -> MultimodalLM:
    """A tiny LLM with one adapter connector under the key ``adapter``, random weights."""
    llm = tiny_llm(family)
    model = MultimodalLM(llm, {}, {"adapter": made(llm_dim=llm.dim, **words)}, {}).eval()
    randomise(model.connectors["adapter"])
    return model


def bottleneck(x: Tensor, w: Weights, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """W_up act(W_down x + b_down) + b_up."""
    inner = activation(x @ w["down.weight"].T + w["down.bias"])
    return inner @ w["up.weight"].T + w["up.bias"]


def serial(y: Tensor, w: Weights | None) -> Tensor:
    """Houlsby: y + W_up gelu(W_down y); none: y."""
    return y if w is None else y + bottleneck(y, w, F.gelu)


def parallel(x: Tensor, w: Weights | None, scale: float) -> Tensor | float:
    """AdaptFormer: s W_up relu(W_down x); none: nothing."""
    return 0.0 if w is None else scale * bottleneck(x, w, F.relu)


def llama(block: Any, at: Callable[[str], Weights | None], scale: float) -> Callable[..., Tensor]:
    """h += serial(attn(norm h)); h += serial(mlp(norm h)) + parallel(norm h)."""

    def forward(hidden_states: Tensor, **words: Any) -> Tensor:
        h = hidden_states
        h = h + serial(block.self_attn(hidden_states=block.input_layernorm(h), **words)[0], at("attention"))
        x = block.post_attention_layernorm(h)
        return h + serial(block.mlp(x), at("mlp")) + parallel(x, at("beside"), scale)

    return forward


def olmo2(block: Any, at: Callable[[str], Weights | None], scale: float) -> Callable[..., Tensor]:
    """h += norm(serial(attn(h))); h += norm(serial(mlp(h)) + parallel(h)): it norms after its sub-layers."""

    def forward(hidden_states: Tensor, **words: Any) -> Tensor:
        h = hidden_states
        attended = serial(block.self_attn(hidden_states=h, **words)[0], at("attention"))
        h = h + block.post_attention_layernorm(attended)
        return h + block.post_feedforward_layernorm(serial(block.mlp(h), at("mlp")) + parallel(h, at("beside"), scale))

    return forward


def gpt2(block: Any, at: Callable[[str], Weights | None], scale: float) -> Callable[..., Tensor]:
    """As Llama, under other names."""

    def forward(hidden_states: Tensor, *args: Any, **words: Any) -> Tensor:
        h = hidden_states
        h = h + serial(block.attn(block.ln_1(h), attention_mask=args[1])[0], at("attention"))
        x = block.ln_2(h)
        return h + serial(block.mlp(x), at("mlp")) + parallel(x, at("beside"), scale)

    return forward


WRITTEN = {"llama": llama, "olmo2": olmo2, "gpt2": gpt2}
CASES: dict[str, tuple[type[Connector], dict[str, Any]]] = {
    "houlsby": (SeriesAdapterConnector, {"width": 5}),
    "pfeiffer": (SeriesAdapterConnector, {"width": 5, "style": "pfeiffer"}),
    "parallel": (ParallelAdapterConnector, {"width": 5, "scale": 0.3}),
    "parallel in two blocks": (ParallelAdapterConnector, {"width": 5, "scale": 0.3, "blocks": [3, 1]}),
}


@pytest.mark.parametrize("family", WRITTEN)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equals_blocks_written_from_the_papers(family: str, case: str) -> None:
    made, words = CASES[case]
    model = assembled(made, family, **words)
    layers = model.connectors["adapter"].layers
    used: set[str] = set()

    def weights(block: int) -> Callable[[str], Weights | None]:
        def at(place: str) -> Weights | None:
            if (place == "beside") != (made is ParallelAdapterConnector):
                return None
            key = f"{block}-{'mlp' if place == 'beside' else place}"
            used.add(key)
            return dict(layers[key].named_parameters()) if key in layers else None  # type: ignore[operator, index]

        return at

    batch = batch_of(model, ROWS)
    ours, theirs = logits(model, batch), tiny_model(family)
    blocks = next(m for m in theirs.modules() if isinstance(m, nn.ModuleList) and len(m) == 4)
    for number, block in enumerate(blocks):
        block.forward = WRITTEN[family](block, weights(number), 0.3)
    for start, end in ((0, 8), (8, 20)):
        expected = theirs(input_ids=batch.input_ids[None, start:end], use_cache=False).logits[0]
        torch.testing.assert_close(ours[start:end], expected, atol=1e-5, rtol=1e-5)
    assert set(layers) <= used  # type: ignore[arg-type]
    assert not torch.allclose(ours, logits(MultimodalLM(tiny_llm(family), {}, {}, {}), batch), atol=1e-2)


def test_exactly_one_factor_starts_at_zero() -> None:
    """Both at zero would be dead for ever: neither would get a gradient."""
    layer = Bottleneck(8, 3, "gelu", scale=0.1)
    assert not layer.up.weight.any() and not layer.up.bias.any()
    assert layer.down.weight.any()
    x = torch.randn(2, 5, 8)
    assert torch.equal(x + layer(x), x)
    (layer(x) * torch.randn(2, 5, 8)).sum().backward()
    assert layer.up.weight.grad is not None and layer.up.weight.grad.any()


def test_dropout_follows_the_connectors_mode_and_bfloat16_stays_outside() -> None:
    layer = Bottleneck(8, 16, "relu", dropout=0.5)
    randomise(layer)
    x = torch.randn(1, 4, 8)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("made", [SeriesAdapterConnector, ParallelAdapterConnector])
def test_frozen_zero_adapters_are_skipped_until_they_are_not(made: type[Connector]) -> None:
    llm = tiny_llm()
    model, calls = MultimodalLM(llm, {}, {"adapter": made(llm_dim=32)}, {}).eval(), []
    for layer in model.connectors["adapter"].layers.values():  # type: ignore[union-attr]
        layer.register_forward_hook(lambda *_: calls.append(1))
    batch = batch_of(model, ROWS)
    trainable.set_trainable(model, {})
    before = logits(model, batch)
    assert not calls
    learned = {name: torch.full_like(tensor, 0.1) for name, tensor in trainable.trainable_state(model).items()}
    trainable.load_trainable(model, learned)
    assert not torch.equal(logits(model, batch), before) and calls


@pytest.mark.parametrize(
    ("made", "words", "sentence"),
    [
        (SeriesAdapterConnector, {"style": "both"}, "style 'both' is unknown; known: houlsby, pfeiffer"),
        (SeriesAdapterConnector, {"width": 0}, "series_adapter: width 0 must be >= 1"),
        (ParallelAdapterConnector, {"dropout": 1.0}, r"parallel_adapter: .*dropout 1.0 in \[0, 1\)"),
        (ParallelAdapterConnector, {"activation": "tanh"}, "activation 'tanh' is unknown; known: relu, gelu, silu"),
        (ParallelAdapterConnector, {"blocks": [4]}, r"blocks \[4\] must be different numbers from 0 to 3"),
        (SeriesAdapterConnector, {"blocks": [1, 1]}, "must be different numbers"),
        (SeriesAdapterConnector, {"blocks": []}, "at least one"),
    ],
)
def test_bad_values(made: type[Connector], words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        assembled(made, **words)
