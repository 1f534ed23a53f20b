"""Words that say what sees what: how they are read, what they count for, and where they cannot stand."""

from __future__ import annotations

import pytest

from mmllm.errors import RecipeError
from mmllm.recipe.load import digest, dump, parse
from mmllm.recipe.shaping import changes, shaping
from tests.support.recipe_text import RECIPE


def test_words_reach_the_models_and_back() -> None:
    recipe = parse(RECIPE, ["llm.attention=prefix", "connectors.image.attends=bidirectional"])
    assert recipe.llm.attention == "prefix" and recipe.connectors["image"].attends == "bidirectional"
    assert parse(dump(recipe)) == recipe
    found = changes(shaping(parse(RECIPE)), shaping(recipe))
    assert found == ['llm.attention was null, is "prefix"', 'connectors.image.attends was null, is "bidirectional"']


def test_causal_is_what_there_is_without_a_word() -> None:
    """Runs that were made before there were such words keep their digest."""
    recipe = parse(RECIPE, ["llm.attention=causal", "connectors.image.attends=causal"])
    assert recipe == parse(RECIPE) and digest(recipe) == digest(parse(RECIPE))
    assert "attention" not in dump(recipe) and "attends" not in dump(recipe)
    assert digest(parse(RECIPE, ["llm.attention=prefix"])) != digest(recipe)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["llm.attention=both"], r"llm\.attention: found \"both\", expected one of 'causal' or 'prefix'|causal"),
        (["connectors.image.attends=both"], "connectors.image.attends: found"),
        (
            ["connectors.lora.attends=bidirectional"],
            r"connectors\.lora\.attends: a connector without `from` has no places in the text; remove it",
        ),
        (
            ["llm.attention=prefix", "stages.align.share_prefix=true"],
            r"stages\.align\.share_prefix: with llm\.attention prefix what conversations share sees what each goes on",
        ),
    ],
)
def test_where_they_cannot_stand(overrides: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        parse(RECIPE, overrides)
