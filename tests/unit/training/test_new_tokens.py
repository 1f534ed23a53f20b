"""New tokens in a run: their rows alone learn and are kept, it goes on to the bit, all that reads it knows them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from mmllm.checkpoints.load import load_run
from mmllm.checkpoints.start import start_weights
from mmllm.checkpoints.store import LEARNED, newest, read_tensors
from mmllm.cli import main
from mmllm.errors import CheckpointError, RecipeError
from mmllm.generation.model import Model
from mmllm.inspection.inputs import load_tokenizer
from mmllm.model.build import build
from mmllm.model.input_digests import input_digests
from mmllm.model.trainable import frozen_digests
from mmllm.planning.layout import laid_out
from mmllm.recipe.load import load_recipe
from tests.support.training import finish, start, tiny_recipe, train_here

TOKENS = ["<loc{0..19}>", "<row>"]


def with_tokens(folder: Path) -> Path:
    """The tiny recipe with new tokens in its answers, which learn from its second stage on."""
    path = tiny_recipe(folder)
    rows = [json.loads(line) for line in (folder / "chat.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["messages"][0]["content"] += "<row>"
        row["messages"][1]["content"] = f"At <loc{number}><loc{19 - number}>."
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load(path.read_text())
    recipe["llm"]["tokens"] = TOKENS
    # without decay, which moves rows of tokens that no conversation has
    recipe["stages"]["instruct"] |= {"train": {"connectors.image": 1e-3, "llm.tokens": 1e-2}, "weight_decay": 0.0}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    assert finish(start(train_here, recipe, recipe.parent / "run")) == [0]
    return recipe.parent / "run"


def learned(run: Path) -> dict[str, torch.Tensor]:
    found, _ = newest(run / "stages" / "instruct")
    assert found is not None
    return read_tensors(found.path / LEARNED)


@pytest.mark.slow
def test_rows_alone_learn_and_are_kept(recipe: Path, run: Path) -> None:
    first, last = build(load_recipe(recipe), "cpu"), learned(run)
    own = {name for name in last if name.startswith("llm.")}
    assert own == {"llm.tokens.embed.weight", "llm.tokens.head.weight"}
    begun = dict(first.named_parameters())
    for name in own:
        # a token of no conversation gets no gradient as an input; at the head every row does
        moved = (last[name] != begun[name].cpu()).any(dim=-1)
        assert moved[:8].all() and moved[20] and (name.endswith("head.weight") or not moved[8:12].any())
    plain = build(load_recipe(recipe, ["llm.tokens=", "stages.instruct.train={connectors.image: 1.0e-3}"]), "cpu")
    found, _ = newest(run / "stages" / "instruct")
    assert found is not None
    assert found.manifest.frozen["llm"] == frozen_digests(plain, ["llm"])["llm"]
    assert "llm.tokens" not in found.manifest.frozen
    assert found.manifest.inputs["tokenizer"] != input_digests(plain)["tokenizer"]


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(recipe: Path, run: Path, tmp_path: Path) -> None:
    expected = learned(run)
    again = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(sorted((again / "stages" / "instruct").glob("step-*"))[-1])
    assert finish(start(train_here, recipe, again)) == [0]
    found = learned(again)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_another_run_starts_with_the_rows_of_the_same_tokens(recipe: Path, run: Path) -> None:
    read = load_recipe(recipe, [f"start={run}", "seed=5"])
    model = build(read, "cpu")
    assert start_weights(model, read)["start"].left == ()
    assert model.llm.tokens is not None
    assert torch.equal(model.llm.tokens.embed.weight, learned(run)["llm.tokens.embed.weight"])
    other = load_recipe(recipe, [f"start={run}", "llm.tokens=['<loc{19..0}>', <row>]"])
    with pytest.raises(RecipeError, match="has learned rows of 21 new tokens, not those of this recipe"):
        start_weights(build(other, "cpu"), other)


@pytest.mark.slow
def test_a_run_answers_with_its_tokens_and_refuses_others(run: Path) -> None:
    recipe, model = load_run(run, "cpu")
    assert model.llm.tokens is not None
    with torch.no_grad():
        # as after a long training: whatever the prompt, nothing is likelier than new tokens
        model.llm.tokens.head.weight.mul_(60)
    asked = Model(model, recipe)
    said = [asked.chat(f"How many are {number}?", max_new_tokens=6) for number in range(3)]
    assert all("<loc" in text or "<row>" in text for text in said)
    together = asked.generate([f"How many are {number}?" for number in range(3)], max_new_tokens=6)
    assert [answer.text for answer in together] == said
    other = [line.replace("<row>", "<col>") for line in (run / "recipe.yaml").read_text().splitlines()]
    (run / "recipe.yaml").write_text("\n".join(other) + "\n")
    with pytest.raises(CheckpointError, match=r"another recipe .*llm.tokens was"):
        load_run(run, "cpu")


def test_reading_and_planning_know_the_tokens(recipe: Path) -> None:
    read = load_recipe(recipe)
    model = build(read, "cpu")
    assert load_tokenizer(read.llm).get_vocab() == model.llm.tokenizer.get_vocab()
    planned = {name: parameter.shape for name, parameter in laid_out(read).named_parameters()}
    assert planned == {name: parameter.shape for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("llm.tokens=", "no new tokens are there to learn"),
        ("llm.tokens=[<image>]", "the placeholder of connectors.image"),
        ("llm.tokens=[<a>, <a>]", '"<a>" stands twice'),
        ("llm.tokens=['<l{0..9999999}>']", "stands for 10,000,000 tokens; at most 65,536"),
        ("stages.instruct.train={llm.tokens: 1.0, llm.tokens.head: 1.0}", "is inside llm.tokens"),
    ],
)
def test_wrong_words_are_named(recipe: Path, override: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(recipe, [override])


def test_the_llm_and_its_new_tokens_may_learn_at_rates_of_their_own(recipe: Path) -> None:
    found = load_recipe(recipe, ["stages.instruct.train={llm: 1.0e-5, llm.tokens: 1.0e-3}"])
    assert found.stages["instruct"].train == {"llm": 1e-5, "llm.tokens": 1e-3}


def test_check_names_a_token_that_is_there(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(recipe)]) == 0
    assert main(["check", str(recipe), "llm.tokens=[<a>, <|im_end|>]"]) != 0
    assert '"<|im_end|>" is a token of the tokenizer already' in capsys.readouterr().err
