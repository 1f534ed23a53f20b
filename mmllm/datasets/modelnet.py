"""Object classification from folders of point clouds or meshes in ModelNet's layout (Wu et al. 2015, 1406.5670)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError
from mmllm.types import Message, Sample

ENDINGS = (".off", ".ply", ".xyz", ".txt", ".npy", ".npz")


class ModelNet(Dataset):
    """``path``/<class>/<split>/<file>.off (also .ply, .xyz, .txt, .npy, .npz): question and the class's word.

    The word is the folder's name with underscores as spaces; ``words`` names others (class -> word), for all of them.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        question: str = "What object is it?",
        words: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"modelnet:{split}"
        self._rows = files_of(Path(path), split)
        self._words = words_of({kind for kind, _ in self._rows}, words)
        self._question = question

    def __len__(self) -> int:
        """Number of objects."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Object ``index`` as a conversation, named ``modelnet:<split>:<class>/<file>``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        kind, file = self._rows[index]
        messages = (Message("user", f"<points>\n{self._question}"), Message("assistant", self._words[kind]))
        return Sample(f"{self.name}:{kind}/{file.name}", messages, {"points": (file,)})


def files_of(path: Path, split: str) -> list[tuple[str, Path]]:
    """(class, file) of every object of a split, in order of their names.

    Raises:
        MmllmError: no folder, or no file of a known ending in it.
    """
    classes = sorted(folder.parent for folder in path.glob(f"*/{split}") if folder.is_dir()) if path.is_dir() else []
    found = [
        (folder.name, file)
        for folder in classes
        for file in sorted((folder / split).iterdir())
        if file.suffix.lower() in ENDINGS
    ]
    if not found:
        raise MmllmError(
            f"there is no <class>/{split}/ in {path} with {', '.join(ENDINGS)}; fetch ModelNet10 or ModelNet40 "
            "(modelnet.cs.princeton.edu) and give path the folder of the classes"
        )
    return found


def words_of(classes: set[str], words: Mapping[str, str] | None) -> dict[str, str]:
    """Class -> the word that is its answer; MmllmError where ``words`` leaves classes out."""
    if words is None:
        return {kind: kind.replace("_", " ") for kind in classes}
    lacking = sorted(classes - words.keys())
    if lacking:
        raise MmllmError(f"words: no word for {', '.join(lacking)}; name one for every class, or leave words out")
    return dict(words)
