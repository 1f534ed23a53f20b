"""A run as ``model.gguf`` and, where it sees pictures, ``mmproj.gguf``: written, then read back by llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFWriter

from mmllm.errors import MmllmError
from mmllm.exporting.gguf.mmproj import Pictures, check_allowed, pictures_of
from mmllm.exporting.gguf.reading_back import ReadingBack, lacking
from mmllm.exporting.gguf.tensor_file import DTYPES, check_file, write_file
from mmllm.exporting.gguf.text_model import GELU, TextFile
from mmllm.exporting.gguf.vocabulary import Vocabulary
from mmllm.exporting.merging import merge
from mmllm.model.model import MultimodalLM
from mmllm.published.comparison import Stage
from mmllm.recipe.models import Recipe

ROUNDED = {"float16": 0.05, "bfloat16": 0.2}
"""Largest difference of logits that comes of rounding the weights, as a share of their spread."""


@dataclass(frozen=True)
class Files:
    """The files of a run."""

    name: str
    text: TextFile
    vocabulary: Vocabulary
    pictures: Pictures | None
    folder: Path

    def write(self, dtype: str) -> None:
        """Write all, and read the tensors again."""
        entries = list(self.text.entries())
        write_file(self.folder / "model.gguf", self.text.architecture, self._keys, entries, dtype)
        check_file(self.folder / "model.gguf", entries, dtype)
        if self.pictures is not None:
            self.write_pictures("mmproj.gguf", dtype)

    def write_pictures(self, name: str, dtype: str, class_last: bool = False) -> None:
        """Write tower and projector; ``class_last``: as builds read them that have the class token at the end."""
        assert self.pictures is not None
        entries = list(self.pictures.entries(class_last))
        write_file(self.folder / name, "clip", self.pictures.add_keys, entries, dtype)
        check_file(self.folder / name, entries, dtype)

    def _keys(self, writer: GGUFWriter) -> None:
        writer.add_name(self.name)
        self.text.add_keys(writer)
        self.vocabulary.add_keys(writer)


def write(
    recipe: Recipe, model: MultimodalLM, folder: Path, dtype: str = "float32", allow: Sequence[str] = ()
) -> Iterator[Stage]:
    """Write the files in float32, compare them with the run, then round them to ``dtype``.

    Args:
        recipe: of the run.
        model: of the run, in float32.
        folder: for the files.
        dtype: a key of :data:`~mmllm.exporting.gguf.tensor_file.DTYPES`: how matrices are stored.
        allow: words of :data:`~mmllm.exporting.gguf.mmproj.ALLOWED`.

    Raises:
        MmllmError: llama.cpp does not compute what the run does; says what of it.
    """
    check_allowed(allow)
    if dtype not in DTYPES:
        raise MmllmError(f"--dtype {dtype} is unknown; known: {', '.join(DTYPES)}")
    text = TextFile(model.llm.model, model.llm.context)
    pictures = pictures_of(recipe, model, allow, text.picture_scale)
    files = Files(recipe.name, text, Vocabulary(model.llm.tokenizer, text.rows), pictures, folder)
    back = ReadingBack(
        model, pictures, folder, starts=files.vocabulary.starts, gelu=files.text.family.activations == GELU
    )
    yield from back.put_into_weights(lambda: merge(model, "gguf", () if pictures is None else tuple(model.inputs)))
    files.write("float32")
    yield Stage("weights, by gguf's own reader", 0, 0)
    why = lacking()
    if why is None:
        yield from _read_back(files, back)
    else:
        if files.text.family.read_by_transformers:
            yield from back.by_transformers()
        unverified = f"llama.cpp was not asked ({why}), so what it makes of texts and pictures is unverified"
        yield Stage(f"no more: {unverified}", 0, 0)
    if dtype != "float32":
        files.write(dtype)
        if why is None:
            yield from back.rounded(dtype, ROUNDED[dtype])


def _read_back(files: Files, back: ReadingBack) -> Iterator[Stage]:
    if files.pictures is None or not files.pictures.class_token:
        yield from back.stages()
        return
    other = files.folder / "class-last.gguf"
    files.write_pictures(other.name, "float32", class_last=True)
    try:
        yield from back.stages(other.name)
    finally:
        other.unlink()
