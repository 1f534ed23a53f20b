"""The model: what it splices, what its loss is, which errors it gives, which parts learn, how it is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmllm.connectors.base import Connector
from mmllm.errors import CheckpointError, MediaError, MmllmError, RecipeError, SampleError
from mmllm.hooks import ForwardContext
from mmllm.model import trainable
from mmllm.model.build import build
from mmllm.model.loss import _softmax_gradient, label_nll
from mmllm.model.model import MultimodalLM
from mmllm.recipe.load import parse
from mmllm.recipe.models import Recipe
from mmllm.types import IGNORE_INDEX
from tests.support.adapted import variant
from tests.support.assemblies import Row, batch_of, tiny_assembly, tiny_encoder
from tests.support.parts import tiny_clip_folder, tiny_llm, tiny_llm_folder
from tests.support.serving import tiny_generator

MIXED = (Row(1, (4, "image", 3, "page", 5)), Row(2, (9,)), Row(3, ("image", "image", 6)), Row(4, (2, "page", 4)))
TEXT = (Row(5, (8,)), Row(6, (12,)))


def recipe_of(tmp: Path, connectors: str = "", **stages: str) -> Recipe:
    """A recipe over tiny folders; ``stages`` give the ``train:`` of each stage."""
    trained = {"align": "{connectors.image: 1.0e-3}", **stages}
    text = f"""
name: tiny
seed: 3
llm: {{path: {tiny_llm_folder(tmp)}, dtype: float32, context: 128}}
encoders:
  image: {{type: hf_vision, model: {tiny_clip_folder(tmp)}, layers: [-2, -1]}}
connectors:
  image: {{type: mlp, from: image}}
{connectors}
data:
  some: {{type: chat_jsonl, path: some.jsonl}}
stages:
"""
    for name, train in trained.items():
        text += f"  {name}: {{train: {train}, data: {{some: 1.0}}, epochs: 1, batch: 4}}\n"
    return parse(text)


@torch.no_grad()
def test_loss_is_the_sum_over_label_positions() -> None:
    """Taken by hand from the full logits of each conversation, shifted by one."""
    model = tiny_assembly()
    batch = batch_of(model, MIXED)
    logits = model.logits(batch)
    by_hand = torch.zeros(())
    for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        by_hand += F.cross_entropy(
            logits[start : end - 1], batch.labels[start + 1 : end], ignore_index=IGNORE_INDEX, reduction="sum"
        )
    nll, extra, _ = model(batch)
    torch.testing.assert_close(nll, by_hand)
    assert nll.dtype == torch.float32 and extra == 0


def test_the_head_runs_at_label_positions_only_and_chunks_change_nothing() -> None:
    """Rows through the LM head equal the labels; chunked sums and gradients equal those of one piece."""
    model = tiny_assembly("gemma2")
    batch = batch_of(model, MIXED)
    ctx, states = model.hidden(batch)
    hidden = states.requires_grad_()
    rows: list[int] = []
    head = model.llm.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, out: rows.append(out.shape[-2]))
    whole = label_nll(model.llm, hidden, batch.labels, ctx)
    assert rows == [batch.n_labels] == [12]
    rows.clear()
    pieces = label_nll(model.llm, hidden, batch.labels, ctx, chunk=5)
    assert rows == [5, 5, 2]
    handle.remove()
    torch.testing.assert_close(pieces, whole)
    gradients = [torch.autograd.grad(loss, hidden)[0] for loss in (whole, pieces)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_loss_of_a_sure_answer_keeps_its_digits() -> None:
    """Logits far from 0: the difference of two large numbers would leave three of them."""
    logits = torch.zeros(2, 40, dtype=torch.float64)
    logits[:, 7], logits[0, 3] = 33.3, 22.9
    targets = torch.tensor([7, 7])
    expected = F.cross_entropy(logits, targets, reduction="sum")
    nll, gradient = _softmax_gradient(logits.float(), targets)
    torch.testing.assert_close(nll.double(), expected, rtol=2e-3, atol=0)
    probabilities = logits.softmax(-1)
    probabilities[:, 7] -= 1
    torch.testing.assert_close(gradient.double(), probabilities, rtol=1e-3, atol=1e-7)


@torch.no_grad()
def test_media_land_at_their_places_in_order() -> None:
    """Each place holds its item's token; text positions hold the text's embeddings."""
    model = tiny_assembly()
    batch = batch_of(model, MIXED)
    ctx, embeds = model.embed(batch)
    for key in ("image", "page"):
        flat, counts = model.project(key, batch.media[key], ctx)
        tokens = flat.unflatten(0, (len(counts), -1))
        places = batch.media_positions[key]
        at_places = [embeds[places][batch.media_ids[places] == n] for n in range(len(tokens))]
        assert torch.equal(torch.stack(at_places), tokens)
    text = batch.media_ids < 0
    assert torch.equal(embeds[text], model.llm.embed(batch.input_ids[text], ctx))
    alone = model.embed(batch_of(model, MIXED[2:3]))[1]
    start, end = batch.cu_seqlens[2:4].tolist()
    torch.testing.assert_close(embeds[start:end], alone)


@pytest.mark.parametrize("wrong", ["too few places", "too many places", "wrong owner", "no media", "unknown key"])
def test_counts_are_compared_first_and_the_sample_is_named(wrong: str) -> None:
    """A mismatch is a SampleError that names the sample; nothing is filled."""
    model = tiny_assembly()
    batch = batch_of(model, MIXED)
    places = batch.media_positions["image"]
    if wrong == "too few places":
        batch = replace(batch, media_positions={**batch.media_positions, "image": places[:-1]})
        sentence = "row 3: item 2 of 'image' in this batch has 3 places in the text but its connector gives 4 tokens"
    elif wrong == "too many places":
        batch.media_ids[places[-1] + 1] = 2
        batch = replace(batch, media_positions={**batch.media_positions, "image": torch.cat([places, places[-1:] + 1])})
        sentence = "row 3: item 2 of 'image' in this batch has 5 places"
    elif wrong == "wrong owner":
        batch.media_ids[places[3]] = 1
        sentence = "row 1: item 0 of 'image' in this batch has 3 places"
    elif wrong == "no media":
        batch = replace(batch, media={"page": batch.media["page"]})
        sentence = "row 1, row 2, row 3, row 4: <image> has places in the text but no media"
    else:
        batch = replace(batch, media={**batch.media, "sound": {}})
        sentence = "media of 'sound', but the placeholders are image, page"
    with pytest.raises(SampleError, match=sentence):
        model(batch)


def test_frozen_encoders_build_no_graph_and_connectors_see_features_only() -> None:
    """What a connector gets is ``Features`` that no gradient goes through, unless the stage trains the encoder."""
    model = tiny_assembly()
    seen = []
    model.connectors["page"].register_forward_pre_hook(lambda module, args: seen.append(args))
    batch = batch_of(model, MIXED)
    for train, expected in (({"connectors.page": 1.0}, False), ({"encoders.page": 1.0}, True)):
        trainable.set_trainable(model, train)
        model(batch)[0].backward()
        (features,) = seen.pop()
        assert features.grid == (4, 4) and features.concatenated().requires_grad is expected
    gradients = [parameter.grad for parameter in model.encoders["page"].parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert not model.encoders["page"].training


@torch.no_grad()
def test_bfloat16_parts_meet_float32_connectors() -> None:
    """Frozen parts in bfloat16, connectors in float32: dtypes are cast where parts meet, the loss is float32."""
    model = tiny_assembly()
    batch = batch_of(model, MIXED)
    exact = model(batch)[0]
    model.llm.to(torch.bfloat16)
    model.encoders.to(torch.bfloat16)
    nll = model(batch)[0]
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, exact, rtol=0.05, atol=0.5)


def test_train_mode_reaches_connectors_only() -> None:
    """Encoders and the LLM stay in eval mode; LoRA's layers and projectors follow."""
    model = tiny_assembly(dropout=0.5).train()
    assert not any(m.training for part in (model.llm, model.encoders["image"]) for m in part.modules())
    assert all(module.training for module in model.connectors.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_extra_losses_are_added_up() -> None:
    """What connectors report beside the likelihood comes back separately."""

    class Balanced(Connector):
        def __init__(self) -> None:
            super().__init__(llm_dim=2)
            self.weight = nn.Parameter(torch.ones(2))

        def extra_loss(self, ctx: ForwardContext) -> torch.Tensor:
            return self.weight.sum() * 0 + 2.5

    model = tiny_assembly()
    model.connectors["one"], model.connectors["two"] = Balanced(), Balanced()
    assert model(batch_of(model, TEXT))[1] == 5.0


def test_set_trainable_freezes_all_else() -> None:
    """Rows say what learns; gradients of what no longer learns are dropped."""
    model = tiny_assembly()
    rows = {row.name: row for row in trainable.set_trainable(model, {"connectors.image": 0.1, "connectors.lora": 0.2})}
    assert list(rows) == [
        "encoders.image",
        "encoders.page",
        "connectors.image",
        "connectors.page",
        "connectors.lora",
        "llm",
    ]
    assert rows["connectors.image"].n_trainable == rows["connectors.image"].n_params > 0
    assert rows["connectors.lora"].lr == 0.2 and rows["llm"].lr is None and rows["llm"].modules == "LlamaForCausalLM"
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in learning} == {"image", "lora"}
    assert sum(p.numel() for p in model.parameters()) == sum(row.n_params for row in rows.values())
    model(batch_of(model, MIXED))[0].backward()
    trainable.set_trainable(model, {"llm": 1e-5})
    assert all(p.grad is None and not p.requires_grad for p in model.connectors.parameters())
    assert all(parameter.requires_grad for parameter in model.llm.parameters())


@pytest.mark.parametrize("name", ["connectors.imag", "connector.image", "llms", "encoders"])
def test_a_trained_name_that_matches_nothing_is_an_error(name: str) -> None:
    """The sentence lists the parts."""
    with pytest.raises(RecipeError, match=rf"train: '{name}' is no part of this model; its parts are encoders\.image"):
        trainable.set_trainable(tiny_assembly(), {name: 1e-3})


def test_learned_tensors_load_strictly() -> None:
    """Exactly the learned names and shapes; a round trip restores the values."""
    source, target = tiny_assembly(), tiny_assembly()
    state = {name: tensor + 1 for name, tensor in trainable.trainable_state(source).items()}
    trainable.load_trainable(target, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable.trainable_state(target).items())
    name = "connectors.image.project.0.weight" if "connectors.image.project.0.weight" in state else next(iter(state))
    with pytest.raises(CheckpointError, match=f"lacks 1 learned tensors, the first is {name}"):
        trainable.load_trainable(target, {key: value for key, value in state.items() if key != name})
    with pytest.raises(CheckpointError, match=r"has not, 1 learned tensors, the first is llm\.x"):
        trainable.load_trainable(target, {**state, "llm.x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"{name} is \(1, 1\) in the checkpoint"):
        trainable.load_trainable(target, {**state, name: torch.zeros(1, 1)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_digests_see_every_bit_of_frozen_parts_and_nothing_else(dtype: torch.dtype) -> None:
    """One changed element changes its part's digest; learned tensors do not matter."""
    model = tiny_assembly().to(dtype)
    before = trainable.frozen_digests(model)
    assert set(before) == {"encoders.image", "encoders.page", "llm"}
    with torch.no_grad():
        for parameter in model.connectors.parameters():
            parameter.add_(1)
        assert trainable.frozen_digests(model) == before
        weight = model.llm.model.get_output_embeddings().weight
        weight[-1, -1] = torch.nextafter(weight[-1, -1], torch.tensor(10.0, dtype=dtype))
    after = trainable.frozen_digests(model)
    assert after["llm"] != before["llm"]
    assert after["encoders.image"] == before["encoders.image"]


def test_build_makes_what_the_recipe_says(tmp_path: Path) -> None:
    """Two layers side by side, the LoRA attached, nothing trainable, the same connectors from the same seed."""
    lora = "  lora: {type: lora, rank: 2, targets: [q_proj]}"
    recipe = recipe_of(tmp_path, lora, instruct="{connectors.image: 1.0e-4, connectors.lora: 1.0e-4}")
    one, two = build(recipe, "cpu"), build(recipe, "cpu")
    assert isinstance(one, MultimodalLM) and one.recipe is recipe and one.llm.context == 128
    assert not any(parameter.requires_grad for parameter in one.parameters())
    for name, tensor in trainable.trainable_state(one).items():
        assert torch.equal(tensor, trainable.trainable_state(two)[name])
    assert one.connectors["image"].dim == 64
    entry = one.inputs["image"]
    (span,) = entry.layout({"image": entry.processors["image"].blank()})
    assert span.grid == (4, 4) and span.length == entry.n_tokens() == 16
    without = build(recipe_of(tmp_path), "cpu")
    for name, tensor in trainable.trainable_state(without).items():
        assert torch.equal(tensor, trainable.trainable_state(one)[name])


def test_what_a_stage_trains_is_learned_and_not_frozen(tmp_path: Path) -> None:
    """An encoder that some stage trains goes into checkpoints, and out of the digests."""
    model = build(recipe_of(tmp_path, full="{encoders.image: 1.0e-5}"), "cpu")
    assert trainable.learned_parts(model) == ["connectors.image", "encoders.image"]
    assert set(trainable.frozen_digests(model)) == {"llm"}
    assert any(name.startswith("encoders.image.") for name in trainable.trainable_state(model))
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    assert set(trainable.trainable_state(model)) <= set(tensors)


def test_build_errors_are_sentences(tmp_path: Path) -> None:
    """A connector that refuses its arguments or an LLM that is not there."""
    recipe = recipe_of(tmp_path)
    wrong = recipe.model_copy(update={"llm": recipe.llm.model_copy(update={"path": str(tmp_path / "none")})})
    with pytest.raises(MmllmError, match="cannot be loaded"):
        build(wrong, "cpu")
    part = recipe.connectors["image"].model_copy(update={"args": {"deepth": 2}})
    with pytest.raises(RecipeError, match=r"connectors\.image: MlpConnector cannot be made from .*deepth"):
        build(recipe.model_copy(update={"connectors": {"image": part}}), "cpu")


def test_parts_put_together_wrongly_are_named() -> None:
    """In Python no recipe's checks stand before the model."""
    encoder, llm = tiny_encoder(), tiny_llm("llama")
    with pytest.raises(RecipeError, match=r"connectors.image: .* takes no features, and `from` gives it those"):
        MultimodalLM(llm, {"image": encoder}, {"image": variant("conformer_adapter")}, {"image": "image"})
    with pytest.raises(RecipeError, match=r"connectors.inner: .* works inside encoders; say in which: .* of image"):
        MultimodalLM(llm, {"image": encoder}, {"inner": variant("conformer_adapter")}, {})


def test_a_path_that_the_system_refuses_is_a_media_error(tmp_path: Path) -> None:
    """Of whatever kind an item is: a row with it is bad, and nothing ends."""
    model = tiny_generator().model
    for path in (tmp_path / f"{'a' * 300}.png", Path("a" * 5000)):
        for ask in (model.inputs["image"].read, model.inputs["image"].measure):
            with pytest.raises(MediaError, match=r"cannot be opened \(File name too long\)|does not exist"):
                ask(path)
