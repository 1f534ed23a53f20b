"""What a check of a recipe found: errors, warnings and plain statements, each at its place; `mmllm check` prints it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmllm.recipe.messages import Problems
from mmllm.recipe.yaml_lines import Path


@dataclass
class Report:
    """Collects findings; the places of words come from the recipe that was read."""

    problems: Problems
    warnings: list[str] = field(default_factory=list)
    """What may go wrong or was not looked at, a sentence each, with its place."""
    notes: list[str] = field(default_factory=list)
    """What is there: ``data.captions: 24 rows, ...``."""

    @property
    def errors(self) -> list[str]:
        """What cannot run, a sentence each, with its place."""
        return self.problems.sentences

    def error(self, path: Path, sentence: str) -> None:
        """Note what keeps the recipe from running."""
        self.problems.add(path, sentence)

    def warning(self, path: Path, sentence: str) -> None:
        """Note what was not tested, or runs otherwise than one may expect."""
        self.warnings.append(self.problems.placed(path, sentence))

    def note(self, path: Path, sentence: str) -> None:
        """Note what was found."""
        self.notes.append(f"{'.'.join(map(str, path))}: {sentence}")
