"""Experiment 2: IAA's decoder layers inside the LM against a fat projector, layers at the input, the LM unfrozen."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, BySeed, Check, Compare, Experiment, better, not_worse
from benchmarks.claims.measures import AnswerLoss, TextKept

_FAT = "connectors.image={type: pool, from: image, grid: [4, 4], depth: 2, norm: true, width: 2876}"


def _inside(after: str, **words: str) -> tuple[str, ...]:
    """Overrides that add IAA after these layers; the projector goes on learning beside it, four times as fast."""
    parts = {"type": "inner_adaptor", "after": after, "init": "zero", "private": "[embeddings, norm, head]"} | words
    inner = ", ".join(f"{word}: {value}" for word, value in parts.items())
    return (
        f"connectors.inner={{{inner}, when: [image]}}",
        "stages.learn.train={connectors.image: 4.0e-3, connectors.inner: 1.0e-3}",
    )


def _untouched(arms: BySeed) -> bool:
    """Text logits of every arm with a frozen LM are the LM's own, bit for bit."""
    return all(metrics["text_identical"] == 1.0 for arm, metrics in arms.items() if arm != "unfrozen")


EXPERIMENT = Experiment(
    title="IAA: layers inside a frozen LM, for conversations with pictures only",
    claim=(
        "Decoder layers of its own after some of the frozen LM's answer questions on pictures better than a projector "
        "of as many weights and better than the same layers at the input, and leave text as it was, bit for bit; "
        "unfreezing the LM costs text."
    ),
    arms={
        "start": Arm("visual_captions", rates=(3e-3, 1e-2, 2e-2), tune_on=("scenes",), note="captions only: projector"),
        "fat start": Arm(
            "visual_captions",
            (_FAT,),
            rates=(3e-3, 1e-2, 2e-2),
            tune_on=("scenes",),
            note="captions only: fat projector",
        ),
        "projector": Arm("visual_qa", start=("start",), note="goes on with the questions"),
        "fat": Arm("visual_qa", (_FAT,), start=("fat start",), note="as wide as has IAA-2's weights"),
        "IAA-1": Arm("visual_qa", _inside("[0]"), start=("start",), rate_of="IAA-2", note="one layer, after layer 0"),
        "IAA-2": Arm("visual_qa", _inside("[0, 3]"), start=("start",), note="two layers, after layers 0 and 3"),
        "input": Arm(
            "visual_qa",
            _inside("[0, 3]", position="input"),
            start=("start",),
            note="IAA-2's layers, both before layer 0",
        ),
        "unfrozen": Arm(
            "visual_qa",
            ("stages.learn.train={connectors.image: 4.0e-3, llm: 5.0e-4}",),
            start=("start",),
            note="projector and the whole LM learn",
        ),
    },
    tasks=("relations", "scenes"),
    metrics=("relations", "relations.loss", "scenes", "text_ppl", "text_ppl_base", "text_identical"),
    tune=("relations", "scenes"),
    rates=(5e-3, 1.2e-2, 2.5e-2),
    measures=(AnswerLoss("relations"), TextKept()),
    comparisons=(
        better("IAA-2", "fat", "relations"),
        better("IAA-2", "fat", "scenes"),
        better("IAA-2", "projector", "relations"),
        better("IAA-2", "input", "relations"),
        better("IAA-2", "input", "scenes"),
        not_worse("IAA-2", "IAA-1", "relations", 0.0),
        Check("text logits of every arm but unfrozen are the LM's own, bit for bit", _untouched),
        Compare(
            "text_ppl of unfrozen > the LM's own",
            lambda arms: arms["unfrozen"]["text_ppl"] - arms["unfrozen"]["text_ppl_base"],
        ),
        Compare(
            "IAA-2 > unfrozen in relations",
            lambda arms: arms["IAA-2"]["relations"] - arms["unfrozen"]["relations"],
            kind="report",
        ),
    ),
    paper=(
        "IAA-8 on 1.2 M samples vs LLaVA-Llama3 (LLM unfrozen, same data) [P]: MME-P 1560.2 vs 1506.0, MMBench-EN 69.9 "
        "vs 68.9, MMBench-CN 64.2 vs 61.6, MMMU 39.0 vs 36.8; IAA-14 1591.5 / 74.9 / 70.5 / 39.9.",
        "No ablation of a frozen LLM with a projector alone, nor of layers at the input, is known to us.",
    ),
    tried=(
        "What there is to learn: the LM answers `scenes` from a projector alone (0.86 after captions only, 0.94 "
        "after 150 steps), so these leave no room; boxes cannot separate arms either (a whole cell has IoU >= 0.5 "
        "with every box). `fine`: 150 steps read no document in any arm (digits 0.30 to 0.70), though the loss of "
        "right answers was 1.94 with IAA-2 and unfrozen, 2.52 and 2.54 with the projector and the fat one. Yes or "
        "no questions of place (is the red circle left of the blue star?) stayed near chance in the two arms tried, "
        "projector and IAA-2. So `relations` (what is left of the red circle?), a sort of question that the LM has "
        "not learned from text, and `scenes` for what it has.",
        "S is spread over the layers from 0 on, as in IAA-14 (0, 1, 5, 6, 10, ..., 31 of 32). One pilot run each "
        "(rate 0.005, seed 99): relations 0.34 with layers after 1 and 4, 0.69 after 0 and 3, 0.84 with two at the "
        "input, 0.12 with the projector alone; at rate 0.012 0.84 after 0 and 3. Earlier layers are of more use "
        "here.",
        "All layers start with zero output projections, so the start is the LM itself; copies as they are were not "
        "tried at length. IAA-1 takes IAA-2's rate. The rate is the projector's; layers inside learn at a quarter "
        "of it, the LM at an eighth.",
    ),
)
