"""Weights computed from data before the first step: what they are, that the checkpoint has them, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mmllm.checkpoints.load import load_run
from mmllm.errors import RecipeError
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.recipe.load import digest, dump, load_recipe, parse
from mmllm.recipe.shaping import shaping
from mmllm.training.computed_starts import computed_starts
from tests.support.training import tiny_recipe, train_here

CALIBRATED = "connectors.image.norm=calibrated"
WORDS = "connectors.image.start=words"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of eight colours, one stage; their answers are one to three sentences."""
    return tiny_recipe(tmp_path_factory.mktemp("computed"))


def started(recipe: Path, overrides: Sequence[str]) -> tuple[MultimodalLM, list[str]]:
    read = load_recipe(recipe, overrides)
    model = build(read)
    return model, computed_starts(model, read, {})


def tokens(model: MultimodalLM, recipe: Path) -> torch.Tensor:
    """What the eight pictures become, float[8, T, D]."""
    entry = model.inputs["image"]
    found = []
    for number in range(8):
        item = entry.collate([entry.read(recipe.parent / f"{number}.png")])
        with torch.no_grad():
            features = model.encoders["image"](**item["image"])
            found.append(entry.connector(features)[0])
    return torch.stack(found)


def test_a_calibrated_norm_sees_what_enters_it(recipe: Path) -> None:
    model, said = started(recipe, [CALIBRATED])
    assert said == ["connectors.image: norm set from 8 items"]
    given: list[torch.Tensor] = []
    norm = model.connectors["image"].norm
    norm.register_forward_hook(lambda _, __, output: given.append(output))
    tokens(model, recipe)
    y = torch.cat(given)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(y.shape[-1]), rtol=0, atol=1e-4)
    spread = (y - y.mean(0)).square().mean((0, 1)).sqrt()
    assert float(spread.median()) == pytest.approx(1, abs=1e-3)


def test_words_bring_tokens_near_the_embeddings_of_the_answers(recipe: Path) -> None:
    plain, _ = started(recipe, [])
    model, said = started(recipe, [CALIBRATED, WORDS])
    assert said[0].startswith("connectors.image: norm set from 8 items; last layer fitted to the words of 8 answers, ")
    ids = model.llm.tokenizer(" circle.", add_special_tokens=False).input_ids
    table = model.llm.model.get_input_embeddings().weight
    wanted = table[torch.tensor(ids)].mean(0)

    def distance(one: MultimodalLM) -> float:
        return float((tokens(one, recipe)[:, -1] - wanted).norm(dim=-1).mean())

    assert distance(model) < 0.3 * distance(plain)


def test_scaled_tokens_differ_as_much_as_embeddings_are_long(recipe: Path) -> None:
    model, said = started(recipe, ["connectors.image.start={by: scaled, data: pictures, items: 6}"])
    assert "over 6 items" in said[0]
    model, _ = started(recipe, ["connectors.image.start=scaled"])
    found = tokens(model, recipe)
    apart = float((found - found.mean(0)).norm(dim=-1).mean())
    assert apart == pytest.approx(float(model.llm.model.get_input_embeddings().weight.norm(dim=-1).mean()), rel=1e-3)


def test_the_checkpoint_has_them_and_an_opened_run_is_the_trained_one(recipe: Path, tmp_path: Path) -> None:
    """A rate that moves nothing shows what was there before the first step."""
    words = [CALIBRATED, WORDS, "stages.align.train={connectors.image: 1.0e-30}", "stages.align.steps=1"]
    words += ["stages.instruct.train={connectors.lora: 1.0e-30}", "stages.instruct.steps=1", "name=computed"]
    model, _ = started(recipe, words)
    train_here(recipe, tmp_path / "run", words)
    opened = load_run(tmp_path / "run")[1]
    for name, tensor in model.connectors["image"].state_dict().items():
        assert torch.equal(tensor, opened.connectors["image"].state_dict()[name]), name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["connectors.lora.start=words"], "a connector without `from` has none"),
        ([WORDS, "stages.align.zero=3"], "zero: 3 splits"),
        ([WORDS, "stages.align.train={connectors.lora: 1.0e-3}", "stages.instruct.train={connectors.lora: 1.0e-3}"],
         "no stage trains it"),
        (["connectors.image.start={by: words, data: nothing}"], 'found "nothing"'),
        (["connectors.image.start={by: words, path: a.safetensors}"], "found both path and by"),
        (["connectors.image.start={path: a.safetensors, items: 3}"], "found items, which goes with by"),
        (["connectors.image.start={by: scaled, prefix: a}"], "found prefix"),
        (["start=words"], "which is computed for one connector"),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_mean_is_one_sentence(recipe: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(recipe, words)


def test_a_connector_that_ends_in_no_linear_layer_is_refused(recipe: Path) -> None:
    words = ["connectors.image={type: pool, from: image, grid: [1, 1], pool_last: true, start: words}"]
    with pytest.raises(RecipeError, match="comes out of none"):
        started(recipe, words)


def test_a_computed_start_is_no_place(recipe: Path) -> None:
    """It stays in what shaped the weights; recipes without the words keep their digest and their form."""
    words = load_recipe(recipe, [WORDS])
    assert shaping(words)["connectors"]["image"]["start"]["by"] == "words"
    assert parse(dump(words)) == words
    plain = load_recipe(recipe)
    assert digest(plain) != digest(words)
