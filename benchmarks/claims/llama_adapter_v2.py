"""Experiment 3b: LLaMA-Adapter V2's groups of weights for captions and for text instructions against shared updates."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Compare, Experiment, better, not_worse
from benchmarks.claims.measures import AnswerLoss

EXPERIMENT = Experiment(
    title="LLaMA-Adapter V2: groups of weights for pictures and for text",
    part="b",
    claim=(
        "On a mix of captions and new text tasks, letting captions train the visual part alone and text instructions "
        "the rest hurts the text tasks less than letting both train everything; captions are about equal."
    ),
    arms={
        "disjoint": Arm("caption_and_text", note="captions train the visual part, text instructions the rest"),
        "shared": Arm("caption_and_text", ("connectors.image.disjoint=false",), note="both train everything"),
        "text only": Arm(
            "caption_and_text",
            ("stages.joint.data={text_tasks: 1.0}", "stages.joint.batch=4"),
            tune_on=("text_tasks.loss",),
            note="reference: as many text conversations, no captions",
        ),
    },
    tasks=("text_tasks",),
    metrics=("text_tasks", "text_tasks.loss", "captions.loss"),
    tune=("text_tasks.loss", "captions.loss"),
    tune_lower=True,
    rates=(1e-2, 3e-2, 1e-1),
    measures=(AnswerLoss("text_tasks"), AnswerLoss("captions")),
    comparisons=(
        better("disjoint", "shared", "text_tasks.loss", lower=True),
        better("disjoint", "shared", "text_tasks"),
        not_worse("disjoint", "shared", "captions.loss", 0.1, lower=True),
        Compare(
            "captions that train everything hurt the text tasks at all: text only < shared in text_tasks.loss",
            lambda arms: arms["shared"]["text_tasks.loss"] - arms["text only"]["text_tasks.loss"],
            kind="report",
        ),
    ),
    paper=(
        "LLaMA-Adapter V2 [P]: COCO B@4 / CIDEr 36.2 / 122.2 against ClipCap 33.5 / 113.1; disjoint groups are argued "
        "for, without a figure.",
    ),
    tried=(
        "Before the runs (seed 99 on test questions, rate 0.03, text loss / right answers / caption loss): disjoint "
        "0.294 / 0.81 / 2.29, shared 0.265 / 0.81 / 1.64. In disjoint groups captions train nothing but the visual "
        "prompts of the first block, as in the paper.",
    ),
)
