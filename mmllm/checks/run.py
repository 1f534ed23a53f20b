"""All of what `mmllm check` does: reads the recipe, then opens what it names, and collects every finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmllm import registry
from mmllm.checks import contracts
from mmllm.checks.connectors import check_connector
from mmllm.checks.data import check_benchmark, check_data
from mmllm.checks.encoders import check_encoder
from mmllm.checks.llm import check_llm
from mmllm.checks.monitors import check_monitors
from mmllm.checks.report import Report
from mmllm.checks.starts import check_start
from mmllm.errors import RecipeError
from mmllm.recipe import part_arguments
from mmllm.recipe.dataset_arguments import dataset_arguments
from mmllm.recipe.load import load_placed
from mmllm.recipe.messages import GROUPS, REGISTRY
from mmllm.recipe.models import Recipe
from mmllm.recipe.yaml_lines import Path as YamlPath


def check_recipe(
    path: Path, overrides: Sequence[str] = (), importing: Callable[[str], None] | None = None
) -> tuple[Recipe, Report]:
    """Read a recipe and open all that it names, without torch and without a network.

    ``importing`` is told each class of another package before it is imported.

    Raises:
        RecipeError: the recipe itself is wrong; what it names is looked at only when it is right.
    """
    recipe, problems = load_placed(path, overrides, importing)
    report = Report(problems)
    n_blocks = check_llm(recipe.llm, report)
    _outside(recipe, report)
    check_start(("start",), recipe.start, "", report)
    for key, part in recipe.encoders.items():
        check_encoder(("encoders", key), part.type, part.args, report)
    for key, part in recipe.connectors.items():
        check_connector(key, part.type, part.args, n_blocks, report)
        check_start(("connectors", key, "start"), part.start, f"connectors.{key}.", report)
    filled = [key for key, part in recipe.connectors.items() if part.encoders]
    for key, part in recipe.data.items():
        try:
            args = dataset_arguments(recipe, key)
        except RecipeError as error:
            report.error(("data", key), str(error).removeprefix(f"data.{key}."))
            args = part.args
        check_data(key, part.type, args, filled, report)
    for key, stage in recipe.stages.items():
        check_monitors(key, stage, report)
    for name, (type, args) in recipe.eval.parts.items():
        check_benchmark(name, type, args, report)
    return recipe, report


def _outside(recipe: Recipe, report: Report) -> None:
    """Classes of other packages against their contract."""
    named: list[tuple[YamlPath, str, str]] = [
        ((section, key, "type"), REGISTRY[section], part.type)
        for section in GROUPS
        for key, part in getattr(recipe, section).items()
    ]
    named += [
        (("encoders", key, word, "type"), "encoders", str(value["type"]))
        for key, part in recipe.encoders.items()
        for word, value in part.args.items()
        if isinstance(value, dict) and word in part_arguments.inner_encoders("encoders", part.type)
    ]
    named += [(("eval", "benchmarks", name), "benchmarks", type) for name, (type, _) in recipe.eval.parts.items()]
    for path, group, type in named:
        if registry.locate(group, type).partition(".")[0] != registry.OWN:
            for sentence in contracts.problems(group, type):
                report.error(path, sentence)
