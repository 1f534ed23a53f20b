"""Yes-no probes: POPE, MME and HallusionBench, whose scores are no means of their questions'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered, Question
from mmllm.evaluation.benchmarks.published.base import Published, from_hub
from mmllm.evaluation.metrics.whole import all_right, f1_of_yes
from mmllm.evaluation.metrics.yes_no import yes_no

COGNITION = ("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation")
"""The four of MME's categories that are no perception."""


class YesNo(Published):
    """The answer says yes or no; one that says neither is unparsed and wrong."""

    metric = "yes_no"
    default_variant: ClassVar[str] = "stated"

    def reference(self, item: Mapping[str, Any], options: Sequence[str]) -> tuple[str, ...]:
        """Yes or no, in any case or as 1 or 0."""
        found = str(item["answer"]).strip().lower()
        answer = {"1": "yes", "0": "no"}.get(found, found)
        if answer not in ("yes", "no"):
            raise MmllmError(f"it has the answer {item['answer']!r}; it is yes or no")
        return (answer,)

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Whether yes or no is right, and whether one was read."""
        said = yes_no(prediction, self.variant)
        return float(said == question.reference[0]), said is not None


class Pope(YesNo):
    """POPE (Li et al. 2023, arXiv 2305.10355): is an object there. The score is F1 with yes as the positive.

    The three samplings are kinds, and the score is the mean of their F1; ``pooled_f1`` is that of all questions, which
    is another number. Beside them accuracy, precision, recall and the share of yes among what was said.
    """

    name: ClassVar[str] = "pope"
    metric = "yes_no_f1"
    fetch: ClassVar[str] = from_hub("lmms-lab/POPE", "data/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"image": "image", "question": "question", "answer": "answer"}
    kinds: ClassVar[Sequence[str]] = ("category",)
    facts: ClassVar[Sequence[str]] = ("category",)
    clips: ClassVar[str] = "val2014"

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The official files have ``text`` and ``label``."""
        official = {"text": "question", "label": "answer"}
        return super().renamed({official.get(key, key): value for key, value in row.items()})

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """The mean over the samplings of F1, of one sampling its F1."""
        return fmean(f1_of_yes(self._pairs(some))["f1"] for some in self._by_sampling(answered).values())

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """Figures of all questions together."""
        return {
            ("pooled_f1" if name == "f1" else name): value for name, value in f1_of_yes(self._pairs(answered)).items()
        }

    def _pairs(self, answered: Sequence[Answered]) -> list[tuple[str | None, str]]:
        return [(yes_no(one.prediction, self.variant), str(one.question.reference[0])) for one in answered]

    def _by_sampling(self, answered: Sequence[Answered]) -> dict[str, list[Answered]]:
        found: dict[str, list[Answered]] = {}
        for one in answered:
            found.setdefault(str(one.question.facts.get("category")), []).append(one)
        return found


class Mme(YesNo):
    """MME (Fu et al. 2023, arXiv 2306.13394): 100 (acc + acc+) of each category, added up; 2800 at the most.

    acc+ is the share of pictures both of whose questions are right. ``perception`` (at most 2000) and ``cognition`` (at
    most 800) stand beside the sum.
    """

    name: ClassVar[str] = "mme"
    metric = "mme_score"
    fetch: ClassVar[str] = from_hub("lmms-lab/MME", "data/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "of": "question_id", "image": "image", "question": "question", "answer": "answer", "group": "category"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("group",)
    facts: ClassVar[Sequence[str]] = ("of", "group")
    clustered: ClassVar[Sequence[str]] = ("group", "of")
    asked: ClassVar[str] = "<image>\n{question}"
    default_variant: ClassVar[str] = "mme_official"

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """The sum over the categories."""
        return sum(self._by_category(answered).values())

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """The sums of the two halves, and the share of right answers."""
        found = self._by_category(answered)
        return {
            "perception": sum(value for name, value in found.items() if name not in COGNITION),
            "cognition": sum(value for name, value in found.items() if name in COGNITION),
            "accuracy": fmean(one.score for one in answered),
        }

    def _by_category(self, answered: Sequence[Answered]) -> dict[str, float]:
        groups: dict[str, list[Answered]] = {}
        for one in answered:
            groups.setdefault(str(one.question.facts["group"]), []).append(one)
        return {
            name: 100 * fmean(one.score for one in some)
            + 100 * fmean(all_right(some, lambda one: one.question.facts["of"]))
            for name, some in groups.items()
        }


class HallusionBench(YesNo):
    """HallusionBench (Guan et al. 2023, arXiv 2310.14566): aAcc by question, qAcc by question group, fAcc by figure.

    The score is aAcc. qAcc and fAcc are shares of groups all of whose questions are right; fAcc leaves out the figure 0
    of VS, which is none. Read by the words yes and no; the authors let a judge read, whose numbers are others. The
    official file has both parts, the hub's split ``image`` the questions with a picture.
    """

    name: ClassVar[str] = "hallusion_bench"
    fetch: ClassVar[str] = from_hub("lmms-lab/HallusionBench", "data/image-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"question": "question", "answer": "gt_answer"}
    kinds: ClassVar[Sequence[str]] = ("category", "subcategory")
    facts: ClassVar[Sequence[str]] = ("category", "subcategory", "set_id", "question_id", "figure_id")
    clustered: ClassVar[Sequence[str]] = ("category", "subcategory", "set_id")
    asked: ClassVar[str] = "<image>\n{question}"
    tables: ClassVar[Sequence[Sequence[str]]] = (("HallusionBench.json",),)
    of_split: ClassVar[str] = "image"

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question with its picture, where it has one."""
        shown = row["image"] if "image" in row else None if str(row.get("visual_input")) == "0" else row.get("filename")
        item = self.renamed(row)
        missing = [fact for fact in self.facts if fact not in row]
        if missing:
            raise MmllmError(f"it has no {', '.join(missing)}, but the fields {', '.join(row)}")
        identity = "/".join(str(row[fact]) for fact in self.facts)
        return [{**item, "id": identity, "image": shown}]

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """The shares of question groups, and of figures, that are right in all."""

        def shared(one: Answered, last: str) -> tuple[str, ...]:
            return tuple(str(one.question.facts[fact]) for fact in ("category", "subcategory", "set_id", last))

        shown = [
            one
            for one in answered
            if (str(one.question.facts["category"]), str(one.question.facts["figure_id"])) != ("VS", "0")
        ]
        found = {"qacc": fmean(all_right(answered, lambda one: shared(one, "question_id")))}
        if shown:
            found["facc"] = fmean(all_right(shown, lambda one: shared(one, "figure_id")))
        return found
