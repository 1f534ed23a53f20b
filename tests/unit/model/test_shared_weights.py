"""Two placeholders, one set of weights: gradients of both add up, one copy is kept, and what cannot share says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmllm.checkpoints.load import load_run
from mmllm.checkpoints.store import LEARNED, newest, read_tensors
from mmllm.connectors.deep_fusion.deepstack import DeepstackConnector
from mmllm.errors import RecipeError
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import parts, set_trainable, trainable_state
from mmllm.recipe.load import dump, load_recipe, parse
from mmllm.testing.tiny.encoders import hf_vision
from mmllm.testing.tiny.llms import tiny_llm
from mmllm.testing.tiny.rows import Row, batch_of
from mmllm.training.met_items import MetItems
from tests.support.training import finish, start, tiny_recipe, train_here

BOTH = (Row(1, (4, "image", 3, "page", 5)), Row(2, (9,)), Row(3, ("page", 6)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe with a second placeholder, whose items pool the patches before the first one's layers."""
    folder = tmp_path_factory.mktemp("shared")
    path = tiny_recipe(folder)
    recipe = yaml.safe_load(path.read_text())
    recipe["encoders"]["page"] = dict(recipe["encoders"]["image"])
    second = {"type": "pool", "from": "page", "grid": [2, 2], "depth": 2, "shares": "image"}
    recipe["connectors"] = {**recipe["connectors"], "page": second}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


def test_gradients_of_both_add_up_in_one_set_of_weights(folder: Path) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    model = build(recipe, "cpu")
    apart = build(parse((folder / "recipe.yaml").read_text().replace("    shares: image\n", "")), "cpu")
    for one, other in zip(apart.connectors["page"].parameters(), model.connectors["image"].parameters(), strict=True):
        one.data.copy_(other)
    set_trainable(model, {"connectors.image": 1.0})
    set_trainable(apart, {"connectors.image": 1.0, "connectors.page": 1.0})
    batch = batch_of(model, BOTH)
    losses = [each.train()(batch)[0] for each in (model, apart)]
    assert torch.equal(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    names = [name for name, _ in model.connectors["image"].named_parameters()]
    assert names == ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"]
    for name in names:
        shared, one, other = (
            made.connectors[key].get_parameter(name).grad
            for made, key in ((model, "image"), (apart, "image"), (apart, "page"))
        )
        torch.testing.assert_close(shared, one + other)
        assert model.connectors["page"].get_parameter(name) is model.connectors["image"].get_parameter(name)
        assert other.any() and one.any()


def test_it_is_no_part_of_its_own(folder: Path) -> None:
    model = build(load_recipe(folder / "recipe.yaml"), "cpu")
    assert list(parts(model)) == ["encoders.image", "encoders.page", "connectors.image", "connectors.lora", "llm"]
    assert not [name for name in trainable_state(model) if "page" in name]
    met = MetItems(model, {"connectors.image": 1.0}, "align")
    assert not list(met.unmet({"page"})) and list(met.unmet(set())) == [("image", "<image> or <page>")]


@pytest.mark.slow
def test_a_run_keeps_one_copy_and_loads_it_for_both(folder: Path) -> None:
    assert finish(start(train_here, folder / "recipe.yaml", folder / "run")) == [0]
    found, _ = newest(folder / "run" / "stages" / "instruct")
    assert found is not None
    learned = read_tensors(found.path / LEARNED)
    assert not [name for name in learned if name.startswith("connectors.page")]
    recipe, model = load_run(folder / "run", "cpu")
    assert recipe.connectors["page"].shares == "image" and "shares: image" in dump(recipe)
    assert torch.equal(model.connectors["page"].get_parameter("mlp.0.weight"), learned["connectors.image.mlp.0.weight"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shares": "imag"}, 'found "imag"; unknown connector; known: image, lora, page; did you mean "image"'),
        ({"shares": "page"}, 'found "page", which stands behind it; put it in front'),
        ({"shares": "lora"}, "weights are shared between connectors with `from`; remove it"),
        ({"start": "file.safetensors"}, "its weights are those of connectors.image; start that one"),
    ],
)
def test_wrong_words(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["connectors"]["page"] |= changes
    with pytest.raises(RecipeError, match=sentence):
        parse(yaml.safe_dump(recipe, sort_keys=False))


def test_a_stage_names_the_one_whose_weights_they_are(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"its weights are those of connectors\.image; name that one"):
        load_recipe(folder / "recipe.yaml", ["stages.align.train={connectors.page: 1.0e-3}"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depth": 1}, "connectors.image has mlp.2.bias, and connectors.page has not"),
        ({"width": 8}, r"its mlp.0.weight is \[8, .*\] and that one's \[32, .*\]"),
    ],
)
def test_weights_that_differ_are_refused(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["connectors"]["page"] |= changes
    with pytest.raises(RecipeError, match=sentence):
        build(parse(yaml.safe_dump(recipe, sort_keys=False)), "cpu")


def test_frozen_encoders_of_one_model_hold_its_weights_once(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    kept = [build(parse(text), "cpu"), build(parse(text, ["stages.align.train={encoders.page: 1.0e-3}"]), "cpu")]
    once = []
    for model in kept:
        pairs = zip(model.encoders["image"].parameters(), model.encoders["page"].parameters(), strict=True)
        once.append({one is other for one, other in pairs})
    assert once == [{True}, {False}], "one that learns goes its own way"


def test_a_connector_that_makes_weights_inside_the_llm_cannot_share(tmp_path: Path) -> None:
    """This LLM's hidden states have another width than its embeddings, so stacks go through a layer of their own."""
    llm, encoder = tiny_llm("opt", word_embed_proj_dim=16), hf_vision()
    made = {key: DeepstackConnector(dim=encoder.dim, llm_dim=llm.dim, start=0) for key in ("image", "page")}
    with pytest.raises(RecipeError, match=r"its bridge\.weight is made for this LLM inside it; leave `shares` out"):
        MultimodalLM(llm, {"image": encoder}, made, dict.fromkeys(made, "image"), shares={"page": "image"})
