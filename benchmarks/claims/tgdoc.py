"""Experiment: TGDoc's boxes in the answer, behind the word that is read, against the word alone."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment, better, larger_gap


def _arm(task: str, note: str, steps: int = 300, rate_of: str | None = None) -> Arm:
    """The second stage on one form of the answers, from the captions' connector."""
    words = (f"stages.learn.data={{{task}: 1.0}}", "stages.align.steps=1", f"stages.learn.steps={steps}")
    return Arm("read", words, start=("base",), rate_of=rate_of, note=note)


EXPERIMENT = Experiment(
    title="TGDoc: the box of what is read in the answer",
    claim=(
        "Taught to write the box of a thing behind its colour or shape, a connector tells colour and shape better than "
        "taught the word alone, at equal steps, and by more where six to eight things are in the picture than two or "
        "three."
    ),
    arms={
        "base": Arm("read", ("stages.align.steps=500", "stages.learn.steps=1"), note="captions, shared by both"),
        "word": _arm("read", "the word alone"),
        "boxes": _arm("read_boxes", "the word and its box", rate_of="word"),
    },
    tasks=("read", "read_boxes"),
    metrics=("read", "read.few", "read.many", "read_boxes"),
    chance={"read": 0.15},
    tune=("read",),
    rates=(4e-3,),
    comparisons=(better("boxes", "word", "read"), larger_gap("boxes", "word", "read.many", "read.few")),
    paper=(
        "TGDoc (arXiv 2311.13194) [S], accuracy as OCRBench counts: TextVQA 46.2, DocVQA 9.0, POIE 22.2 against LLaVAR "
        "41.8, 12.3, 5.9 and LLaVA-1.5 38.7, 8.5, 2.5: systems, not an ablation.",
    ),
)
