"""What else can be measured on a trained run: text skills kept, the loss on the way, what connectors report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.claims.data import write_task, write_tuning

if TYPE_CHECKING:
    from benchmarks.claims.finished import Finished
    from mmllm.model.model import MultimodalLM
    from mmllm.types import Sample

_STEPS = 3


@dataclass(frozen=True)
class LossAt:
    """``loss@<k>``: mean training loss of the ``window`` steps up to step k of the last stage (or of ``stage``)."""

    steps: tuple[int, ...]
    window: int = 10
    stage: str = ""

    def __call__(self, finished: Finished) -> dict[str, float]:
        """Read from ``metrics.jsonl``."""
        stage = self.stage or list(finished.recipe.stages)[-1]
        lines = (finished.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [row["loss"] for row in map(json.loads, lines) if row["stage"] == stage]
        return {f"loss@{step}": mean(losses[max(0, step - self.window) : step]) for step in self.steps}


@dataclass(frozen=True)
class AnswerLoss:
    """``<task>.loss``: mean loss per token of the right answers to a task's held-out questions."""

    task: str

    def __call__(self, finished: Finished) -> dict[str, float]:
        """Teacher-forced, all questions in one batch."""
        import torch

        from benchmarks.claims.tasks import benchmark_of
        from mmllm import registry
        from mmllm.batches.collate import collate
        from mmllm.batches.sample import encode
        from mmllm.messages.tokenize import Prompter
        from mmllm.types import Message

        write_task(self.task)
        write_tuning(self.task)
        model = finished.model
        asked = registry.load("benchmarks", benchmark_of(self.task))(task=self.task, split=finished.split)
        prompter, readers = Prompter(model.llm.tokenizer, list(model.inputs)), model.inputs
        encoded = []
        for question in (asked[index] for index in range(len(asked))):
            said = Message("assistant", question.reference[0])
            sample = replace(question.sample, messages=(*question.sample.messages, said))
            encoded.append(encode(sample, prompter, readers, model.llm.context, train=True))
        with torch.no_grad():
            nll, _, _ = model(collate(encoded, readers))
        return {f"{self.task}.loss": float(nll) / sum(one.n_labels for one in encoded)}


@dataclass(frozen=True)
class TextKept:
    """What became of the LM's text skills, on held-out rows of a text task.

    ``text_ppl`` is the perplexity of the answers, ``text_ppl_base`` the LM's own without connectors;
    ``text_identical`` is 1 where the logits of ``n`` text-only conversations, while three more tokens are decoded,
    are the LM's own bit for bit, else 0.
    """

    task: str = "text"
    n: int = 40

    def __call__(self, finished: Finished) -> dict[str, float]:
        """Compare with the bare LM of the recipe."""
        import torch

        from mmllm.model.build import build

        nothing: dict[str, Any] = {"connectors": {}, "encoders": {}, "data": {}, "stages": {}}
        bare = build(finished.recipe.model_copy(update=nothing), "cpu")
        asked = _rows(self, answered=False)
        pairs = zip(logits_of(finished.model, asked), logits_of(bare, asked), strict=True)
        same = all(torch.equal(one, other) for one, other in pairs)
        found = {"text_ppl": _perplexity(finished.model, self), "text_ppl_base": _perplexity(bare, self)}
        return {**found, "text_identical": float(same)}


def _rows(kept: TextKept, answered: bool) -> list[Sample]:
    """Held-out questions as conversations, with their answers or without."""
    from mmllm.types import Message, Sample

    file = write_task(kept.task) / "test" / f"{kept.task}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    samples = []
    for row in map(json.loads, lines if answered else lines[: kept.n]):
        asked, said = Message("user", row["question"]), Message("assistant", row["answers"][0])
        samples.append(Sample(row["id"], (asked, said) if answered else (asked,), {}))
    return samples


def _perplexity(model: MultimodalLM, kept: TextKept) -> float:
    import torch

    from mmllm.batches.collate import collate
    from mmllm.batches.sample import encode
    from mmllm.messages.tokenize import Prompter

    prompter, readers = Prompter(model.llm.tokenizer, list(model.inputs)), model.inputs
    encoded = [encode(row, prompter, readers, model.llm.context, train=True) for row in _rows(kept, answered=True)]
    with torch.no_grad():
        nll, _, _ = model(collate(encoded, readers))
    return math.exp(float(nll) / sum(one.n_labels for one in encoded))


def logits_of(model: MultimodalLM, asked: Sequence[Sample]) -> list[Any]:
    """Logits float[n, V] after n questions and after each of three more tokens."""
    from mmllm.batches.collate import collate
    from mmllm.generation.generator import Generator

    generator = Generator(model)
    encoded = [generator.encode(sample) for sample in asked]
    state = model.prefill(collate(encoded, generator.inputs))
    found = [state.logits]
    for _ in range(_STEPS):
        state = model.decode(state, state.logits.argmax(dim=-1))
        found.append(state.logits)
    return found
