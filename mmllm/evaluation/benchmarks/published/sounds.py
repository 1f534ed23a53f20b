"""Questions about sound, and transcripts: MMAU, AIR-Bench Foundation, VocalSound, LibriSpeech."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mmllm.datasets.containers.base import Rows
from mmllm.evaluation.benchmarks.base import Answered
from mmllm.evaluation.benchmarks.multiple_choice import CHOICE
from mmllm.evaluation.benchmarks.published.base import AUDIO_LETTER, Published, from_hub
from mmllm.evaluation.benchmarks.published.choices import Choice
from mmllm.evaluation.benchmarks.published.transcripts import Transcripts
from mmllm.evaluation.metrics.wer import word_error_rate


class Mmau(Choice):
    """MMAU (Sakshi et al. 2024, arXiv 2410.19168), test-mini: sound, music and speech, by task and difficulty."""

    name: ClassVar[str] = "mmau"
    fetch: ClassVar[str] = from_hub("lmms-lab/mmau", "data/test_mini-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "id", "audio": "audio", "question": "question", "options": "choices", "answer": "answer"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("task", "difficulty")
    asked: ClassVar[str] = AUDIO_LETTER
    gold: ClassVar[str] = "text"
    tables: ClassVar[Sequence[Sequence[str]]] = (("mmau-test-mini.json",),)
    of_split: ClassVar[str] = "test_mini"
    submission: ClassVar[str] = "Its test split is scored by its authors, as its JSON with model_output in each row."

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The official file names the sound ``audio_id``."""
        return super().renamed({("audio" if key == "audio_id" else key): value for key, value in row.items()})


class AirBench(Choice):
    """AIR-Bench Foundation (Yang et al. 2024, arXiv 2402.07729), splits speech, sound, music; by task and data set.

    An option that a row has not is not offered (the authors' script prints "None" for it), and an answer that cannot be
    read is wrong (theirs leaves it out).
    """

    name: ClassVar[str] = "air_bench"
    fetch: ClassVar[str] = from_hub("lmms-lab/AIR_Bench", "Foundation/speech-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "uniq_id", "audio": "audio", "question": "question", "answer": "answer_gt"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("task_name", "dataset_name")
    lettered_columns: ClassVar[Sequence[str]] = ("choice_a", "choice_b", "choice_c", "choice_d")
    asked: ClassVar[str] = AUDIO_LETTER
    gold: ClassVar[str] = "text"
    of_split: ClassVar[str] = "speech"
    of_config: ClassVar[str] = "Foundation"


class VocalSound(Published):
    """VocalSound (Gong et al. 2022, arXiv 2205.03433): which of six sounds a person makes, by its name alone."""

    name: ClassVar[str] = "vocalsound"
    metric = CHOICE
    fetch: ClassVar[str] = from_hub("lmms-lab/vocalsound", "data/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"audio": "audio", "answer": "answer"}
    kinds: ClassVar[Sequence[str]] = ("answer",)
    asked: ClassVar[str] = "<audio>\n{question}"
    default_variant: ClassVar[str] = "name"

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """All are asked the same."""
        return [{**self.renamed(row), "question": "Classify the human vocal sound to VocalSound in English:"}]


class LibriSpeech(Published):
    """LibriSpeech (Panayotov et al. 2015), word error rate: all edits over all words, lower is better.

    ``variant: plain`` lowers the case and drops punctuation but the apostrophe; ``whisper_en`` is the normaliser of
    Whisper's English results. Read are the published folders (``test-clean``) and the hub's tables. A question's own
    score is 1 less its error rate, 0 at the least.
    """

    name: ClassVar[str] = "librispeech"
    metric = "wer"
    fetch: ClassVar[str] = from_hub("openslr/librispeech_asr", "clean/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"audio": "audio", "id": "id", "answer": "text"}
    asked: ClassVar[str] = "<audio>\n{question}"
    of_config: ClassVar[str] = "clean"
    default_variant: ClassVar[str] = "plain"

    def open_tables(self, named: str | None) -> Rows:
        """The published folder of the split (``test-clean``) where it is here, else tables."""
        published = self._where / f"{self.split}-{self.config}"
        return Transcripts(published) if published.is_dir() else super().open_tables(named)

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Another repackaging names the transcript ``gt``."""
        return super().renamed({("text" if key == "gt" else key): value for key, value in row.items()})

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """All are asked the same."""
        question = "Please recognize the speech and only output the recognized content:"
        return [{**self.renamed(row), "question": question}]

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """Edits of all over words of all."""
        return word_error_rate(((one.prediction, str(one.question.reference[0])) for one in answered), self.variant)
