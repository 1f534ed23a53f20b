"""The conformer adapter inside a frozen audio encoder against a bottleneck that can learn, and against none."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Experiment, better, not_worse

BOTTLENECK = (
    "connectors.adapter={type: adaptformer, adapts: [audio], width: 25, scale: 1.0, reads: normed, activation: gelu, "
    "dropout: 0.0}"
)

EXPERIMENT = Experiment(
    title="PETL_AST: convolutions in adapters for sound",
    claim=(
        "At equal weights a convolution over time beside the MLPs of a frozen audio encoder hears more than a "
        "(correctly initialised) bottleneck, that more than the encoder alone, and the upper half of blocks is enough."
    ),
    arms={
        "conformer": Arm("heard", note="r = 16, kernel 15, all blocks"),
        "top half": Arm(
            "heard", ("connectors.adapter.blocks=top half",), rate_of="conformer", note="the same in the upper half"
        ),
        "bottleneck": Arm("heard", (BOTTLENECK,), note="width 25, GELU, down drawn and up zero"),
        "linear": Arm(
            "heard", ("stages.learn.train={connectors.audio: 4.0e-3}",), note="the adapter stays as it starts: none"
        ),
    },
    tasks=("heard",),
    metrics=("heard", "heard.sound", "heard.manner"),
    chance={"heard.sound": 1 / 8, "heard.manner": 1 / 6},
    tune=("heard",),
    rates=(2e-3, 4e-3, 8e-3),
    comparisons=(
        better("conformer", "bottleneck", "heard"),
        better("bottleneck", "linear", "heard"),
        not_worse("top half", "conformer", "heard", 0.02),
    ),
    paper=(
        "The conformer adapter reaches or beats full tuning with 0.29 % of the weights [W]; as released, the "
        "bottleneck it is compared with starts with both projections zero and learns nothing but a bias [C, T].",
        "wav2vec 2.0: adapters in the top few layers do about as well as in all [A].",
    ),
    tried=(
        "First with 120 steps, too few: conformer answered 0.29 (0.27 of the sounds, 0.32 of the manners) in seed 0.",
        "The frozen encoder was trained to tell these very sounds and manners, so adapters in it have little to add. "
        "What it was not trained for is asked in the next part.",
    ),
)
