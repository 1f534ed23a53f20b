"""``system:``: the message of conversations without one, in training data, benchmarks and what is served alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmllm.datasets.opening import open_dataset
from mmllm.errors import RecipeError
from mmllm.evaluation.benchmarks.mini_scenes import MiniScenes
from mmllm.evaluation.run import under
from mmllm.generation.generator import Generator
from mmllm.messages.system import with_system
from mmllm.recipe.load import dump, load_recipe, parse
from mmllm.recipe.models import benchmark_part
from mmllm.recipe.shaping import shaping
from mmllm.testing.tiny.mini_benchmarks import mini
from mmllm.types import Message, Sample
from tests.support.recipe_text import RECIPE

ASKED = Sample("a", (Message("user", "hello"),))
OWN = Sample("b", (Message("system", "mine"), Message("user", "hello")))


def test_it_stands_before_what_has_none() -> None:
    assert with_system(ASKED, "").messages == (Message("system", ""), Message("user", "hello"))
    assert with_system(OWN, "other") is OWN and with_system(ASKED, None) is ASKED


def test_data_have_it_and_their_digest_is_the_datas(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    rows = [{"messages": turns}, {"messages": [{"role": "system", "content": "mine"}, *turns]}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"data.captions={{type: chat, path: {tmp_path}/chat.jsonl}}"
    plain, under_it = (parse(RECIPE, [data, *more]) for more in ([], ['data.captions.system=""']))
    before, found = open_dataset(plain, "captions"), open_dataset(under_it, "captions")
    assert [sample.messages[0].text for sample in (found[0], found[1])] == ["", "mine"]
    assert (len(found), found.digest(), found.files) == (2, before.digest(), before.files)
    assert shaping(plain)["data"] != shaping(under_it)["data"]
    assert parse(dump(under_it)) == under_it


def test_benchmarks_have_it_beside_their_arguments(tmp_path: Path) -> None:
    entry = {"path": "somewhere", "system": "Be brief."}
    assert benchmark_part("mini_scenes", entry) == ("mini_scenes", {"path": "somewhere"})
    question = mini(MiniScenes, tmp_path)[0]
    asked = under("Be brief.", question)
    assert asked.sample.messages == (Message("system", "Be brief."), *question.sample.messages)
    assert asked.sample.media == question.sample.media and under(None, question).sample is question.sample
    with pytest.raises(RecipeError, match="found the system message 3; it is a text"):
        parse(RECIPE, ["eval.benchmarks={docvqa: {system: 3}}"])


def test_what_is_served_has_it(generator: Generator) -> None:
    served = Generator(generator.model, system="Be brief.")
    plain, brief, own = generator.encode(ASKED), served.encode(ASKED), served.encode(OWN)
    told = Sample("a", (Message("system", "Be brief."), Message("user", "hello")))
    assert brief.ids == generator.encode(told).ids != plain.ids
    assert own.ids == generator.encode(OWN).ids


def test_it_is_a_word_of_data_alone() -> None:
    for section, key in (("encoders", "image"), ("connectors", "image")):
        words: dict[str, Any] = {"system": ""}
        with pytest.raises(RecipeError, match="system"):
            parse(RECIPE, [f"{section}.{key}.{word}={json.dumps(value)}" for word, value in words.items()])


def test_recipes_without_it_are_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "plain.yaml"
    file.write_text(RECIPE)
    assert "system" not in shaping(load_recipe(file))["data"]["captions"]
