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
        "routed": Arm("papers", note="the line names the expert that sees the picture"),
        "all": Arm(
            "papers",
            ("data.papers.path=runs/claims/data/papers_all/train.jsonl",),
            note="no line: all three are open, weighed by the adapter's gate",
        ),
        "random": Arm(
            "papers",
            ("data.papers.path=runs/claims/data/papers_another/train.jsonl",),
            note="trained with lines that name one of the two others",
        ),
    },
    tasks=("papers", "papers_all", "papers_another"),
    metrics=("papers", "papers_all", "papers_another"),
    tune=("papers",),
    rates=(3e-3,),
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
        "The arms were not run. A pilot of `routed` (seed 99): at chance after 400 steps (papers 0.135), 0.24 after "
        "1,200 (333 s of one core).",
    ),
)
