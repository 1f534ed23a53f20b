"""One of two ranks: trains the model of three senses under every ZeRO stage on rows that hold different senses.

``test_senses`` runs it on both; it prints one JSON line, the losses of each case.
"""

from __future__ import annotations

import deepspeed
import torch
import torch.distributed as dist

from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.types import Batch, Sample
from tests.support.talks import packed, talk
from tests.support.three_senses import TALKS, three_senses
from tests.support.zero_training import end, trained

EVERYTHING = {f"connectors.{key}": 1e-2 for key in ("image", "audio", "video", "lora")}
CASES = {
    "zero 0": (0, EVERYTHING),
    "zero 1": (1, EVERYTHING),
    "zero 2": (2, EVERYTHING),
    "zero 3": (3, EVERYTHING),
    "zero 3, all frozen but one": (3, {"connectors.audio": 1e-2}),
}
"""Name -> (ZeRO stage, what learns)."""
ALL, TEXT, SOUNDS, CLIP, PICTURE = TALKS
CLIPS = talk("clips", "<video><video><video>", "Three.", video=((1, 1), (2, 4), (3, 2)))
STEPS: list[tuple[tuple[Sample, ...], tuple[Sample, ...]]] = [
    ((PICTURE,), (SOUNDS,)),
    ((CLIPS, SOUNDS), (CLIP,)),
    ((TEXT,), (ALL, CLIPS)),
    ((), (CLIP, PICTURE)),
    ((PICTURE,), (SOUNDS,)),
]
"""Per step the samples of rank 0 and of rank 1."""


def batches(model: MultimodalLM, rank: int) -> list[Batch]:
    """This rank's batch of each step."""
    return [packed(model, samples[rank]) for samples in STEPS]


def main() -> None:
    """All cases, one after another."""
    torch.set_num_threads(1)
    assemblies = {}
    for name, (_, learns) in CASES.items():  # before ranks exist: only rank 0 would write the tiny folders
        assemblies[name] = three_senses().train()
        trainable.set_trainable(assemblies[name], learns)
    deepspeed.init_distributed("gloo")
    rank = dist.get_rank()
    found = {name: trained(one, CASES[name][0], batches(one, rank)) for name, one in assemblies.items()}
    end(found)


if __name__ == "__main__":
    main()
