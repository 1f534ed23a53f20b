"""Recipe files by what the user typed: paths, run folders, and those that mmllm ships.

Used by the command line and ``mmllm.load_recipe``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mmllm import registry
from mmllm.errors import MmllmError, RecipeError


def shipped_root() -> Path:
    """Folder that holds what is shipped beside the code, ``recipes/`` and ``data/mini/``, under these names.

    A wheel holds it inside the package (``setup.py`` copies it there); in a checkout it is the checkout itself.
    """
    package = Path(__file__).resolve().parents[1]
    # the wheel's own first: above an installed package lie other packages' folders, and one may be called recipes
    within = package / "shipped"
    return within if within.is_dir() else package.parent


def folder() -> Path:
    """The shipped recipes' folder."""
    found = shipped_root() / "recipes"
    if not found.is_dir():
        raise MmllmError(
            f"shipped recipes are looked for in {found}, which does not exist; install mmllm again, from a wheel or "
            "from a clone of the repository with: pip install -e ."
        )
    return found


def shipped() -> dict[str, str]:
    """Name -> first line of the recipe, for every shipped recipe."""
    found = {}
    # full-size recipes first, the miniature ones of the folder below after them
    for path in sorted(folder().rglob("*.yaml"), key=lambda path: (len(path.parts), path)):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.relative_to(folder()).with_suffix("").as_posix()] = first.lstrip("# ") if first[:1] == "#" else ""
    return found


def find_recipe(given: str | Path) -> Path:
    """A recipe file as it is, a run folder's `recipe.yaml`, or a shipped recipe's file by its name."""
    path = Path(given)
    if path.is_dir():
        if not (path / "recipe.yaml").is_file():
            raise RecipeError(f"{path}: the folder has no recipe.yaml, so it is not a run.")
        return path / "recipe.yaml"
    return path if path.exists() else _shipped_file(str(given))


def copy_recipe(name: str, destination: Path) -> Path:
    """Copy a shipped recipe to a file or into a folder; nothing is overwritten. Returns the new file."""
    source = _shipped_file(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise MmllmError(f"{target} exists already; name another file.")
    if not target.parent.is_dir():
        raise MmllmError(f"{target.parent} is not a folder; make it first.")
    shutil.copyfile(source, target)
    return target


def _shipped_file(name: str) -> Path:
    """File of a shipped recipe, by the name that `mmllm ls recipes` prints, or as a checkout calls it."""
    known = shipped()
    # what the recipes' own first lines say, `mmllm train recipes/mini/pool.yaml`, works away from a checkout too
    name = name.removeprefix("recipes/").removesuffix(".yaml") if name.startswith("recipes/") else name
    if name not in known:
        near = registry.nearest(name, known) or registry.nearest(Path(name).stem, known)
        hint = f'; did you mean "{near}"?' if near else "."
        raise RecipeError(f'there is no recipe file "{name}"; shipped recipes: {", ".join(known) or "none"}{hint}')
    return folder() / f"{name}.yaml"
