"""Tem-Adapter: frames that read each other, and learn by foretelling the next one, on which way things go."""

from __future__ import annotations

from benchmarks.claims.experiment import Arm, Compare, Experiment, better


def _arm(note: str, *words: str, rate_of: str | None = "encoder") -> Arm:
    return Arm("tracks", words, rate_of=rate_of, note=note)


SHUFFLED = "data.tracks.path=runs/claims/data/tracks_shuffled/train.jsonl"
POOL = "connectors.video={type: pool, from: video, stride: [8, 1, 2], depth: 2, norm: true}"

EXPERIMENT = Experiment(
    title="Tem-Adapter: frames learn by foretelling the next one",
    claim=(
        "On which way things go a temporal encoder beats the mean of the frames, and one that also learns to foretell "
        "the next frame from the past and the words beats it again; with frames in any order nothing is left."
    ),
    arms={
        "pool": _arm("mean of all frames, MLP", POOL, rate_of=None),
        "encoder": _arm("temporal encoder, no extra loss", "connectors.video.foretell=nothing", rate_of=None),
        "foretelling": _arm("and the next frame foretold from past and words"),
        "semantic": _arm("and the words refined by the clip", "connectors.video.semantic=true"),
        "unshifted": _arm("as released: each frame from a memory of all", "connectors.video.foretell=same"),
        "shuffled": _arm("control: foretelling on clips whose frames are in any order", SHUFFLED),
    },
    tasks=("tracks", "tracks_shuffled"),
    metrics=("tracks", "tracks_shuffled"),
    chance={"tracks": 0.25, "tracks_shuffled": 0.25},
    tune=("tracks",),
    rates=(4e-3,),
    comparisons=(
        better("encoder", "pool", "tracks"),
        better("foretelling", "encoder", "tracks"),
        better("semantic", "foretelling", "tracks"),
        Compare(
            "the lead of foretelling over pool is gone with frames in any order: shuffled - pool in tracks_shuffled",
            lambda arms: 0.05 - abs(arms["shuffled"]["tracks_shuffled"] - arms["pool"]["tracks_shuffled"]),
        ),
        Compare(
            "foretelling - unshifted in tracks",
            lambda arms: arms["foretelling"]["tracks"] - arms["unshifted"]["tracks"],
            kind="report",
        ),
    ),
)
