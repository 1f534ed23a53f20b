"""Experiment: MoVA's routing by a line of text against all experts at once, each expert blind outside its domain."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.claims.experiment import Arm, BySeed, Compare, Experiment


def _above(one: tuple[str, str], other: tuple[str, str]) -> Callable[[BySeed], float]:
    """Difference of two arms, each in a metric of its own."""
    return lambda arms: arms[one[0]][one[1]] - arms[other[0]][other[1]]


_ROUTED, _ALL, _RANDOM = ("routed", "papers"), ("all", "papers_all"), ("random", "papers")
EXPERIMENT = Experiment(
    title="MoVA: experts that a line of text names",
    claim=(
        "Where each of three encoders is blind outside its domain, a base that reads the one that the message names "
        "answers better than one that reads all of them, and than one that reads a wrong one; the deselected add "
        "exactly nothing."
    ),
    arms={
        "begin": Arm(
            "papers",
            (
                "data.papers.path=runs/claims/data/papers_none/train.jsonl",
                "encoders.base.blur=0",
                "stages.learn.steps=500",
            ),
            note="where all others start: no expert is named, and the base sees clearly",
        ),
        "routed": Arm("papers", start=("begin",), note="the line names the expert that sees the picture"),
        "all": Arm(
            "papers",
            ("data.papers.path=runs/claims/data/papers_all/train.jsonl",),
            start=("begin",),
            note="no line: all three are open, weighed by the adapter's gate",
        ),
        "random": Arm(
            "papers",
            ("data.papers.path=runs/claims/data/papers_another/train.jsonl",),
            start=("begin",),
            note="trained with lines that name one of the two others",
        ),
    },
    tasks=("papers", "papers_all", "papers_another"),
    metrics=("papers", "papers_all", "papers_another"),
    tune=("papers",),
    rates=(1e-2,),
    comparisons=(
        Compare("routed, asked with its line, > all, asked without", _above(_ROUTED, _ALL)),
        Compare("routed > random, both asked with the right line", _above(_ROUTED, _RANDOM)),
        Compare("routed: the right line > a wrong one", _above(_ROUTED, ("routed", "papers_another"))),
    ),
    paper=(
        "MoVA (arXiv 2404.13046) [P], GQA / ChartQA / DocVQA: routed 64.8 / 68.3 / 81.3, random routing 63.1 / 60.4 / "
        "71.6, all experts without routing 63.4 / 62.5 / 73.7.",
    ),
    tried=(
        "From nothing, with a blurred base, the questions stay at chance for 400 steps (0.135) and are at 0.24 after "
        "1,200 (seed 99, rate 0.003). So all arms start from an adapter that learned its way to the LLM from a base "
        "that sees clearly. From there 400 steps at 0.003 reach 0.29, with any line, 1,200 at 0.01 0.57 with the right "
        "one.",
    ),
)
