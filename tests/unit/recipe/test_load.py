"""A recipe becomes frozen models: values, defaults, overrides, YAML and back, the schema for editors."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from mmllm.errors import RecipeError
from mmllm.recipe.files import find_recipe, folder
from mmllm.recipe.load import digest, dump, load_recipe, parse
from mmllm.recipe.models import ComponentSpec, Llm, Recipe, Stage
from mmllm.recipe.schema import json_schema
from tests.support.recipe_text import RECIPE


def test_words_reach_the_models() -> None:
    recipe = parse(RECIPE)
    assert recipe.llm.path == "some/llm"
    projector = recipe.connectors["image"]
    assert (projector.type, projector.source, projector.when) == ("tests.support.recipe_parts:Projector", "image", None)
    assert projector.args == {"grid": [4, 4]}
    assert recipe.connectors["lora"].when == ("image",)
    assert recipe.connectors["lora"].source is None
    stage = recipe.stages["align"]
    assert stage.train == {"connectors.image": 1e-3}
    assert (stage.epochs, stage.steps, stage.batch, stage.betas) == (2.0, None, 64, (0.9, 0.95))
    assert recipe.eval.benchmarks == {"docvqa": {}}


def test_sections_left_out_have_their_defaults() -> None:
    recipe = parse(RECIPE)
    assert (recipe.serve.port, recipe.serve.host) == (8000, "127.0.0.1")
    assert (recipe.eval.batch, recipe.eval.blind) == (16, False)


def test_models_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse(RECIPE).llm.path = "other"


def test_benchmarks_take_arguments() -> None:
    recipe = parse(RECIPE.replace("[docvqa]", "{docvqa: {path: here}, textvqa: }"))
    assert recipe.eval.benchmarks == {"docvqa": {"path": "here"}, "textvqa": {}}


def test_stages_keep_their_order() -> None:
    text = RECIPE.replace(
        "stages:\n", "stages:\n  zz: {train: {connectors.lora: 1.0}, data: {captions: 1}, steps: 1, batch: 1}\n"
    )
    assert list(parse(text).stages) == ["zz", "align"]
    assert list(parse(dump(parse(text))).stages) == ["zz", "align"]


def test_a_connector_may_inherit_its_arguments() -> None:
    text = RECIPE.replace("Projector", "Inherited").replace("grid: [4, 4]", "grid: [4, 4], bias: false")
    assert parse(text).connectors["image"].args == {"grid": [4, 4], "bias": False}


def test_a_part_with_an_open_signature_takes_anything() -> None:
    text = RECIPE.replace("recipe_parts:Source", "recipe_parts:Open").replace("path: captions.jsonl", "whatever: 4")
    assert parse(text).data["captions"].args == {"whatever": 4}


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("stages.align.batch=128", lambda r: r.stages["align"].batch == 128),
        ("stages.align.clip=0.5", lambda r: r.stages["align"].clip == 0.5),
        ("stages.align.train.connectors.image=2.0e-4", lambda r: r.stages["align"].train == {"connectors.image": 2e-4}),
        ("stages.align.train.connectors.lora=1.0", lambda r: r.stages["align"].train.get("connectors.lora") == 1.0),
        ("stages.align.train={connectors.lora: 0.5}", lambda r: r.stages["align"].train == {"connectors.lora": 0.5}),
        ("stages.align.deepspeed.zero_optimization.overlap_comm=true",
         lambda r: r.stages["align"].deepspeed == {"zero_optimization": {"overlap_comm": True}}),
        ("stages.align.micro_batch=", lambda r: r.stages["align"].micro_batch is None),
        ("serve.port=9000", lambda r: r.serve.port == 9000),
        ("connectors.image.grid=[2, 8]", lambda r: r.connectors["image"].args["grid"] == [2, 8]),
        ("encoders.image.size=32", lambda r: r.encoders["image"].args.get("size") == 32),
        ("eval.benchmarks={docvqa: {path: a=b}}", lambda r: r.eval.benchmarks == {"docvqa": {"path": "a=b"}}),
        ("name=other", lambda r: r.name == "other"),
    ],
)  # fmt: skip
def test_override(override: str, found: Callable[[Recipe], bool]) -> None:
    assert not found(parse(RECIPE))
    assert found(parse(RECIPE, [override]))


def test_later_overrides_win() -> None:
    assert parse(RECIPE, ["name=a", "name=b"]).name == "b"


def test_dump_loads_to_an_equal_recipe() -> None:
    recipe = parse(RECIPE, ["encoders.image.model='1e-3'", "stages.align.train.connectors.lora=0.00001", "seed=7"])
    assert recipe.encoders["image"].args["model"] == "1e-3"
    again = parse(dump(recipe))
    assert again == recipe
    assert digest(again) == digest(recipe)


def test_dump_of_a_recipe_made_in_python(tmp_path: Path) -> None:
    part = ComponentSpec(type="tests.support.recipe_parts:Source", args={"path": "a.jsonl", "media": None})
    recipe = parse(RECIPE).model_copy(update={"data": {"captions": part}})
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(recipe))
    assert load_recipe(file) == recipe


def test_digest_tells_recipes_apart() -> None:
    recipes = [parse(RECIPE), parse(RECIPE, ["seed=1"]), parse(RECIPE, ["connectors.image.grid=[4, 5]"])]
    assert len({digest(recipe) for recipe in recipes}) == 3


def test_stage_in_python_is_checked_too() -> None:
    with pytest.raises(ValidationError, match="exactly one of the two"):
        Stage(train={"llm": 1.0}, data={"a": 1.0}, batch=4)


def test_swapping_the_encoder_is_one_line() -> None:
    demo, swap = ((folder() / "mini" / f"{name}.yaml").read_text().splitlines() for name in ("demo", "swap_encoder"))
    code = [[line for line in lines if not line.startswith("#")] for lines in (demo, swap)]
    different = [(a, b) for a, b in zip(*code, strict=True) if a != b]
    assert len(different) == 1
    assert "type: open_clip" in different[0][0]
    assert "type: hf_vision" in different[0][1]


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def real() -> dict[str, Any]:
    """The shipped image_pool recipe as plain data."""
    return yaml.safe_load((folder() / "image_pool.yaml").read_text())


@pytest.mark.parametrize(
    "override",
    [
        "nam=x", "encoders.image.type=open_clp", "encoders.image.modl=x", "connectors.image.from=null",
        "connectors.image.grid=twelve", "connectors.image.depth='2'", "stages.align.bach=3", "stages.align.batch='3'",
        "stages.align.steps=10", "stages.align.zero=4", "stages.align.schedule=cosin", "stages.align.train={}",
        "stages.align.share_prefix={mos: 2}", "stages.align.share_prefix=yes please", "eval.cache={dtype: int8}",
        "eval.benchmarks=[textvq]", "eval.benchmarks={textvqa: {pth: x}}", "data.captions={type: chat_jsonl}",
    ],
)  # fmt: skip
def test_schema_refuses_what_the_loader_refuses(override: str) -> None:
    data = real()
    dotted, _, value = override.partition("=")
    *above, last = dotted.split(".")
    node: dict[str, Any] = data
    for word in above:
        node = node[word]
    node[last] = yaml.safe_load(value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())
    with pytest.raises(RecipeError):
        parse(yaml.safe_dump(data))


def test_schema_accepts_parts_from_outside() -> None:
    jsonschema.validate(yaml.safe_load(RECIPE), json_schema())
    assert json.loads(json.dumps(json_schema()))["title"] == "Recipe"


def test_a_list_that_is_too_long_says_how_long_it_may_be() -> None:
    data = real()
    data["connectors"]["image"]["around"] = ["a", "b", "c"]
    with pytest.raises(RecipeError, match=r"connectors.image.around: found .* expected 2 entries \("):
        parse(yaml.safe_dump(data))


def test_recipe_is_complete_in_python() -> None:
    assert Recipe(name="x", llm=Llm(path="y")).encoders == {}


PIECES = [
    *"{ [ ] , - *a !!int !!bool ' % ~ null true -1 1e3 .inf 0x1F 1:30 é !!set !!binary 1.0e+400 [] {} lora".split(),
    "",
]
PIECES += ['"', "\n", ": ", "\ud7ff", "9" * 30]


@pytest.mark.parametrize("seed", range(200))
def test_no_damage_gives_anything_but_sentences(seed: int) -> None:
    draw = random.Random(seed)
    word = draw.choice(list(re.finditer(r"[\w./-]+", RECIPE)))
    damaged = RECIPE[: word.start()] + draw.choice(PIECES) + RECIPE[word.end() :]
    try:
        recipe = parse(damaged)
    except RecipeError as error:
        for sentence in str(error).split("\n"):
            assert re.fullmatch(r"recipe:\d+: .+[.?]", sentence)
    else:
        assert parse(dump(recipe)) == recipe


def test_a_recipe_without_a_name_has_its_files(tmp_path: Path) -> None:
    (tmp_path / "my_run.yaml").write_text(RECIPE.replace("name: demo\n", ""))
    assert load_recipe(tmp_path / "my_run.yaml").name == "my_run"
    assert load_recipe(tmp_path / "my_run.yaml", ["name=other"]).name == "other"


def test_words_that_came_later_count_only_where_they_are_used() -> None:
    """A run made before there was `times` or `max_files` is still the run of the same recipe."""
    text = (folder() / "mini" / "pool.yaml").read_text()
    plain = digest(parse(text))
    assert digest(parse(text, ["connectors.image.times='{n}'"])) != plain
    assert digest(parse(text, ["serve.max_files=5"])) != plain
    assert digest(parse(text, ["serve.max_files=4"])) == plain


def test_a_shipped_recipe_is_found_as_a_checkout_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first lines say `mmllm train recipes/mini/pool.yaml`; that works in any folder."""
    monkeypatch.chdir(tmp_path)
    assert find_recipe("recipes/mini/pool.yaml") == find_recipe("mini/pool")
    with pytest.raises(RecipeError, match=r'there is no recipe file "mini/pol"; .*did you mean "mini/pool"'):
        find_recipe("recipes/mini/pol.yaml")


@pytest.mark.parametrize("value", [True, False, None, {"most": 4}, {"most": 4, "reach": 100}])
def test_a_switch_is_a_truth_or_a_section_for_loader_schema_and_dump(value: Any) -> None:
    data = real()
    data["stages"]["align"]["share_prefix"] = value
    jsonschema.validate(data, json_schema())
    recipe = parse(yaml.safe_dump(data))
    section = value if isinstance(value, dict) else {"most": 8} if value else None
    expected = section and (section["most"], section.get("reach"))
    found = recipe.stages["align"].share_prefix
    assert (found and (found.most, found.reach)) == expected
    written = dump(recipe)
    assert "reach: null" not in written and parse(written) == recipe


def test_an_unknown_word_of_a_switch_names_the_near_one() -> None:
    data = real()
    data["stages"]["align"]["share_prefix"] = {"mosst": 2}
    with pytest.raises(RecipeError, match=r'unknown key; known: most, reach; did you mean "most"'):
        parse(yaml.safe_dump(data))
