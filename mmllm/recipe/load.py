"""recipe.yaml -> Recipe: reading, dotted overrides, every check that needs no torch; and back to YAML.

Everything downstream gets the frozen models that ``load_recipe`` returns.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmllm import registry
from mmllm.errors import RecipeError
from mmllm.recipe import checks, part_arguments, yaml_lines
from mmllm.recipe.located import ORIGIN, locate
from mmllm.recipe.messages import GROUPS, Problems, of_pydantic, place_of, unknown
from mmllm.recipe.models import SWITCHES, Recipe, Serve
from mmllm.recipe.shaping import IMPORTED

FORMER_MAX_PIXELS = 25_000_000
"""Default of ``serve: max_pixels`` until 4096 x 3072."""
LATER = ("adapts", "times", "token", "around", "tiles", "steps", "stitch", "rows", "shares", "attends", "start")
"""Words of a connector that came later."""
OF_DATA = ("system", "group")
"""Words of data that came later."""

Importing = Callable[[str], None]
"""Called with a "module:Class" that is about to be imported."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply ``stages.align.batch=64`` overrides, check all of it.

    Raises ``RecipeError`` with one sentence per problem. Problems of the YAML text, of the overrides, of each section
    and of names across sections are found in that order; a later kind is looked for only when there is none before it.
    """
    return load_placed(path, overrides)[0]


def load_placed(
    path: str | Path, overrides: Sequence[str] = (), importing: Importing | None = None
) -> tuple[Recipe, Problems]:
    """``load_recipe``, and where each word stands: for findings that only opening what is named can give.

    ``importing`` is told each "module:Class" of another package before it is imported.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"{path}: the recipe cannot be read: {reason}.") from error
    problems = Problems(str(path))
    imported = (Path(path).parent / "stages" / IMPORTED).is_dir()  # such a run may wait for its first stage
    return _parsed(text, overrides, problems, _folders(Path(path)), importing, stages=not imported), problems


def paths_beside(path: Path) -> list[str]:
    """A clause for each path of a recipe that is not meant from the current folder, because it was found elsewhere."""
    try:
        document = yaml_lines.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return []  # said where the recipe is read
    return locate(document.data, _folders(path)) if isinstance(document.data, dict) else []


def _folders(path: Path) -> list[Path]:
    """Where relative paths are looked for besides the current folder: the recipe's, and where a run was trained."""
    try:
        origin = json.loads((path.parent / ORIGIN).read_text(encoding="utf-8"))["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return [path.parent]
    return [path.parent, Path(str(origin))]


def parse(
    text: str,
    overrides: Sequence[str] = (),
    file: str = "recipe",
    folders: Sequence[Path] = (),
    *,
    stages: bool = True,
) -> Recipe:
    """``load_recipe`` for text.

    ``file`` is what errors call it, ``folders`` are where its relative paths may start; ``stages``: whether it must
    have some.
    """
    return _parsed(text, overrides, Problems(file), folders, stages=stages)


def _parsed(
    text: str,
    overrides: Sequence[str],
    problems: Problems,
    folders: Sequence[Path],
    importing: Importing | None = None,
    *,
    stages: bool = True,
) -> Recipe:
    """The recipe of a text; its problems are noted, then raised."""
    file = problems.file
    document = yaml_lines.read(text)
    for path, line, sentence in document.problems:
        problems.add(path, sentence, place=f"{file}:{line}")
    problems.locate(document.lines)
    problems.raise_any()
    if not isinstance(document.data, dict):
        found = "the file is empty" if document.data is None else "the file is not a mapping"
        problems.add((), f"{found}; a recipe has the keys {', '.join(Recipe.model_fields)}")
        problems.raise_any()
    document.data.setdefault("name", Path(file).stem)
    if folders:
        locate(document.data, folders)  # before the overrides: what is typed is meant from the current folder
    for override in overrides:
        _apply(document.data, override, problems)
    problems.raise_any()
    if importing is not None:
        for outside in checks.outside_parts(document.data):
            importing(outside)
    try:
        # By way of JSON, pydantic's strict mode takes a list for a tuple but never "64" for 64.
        recipe = Recipe.model_validate_json(json.dumps(_sectioned(document.data)), strict=True)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            problems.add(*of_pydantic(details))
        problems.raise_any()
        raise
    checks.check(recipe, problems, stages)
    problems.raise_any()
    return recipe


def dump(recipe: Recipe) -> str:
    """YAML with every value written out that loads to an equal recipe."""
    data = recipe.model_dump(mode="json")
    for section in GROUPS:
        data[section] = {key: _flat(part) for key, part in data[section].items()}
    data["llm"] = {word: value for word, value in data["llm"].items() if value is not None}
    data["stages"] = {key: _used(stage) for key, stage in data["stages"].items()}
    data["eval"] = _used(data["eval"])
    # sort_keys=False: stages run in the order they are written in
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def digest(recipe: Recipe) -> str:
    """sha256 over every value and the order of the entries (stages run in order).

    Words that came later count only where they are used: runs made before keep their digest. A word added from now on
    goes into this list too, unless its default changes what is trained.
    """
    unused: dict[str, Any] = {
        section: {key: {word for word in (*LATER, *OF_DATA) if getattr(part, word) is None} for key, part in parts}
        for section, parts in ((section, getattr(recipe, section).items()) for section in GROUPS)
    }
    of_llm = ("attention", "file", "template", "quantize", "tokens")
    unused["llm"] = {word for word in of_llm if getattr(recipe.llm, word) is None}
    unused["stages"] = {
        key: {word for word in ("cache", "share_prefix", "workers", "distill") if getattr(stage, word) is None}
        for key, stage in recipe.stages.items()
    }
    unused["eval"] = {"cache"} if recipe.eval.cache is None else set()
    plain = Serve()
    unused |= {word: True for word in ("start", "threads") if getattr(recipe, word) is None}
    later = ("system", "max_files", "max_seconds", "rows", "kv_memory", "media_memory", "hosts", "origins", "cache")
    of_sets = ("sets_memory", "set_waiting")
    unused["serve"] = {word for word in (*later, *of_sets) if getattr(recipe.serve, word) == getattr(plain, word)}
    if recipe.serve.max_pixels == plain.max_pixels:  # a smaller default than runs were made with before
        recipe = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"max_pixels": FORMER_MAX_PIXELS})})
    # by alias: a word that was renamed counts under its first name, for the same reason
    return hashlib.sha256(recipe.model_dump_json(exclude=unused, by_alias=True).encode()).hexdigest()


def _used(words: dict[str, Any]) -> dict[str, Any]:
    """Words of a stage or of ``eval`` without those that are not set."""
    found = {word: value for word, value in words.items() if value is not None}
    for word in SWITCHES.keys() & found.keys():
        found[word] = {inner: value for inner, value in found[word].items() if value is not None}
    return found


class _Dumper(yaml.SafeDumper):
    """Quotes text that looks like a number with an exponent, which ``yaml_lines`` would refuse unquoted."""

    def represent_text(self, data: str) -> yaml.ScalarNode:
        """Scalar node of a text."""
        style = "'" if yaml_lines.EXPONENT.fullmatch(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _flat(part: dict[str, Any]) -> dict[str, Any]:
    """A part as the YAML writes it."""
    own = ("when", *LATER, *OF_DATA)
    words = {"type": part["type"], "from": part["source"], **{word: part[word] for word in own}}
    return {word: value for word, value in words.items() if value is not None} | part["args"]


def _sectioned(data: dict[str, Any]) -> dict[str, Any]:
    """The YAML's flat parts as the models hold them: own words apart from arguments."""
    found = dict(data)
    for section in GROUPS:
        if isinstance(found.get(section), dict):
            found[section] = {key: _part(section, key, part) for key, part in found[section].items()}
    return found


def _part(section: str, key: str, part: Any) -> Any:
    """One flat part; what is not a mapping is left for the models to refuse."""
    if not isinstance(part, dict):
        return part
    words = {"type": "type"}
    if section == "connectors":
        words |= {"from": "source", "when": "when", **{word: word for word in LATER if word != "start"}}
        if not _has_own_start(part.get("type")):
            words["start"] = "start"
        if "inside" in part and "adapts" not in part:
            sentence = f"recipe: connectors.{key}.inside is called `adapts` now; the old word is read in this release"
            warnings.warn(sentence, FutureWarning, stacklevel=2)
            words["inside"] = "adapts"
    if section == "data":
        words |= {word: word for word in OF_DATA}
    own = {words[word]: value for word, value in part.items() if word in words}
    return own | {"args": {word: value for word, value in part.items() if word not in words}}


def _has_own_start(type: Any) -> bool:
    """Whether `start` is an argument of this connector's class (deepstack's first block), which goes first.

    Of classes of other packages it is the recipe's word: nothing may be imported before the checks ask for it.
    """
    try:
        own = isinstance(type, str) and registry.locate("connectors", type).partition(".")[0] == registry.OWN
        return own and "start" in part_arguments.accepted("connectors", type)
    except registry.UnknownName:  # noted later, with the arguments
        return False


def _apply(data: dict[str, Any], override: str, problems: Problems) -> None:
    """Set one dotted path; a path that leads nowhere is a problem."""
    place = place_of(override)
    dotted, sign, text = override.partition("=")
    if not sign or not dotted:
        problems.add((), "there is no path=value in it; write e.g. stages.align.batch=64", place=place)
        return
    document = yaml_lines.read(text)
    for _, _, sentence in document.problems:
        problems.add((dotted,), sentence, place=place)
    node: Any = data
    path: yaml_lines.Path = ()
    words = dotted.split(".")
    while words:
        if not isinstance(node, dict):
            problems.add(
                (dotted,), f"{'.'.join(map(str, path))} is not a mapping, so nothing can be set in it", place=place
            )
            return
        word, words = _next(node, path, words)
        if words and word not in node:
            known = list(node) if path else list(Recipe.model_fields)
            # deeper down a new word may be an argument of a part: whether its class has it is checked with the file's
            # own
            if word not in known and len(path) < 2:
                problems.add((*path, word), unknown("key", word, known), place=place)
                return
            node[word] = {}
        path = (*path, word)
        if not words:
            node[word] = document.data
        node = node[word]
    problems.override(path, override)


def _next(node: dict[str, Any], path: yaml_lines.Path, words: list[str]) -> tuple[str, list[str]]:
    """The next key of an override and what is left; keys may hold dots themselves (``train`` has connectors.image)."""
    # the longest key first: `connectors.image` of `train` is one key, not two
    for count in range(len(words), 0, -1):
        key = ".".join(words[:count])
        if key in node:
            return key, words[count:]
    if len(path) == 3 and path[0] == "stages" and path[2] == "train":
        return ".".join(words), []
    return words[0], words[1:]
