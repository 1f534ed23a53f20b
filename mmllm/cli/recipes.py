"""Commands that work on recipes alone: ls, check, show, inspect, plan, cp."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from mmllm import connectors, registry
from mmllm.cli.arguments import Parsers, command, recipe_argument, recipe_path
from mmllm.cli.placing import place
from mmllm.errors import MmllmError
from mmllm.recipe.files import copy_recipe, shipped


def add(commands: Parsers) -> None:
    """Add the commands that work on recipes alone."""
    ls = command(commands, "ls", _ls, "list the parts and recipes there are, or say all of one part")
    ls.add_argument(
        "name", nargs="?", metavar="NAME", help=f"{', '.join([*registry.groups(), 'recipes'])}, a part or module:Class"
    )
    check = command(commands, "check", _check, "validate a recipe and what it names: print every error")
    recipe_argument(check)
    check.add_argument("--syntax", action="store_true", help="only the recipe's own words; open nothing that it names")
    check.add_argument(
        "--build",
        action="store_true",
        help="also lay the model out without its weights and read first rows: grids, widths, starts (imports torch)",
    )
    show = command(commands, "show", _show, "print a recipe (or a run's) with every value resolved")
    recipe_argument(show, optional=True)
    show.add_argument("--schema", action="store_true", help="print the JSON schema of recipes, for editors")
    inspect = command(commands, "inspect", _inspect, "show what a model will see of a recipe's data")
    recipe_argument(inspect)
    inspect.add_argument("--data", metavar="KEY", help="only this entry of the recipe's data")
    inspect.add_argument("--rows", type=int, default=3, metavar="N", help="first N rows of each (default: 3)")
    inspect.add_argument("--row", type=int, action="append", default=[], metavar="NUMBER", help="this row, from 1")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs nothing else")
    plan = command(commands, "plan", _plan, "say what training takes in memory and time, before weights are loaded")
    recipe_argument(plan)
    plan.add_argument("--stage", metavar="NAME", help="only this stage")
    plan.add_argument("--gpus", type=int, default=1, metavar="N", help="ranks over all nodes (default: 1)")
    plan.add_argument("--gpu-memory", type=float, metavar="GiB", help="of one GPU; without it, for this machine's CPU")
    plan.add_argument("--flops", type=float, metavar="RATE", help="operations a second that a GPU sustains, as 4e14")
    cp = command(commands, "cp", _cp, "copy a shipped recipe, and the miniature parts it names")
    cp.add_argument("name", help="as `mmllm ls recipes` prints it")
    cp.add_argument("destination", type=Path, help="file or folder")


def _ls(arguments: argparse.Namespace) -> None:
    name = arguments.name
    known = [*registry.groups(), *registry.FORMER, "recipes"]
    if name is not None and name not in known:
        _ls_part(name)
        return
    groups = [name] if name else [*registry.groups(), "recipes"]
    for group in groups:
        if group == "recipes":
            rows = shipped()
        else:
            rows = {name: registry.summary(group, name) for name in registry.table(group)}
        indent = "  " if len(groups) > 1 else ""
        if indent:
            print(f"{group}:")
        width = max(map(len, rows), default=0)
        for title, names in _titled(group, rows):
            if title:
                print(f"{indent}{title}:")
            for name in names:
                print(f"{indent}{'  ' if title else ''}{name:{width}}  {rows[name]}")


def _ls_part(name: str) -> None:
    """Print the page of one part, of each group that has one of this name."""
    from mmllm.recipe.part_page import groups_of, page

    if ":" in name:
        _importing(name)
    groups = groups_of(name)
    if not groups:
        near = registry.nearest(name, _names())
        hint = f'; did you mean "{near}"?' if near else "; `mmllm ls` lists all names."
        kinds = ", ".join([*registry.groups(), "recipes"])
        raise MmllmError(f'"{name}" is neither a group ({kinds}) nor a part{hint}')
    print("\n\n".join(page(group, name) for group in groups))


def _names() -> list[str]:
    """Groups and the parts of all of them."""
    parts = [name for group in registry.groups() for name in registry.table(group)]
    return [*registry.groups(), "recipes", *dict.fromkeys(parts)]


def _titled(group: str, names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Names under the heading of their kind: connectors of the tables by where they work, all else without heading."""
    if group != "connectors":
        return [("", list(names))]
    kinds = connectors.KINDS.items()
    known = [(title, [name for name in names if name in table]) for title, table in kinds]
    others = [name for name in names if name not in connectors.TABLE]
    return [(title, found) for title, found in [*known, ("of other packages", others)] if found]


def _check(arguments: argparse.Namespace) -> int:
    path = recipe_path(arguments)
    if arguments.syntax:
        from mmllm.recipe.load import load_recipe

        print(f"{path}: its words are right ({_stages(load_recipe(path, arguments.overrides).stages)})")
        return 0
    from mmllm.checks.run import check_recipe

    recipe, report = check_recipe(path, arguments.overrides, _importing)
    errors, warnings = list(report.errors), list(report.warnings)
    if arguments.build and not errors:
        from mmllm.planning.trial import problems

        errors, skipped = problems(recipe)
        warnings += skipped
    for sentence in errors:
        print(f"mmllm: {sentence}", file=sys.stderr)
    for sentence in warnings:
        print(f"mmllm: warning: {sentence}", file=sys.stderr)
    if errors:
        counted = f"{len(errors)} {'error' if len(errors) == 1 else 'errors'}"
        print(f"mmllm: {path}: {counted}; relative paths start beside the recipe or in {Path.cwd()}.", file=sys.stderr)
        return 2
    untested = f", {len(warnings)} {'warning' if len(warnings) == 1 else 'warnings'}" if warnings else ""
    print(f"{path}: ok ({_stages(recipe.stages)}{untested})")
    for note in report.notes:
        print(f"  {note}")
    command = "train" if recipe.stages else "chat"
    print(f"next: {shlex.join(['mmllm', command, str(arguments.recipe), *arguments.overrides])}")
    return 0


def _importing(where: str) -> None:
    """Say which class of another package runs its module's code now."""
    print(f"mmllm: importing {where}, a class of another package.", file=sys.stderr)


def _stages(names: Iterable[str]) -> str:
    found = list(names)
    if not found:
        return "no stages yet"
    return f"{len(found)} {'stage' if len(found) == 1 else 'stages'}: {', '.join(found)}"


def _show(arguments: argparse.Namespace) -> None:
    from mmllm.recipe.load import dump, load_recipe
    from mmllm.recipe.schema import json_schema

    if arguments.schema:
        print(json.dumps(json_schema(), indent=2))
        return
    if arguments.recipe is None:
        raise MmllmError("show needs a recipe, a run folder or --schema.")
    print(dump(load_recipe(recipe_path(arguments), arguments.overrides)), end="")


def _inspect(arguments: argparse.Namespace) -> None:
    from mmllm.inspection.command import run

    path = recipe_path(arguments)
    run(path, arguments.overrides, arguments.data, arguments.rows, arguments.row, arguments.html)


def _plan(arguments: argparse.Namespace) -> None:
    from mmllm.planning.command import run

    path = recipe_path(arguments)
    run(path, arguments.overrides, arguments.stage, arguments.gpus, arguments.gpu_memory, arguments.flops)


def _cp(arguments: argparse.Namespace) -> None:
    path = copy_recipe(arguments.name, arguments.destination)
    print(path)
    place(path)
