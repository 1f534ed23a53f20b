"""``layers`` in a recipe: numbers and the word final, checked without torch, and in the JSON schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mmllm.errors import RecipeError
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.recipe.schema import json_schema

GOOD = ["[final]", "[-2, final]", "[0, final, -1]", "[-2]"]
BAD = ["[last]", "[-2, Final]", "final", "[1.5]", "['-2']", "[true]", "[[final]]"]
SENTENCE = 'encoders.image.layers: found .*, expected a list of numbers of layers and the word "final"'


def image_pool() -> Path:
    return folder() / "image_pool.yaml"


def with_layers(written: str) -> dict[str, Any]:
    """The shipped image_pool recipe with these layers."""
    found: dict[str, Any] = yaml.safe_load(image_pool().read_text())
    found["encoders"]["image"]["layers"] = yaml.safe_load(written)
    return found


@pytest.mark.parametrize("written", GOOD)
def test_numbers_and_final(written: str) -> None:
    recipe = load_recipe(image_pool(), [f"encoders.image.layers={written}"])
    assert recipe.encoders["image"].args["layers"] == yaml.safe_load(written)
    jsonschema.validate(with_layers(written), json_schema())


@pytest.mark.parametrize("written", BAD)
def test_other_words_are_one_sentence(written: str) -> None:
    with pytest.raises(RecipeError, match=SENTENCE):
        load_recipe(image_pool(), [f"encoders.image.layers={written}"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(with_layers(written), json_schema())


def test_check_needs_no_torch() -> None:
    code = (
        "import sys; from mmllm.recipe.load import load_recipe; "
        f"load_recipe({str(image_pool())!r}, ['encoders.image.layers=[-2, final]']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
