"""Rules that read only the question: a score no better than theirs says nothing about the media.

easy-VQA's yes/no questions, for one, are answered right at 0.82 by their words alone, while "always yes" and a model
without the picture are near 0.5: a blind score by itself can hide what the questions give away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered
from mmllm.evaluation.metrics.vqa import normalise
from mmllm.evaluation.predictions import digest_of_item

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark, Question

FOLDS = 10
MOST = 20_000
"""Questions of a training split that a rule is fitted on, evenly drawn: more change the majority little."""
ANSWERS = 1_000
"""Most frequent answers that a rule may give."""
_WORD = re.compile(r"[^\W_]+")

AT_ONCE = 2_000
"""Questions that naive Bayes answers together: a number for each of its answers is kept of each."""

Rule = Callable[[Sequence["Question"]], list[str]]
"""Questions -> answers."""


def best_rule(
    benchmark: Benchmark, questions: Sequence[Question], training: Sequence[Question] | None
) -> dict[str, Any] | None:
    """The rule that scores best on ``questions``: its name, score, what it says, and what it was fitted on.

    Fitted on ``training``, or, without it, in ten folds on the other questions' items. It is chosen by its score on the
    questions themselves, so that it is rather too good than too bad. None where answers are no texts (boxes), or there
    is too little to fit it on.
    """
    if not all(isinstance(one.reference[0], str) for one in questions):
        return None
    folds = _folds(questions, training)
    given: dict[str, list[Answered]] = {}
    for fitted_on, asked in folds:
        for name, rule in _fitted(fitted_on).items():
            said = zip(asked, rule(asked), strict=True)
            given.setdefault(name, []).extend(Answered(q, text, benchmark.graded(text, q)[0]) for q, text in said)
    if not given:
        return None
    name = max(given, key=lambda rule: sum(one.score for one in given[rule]))
    by_name = {one.question.sample.name: one for one in given[name]}
    answered = [by_name[question.sample.name] for question in questions]
    return {
        "rule": name,
        "score": sum(one.score for one in answered) / len(answered),
        "answered": answered,
        "fitted_on": f"{len(training)} training questions" if training else f"{FOLDS} folds of the questions",
    }


def training_split(
    kind: type[Benchmark], arguments: Mapping[str, Any], known: Collection[str]
) -> list[Question] | None:
    """Questions of the benchmark's split ``train``, at most :data:`MOST`; None where it has none here.

    ``known``: arguments that the class takes.
    """
    if "split" not in known or arguments.get("split") == "train":
        return None
    try:
        split = kind(**{**arguments, "split": "train"})
        step = max(1, -(-len(split) // MOST))
        return [split[index] for index in range(0, len(split), step)]
    except MmllmError:  # not here, or its pictures are not: what a rule reads is then the questions asked
        return None


def _folds(
    questions: Sequence[Question], training: Sequence[Question] | None
) -> list[tuple[Sequence[Question], Sequence[Question]]]:
    """(fitted on, asked) in turn; questions about one item stay together."""
    if training:
        return [(training, questions)]
    of = [int(digest_of_item(question), 16) % FOLDS for question in questions]
    pairs: list[tuple[Sequence[Question], Sequence[Question]]] = []
    for fold in range(FOLDS):
        asked = [question for question, number in zip(questions, of, strict=True) if number == fold]
        rest = [question for question, number in zip(questions, of, strict=True) if number != fold]
        if asked and not rest:
            return []  # about one item
        if asked:
            pairs.append((rest, asked))
    return pairs


def _fitted(questions: Sequence[Question]) -> dict[str, Rule]:
    answers = [_answer(question) for question in questions]
    allowed = {answer for answer, _ in Counter(answers).most_common(ANSWERS)}
    pairs = [(question, answer) for question, answer in zip(questions, answers, strict=True) if answer in allowed]
    return {
        "majority": _majority(pairs, lambda question: ()),
        "majority by kind": _majority(pairs, lambda question: question.kind),
        "majority by first two words": _majority(pairs, lambda question: tuple(_words(question)[:2])),
        "naive Bayes on words": _naive_bayes(pairs),
    }


def _answer(question: Question) -> str:
    """What most annotators said; of options the letter."""
    if question.options:
        return str(question.reference[0])
    folded = Counter(normalise(str(one)) or str(one) for one in question.reference)
    return folded.most_common(1)[0][0]


def _words(question: Question) -> list[str]:
    return _WORD.findall(question.text.lower())


def _majority(pairs: Sequence[tuple[Question, str]], group: Callable[[Question], Any]) -> Rule:
    whole = Counter(answer for _, answer in pairs).most_common(1)[0][0]
    counts: dict[Any, Counter[str]] = {}
    for question, answer in pairs:
        counts.setdefault(group(question), Counter())[answer] += 1
    best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    return lambda questions: [best.get(group(question), whole) for question in questions]


def _naive_bayes(pairs: Sequence[tuple[Question, str]]) -> Rule:
    """Words and pairs of neighbours, each once a question."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    words = CountVectorizer(analyzer=_features, binary=True)
    model = make_pipeline(words, MultinomialNB())
    model.fit([question for question, _ in pairs], [answer for _, answer in pairs])

    def rule(questions: Sequence[Question]) -> list[str]:
        parts = (questions[start : start + AT_ONCE] for start in range(0, len(questions), AT_ONCE))
        return [str(answer) for part in parts for answer in model.predict(part)]

    return rule


def _features(question: Question) -> list[str]:
    words = _words(question)
    # one that every question has: a vocabulary is never empty
    return ["", *words, *(f"{one} {two}" for one, two in pairwise(words))]
