"""A frozen LLM in 8 or 4 bits: near the plain one, gradients through it, digests of its own, and clear refusals."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from mmllm.checkpoints.load import load_run
from mmllm.errors import MmllmError, RecipeError
from mmllm.llms.causal_lm import CausalLM
from mmllm.llms.int8_linear import Int8Linear
from mmllm.llms.quantisation import is_quantised, loading_words
from mmllm.model.build import build
from mmllm.model.trainable import frozen_digests, set_trainable
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe
from mmllm.testing.tiny.llms import tiny_llm_folder
from mmllm.types import Batch
from tests.support.training import tiny_recipe, train_here

pytest.importorskip("bitsandbytes")
NEAR = {"int8_weight_only": 0.005, "int8": 0.02, "nf4": 0.1}
"""Largest difference of the loss from the plain one's, as a share of it: tiny random weights, so a rough bound."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("quantised"))


def _recipe(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides)


def _batch(recipe: Recipe) -> Batch:
    from mmllm.model.model import MultimodalLM
    from mmllm.planning.workload import fullest, workload

    model: MultimodalLM = build(recipe, "cpu")
    return fullest(workload(recipe, "align", model), recipe.stages["align"], 1, 1, model)


@pytest.mark.parametrize("word", NEAR)
def test_new_tokens_learn_beside_it(recipe: Path, word: str) -> None:
    batch = _batch(_recipe(recipe))
    model = build(_recipe(recipe, f"llm.quantize={word}", "llm.tokens=[<a>, <b>]"), "cpu")
    set_trainable(model, {"llm.tokens": 1e-3})
    assert model.llm.tokens is not None
    batch.input_ids[3:9] = model.llm.tokens.first
    model.train()(batch)[0].backward()
    rows = [rows.weight.grad for rows in (model.llm.tokens.embed, model.llm.tokens.head)]
    assert all(grad is not None and grad[0].any() and torch.isfinite(grad).all() for grad in rows)
    assert all(p.grad is None for p in model.llm.model.parameters())


def test_losses_are_near_gradients_reach_what_learns_and_digests_differ(recipe: Path) -> None:
    batch = _batch(_recipe(recipe))
    losses, digests, sizes = {}, {}, {}
    for word in ("null", *NEAR):
        model = build(_recipe(recipe, f"llm.quantize={word}"), "cpu")
        digests[word] = frozen_digests(model, ["llm"])["llm"]
        set_trainable(model, {"connectors.image": 1e-3, "connectors.lora": 1e-3})
        loss = model.train()(batch)[0]
        loss.backward()
        losses[word] = float(loss.detach())
        sizes[word] = sum(p.numel() * p.element_size() for p in model.llm.parameters())
        assert is_quantised(model.llm) == (word != "null")
        learned = dict(model.connectors.named_parameters())
        # LoRA's first matrices have no gradient while the second are zero
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learned.values())
        assert any(p.grad.any() for name, p in learned.items() if name.startswith("lora") and p.grad is not None)
        assert any(p.grad.any() for name, p in learned.items() if name.startswith("image") and p.grad is not None)
        assert all(p.grad is None for p in model.llm.model.parameters())
        # the passes leave the frozen weights as they were
        assert frozen_digests(model, ["llm"])["llm"] == digests[word]
    # the same bytes of weights are not the same model: a run of one does not open as the other
    assert len(set(digests.values())) == 4
    assert sizes["nf4"] < sizes["int8"] == sizes["int8_weight_only"] < sizes["null"]
    for word, bound in NEAR.items():
        assert losses[word] == pytest.approx(losses["null"], rel=bound)
        assert losses[word] != losses["null"]


@pytest.mark.parametrize("word", NEAR)
def test_a_pass_without_gradients_changes_nothing_of_later_ones(word: str, tmp_path: Path) -> None:
    """Layers as wide as real ones: on some CPUs bitsandbytes packs those otherwise, see ``computes_as_loaded``."""
    folder = tiny_llm_folder(tmp_path, "llama", hidden_size=64, intermediate_size=128)
    llm = CausalLM.load(str(folder), "float32", quantize=word)
    layer = llm.blocks[0].mlp.gate_proj  # type: ignore[union-attr]
    found = []
    for _ in range(2):
        x = torch.linspace(-1, 1, 5 * 64).reshape(5, 64).requires_grad_()
        y = layer(x)  # type: ignore[operator]
        y.square().sum().backward()
        assert x.grad is not None
        found.append((y.detach(), x.grad, layer.weight.detach().clone()))  # type: ignore[union-attr]
        with torch.no_grad():
            assert torch.equal(layer(x), y)  # type: ignore[operator]
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_weights_alone_are_rounded(dtype: str, near: float, tmp_path: Path) -> None:
    """The layer is a plain one with the rounded weights, forward and backward, and keeps no plain copy of them."""
    folder = tiny_llm_folder(tmp_path, "qwen2", hidden_size=64, intermediate_size=128)  # its queries have biases
    plain = CausalLM.load(str(folder), dtype).blocks[0].self_attn.q_proj  # type: ignore[union-attr]
    llm = CausalLM.load(str(folder), dtype, quantize="int8_weight_only")
    layer = llm.blocks[0].self_attn.q_proj  # type: ignore[union-attr]
    assert isinstance(layer, Int8Linear) and isinstance(plain, torch.nn.Linear) and plain.bias is not None
    assert layer.weight.dtype == torch.int8 and layer.bias is not None and torch.equal(layer.bias, plain.bias)
    exact, rounded = plain.weight.double(), layer.weight.double() * layer.scale.double()[:, None]
    # half a step, and what bitsandbytes loses before: it rounds float16
    assert ((rounded - exact).abs() <= 0.51 * layer.scale[:, None] + 1e-3 * exact.abs()).all()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x = (100 * torch.linspace(-1, 1, 2 * 5 * 64).reshape(2, 5, 64)).to(plain.weight.dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x)
    assert {one.dtype for one in kept if one.dim() == 2} == {torch.int8}
    y.backward(torch.ones_like(y))
    assert y.dtype == x.dtype and x.grad is not None
    wanted = x.detach().double() @ rounded.T + plain.bias.double()
    assert (y.double() - wanted).abs().max() <= near * wanted.abs().max()
    slope = rounded.sum(dim=0).expand(2, 5, 64)
    assert (x.grad.double() - slope).abs().max() <= near * slope.abs().max()
    scale = layer.scale.clone()
    assert torch.equal(layer.to(torch.bfloat16).scale, scale), "a cast model keeps its scales"


@pytest.mark.parametrize("word", NEAR)
def test_it_loads_in_16_bits(word: str, tmp_path: Path) -> None:
    """As on GPUs: packed and padded passes differ by what 16 bits round, which is no reason to refuse a model."""
    folder = tiny_llm_folder(tmp_path, "llama", hidden_size=64, intermediate_size=128)
    assert CausalLM.load(str(folder), "bfloat16", quantize=word).dtype == torch.bfloat16


def test_a_run_is_not_cast(recipe: Path, tmp_path: Path) -> None:
    one_step = ["llm.quantize=nf4", "llm.dtype=float32", "stages.align.steps=1", "stages.instruct.steps=1"]
    train_here(recipe, tmp_path / "run", one_step)
    assert is_quantised(load_run(tmp_path / "run")[1].llm)
    with pytest.raises(RecipeError, match=r"llm\.quantize"):
        load_run(tmp_path / "run", overrides=["llm.quantize=int8_weight_only"])
    with pytest.raises(RecipeError, match=r"llm\.dtype was float32 in training, is bfloat16; .* leave llm\.dtype"):
        load_run(tmp_path / "run", overrides=["llm.dtype=bfloat16"])


def test_what_cannot_be_is_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"stages\.align\.train\.llm: a quantised LLM cannot learn"):
        _recipe(recipe, "llm.quantize=nf4", "stages.align.train={llm: 1.0e-3}")
    with pytest.raises(RecipeError, match=r"stages\.align\.zero: found 3, which cannot split"):
        _recipe(recipe, "llm.quantize=nf4", "stages.align.zero=3")
    copied = ("connectors.inner={type: inner_adaptor, after: [0]}", "llm.quantize=int8")
    with pytest.raises(MmllmError, match="those of a quantised LLM cannot learn"):
        build(_recipe(recipe, *copied), "cpu")
    with pytest.raises(MmllmError, match="on GPUs of CUDA and on CPUs, not on meta"):
        loading_words("nf4", torch.float32, "meta")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MmllmError, match=r'pip install "mmllm\[quantize\]"'):
        loading_words("nf4", torch.float32, "cpu")
