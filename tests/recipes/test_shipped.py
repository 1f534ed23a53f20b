"""Every shipped recipe is read, short, written back the same, and right by the schema for editors."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from mmllm.recipe.files import folder
from mmllm.recipe.load import dump, load_recipe, parse
from mmllm.recipe.schema import json_schema

SHIPPED = sorted(folder().rglob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_recipe(file: Path) -> None:
    text = file.read_text()
    recipe = load_recipe(file)
    assert recipe.name == file.stem
    assert len(text.splitlines()) <= 60
    assert f"mmllm train recipes/{file.relative_to(folder())}" in text.splitlines()[1]
    assert parse(dump(recipe)) == recipe
    jsonschema.validate(yaml.safe_load(text), json_schema())
