"""Sets that are read from their official files or from the Parquet form that the hub has of them, by one name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmllm.evaluation.benchmarks.base import Benchmark, Question
from mmllm.evaluation.benchmarks.published.base import Published


class TwoForms(Benchmark):
    """Official files where the folder holds them; else Parquet tables, which ``hub`` reads."""

    hub: ClassVar[type[Published]]
    _tables: Published | None = None

    def open_tables(self, path: str, official: Path, split: str | None) -> bool:
        """Open the Parquet form where there is one and no official file; whether it was opened.

        ``split``: as the tables call it; None: theirs. Raises MmllmError as :class:`Published` does.
        """
        folder = Path(path)
        places = (folder, folder / "data", folder / self.hub.of_config)
        if official.exists() or not (folder.suffix == ".parquet" or any(any(one.glob("*.parquet")) for one in places)):
            return False
        self._tables = self.hub(path=path, split=split, prompt=self.prompt, variant=self.variant)
        return True

    @property
    @abstractmethod
    def official_files(self) -> Sequence[Path]:
        """The files of the official form."""

    @abstractmethod
    def official(self, index: int) -> Question:
        """The question at an index of the official form."""

    @property
    @abstractmethod
    def official_count(self) -> int:
        """Number of questions of the official form."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that questions and answers are read from."""
        return self.official_files if self._tables is None else self._tables.files

    def __len__(self) -> int:
        """Number of questions."""
        return self.official_count if self._tables is None else len(self._tables)

    def __getitem__(self, index: int) -> Question:
        """The question at an index."""
        if self._tables is None:
            return self.official(index)
        vars(self._tables)["name"] = self.name  # a recipe may call this one otherwise
        return self._tables[index]
