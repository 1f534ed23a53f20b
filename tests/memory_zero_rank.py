"""One of two ranks: trains ``any2point`` and ``text_memory`` under several ZeRO stages; prints one JSON line of losses.

``test_memory_zero`` starts it twice.
"""

from __future__ import annotations

from copy import deepcopy

import deepspeed
import torch
import torch.distributed as dist

from mmllm.assembly import parts
from mmllm.assembly.model import Assembly
from mmllm.batches.collate import collate
from mmllm.batches.encode import encode
from mmllm.batches.prompt import Prompter
from mmllm.connectors.any2point import Any2PointConnector
from mmllm.connectors.connector import Connector
from mmllm.connectors.text_memory import TextMemoryConnector
from mmllm.encoders.document import DocumentEncoder
from mmllm.encoders.encoder import Encoder
from mmllm.encoders.points import PointsEncoder
from mmllm.types import Batch, Message, Sample
from tests.parts import tiny_llm
from tests.zero_training import end, learned

STAGES = (0, 2, 3)
STEPS = ((("points", "document"), ()), ((), ("document",)), (("points",), ("points",)), ((), ()))
"""Per step what rank 0 and rank 1 are shown; one conversation of text only beside."""
NAMES = ("connectors.points", "connectors.document", "encoders.document")


def assembly_of_both(points: PointsEncoder, document: DocumentEncoder) -> Assembly:
    """A tiny Llama with both senses; the small model that reads documents learns too."""
    llm = tiny_llm()
    encoders: dict[str, Encoder] = {"points": deepcopy(points), "document": deepcopy(document)}
    torch.manual_seed(3)
    connectors: dict[str, Connector] = {
        "points": Any2PointConnector.tiny(encoders["points"].dim, llm),
        "document": TextMemoryConnector.tiny(encoders["document"].dim, llm),
    }
    for key, connector in connectors.items():
        connector.inside = (key,)
    return Assembly(llm, encoders, connectors, {"points": "points", "document": "document"})


def batch_of(assembly: Assembly, shown: tuple[str, ...], number: int) -> Batch:
    """A conversation about each key, with items that change from step to step, and one of text only."""
    prompter, readers = Prompter(assembly.llm.tokenizer, list(assembly.sources)), assembly.readers()
    samples = [Sample("text", (Message("user", "the cat?"), Message("assistant", "sat")))]
    for key in shown:
        item = assembly.encoders[key].tiny_media()[number % 3]  # type: ignore[operator]
        said = (Message("user", f"<{key}> red?"), Message("assistant", "blue"))
        samples.append(Sample(key, said, {key: (item,)}))
    return collate([encode(sample, prompter, readers, 100, train=True) for sample in samples], readers)


def losses(assembly: Assembly, stage: int) -> list[float]:
    """Loss per label over both ranks before each step, and of the first batches after the last."""
    parts.set_trainable(assembly, dict.fromkeys(NAMES, 1e-2))
    assembly.train()
    batches = [batch_of(assembly, step[dist.get_rank()], number) for number, step in enumerate((*STEPS, STEPS[0]))]
    batches[-1] = batches[0]
    return learned(assembly, NAMES, stage, batches)


def main() -> None:
    """All stages, one after another."""
    torch.set_num_threads(1)
    tiny = PointsEncoder.tiny(), DocumentEncoder.tiny()  # before ranks exist: only rank 0 would write their folders
    deepspeed.init_distributed("gloo")
    found = {str(stage): losses(assembly_of_both(*tiny), stage) for stage in STAGES}
    end(found)


if __name__ == "__main__":
    main()
