"""The lowest versions of libraries: pyproject.toml says what the table says, and constraints.txt is not below it."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.places import ROOT


def table() -> dict[str, Any]:
    return tomllib.loads((ROOT / "scripts" / "floors.toml").read_text(encoding="utf-8"))


def floors() -> dict[str, Version]:
    """Library -> the version of the table."""
    found = table()
    assert not found["fault_below"].keys() & found["tried"].keys()
    assert all(one.keys() == {"floor", "reason"} and len(one["reason"]) > 10 for one in found["fault_below"].values())
    named = {**{name: one["floor"] for name, one in found["fault_below"].items()}, **found["tried"]}
    return {canonicalize_name(name): Version(floor) for name, floor in named.items()}


def test_pyproject_allows_from_the_tables_versions_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    asked: dict[str, Version] = {}
    for requirement in map(Requirement, written):
        (bound,) = requirement.specifier
        if bound.operator == "==":  # one release whose structures are known
            continue
        assert bound.operator == ">=", requirement
        floor = asked.setdefault(canonicalize_name(requirement.name), Version(bound.version))
        assert floor == Version(bound.version), f"{requirement.name} has two floors"
    assert asked == floors()


def test_the_exact_versions_are_not_below() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    exact = {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}
    assert {name: version for name, version in exact.items() if name in floors() and version < floors()[name]} == {}
    assert floors().keys() <= exact.keys()


def test_the_tables_tests_are_there() -> None:
    assert all((ROOT / path).exists() for path in table()["tests"])
    script = (ROOT / "scripts" / "floors").read_text(encoding="utf-8")
    extras = re.search(r"\.\[([a-z,]+)\]", script)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras is not None and set(extras[1].split(",")) == set(project["optional-dependencies"])
