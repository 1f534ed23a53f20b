"""Comparisons with scorers that authors publish as files, read from copies of their repositories (``--sources``)."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scorers import cases, ours
from benchmarks.scorers.comparison import Comparison, Reason
from mmllm.evaluation.benchmarks.published.yes_no import Mme
from mmllm.evaluation.metrics.whole import f1_of_yes
from mmllm.evaluation.metrics.yes_no import yes_no

VQA, POPE = "VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py", "POPE/evaluate.py"
MME = "mPLUG-Owl/mPLUG-Owl2/mplug_owl2/evaluate/evaluate_mme.py"
MMMU, SCIENCEQA = "MMMU/mmmu/utils/eval_utils.py", "LLaVA/llava/eval/eval_science_qa.py"
MATHVISTA = "MathVista/evaluation/calculate_score.py"
REPOSITORIES = {
    VQA: "GT-Vision-Lab/VQA",
    POPE: "RUCAIBox/POPE",
    MME: "X-PLUG/mPLUG-Owl",
    MMMU: "MMMU-Benchmark/MMMU",
    SCIENCEQA: "haotian-liu/LLaVA",
    MATHVISTA: "lupantech/MathVista",
}
"""File below ``--sources`` -> the repository that it is from."""

METRICS_OF_MME = ("accuracy_score", "precision_score", "recall_score", "confusion_matrix")
"""What MME's class takes from scikit-learn."""


def comparisons(sources: Path) -> list[Comparison]:
    """Those whose files are there."""
    makers = {VQA: _vqa, POPE: _pope, MME: _mme, MMMU: _mmmu, SCIENCEQA: _scienceqa, MATHVISTA: _mathvista}
    found = [(file, make) for file, make in makers.items() if (sources / file).is_file()]
    return [one for file, make in found for one in make((sources / file).read_text(encoding="utf-8"))]


def _vqa(source: str) -> list[Comparison]:
    """Its scorer is Python 2: two prints are taken out, and tabs made blanks."""
    names: dict[str, Any] = {}
    exec(re.sub(r'^\s*print ".*$', "", source.expandtabs(4), flags=re.MULTILINE), names)

    class Asked:
        def __init__(self, answers: Any) -> None:
            self.qa = {1: answers}

        def getQuesIds(self) -> list[int]:
            return [1]

    def theirs(case: Any) -> float:
        answers = [{"answer": text, "answer_id": number} for number, text in enumerate(case["answers"])]
        asked = Asked({"answers": answers, "question_type": "x", "answer_type": "x"})
        scorer = names["VQAEval"](asked, Asked({"answer": case["said"]}), n=12)
        with contextlib.redirect_stdout(io.StringIO()):
            scorer.evaluate()
        return float(scorer.accuracy["overall"]) / 100

    peer = f"{REPOSITORIES[VQA]}, `VQAEval`"
    return [Comparison("vqa_accuracy vqa_official_2021", peer, cases.answered, ours.vqa("vqa_official_2021"), theirs)]


def _pope(source: str) -> list[Comparison]:
    def run(some: Sequence[Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            for name, key, field in (("answers", "said", "answer"), ("labels", "answer", "label")):
                lines = (json.dumps({field: case[key]}) + "\n" for case in some)
                (Path(folder) / name).write_text("".join(lines), encoding="utf-8")
            text = source.replace("ans_file = ''", f"ans_file = {folder + '/answers'!r}", 1)
            names: dict[str, Any] = {}
            with contextlib.redirect_stdout(io.StringIO()):
                exec(text.replace("label_file = ''", f"label_file = {folder + '/labels'!r}", 1), names)
            return names

    def each(drawn: Sequence[Any]) -> tuple[list[str | None], list[str]]:
        said = run(drawn)["pred_list"]
        return [yes_no(case["said"], "pope_official") for case in drawn], ["yes" if one else "no" for one in said]

    def sets(drawn: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        one: list[Any] = []
        other: list[Any] = []
        for start in range(0, len(drawn), 100):
            some = drawn[start : start + 100]
            mine = f1_of_yes([(yes_no(case["said"], "pope_official"), case["answer"]) for case in some])
            theirs = run(some)
            one += [
                tuple(round(mine[name], 9) for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"))
            ] * len(some)
            other += [
                tuple(round(theirs[name], 9) for name in ("acc", "precision", "recall", "f1", "yes_ratio"))
            ] * len(some)
        return one, other

    empty = Reason("an empty answer is none, where the authors count it as yes", lambda case: not case["said"].strip())
    peer = f"{REPOSITORIES[POPE]}, `evaluate.py`"
    return [
        Comparison("yes_no pope_official", peer, cases.yes_no, None, None, (empty,), together=each),
        Comparison("yes_no_f1 pope_official: figures of sets", peer, cases.plain_yes_no, None, None, together=sets),
    ]  # fmt: skip


def _mme(source: str) -> list[Comparison]:
    """The class of MME's own tool, as a repository that is there holds it; it alone is run."""
    from sklearn import metrics

    tree = ast.parse(source)
    own = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "calculate_metrics"]
    names: dict[str, Any] = {name: getattr(metrics, name) for name in METRICS_OF_MME}
    exec(compile(ast.Module(own, []), MME, "exec"), names)
    categories = ("color", "code_reasoning")
    names["eval_type_dict"] = {"Perception": categories[:1], "Cognition": categories[1:]}

    def each(case: Any) -> str | None:
        found = names["calculate_metrics"]().parse_pred_ans(case["said"].lower())
        return None if found == "other" else str(found)

    def sums(drawn: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        one: list[Any] = []
        other: list[Any] = []
        rule = ours.rules(Mme, "mme_official")
        for start in range(0, len(drawn), 100):
            some = drawn[start : start + 100]
            groups: dict[str, dict[str, list[Any]]] = {name: {} for name in categories}
            answers = []
            for number, case in enumerate(some):
                group, picture = categories[number % 4 // 2], f"{number // 2}.png"
                row = {"image_name": picture, "question": "?", "annotation": case["answer"], "answer": case["said"]}
                groups[group].setdefault(picture, []).append(row)
                right = float(yes_no(case["said"], "mme_official") == case["answer"])
                answers.append((case["said"], right, {"of": picture, "group": group}, ()))
            with contextlib.redirect_stdout(io.StringIO()):
                theirs = sum(names["calculate_metrics"]().process_result(groups).values())
            one += [round(rule.whole(ours.asked(answers)), 6)] * len(some)
            other += [round(float(theirs), 6)] * len(some)
        return one, other

    peer = f"MME's `calculate_metrics`, in {REPOSITORIES[MME]}"
    return [
        Comparison("yes_no mme_official", peer, cases.yes_no, ours.said_yes("mme_official"), each),
        Comparison("mme_score mme_official of sets", peer, cases.yes_no, None, None, together=sums),
    ]  # fmt: skip


def _mmmu(source: str) -> list[Comparison]:
    names: dict[str, Any] = {}
    exec(source, names)
    # it draws a letter at random where it reads none: here it then reads nothing
    names["random"] = type("Nothing", (), {"choice": staticmethod(lambda choices: None)})

    def theirs(case: Any) -> str | None:
        letters = list("ABCD"[: len(case["options"])])
        return names["parse_multi_choice_response"](
            case["said"], letters, dict(zip(letters, case["options"], strict=True))
        )

    guessed = Reason("nothing is read there, and a letter is drawn at random", lambda case: theirs(case) is None)
    article = Reason(
        "any capital letter between blanks counts as an option, the article `A` and the word `I` too",
        lambda case: bool(re.search(r"(?:^|\s)[AI] [a-z]", case["said"])),
    )
    last = Reason(
        "of several letters the last one counts, whatever is said of it (`The answer is B. C is wrong.`, `A or B`)",
        lambda case: len(set(re.findall(r"\b[A-D]\b", case["said"]))) > 1,
    )
    unread = Reason("`B:` and `B)` are not seen as letters there, and the option's text is looked for instead",
                    lambda case: ours.option(case) is not None)  # fmt: skip
    text = Reason(
        "an option's text inside of a longer sentence counts as taken there", lambda case: ours.option(case) is None
    )
    peer = f"{REPOSITORIES[MMMU]}, `parse_multi_choice_response`"

    def of_open(case: Any) -> float:
        return float(names["eval_open"](case["answers"], names["parse_open_response"](case["said"])))

    return [
        Comparison("accuracy letter_or_text: letter read", peer, cases.choice, ours.option, theirs,
                   (guessed, article, last, unread, text)),
        Comparison("accuracy mmmu_open", f"{REPOSITORIES[MMMU]}, `eval_open`", cases.opened, ours.opened, of_open),
    ]  # fmt: skip


def _mathvista(source: str) -> list[Comparison]:
    """What its scorer makes of an answer that no judge has read before; that function alone is run."""
    from rapidfuzz.distance.Levenshtein import distance

    kept = ("get_most_similar", "normalize_extracted_answer")
    own = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name in kept]
    names: dict[str, Any] = {"re": re, "distance": distance}
    exec(compile(ast.Module(own, []), MATHVISTA, "exec"), names)

    def theirs(case: Any) -> str | None:
        kind = "multi_choice" if case["type"] == "text" else "free_form"
        return names["normalize_extracted_answer"](
            case["said"], list(case["options"]), kind, case["type"], case["precision"]
        )

    def near(case: Any) -> bool:
        return case["type"] == "text"

    reasons = (
        Reason("of choices the one nearest in spelling is taken there, of an empty answer too", near),
        Reason("a value in a sentence is a judge's to read there", lambda case: theirs(case) is None),
        Reason("of a list any text counts as read there", lambda case: case["type"] == "list"),
    )  # fmt: skip
    peer = f"{REPOSITORIES[MATHVISTA]}, `normalize_extracted_answer`"
    return [Comparison("accuracy letter_or_value: value read", peer, cases.valued, ours.value, theirs, reasons)]


def _scienceqa(source: str) -> list[Comparison]:
    def together(drawn: Sequence[Any]) -> tuple[list[float], list[float]]:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            problems = {str(n): {"choices": case["options"], "answer": case["right"]} for n, case in enumerate(drawn)}
            (place / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
            (place / "problems.json").write_text(json.dumps(problems))
            rows = [{"question_id": str(n), "text": case["said"], "prompt": "<image>"} for n, case in enumerate(drawn)]
            (place / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            files = {"base_dir": folder, "result_file": f"{folder}/said.jsonl", "output_file": f"{folder}/a.json"}
            given = {**files, "output_result": f"{folder}/b.json", "split": "test", "options": list("ABCDE")}
            text = source.replace("args = get_args()", "args = GIVEN", 1)
            with contextlib.redirect_stdout(io.StringIO()):
                exec(text, {"__name__": "__main__", "GIVEN": type("Given", (), given)})
            found = json.loads((place / "b.json").read_text())["results"]
        theirs = [float(found[str(n)] == case["right"]) for n, case in enumerate(drawn)]
        return [float(ours.option(case) == "ABCD"[case["right"]]) for case in drawn], theirs

    forms = Reason(
        "LLaVA's scorer reads the letter, `B. ...` and one `The answer is B.`; other plain forms are FAILED there and "
        "read here (the authors of ScienceQA publish no rule for free answers)",
        lambda case: not re.fullmatch(r"[A-E]|[A-E]\. .*|The answer is [A-E]\.", case["said"], re.DOTALL),
    )
    peer = f"{REPOSITORIES[SCIENCEQA]}, `eval_science_qa.py`"
    return [Comparison("accuracy letter_or_text", peer, cases.choice, None, None, (forms,), together=together)]
