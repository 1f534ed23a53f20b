"""The command: files and settings in; lines written batch by batch, and the score where the fields are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mmllm.errors import MmllmError
from mmllm.evaluation.metrics.fields import VARIANTS, Counts, counts_of
from mmllm.extraction import lines as store
from mmllm.extraction.extract import Extractor, Settings
from mmllm.extraction.lines import Line
from mmllm.extraction.records import pictures_of, read_records
from mmllm.generation.model import Model


def extract(
    model: Model,
    files: Sequence[Path],
    settings: Settings,
    *,
    batch: int | None = None,
    out: Path | None = None,
    say: Callable[[str], object] | None = None,
) -> list[Line]:
    """Extract documents, ``batch`` at once (default: the recipe's ``eval.batch``); the lines in order of the files.

    Args:
        model: the run.
        files: pictures, each once.
        settings: what is asked.
        batch: documents answered at once.
        out: where lines are written and found again; those of the same model, settings and content are kept.
        say: is told each line where there is no ``out``; default: they are printed.

    Raises:
        MmllmError: see :class:`Extractor`; a file is given twice; ``out`` cannot be written or holds something else.
    """
    twice = [name for name, n in Counter(map(str, files)).items() if n > 1]
    if twice:
        raise MmllmError(f"{twice[0]} is given twice.")
    size = batch or model.recipe.eval.batch
    extractor = Extractor(model, settings)
    if out is None:
        say = say or _print
        every: dict[str, Line] = {}
        for start in range(0, len(files), size):
            for line in extractor.extract(files[start : start + size]):
                every[line.file] = line
                say(line.text())
        return store.in_order(every, files)
    return _into(out, extractor, files, size)


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _into(out: Path, extractor: Extractor, files: Sequence[Path], size: int) -> list[Line]:
    key = extractor.key
    contents = {str(file): store.content_of(extractor.reads(file)) for file in files}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        every = store.kept(out, key, contents)
        store.write(out, every.values())
        todo = [file for file in files if str(file) not in every]
        with out.open("a", encoding="utf-8") as target:
            for start in range(0, len(todo), size):
                for line in extractor.extract(todo[start : start + size]):
                    every[line.file] = line.marked(key, contents[line.file])
                    target.write(every[line.file].text())
                target.flush()
        found = store.in_order(every, files)
        store.write(out, [*found, *(line for name, line in every.items() if name not in contents)])
    except OSError as error:
        raise MmllmError(f"--out {out} cannot be written ({error.strerror}).") from error
    return found


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Pictures, and those of folders; MmllmError where there is none."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise MmllmError(f"there is no file or folder {path}; give pictures of documents, or folders of them.")
        inside = pictures_of(path) if path.is_dir() else [path]
        if not inside:
            raise MmllmError(f"{path} holds no picture.")
        found += inside
    return found


OF_TEXTS = tuple(variant for variant in VARIANTS if variant != "iou")


class Truth:
    """Known fields of documents, by which lines are scored."""

    def __init__(self, path: Path, files: Sequence[Path], variant: str = "exact") -> None:
        """Read them.

        ``variant``: of the metric. Raises MmllmError where it is none of texts, or one of ``files`` is not among them.
        """
        if variant not in OF_TEXTS:
            raise MmllmError(f"--variant {variant} is unknown; known: {', '.join(OF_TEXTS)}.")
        self._variant = variant
        known = {record.image.resolve(): record.answer for record in read_records(path, "--score")}
        missing = [file for file in files if file.resolve() not in known]
        if missing:
            raise MmllmError(f"--score {path} does not know the fields of {missing[0]} ({len(missing)} are missing).")
        self._answers = {str(file): known[file.resolve()] for file in files}

    def score(self, lines: Sequence[Line]) -> dict[str, float]:
        """F1, precision and recall of all cells, and the mean F1 of a document; one without an object has no cell."""
        every = [counts_of(line.value, self._answers[line.file], self._variant) for line in lines]
        total = sum(every, Counts(0.0, 0, 0))
        mean = sum(one.f1 for one in every) / len(every)
        return {"field_f1": total.f1, "precision": total.precision, "recall": total.recall, "f1_of_a_document": mean}
