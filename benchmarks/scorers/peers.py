"""Comparisons with packages: lmms-eval, anls, anls_star, pycocoevalcap, jiwer; imported from where ``--peers`` says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from benchmarks.scorers import cases, ours
from benchmarks.scorers.comparison import Comparison, Reason
from mmllm.evaluation.benchmarks.published.choices import ROLL, MmBench
from mmllm.evaluation.benchmarks.published.yes_no import Mme
from mmllm.evaluation.metrics.captions import Cider, bleu, words_of
from mmllm.evaluation.metrics.wer import edits_of, word_error_rate
from mmllm.evaluation.metrics.yes_no import yes_no

OF_SET = 100
"""Cases that are scored as one set where a score is of a whole set."""


def comparisons() -> list[Comparison]:
    """All of them."""
    return [*_texts(), *_yes_no(), *_choices(), *_boxes(), *_captions(), *_speech()]


def _named(package: str, what: str) -> str:
    return f"{package} {metadata.version(package)}, `{what}`"


# ---- texts


def _texts() -> list[Comparison]:
    import anls
    import anls_star
    from lmms_eval.api.metrics import anls as lmms_anls
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results

    def vqav2(case: Any) -> float:
        answers = [{"answer": text, "answer_id": number} for number, text in enumerate(case["answers"])]
        return float(vqav2_process_results({"question_id": 1, "answers": answers}, [case["said"]])["exact_match"])

    def textvqa(case: Any) -> float:
        doc = {"question_id": 1, "answers": list(case["answers"])}
        return float(textvqa_process_results(doc, [case["said"]])["exact_match"])

    lengths = Reason(
        "lmms-eval divides by the length before blanks are made one, so blanks soften an error",
        lambda case: any(text != " ".join(text.split()) for text in (case["said"], *case["answers"])),
    )
    return [
        Comparison("vqa_accuracy vqa_lmms", _named("lmms_eval", "vqav2"), cases.answered, ours.vqa("vqa_lmms"), vqav2),
        Comparison(
            "vqa_accuracy textvqa_mmf", _named("lmms_eval", "textvqa"), cases.answered, ours.vqa("textvqa_mmf"), textvqa
        ),
        Comparison(
            "anls strict", _named("anls", "anls_score"), cases.near_texts, ours.near("strict"),
            lambda case: anls.anls_score(case["said"], case["answers"], 0.5),
        ),
        Comparison(
            "anls inclusive", _named("anls_star", "anls_score"), cases.near_texts, ours.near("inclusive"),
            lambda case: float(anls_star.anls_score(tuple(case["answers"]), case["said"])),
        ),
        Comparison(
            "anls inclusive", _named("lmms_eval", "anls"), cases.near_texts, ours.near("inclusive"),
            lambda case: float(lmms_anls(case["answers"], [case["said"]])["anls"]), (lengths,),
        ),
        Comparison(
            "relaxed_accuracy", _named("lmms_eval", "relaxed_correctness"), cases.numbers, ours.relaxed,
            lambda case: float(relaxed_correctness(case["said"], case["answer"])),
        ),
    ]  # fmt: skip


# ---- yes and no


def _yes_no() -> list[Comparison]:
    from lmms_eval.tasks.mme.utils import mme_aggregate_results, mme_process_results, parse_pred_ans
    from lmms_eval.tasks.pope import utils as pope

    def pope_figures(some: Sequence[Any]) -> list[float]:
        docs = [({"question_id": n, "answer": one["answer"]}, [one["said"]]) for n, one in enumerate(some)]
        rows = [pope.pope_process_results(*doc) for doc in docs]
        every = [[row[f"pope_{name}"] for row in rows] for name in ("accuracy", "precision", "recall", "f1_score")]
        functions = (pope.pope_aggregate_accuracy, pope.pope_aggregate_precision, pope.pope_aggregate_recall)
        return [float(f(part)) for f, part in zip((*functions, pope.pope_aggregate_f1_score), every, strict=True)]

    def our_figures(some: Sequence[Any]) -> list[float]:
        from mmllm.evaluation.metrics.whole import f1_of_yes

        found = f1_of_yes([(yes_no(one["said"]), one["answer"]) for one in some])
        return [found[name] for name in ("accuracy", "precision", "recall", "f1")]

    def mme_sums(some: Sequence[Any]) -> tuple[list[float], list[float]]:
        docs = [
            (
                {"question_id": f"{n // 2}.png", "category": ("color", "OCR")[n % 4 // 2], "answer": one["answer"]},
                one["said"],
            )
            for n, one in enumerate(some)
        ]  # fmt: skip
        theirs = mme_aggregate_results([row for doc, said in docs for row in mme_process_results(doc, [said]).values()])
        rule = ours.rules(Mme, "mme_official")
        answers = [
            (
                said,
                float(yes_no(said, "mme_official") == doc["answer"]),
                {"of": doc["question_id"], "group": doc["category"]},
                (),
            )
            for doc, said in docs
        ]
        return [rule.whole(ours.asked(answers))], [float(theirs)]

    exact = Reason(
        "lmms-eval takes `yes` and `no` alone; POPE's authors read words in a sentence, and so does `stated`",
        lambda case: case["said"].strip().lower() not in ("yes", "no"),
    )
    short = Reason(
        "`y` and `n` alone are answers in lmms-eval and none in MME's own tool", lambda case: case["said"] in ("y", "n")
    )
    return [
        Comparison(
            "yes_no_f1 stated: figures of sets", _named("lmms_eval", "pope"), cases.plain_yes_no, None, None,
            together=_of_sets(lambda some: (our_figures(some), pope_figures(some))),
        ),
        Comparison(
            "yes_no stated", _named("lmms_eval", "pope"), cases.yes_no,
            lambda case: float(yes_no(case["said"]) == case["answer"]),
            lambda case: pope.pope_process_results({"question_id": 1, "answer": case["answer"]}, [case["said"]])[
                "pope_accuracy"]["score"], (exact,),
        ),
        Comparison(
            "mme_score mme_official of sets", _named("lmms_eval", "mme"), cases.plain_yes_no, None, None,
            together=_of_sets(mme_sums),
        ),
        Comparison(
            "yes_no mme_official", _named("lmms_eval", "mme parse_pred_ans"), cases.yes_no,
            ours.said_yes("mme_official"),
            lambda case: {"other": None}.get(parse_pred_ans(case["said"]), parse_pred_ans(case["said"])), (short,),
        ),
    ]  # fmt: skip


def _of_sets(score: Callable[[Sequence[Any]], tuple[list[float], list[float]]]) -> Any:
    """Sets of cases are scored whole; each case then stands for the set that it is in."""

    def together(drawn: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        one, other = [], []
        for start in range(0, len(drawn), OF_SET):
            some = drawn[start : start + OF_SET]
            both = score(some)
            rounded = [tuple(round(value, 9) for value in values) for values in both]
            one += [rounded[0]] * len(some)
            other += [rounded[1]] * len(some)
        return one, other

    return together


# ---- choices


def _choices() -> list[Comparison]:
    import pandas
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator
    from lmms_eval.tasks.scienceqa.utils import sqa_process_results

    def scienceqa(case: Any) -> float:
        doc = {"choices": case["options"], "answer": case["right"]}
        return float(sqa_process_results(doc, [case["said"]])["exact_match"])

    evaluator = MMBench_Evaluator()

    def mmbench(drawn: Sequence[Any]) -> tuple[list[float], list[float]]:
        """Each case is a question in two rolls, the second answered as the first and with its options turned."""
        one, other = [], []
        rule = ours.rules(MmBench, "circular")
        for number, case in enumerate(drawn):
            turned = case["options"][1:] + case["options"][:1]
            rolls = [(case["options"], case["right"]), (turned, (case["right"] - 1) % len(turned))]
            rows, answers = [], []
            for roll, (options, right) in enumerate(rolls):
                said = case["said"] if roll == 0 else case.get("second", case["said"])
                index = number + roll * ROLL
                own = {"said": said, "options": options, "right": right}
                answers.append((said, float(ours.option(own) == "ABCD"[right]), {"index": index}, ()))
                cells = {
                    letter: options[place] if place < len(options) else None for place, letter in enumerate("ABCD")
                }
                rows.append({"index": index, "question": "?", "prediction": said, "answer": "ABCD"[right], **cells})
            one.append(float(rule.units(ours.asked(answers))[0]))
            table = pandas.DataFrame(rows)
            gold = dict(zip(table["index"], table["answer"], strict=True))
            other.append(float(evaluator.eval_sub_data(table, gold, static_only=True)))
        return one, other

    def rolled(draw: Any) -> Any:
        case = cases.choice(draw)
        turned = {
            "options": case["options"][1:] + case["options"][:1],
            "right": (case["right"] - 1) % len(case["options"]),
        }
        letter = "ABCD"[turned["right"] if draw.random() < 0.8 else draw.randrange(4)]
        return {**case, "second": draw.choice((letter, f"({letter})", f"{letter}.", f"The answer is {letter}."))}

    shape = Reason(
        "lmms-eval takes the letter alone or `B.` at the start; ScienceQA's authors and LLaVA also read `The answer is "
        "B.`, and `(B)`, `B)`, an option's text are as plain",
        lambda case: not re.fullmatch(r"[A-Za-z]|[A-Z]\..*", case["said"].strip(), re.DOTALL),
    )
    offered = Reason("a letter that no option bears is not read", lambda case: case["said"].startswith("E"))
    matched = Reason(
        "MMBench's matching counts letters as separate words and options' texts anywhere in the answer, an article "
        "among them; its paper lets a judge read what that does not match, here nothing is guessed",
        lambda case: _differs(evaluator, case),
    )
    return [
        Comparison("accuracy letter_or_text", _named("lmms_eval", "scienceqa"), cases.choice,
                   lambda case: float(ours.option(case) == "ABCD"[case["right"]]), scienceqa, (offered, shape)),
        Comparison("accuracy circular", _named("lmms_eval", "MMBench_Evaluator, static"), rolled, None, None,
                   (matched,), together=mmbench),
    ]  # fmt: skip


def _differs(evaluator: Any, case: Any) -> bool:
    """Whether the letter that is read of one roll differs, so that what is made of both rolls is not to blame."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    turned = case["options"][1:] + case["options"][:1]
    for said, options in ((case["said"], case["options"]), (case["second"], turned)):
        choices = dict(zip("ABCD", options, strict=False))
        theirs = evaluator.can_infer(said, dict(choices)) or extract_mcq_answer(said, choices=sorted(choices)) or None
        if theirs != ours.option({"said": said, "options": options}):
            return True
    return False


# ---- boxes


def _boxes() -> list[Comparison]:
    from lmms_eval.tasks.refcoco.utils_rec import compute_accuracy, parse_float_sequence_within

    def theirs(case: Any) -> float:
        return float(compute_accuracy(case["box"], parse_float_sequence_within(case["said"])))

    forms = Reason(
        "a box in round brackets or without any is read too; lmms-eval reads square ones",
        lambda case: "[" not in case["said"],
    )
    return [Comparison("iou@0.5", _named("lmms_eval", "refcoco_bbox_rec"), cases.boxed, ours.hit, theirs, (forms,))]


# ---- captions


def _captions() -> list[Comparison]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider as PeersCider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def cut(drawn: Sequence[Any]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
        return {n: case["references"] for n, case in enumerate(drawn)}, {
            n: [case["said"]] for n, case in enumerate(drawn)
        }

    def cider(drawn: Sequence[Any]) -> tuple[list[float], list[float]]:
        one: list[float] = []
        other: list[float] = []
        for start in range(0, len(drawn), OF_SET):
            some = drawn[start : start + OF_SET]
            mine = Cider.of([[text.split() for text in case["references"]] for case in some])
            one += [mine.score(case["said"].split(), [text.split() for text in case["references"]]) for case in some]
            other += [float(value) for value in PeersCider().compute_score(*cut(some))[1]]
        return one, other

    def bleus(some: Sequence[Any]) -> tuple[list[float], list[float]]:
        mine = bleu((case["said"].split(), [text.split() for text in case["references"]]) for case in some)
        return mine, [float(value) for value in Bleu(4).compute_score(*cut(some), verbose=0)[0]]

    def tokens(drawn: Sequence[Any]) -> tuple[list[str], list[str]]:
        theirs = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(drawn)})
        return [" ".join(words_of(text)) for text in drawn], [theirs[n][0] for n in range(len(drawn))]

    single = Reason(
        "whether a single letter in front of a full stop is an abbreviation PTB's tokenizer decides by what stands "
        "around it; here it always is",
        lambda text: bool(re.search(r"\b[a-z]\.", text.lower())),
    )
    long = Reason(
        "PTB's tokenizer joins rows of four-figure numbers, as of a card, into one word",
        lambda text: bool(re.search(r"\d{4} \d{4}", text)),
    )
    return [
        Comparison("cider_d of each caption", _named("pycocoevalcap", "Cider"), cases.captioned, None, None,
                   together=cider),
        Comparison("bleu_1 to bleu_4 of sets", _named("pycocoevalcap", "Bleu"), cases.captioned, None, None,
                   together=_of_sets(bleus)),
        Comparison("words of captions", _named("pycocoevalcap", "PTBTokenizer"), cases.written_caption, None, None,
                   (single, long), together=tokens),
    ]  # fmt: skip


# ---- speech


def _speech() -> list[Comparison]:
    import jiwer
    from lmms_eval.tasks.librispeech.utils import compute_wer
    from lmms_eval.tasks.librispeech.whisper_normalizer.english import EnglishTextNormalizer

    normaliser = EnglishTextNormalizer()

    def plain(text: str) -> str:
        return re.sub(r"[^\w']|_", " ", text.lower())

    def edits(case: Any) -> int:
        found = jiwer.process_words(plain(case["wanted"]), plain(case["said"]))
        return int(found.substitutions + found.deletions + found.insertions)

    def whispers(case: Any) -> int:
        found = jiwer.process_words(normaliser(case["wanted"]), normaliser(case["said"]))
        return int(found.substitutions + found.deletions + found.insertions)

    def librispeech(case: Any) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return float(compute_wer([case["wanted"]], [case["said"]], "en"))

    signs = Reason(
        "lmms-eval takes signs out behind Whisper's normaliser, so `$5` and `5` are one word there; Whisper's paper "
        "(arXiv 2212.04356) counts words behind the normaliser",
        lambda case: bool(re.search(r"[^\w\s]", normaliser(case["wanted"]) + normaliser(case["said"]))),
    )
    return [
        Comparison("wer plain: edits", _named("jiwer", "process_words"), cases.transcript,
                   lambda case: edits_of(case["said"], case["wanted"])[0], edits),
        Comparison("wer whisper_en: edits", f"{_named('jiwer', 'process_words')} behind Whisper's normaliser",
                   cases.transcript, lambda case: edits_of(case["said"], case["wanted"], "whisper_en")[0], whispers),
        Comparison("wer whisper_en", _named("lmms_eval", "librispeech"), cases.transcript,
                   lambda case: word_error_rate([(case["said"], case["wanted"])], "whisper_en"), librispeech, (signs,)),
    ]  # fmt: skip
