"""``mmllm calibrate``: decisions are scaled by one half of some known answers, and measured on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mmllm.calibration.known import Known, read_known
from mmllm.errors import MmllmError
from mmllm.evaluation import digests
from mmllm.evaluation.asking import item_of
from mmllm.serving.decisions.calibration import KINDS, Calibration, Scale, weights_of
from mmllm.serving.decisions.probabilities import log_weights
from mmllm.serving.decisions.prompt import put

if TYPE_CHECKING:
    from mmllm.checkpoints.load import Trust
    from mmllm.generation.generator import Generator

LEAST = 20
"""Questions of a kind in each part: two numbers fitted to fewer say little, and an error of so few less."""
BINS = 10
"""Groups of as many questions each, by their probability, that the calibration error is the mean over."""
_STEEPEST = 5.0
"""Largest logarithm of a slope: of questions that are all answered right it would have no end."""


@dataclass(frozen=True)
class Weighed:
    """A question's log weights, one an option, and the place of the right one."""

    weights: Sequence[float]
    right: int


def calibrate(
    run: Path,
    path: str,
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    trust: Trust | None = None,
    say: Callable[[str], object] = print,
) -> Calibration:
    """Calibrate the decisions of a run and keep the result beside it.

    Questions about one item stay in one part. A kind of question is scaled where that makes its answers likelier in the
    part it was not fitted to; ``say`` is told the figures of each.

    Args:
        run: the run folder.
        path: the questions, see :func:`~mmllm.calibration.known.read_known`.
        seed: of the draw of the parts.
        overrides: as :func:`~mmllm.generation.opening.open_run` has them.
        trust: likewise.
        say: is told a line for each kind.

    Raises:
        MmllmError: a row cannot be read, or no kind has ``2 * LEAST`` questions.
    """
    from mmllm.generation.opening import open_run

    recipe, generator = open_run(run, overrides, trust)
    known, files = read_known(path, list(generator.inputs))
    parts = {kind: _halves([one for one in known if one.question.type == kind], seed) for kind in KINDS}
    few = {
        kind: len(some) + len(others) for kind, (some, others) in parts.items() if min(len(some), len(others)) < LEAST
    }
    if len(few) == len(parts):
        counts = ", ".join(f"{n} {kind}s" for kind, n in few.items())
        raise MmllmError(f"calibrate: {path} has {counts}; {2 * LEAST} or more of one kind are needed.")
    scales: dict[str, Scale] = {}
    measured: dict[str, dict[str, Any]] = {}
    for kind, (some, others) in parts.items():
        if kind in few:
            if few[kind]:
                say(f"{kind}: {few[kind]} questions are too few, it stays as it is; {2 * LEAST} are needed")
            continue
        fitted, held_out = (list(_weighed(generator, part, recipe.eval.batch)) for part in (some, others))
        scale = fit(fitted, biased=kind == "predicate")
        before, after = figures(Scale(), held_out), figures(scale, held_out)
        better = after["nll"] < before["nll"]
        if better:
            scales[kind] = scale
        measured[kind] = {
            "n": len(held_out),
            "fitted_to": len(fitted),
            "before": before,
            "after": after,
            "kept": better,
        }
        say(_sentence(kind, scale, measured[kind]))
    found = Calibration(weights_of(run), scales, measured, digests.of_files(files))
    say(f"kept: {found.write(run)}")
    return found


def fit(known: Sequence[Weighed], biased: bool) -> Scale:
    """The scale that makes the right answers likeliest; ``biased``: with a bias of the first option."""
    from scipy.optimize import minimize

    def loss(numbers: Sequence[float]) -> float:
        scale = Scale(math.exp(numbers[0]), numbers[1] if biased else 0.0)
        return _nll(scale, known)

    bounds = [(-_STEEPEST, _STEEPEST), (None, None) if biased else (0.0, 0.0)]
    slope, bias = minimize(loss, [0.0, 0.0], method="L-BFGS-B", bounds=bounds).x
    return Scale(math.exp(slope), float(bias) if biased else 0.0)


def figures(scale: Scale, known: Sequence[Weighed]) -> dict[str, float]:
    """``nll`` in nats, ``brier`` (summed over options), ``ece`` of the likeliest option's probability, ``accuracy``."""
    found = [(scale.probabilities(one.weights), one.right) for one in known]
    tops = sorted((max(p), float(p.index(max(p)) == right)) for p, right in found)
    size = len(tops) / BINS
    bins = [tops[round(n * size) : round((n + 1) * size)] for n in range(BINS)]
    gaps = [len(some) * abs(fmean(p for p, _ in some) - fmean(hit for _, hit in some)) for some in bins if some]
    brier = fmean(math.fsum((q - (n == right)) ** 2 for n, q in enumerate(p)) for p, right in found)
    return {
        "nll": _nll(scale, known),
        "brier": brier,
        "ece": math.fsum(gaps) / len(tops),
        "accuracy": fmean(hit for _, hit in tops),
    }


def _nll(scale: Scale, known: Sequence[Weighed]) -> float:
    # of an answer that is all but impossible the logarithm still is a number
    return fmean(-math.log(max(scale.probabilities(one.weights)[one.right], 1e-300)) for one in known)


def _halves(known: Sequence[Known], seed: int) -> tuple[list[Known], list[Known]]:
    """Two parts of about as many questions, those about one item in one of them."""
    groups: dict[Hashable, list[Known]] = {}
    for one in known:
        groups.setdefault(item_of(one.sample), []).append(one)
    drawn = list(groups.values())
    Random(seed).shuffle(drawn)
    first: list[Known] = []
    second: list[Known] = []
    for group in drawn:
        (first if len(first) <= len(second) else second).extend(group)
    return first, second


def _weighed(generator: Generator, known: Sequence[Known], batch: int) -> Iterator[Weighed]:
    """What the model makes of the questions, ``batch`` at once."""
    from mmllm.generation.likelihood import Likelihoods

    likelihoods = Likelihoods(generator)
    for start in range(0, len(known), batch):
        some = known[start : start + batch]
        texts = [[text for option in one.question.options for text in option] for one in some]
        read = [
            likelihoods.encode(put(one.sample, one.question, generator.inputs), own)
            for one, own in zip(some, texts, strict=True)
        ]
        for one, found in zip(some, likelihoods.of(read), strict=True):
            totals = iter(likelihood.total for likelihood in found)
            weights = log_weights([[next(totals) for _ in option] for option in one.question.options])
            yield Weighed(weights, one.right)


def _sentence(kind: str, scale: Scale, measured: dict[str, Any]) -> str:
    before, after = measured["before"], measured["after"]
    words = ", ".join(f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in ("nll", "brier", "ece", "accuracy"))
    left = "" if measured["kept"] else "; it is no likelier so, and stays as it is"
    scaled = ", ".join(f"{name} {value:.3g}" for name, value in asdict(scale).items())
    return f"{kind}: {scaled} (fitted to {measured['fitted_to']}); on {measured['n']} others {words}{left}"
