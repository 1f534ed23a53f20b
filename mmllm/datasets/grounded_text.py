"""Reading with places, as TGDoc trains it (Wang et al. 2023, arXiv 2311.13194): what a text says, where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from mmllm.datasets import scanned
from mmllm.datasets.base import Dataset
from mmllm.datasets.boxes import Box, Boxes, size_of
from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.types import Message, Sample

TASKS = ("detection", "recognition", "spotting", "qa")
"""Where is this text; what stands there; all texts with their places; questions that the document answers."""


class GroundedText(Dataset):
    """Conversations about the texts of scanned receipts (SROIE's files) and forms (FUNSD's), boxes in the answers.

    A box is ``[x1,y1,x2,y2]`` behind its text: fractions of what the encoder sees, three decimals, plain text for the
    LLM. With ``boxes: false`` the same questions have the texts alone; detection then asks nothing and is left out.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        tasks: Sequence[str] = TASKS,
        boxes: bool = True,
        turns: int = 5,
        fit: str = "squash",
        seed: int = 0,
    ) -> None:
        """Read the annotations; pictures are opened when asked for.

        Args:
            path: folder with ``box``, ``key`` and ``img`` (SROIE), or with ``training_data`` (FUNSD).
            split: of FUNSD, train or test.
            tasks: of ``detection``, ``recognition``, ``spotting`` and ``qa``; a document has a conversation of each.
            boxes: whether answers hold boxes.
            turns: most questions of a conversation, most texts of an answer to ``spotting``.
            fit: how the recipe's encoder brings a picture to its square: squash, pad or crop.
            seed: of which texts are asked about.
        """
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise MmllmError(f"grounded_text.tasks: {unknown[0] if unknown else 'none'!r}; known: {', '.join(TASKS)}")
        self._boxes = Boxes.of({"from": "xyxy_pixels", "fit": fit})
        self._with_boxes, self._turns, self._seed = boxes, turns, seed
        folder = Path(path)
        forms = folder / f"{split}ing_data"
        if not forms.is_dir() and not (folder / "box").is_dir():
            raise MmllmError(
                f"grounded_text: there is no {forms} (FUNSD) and no {folder / 'box'} (SROIE); give the folder that "
                "holds one of them as path"
            )
        self.name = f"{folder.name}:{split}"
        documents = scanned.funsd(forms) if forms.is_dir() else scanned.sroie(folder)
        shown = [task for task in tasks if boxes or task != "detection"]
        self._conversations = [(one, task) for one in documents for task in shown if _applies(one, task)]

    def __len__(self) -> int:
        """Number of conversations."""
        return len(self._conversations)

    def __getitem__(self, index: int) -> Sample:
        """Conversation ``index``; SampleError where its picture cannot be read or a box lies outside of it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        document, task = self._conversations[index]
        name = f"{self.name}:{document.name}/{task}"
        try:
            size = size_of(document.image)
        except MediaError as error:
            raise SampleError(f"{name}: {error}") from error
        messages: list[Message] = []
        for question, answer in self._asks(document, task, size):
            place = "" if messages else "<image>\n"
            messages += [Message("user", f"{place}{question}"), Message("assistant", answer)]
        return Sample(name, tuple(messages), {"image": (document.image,)})

    def _asks(self, document: scanned.Scanned, task: str, size: tuple[int, int]) -> list[tuple[str, str]]:
        """Questions and answers of a conversation, always the same."""
        draw = Random(f"{self._seed}/{document.name}/{task}")
        said = [one.text for one in document.texts]
        if task == "spotting":
            lines = [self._grounded(one, size) for one in document.texts[: self._turns]]
            what = ", each with its box" if self._with_boxes else ""
            return [(f"Read the first {len(lines)} texts{what}.", "\n".join(lines))]
        if task == "qa":
            fields = draw.sample(document.fields, min(self._turns, len(document.fields)))
            return [(f"{one.question}{self._request}", self._grounded(one.answer, size)) for one in fields]
        # where a text stands is asked of one that stands once
        alone = [one for one in document.texts if task == "recognition" or said.count(one.text) == 1]
        chosen = draw.sample(alone, min(self._turns, len(alone)))
        if task == "detection":
            return [(f'Where is "{one.text}"?', self._place(one.box, size)) for one in chosen]
        return [(f"What is written at {self._place(one.box, size)}?", one.text) for one in chosen]

    @property
    def _request(self) -> str:
        return " Answer with its box." if self._with_boxes else ""

    def _grounded(self, one: scanned.Text, size: tuple[int, int]) -> str:
        return f"{one.text} {self._place(one.box, size)}" if self._with_boxes else one.text

    def _place(self, box: Box, size: tuple[int, int]) -> str:
        return self._boxes.text_of(box, size)


def _applies(document: scanned.Scanned, task: str) -> bool:
    """Whether there is something to ask."""
    said = [one.text for one in document.texts]
    if task == "qa":
        return bool(document.fields)
    return any(said.count(text) == 1 for text in said) if task == "detection" else bool(said)
