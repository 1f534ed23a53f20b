"""Runs that a server offers as models, without any of their weights: names, groups of their data, when they changed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mmllm.checkpoints.code_trust import check_code
from mmllm.checkpoints.load import run_recipe
from mmllm.checkpoints.store import LEARNED
from mmllm.errors import MmllmError
from mmllm.files.durable import secure
from mmllm.recipe.models import Recipe, Start

LOG = logging.getLogger("serve")

WITHDRAWN = "withdrawn.jsonl"
"""In the folder of sets: a line for each group whose data may be used no more."""
_NAME = re.compile(r"\w[\w.@-]{0,200}")

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of change and number of each file that says which weights a run's last are."""


@dataclass(frozen=True)
class Offer:
    """A run that can be asked by a name."""

    name: str
    run: Path
    recipe: Recipe
    groups: frozenset[str]
    """Groups of all data that it learned from, by way of other runs it began with too."""
    stamp: Stamp

    @property
    def parent(self) -> str:
        """Name of the LLM that it is over."""
        return Path(self.recipe.llm.path).name

    @property
    def n_bytes(self) -> int:
        """Of the files of its learned weights; 0 where there are none."""
        for stage in reversed(self.recipe.stages):
            latest = self.run / "stages" / stage / "latest"
            if latest.is_file():
                file = latest.parent / latest.read_text(encoding="utf-8").strip() / LEARNED
                return file.stat().st_size if file.is_file() else 0
        return 0


class Offers:
    """Runs given one by one, and those of a folder, which is looked at whenever one is asked for."""

    def __init__(self, folder: Path | None, trust_code: bool = False) -> None:
        """``folder``: of run folders, each a model by its name; MmllmError where it is none."""
        if folder is not None and not folder.is_dir():
            raise MmllmError(f"--sets {folder} is no folder; give one that holds run folders.")
        self.folder, self._trust_code = folder, trust_code
        self._given: dict[str, Path] = {}
        self._read: dict[Path, Offer | None] = {}
        self._withdrawn: tuple[Stamp, frozenset[str]] = ((), frozenset())

    def give(self, run: Path) -> Offer:
        """Offer a run by its recipe's name; MmllmError where that is taken, or it cannot be read."""
        check_code(run, self._trust_code)
        name = run_recipe(run).name
        if name in self._given:
            raise MmllmError(
                f"{run} and {self._given[name]} are both called {name}; put them into a folder and give it as --sets: "
                "then each is called as its folder is."
            )
        self._given[name] = run
        return self._opened(name, run)

    def names(self) -> Iterator[str]:
        """Every name that may be offered, those given first."""
        yield from self._given
        if self.folder is not None:
            found = sorted(path.name for path in self.folder.iterdir() if (path / "recipe.yaml").is_file())
            yield from (name for name in found if name not in self._given)

    def find(self, name: str) -> Offer | None:
        """The run of a name as it is now; None where there is none, or its data's group was withdrawn."""
        run = self._given.get(name)
        if run is None and self.folder is not None and _NAME.fullmatch(name):
            run = self.folder / name
        if run is None or not (run / "recipe.yaml").is_file():
            return None
        try:
            stamp = stamp_of(run)
            known = self._read.get(run)
            if known is None or known.stamp != stamp:
                known = self._read[run] = self._opened(name, run)
        except (MmllmError, OSError) as error:
            # its groups are not known, so nobody may see it
            LOG.warning("%s is not offered: %s", run, error)
            return None
        return None if self.is_withdrawn(known.groups) else known

    def _opened(self, name: str, run: Path) -> Offer:
        check_code(run, self._trust_code)
        stamp, recipe = stamp_of(run), run_recipe(run)
        return Offer(name, run, recipe, groups_of(recipe, run), stamp)

    def is_withdrawn(self, groups: frozenset[str]) -> bool:
        """Whether data of one of these groups may be used no more; where the record cannot be read, any group's."""
        if self.folder is None or not groups:
            return False
        file = self.folder / WITHDRAWN
        stamp = _stat(file)
        if self._withdrawn[0] != stamp:
            try:
                lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
                self._withdrawn = stamp, frozenset(json.loads(line)["group"] for line in lines if line.strip())
            except (OSError, ValueError, KeyError, TypeError) as error:
                LOG.error("no set of any group is offered: %s cannot be read (%s)", file, error)
                return True
        return not groups.isdisjoint(self._withdrawn[1])


def withdraw(folder: Path, group: str, reason: str = "") -> list[str]:
    """Take every set that learned from a group's data out of service, by a line of the folder's record; their names.

    Raises:
        MmllmError: the folder is none, or no set of it is of that group.
    """
    offers = Offers(folder, trust_code=False)
    found = [offer for name in offers.names() if (offer := offers.find(name)) is not None and group in offer.groups]
    if not found:
        raise MmllmError(f"{folder} offers no set that learned from data of the group {group}.")
    line = {
        "group": group,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
        "sets": {offer.name: str(offer.run) for offer in found},
    }
    with (folder / WITHDRAWN).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    secure(folder / WITHDRAWN)
    return [offer.name for offer in found]


def groups_of(recipe: Recipe, run: Path) -> frozenset[str]:
    """Groups of the data that a run's stages read, and of the runs that it began with."""
    read = {key for stage in recipe.stages.values() for key in stage.data}
    found = {group for key, part in recipe.data.items() if key in read and (group := part.group) is not None}
    starts = [recipe.start, *(part.start for part in recipe.connectors.values())]
    for before in (_run_of(start) for start in starts if start is not None):
        if before is not None and before.resolve() != run.resolve():
            found |= groups_of(run_recipe(before), before)
    return frozenset(found)


def _run_of(start: Start) -> Path | None:
    path = Path(start.path)
    return path if (path / "recipe.yaml").is_file() else None


def stamp_of(run: Path) -> Stamp:
    """What changes when a run's recipe or last checkpoint does."""
    return _stat(run / "recipe.yaml", *sorted(run.glob("stages/*/latest")))


def _stat(*files: Path) -> Stamp:
    found = []
    for file in files:
        if file.is_file():
            stat = file.stat()
            found.append((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(found)


def may_learn_from(groups: frozenset[str], allowed: Collection[str]) -> bool:
    """Whether somebody of the groups ``allowed`` may be answered by what learned from data of ``groups``."""
    return groups <= set(allowed)
