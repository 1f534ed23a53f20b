"""LoRA inside the LLM: equal to peft's own, removable bit for bit, owned by its connector alone."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mmllm.connectors.base import DeepFusion, LLMAdapter, Projector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.errors import MmllmError
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from tests.support.forward import text_logits
from tests.support.parts import FAMILIES, randomise, tiny_llm, tiny_model

IDS = torch.arange(3, 23)
POSITIONS = torch.cat([torch.arange(8), torch.arange(12)])
BOUNDS = torch.tensor([0, 8, 20], dtype=torch.int32)


def of_text(model: MultimodalLM) -> torch.Tensor:
    """float[20, V] of two packed conversations."""
    return text_logits(model.llm, IDS, POSITIONS, BOUNDS)


def with_lora(family: str = "llama", **words: object) -> MultimodalLM:
    """A tiny LLM with a LoRA connector under the key ``lora``."""
    llm = tiny_llm(family)
    return MultimodalLM(llm, {}, {"lora": LoraConnector(llm_dim=llm.dim, **words)}, {}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_untrained_and_removed_lora_leave_logits_bit_identical(family: str) -> None:
    """``b`` starts at zero; with weights the logits move; without the hooks they are those of the bare LLM."""
    bare = MultimodalLM(tiny_llm(family), {}, {}, {})
    model = with_lora(family)
    assert torch.equal(of_text(model), of_text(bare))
    randomise(model.connectors["lora"])
    assert not torch.allclose(of_text(model), of_text(bare), atol=1e-2)
    handle = model.handles["lora"]
    assert handle is not None
    handle.remove()
    assert torch.equal(of_text(model), of_text(bare))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("rslora", [False, True])
@torch.no_grad()
def test_equal_to_pefts_own_model(family: str, rslora: bool) -> None:
    """With the same weights, ``get_peft_model`` gives the same logits."""
    model = with_lora(family, rank=4, alpha=6, rslora=rslora)
    randomise(model.connectors["lora"])
    targets = sorted({name.rsplit(".", 1)[1] for name in model.llm.linears()})
    config = LoraConfig(
        r=4, lora_alpha=6, use_rslora=rslora, target_modules=targets, fan_in_fan_out=family == "gpt2",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = get_peft_model(tiny_model(family), config).eval()
    weights = dict(model.connectors["lora"].named_parameters())
    used = set()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            layer, _, which = name.removeprefix("base_model.model.").partition(".lora_")
            key = f"layers.{layer.replace('.', '-')}.{which[0].lower()}.weight"
            parameter.copy_(weights[key])
            used.add(key)
    assert used == set(weights)
    for start, end in ((0, 8), (8, 20)):
        expected = theirs(input_ids=IDS[None, start:end], attention_mask=torch.ones(1, end - start)).logits[0]
        torch.testing.assert_close(of_text(model)[start:end], expected, atol=1e-5, rtol=1e-5)


def test_learned_tensors_belong_to_the_connector_alone() -> None:
    """Names, counts, digests and the optimizer's view: the LLM's own tree does not know of LoRA."""
    bare, model = MultimodalLM(tiny_llm(), {}, {}, {}), with_lora()
    rows = {row.name: row for row in trainable.set_trainable(model, {"connectors.lora": 1e-3})}
    assert rows["llm"].n_trainable == 0
    assert rows["llm"].n_params == sum(parameter.numel() for parameter in bare.llm.parameters())
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("connectors.lora.layers.") for name in learning)
    assert rows["connectors.lora"].n_trainable == sum(p.numel() for p in learning.values()) > 0
    assert set(trainable.trainable_state(model)) == set(learning)
    before = trainable.frozen_digests(model)
    randomise(model.connectors["lora"])
    assert trainable.frozen_digests(model) == before == trainable.frozen_digests(bare)
    assert list(bare.llm.state_dict()) == list(model.llm.state_dict())


def test_gradients_reach_every_weight_also_when_blocks_are_recomputed() -> None:
    """Equal gradients with and without gradient checkpointing, dropout included, none in the LLM."""
    gradients = []
    for recompute in (False, True):
        model = with_lora(dropout=0.2)
        randomise(model.connectors["lora"])
        trainable.set_trainable(model, {"connectors.lora": 1e-3})
        model.train()
        model.llm.gradient_checkpointing(recompute)
        torch.manual_seed(5)
        of_text(model).square().mean().backward()
        assert all(p.grad is None for p in model.llm.parameters())
        gradients.append({name: p.grad for name, p in model.connectors.named_parameters()})
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-5)


def test_dropout_follows_the_connectors_mode() -> None:
    """``train()`` makes LoRA's dropout active and leaves the LLM's off; ``eval()`` ends it."""
    model = with_lora(dropout=0.5)
    randomise(model.connectors["lora"])
    model.train()
    assert not torch.equal(of_text(model), of_text(model))
    assert not model.llm.model.training
    model.eval()
    assert torch.equal(of_text(model), of_text(model))


def test_targets_and_errors() -> None:
    """A list of names picks layers; unknown ones and impossible numbers are errors."""
    model = with_lora(targets=["q_proj", "v_proj"], rank=3)
    assert len(trainable.trainable_state(model)) == 2 * 2 * 4
    with pytest.raises(MmllmError, match="no linear layer of this LLM is called 'wq'"):
        with_lora(targets=["wq"])
    with pytest.raises(MmllmError, match="rank 0 must be >= 1"):
        with_lora(rank=0)


def test_takes_no_places_and_no_features() -> None:
    """It works inside the LLM."""
    connector = LoraConnector(llm_dim=8)
    assert isinstance(connector, LLMAdapter) and not isinstance(connector, Projector | DeepFusion)
    assert with_lora().inputs == {}


class Narrow(LoraConnector):
    """As a plugin would have it: an ``__init__`` of its own."""

    def __init__(self, *, llm_dim: int, layers: str = "q_proj") -> None:
        super().__init__(llm_dim=llm_dim, rank=2, alpha=4, targets=[layers])


@torch.no_grad()
def test_a_subclass_with_arguments_of_its_own() -> None:
    """It is told its key and its ``when`` after it was made, so it need not hand them on."""
    llm = tiny_llm()
    narrow = Narrow(llm_dim=llm.dim).bind("narrow", when=("image",))
    model = MultimodalLM(llm, {}, {"narrow": narrow}, {}).eval()
    assert (narrow.key, narrow.when) == ("narrow", ("image",))
    assert len(trainable.trainable_state(model)) == 2 * 4
    narrow.bind("narrow")
    before = of_text(model)
    randomise(narrow)
    assert not torch.allclose(of_text(model), before, atol=1e-3)


def test_frozen_zero_updates_are_skipped_until_they_are_not() -> None:
    """A stage that does not train LoRA yet does not pay for it; loading weights or training ends the rest."""
    model, calls = with_lora(), []
    for layer in model.connectors["lora"].layers.values():  # type: ignore[union-attr]
        layer.register_forward_hook(lambda *_: calls.append(1))
    trainable.set_trainable(model, {})
    before = of_text(model)
    assert not calls
    learned = {name: torch.full_like(tensor, 0.1) for name, tensor in trainable.trainable_state(model).items()}
    trainable.load_trainable(model, learned)
    assert not torch.equal(of_text(model), before)
    trainable.set_trainable(model, {})
    assert not torch.equal(of_text(model), before)
    fresh, calls = with_lora(), calls.clear() or calls
    trainable.set_trainable(fresh, {"connectors.lora": 1.0})
    assert torch.equal(of_text(fresh), before) and of_text(fresh).requires_grad
