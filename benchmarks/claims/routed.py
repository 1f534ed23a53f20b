"""What the routers of a trained mixture of LoRA experts do on held-out questions: load, domains told apart, gates."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.claims.data import write_task

if TYPE_CHECKING:
    from benchmarks.claims.finished import Finished
    from mmllm.batches.sample import Encoded
    from mmllm.connectors.llm_adapters.moe_lora.moe_lora import MoeLoraConnector
    from mmllm.model.model import MultimodalLM

_SHUFFLES = 20


@dataclass(frozen=True)
class Routed:
    """Routers on the held-out questions of a text task and their answers; nothing where there is no mixture.

    - ``load_min``: smallest share of a block's tokens that one of its experts gets (the connector's ``report``)
    - ``kind_bits``: mutual information of a question's kind and its expert, mean over routers and the last ``window``
      positions before the answer, less what it is with the kinds shuffled
    - ``load_min_pooled``: the same over all blocks, as LLaVA-MoLE's balance counts
    - ``gates``: with supervision, share of the routers' decisions that agree with the task (``report``);
      ``gates_named`` only from the task's name on (before it nothing tells which task it is)
    """

    task: str
    window: int = 4

    def __call__(self, finished: Finished) -> dict[str, float]:
        """One pass over all of it."""
        from mmllm.connectors.llm_adapters.moe_lora.moe_lora import MoeLoraConnector

        mixtures = [one for one in finished.model.connectors.values() if isinstance(one, MoeLoraConnector)]
        if not mixtures:
            return {}
        encoded = _encoded(finished.model, self.task)
        chosen, report = _decisions(finished.model, mixtures[0], encoded)
        found = _loads(report["experts"]) | {"kind_bits": _kind_bits(chosen, encoded, self.window)}
        if "gates" in report:
            found["gates"] = report["gates"]["right"] / report["gates"]["labelled"]
            found["gates_named"] = _gates_named(finished.model, mixtures[0], chosen, encoded)
        return found


@dataclass(frozen=True)
class PartsRight:
    """``<task>.parts``: share of right answers to the single questions of a composite, as the paper scores them.

    A prediction is cut at its commas; a missing part is wrong.
    """

    task: str = "text_composite"

    def __call__(self, finished: Finished) -> dict[str, float]:
        """Read from the predictions of the run."""
        right = []
        for line in (finished.run / "predictions" / f"{self.task}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            said = row["prediction"].split(", ")
            wanted = row["references"][0].split(", ")
            right += [place < len(said) and said[place].strip() == part for place, part in enumerate(wanted)]
        return {f"{self.task}.parts": mean(right)}


def _encoded(model: MultimodalLM, task: str) -> list[Encoded]:
    """Questions with answers; the source of each is its kind, as if it were training data of that key."""
    from mmllm.batches.sample import load_media, plan
    from mmllm.messages.tokenize import Prompter
    from mmllm.types import Message, Sample

    prompter, readers = Prompter(model.llm.tokenizer, list(model.inputs)), model.inputs
    found = []
    lines = (write_task(task) / "test" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        messages = (Message("user", row["question"]), Message("assistant", row["answers"][0]))
        planned = plan(Sample(row["id"], messages, {}), prompter, readers, model.llm.context, train=True)
        found.append(load_media(planned, readers, row["kind"]))
    return found


def _decisions(
    model: MultimodalLM, mixture: MoeLoraConnector, encoded: Sequence[Encoded]
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Router -> its most probable expert at each of the S positions; and the connector's report of the same pass."""
    import torch

    from mmllm.batches.collate import collate
    from mmllm.model.metrics import plain

    chosen: dict[str, list[int]] = {}

    def noting(name: str) -> Any:
        def note(_module: Any, _inputs: Any, logits: torch.Tensor) -> None:
            chosen[name] = logits.argmax(dim=-1).tolist()

        return note

    handles = [router.register_forward_hook(noting(name)) for name, router in mixture.routers.items()]
    with torch.no_grad():
        _, _, counted = model(collate(encoded, model.inputs))
    for handle in handles:
        handle.remove()
    return chosen, plain(counted[mixture.key])


def _loads(experts: dict[str, dict[str, list[list[float]]]]) -> dict[str, float]:
    """``load_min`` and, where all blocks have as many experts, ``load_min_pooled``; ``experts`` as in the report."""
    tables = [table for by_modality in experts.values() for table in by_modality.values()]
    blocks = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]
    found = {"load_min": min(min(block) / sum(block) for block in blocks)}
    if len({len(block) for block in blocks}) == 1:
        pooled = [sum(column) for column in zip(*blocks, strict=True)]
        found["load_min_pooled"] = min(pooled) / sum(pooled)
    return found


def _kind_bits(chosen: dict[str, list[int]], encoded: Sequence[Encoded], window: int) -> float:
    """See ``Routed``."""
    ends = _answers(encoded)
    kinds = [one.dataset for one in encoded]
    rng, found = Random(0), []
    for experts in chosen.values():
        for back in range(1, window + 1):
            sent = [experts[end - back] for end in ends]
            by_chance = [_bits(sent, rng.sample(kinds, len(kinds))) for _ in range(_SHUFFLES)]
            found.append(_bits(sent, kinds) - mean(by_chance))
    return mean(found)


def _bits(one: Sequence[object], other: Sequence[object]) -> float:
    """Mutual information of two paired sequences in bits."""
    n = len(one)
    pairs, left, right = Counter(zip(one, other, strict=True)), Counter(one), Counter(other)
    return sum(c / n * math.log2(c * n / (left[a] * right[b])) for (a, b), c in pairs.items())


def _answers(encoded: Sequence[Encoded]) -> list[int]:
    """Position of each answer's first token in the packed row."""
    from mmllm.types import IGNORE_INDEX

    start, found = 0, []
    for one in encoded:
        found.append(start + next(place for place, label in enumerate(one.labels) if label != IGNORE_INDEX))
        start += len(one.ids)
    return found


def _gates_named(
    model: MultimodalLM, mixture: MoeLoraConnector, chosen: dict[str, list[int]], encoded: Sequence[Encoded]
) -> float:
    """Share of right decisions from the first token of the task's name on."""
    right = total = start = 0
    for one in encoded:
        name = model.llm.tokenizer.encode(one.dataset, add_special_tokens=False)[0]
        expert = mixture.supervised[one.dataset]
        for place in range(start + one.ids.index(name), start + len(one.ids)):
            right += sum(experts[place] == expert for experts in chosen.values())
            total += len(chosen)
        start += len(one.ids)
    return right / total
