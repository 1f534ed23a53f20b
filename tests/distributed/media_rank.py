"""One of two ranks: trains on points, documents, graphs and sounds under several ZeRO stages; prints JSON of losses.

``test_media`` runs it on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import deepspeed
import torch
import torch.distributed as dist

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.projectors.graph_tokens import GraphTokensConnector
from mmllm.encoders.base import Encoder
from mmllm.messages.tokenize import Prompter
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny import deep_fusion, encoder_adapters, encoders, projectors
from mmllm.testing.tiny.encoders import TinyEncoder
from mmllm.testing.tiny.record import Tiny
from mmllm.types import Batch, Message, Sample
from tests.support.parts import tiny_llm
from tests.support.zero_training import end, learned

STAGES = (0, 2, 3)
STEPS = (
    (("points", "document", "graph"), ("audio",)),
    (("audio", "nodes"), ("document",)),
    (("points",), ("points",)),
    ((), ("graph", "nodes")),
    (("graph",), ("graph", "audio")),
    ((), ()),
)
"""Per step what rank 0 and rank 1 are shown; one conversation of text only beside."""
ENCODERS: dict[str, TinyEncoder] = {
    "points": encoders.TINY["points"],
    "document": encoders.TINY["document"],
    "graph": encoders.TINY["text_graph"],
    "nodes": encoders.TINY["text_graph"],
    "audio": encoders.TINY["hf_audio"],
}
CONNECTORS: dict[str, Tiny] = {
    "points": encoder_adapters.TINY["any2point"],
    "document": encoder_adapters.TINY["text_memory"],
    "graph": deep_fusion.TINY["graph_adapter"],
    "nodes": projectors.TINY["graph_tokens"],
    "audio": projectors.TINY["window_resampler"],
}
INSIDE = ("points", "document")
NAMES = (*(f"connectors.{key}" for key in CONNECTORS), "encoders.document")


def assembly_of_all(tiny: Mapping[str, Encoder]) -> MultimodalLM:
    """A tiny Llama with every sense; the small model that reads documents learns too."""
    llm, own = tiny_llm(), {key: deepcopy(encoder) for key, encoder in tiny.items()}
    torch.manual_seed(3)
    connectors = {key: one.make(own[key].dim, llm) for key, one in CONNECTORS.items()}
    # the only template that does without a node in the middle, which not every tiny graph has
    connectors["nodes"] = GraphTokensConnector(
        dim=own["nodes"].dim, llm_dim=llm.dim, template="queries", width=8, queries=2
    )
    adapts = {key: [key] for key in INSIDE}
    return MultimodalLM(llm, own, connectors, {key: key for key in own}, adapts=adapts)


def batch_of(model: MultimodalLM, shown: tuple[str, ...], number: int) -> Batch:
    """A conversation about each key, with items that change from step to step, and one of text only."""
    prompter, readers = Prompter(model.llm.tokenizer, list(model.inputs)), model.inputs
    samples = [Sample("text", (Message("user", "the cat?"), Message("assistant", "sat")))]
    for key in shown:
        item = ENCODERS[key].media()[number % 3]
        said = (Message("user", f"<{key}> red?"), Message("assistant", "blue"))
        samples.append(Sample(key, said, {key: (item,)}))
    return collate([encode(sample, prompter, readers, 100, train=True) for sample in samples], readers)


def losses(model: MultimodalLM, stage: int) -> list[float]:
    """Loss per label over both ranks before each step, and of the first batches after the last."""
    trainable.set_trainable(model, dict.fromkeys(NAMES, 1e-2))
    model.train()
    batches = [batch_of(model, step[dist.get_rank()], number) for number, step in enumerate((*STEPS, STEPS[0]))]
    batches[-1] = batches[0]
    return learned(model, NAMES, stage, batches)


def main() -> None:
    """All stages, one after another."""
    torch.set_num_threads(1)
    # before ranks exist: only rank 0 would write their folders
    tiny = {key: one.make() for key, one in ENCODERS.items()}
    deepspeed.init_distributed("gloo")
    found = {str(stage): losses(assembly_of_all(tiny), stage) for stage in STAGES}
    end(found)


if __name__ == "__main__":
    main()
