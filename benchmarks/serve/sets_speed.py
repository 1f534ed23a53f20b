"""Speed of many sets in one batch, on the miniature LLM with drawn LoRA: against switching, against one set for all.

Part of ``python -m benchmarks.serve sets``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from benchmarks.speed.measure import cpu_seconds
from mmllm.batches.sample import Encoded
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.generation.generator import Generator
from mmllm.generation.learned_set import LearnedSet
from mmllm.generation.memory import Sizes
from mmllm.generation.sampling import Sampling
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.sets.engine import SetsEngine
from mmllm.types import Message, Sample

LLM = "data/mini/lm"
RANKS = (4, 8, 16, 32)
BATCH, PROMPT, NEW = 32, "Count the shapes: a1 red square, b2 blue circle, c3 green triangle. How many are red?", 48
"""Requests at once, their text, and the tokens of an answer. A number stands in front of the text: what conversations
begin with alike is read once for one set, which is no matter of how their rows are answered."""


def drawn_set(llm: CausalLM, rank: int, seed: int) -> MultimodalLM:
    """A set of LoRA with random weights on all linear layers, attached."""
    torch.manual_seed(seed)
    model = MultimodalLM(llm, {}, {"lora": LoraConnector(llm_dim=llm.dim, rank=rank, alpha=2.0 * rank)}, {})
    with torch.no_grad():
        for name, weight in model.connectors.named_parameters():
            weight.normal_(std=0.02 if ".a." in name else 0.005)
    return model.requires_grad_(False).eval()


def speed(n_sets: int, rounds: int) -> dict[str, Any]:
    """Tokens per CPU second of ``BATCH`` requests over ``n_sets`` sets, in three ways that take turns."""
    llm = CausalLM.load(LLM, "float32")
    engine = SetsEngine(Sizes(rows=BATCH))
    models = []
    for number in range(n_sets):
        models.append(drawn_set(llm, RANKS[number % len(RANKS)], number))
        models[-1].detach()
    plain = [_endless(Generator(model)) for model in models]
    learned = [LearnedSet(f"set{n}", f"{n}", model, 0, 0) for n, model in enumerate(models)]
    for each in learned:
        engine.add(each)
    of_set = [_endless(Generator(each.model, engine=engine, learned=each)) for each in learned]
    # sets evenly, those of a batch all different where there are enough
    chosen = [number * n_sets // BATCH if n_sets > BATCH else number % n_sets for number in range(BATCH)]
    asked = [plain[0].encode(Sample(str(n), (Message("user", f"{n}: {PROMPT}"),))) for n in range(BATCH)]
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "together": lambda: _together(engine, [of_set[n] for n in chosen], asked),
        "switching": lambda: [_switched(plain[n], one) for n, one in zip(chosen, asked, strict=True)],
    }
    # the sets' own ranks are 15 in the middle: the one set for all has 16
    single = plain[2]

    def one_for_all() -> list[list[int]]:
        with single.model.attached():
            return _answers(single, asked)

    ways["one set for all"] = one_for_all
    expected, found = ways["switching"](), ways["together"]()
    assert expected == found, "an answer differs from the one of its set served alone"
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways) if number % 2 == 0 else list(reversed(ways))
        for name in order:
            engine.forget()
            for one in plain:
                one.engine._made = None  # nothing that was read before is used again
            began = cpu_seconds()
            ways[name]()
            seconds[name].append(cpu_seconds() - began)
    tokens = BATCH * NEW
    return {
        "sets": n_sets,
        "ranks": list(RANKS),
        "n": rounds,
        "tokens_per_s": {name: tokens / median(some) for name, some in seconds.items()},
        "against_switching": _ratios(seconds["switching"], seconds["together"]),
        "against_one_set": _ratios(seconds["one set for all"], seconds["together"]),
        "seconds": seconds,
    }


def _ratios(base: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    found = [a / b for a, b in zip(base, ours, strict=True)]
    return {"median": median(found), "min": min(found), "max": max(found)}


def _endless(generator: Generator) -> Generator:
    """All answers as long as each other: no token ends one."""
    generator.end_ids = frozenset()
    return generator


def _together(engine: SetsEngine, generators: Sequence[Generator], asked: Sequence[Encoded]) -> list[list[int]]:
    requests = [one.submit(encoded, Sampling(NEW)) for one, encoded in zip(generators, asked, strict=True)]
    while not all(request.done for request in requests):
        engine.step()
    return [request.tokens for request in requests]


def _answers(generator: Generator, asked: Sequence[Encoded]) -> list[list[int]]:
    requests = [generator.submit(encoded, Sampling(NEW)) for encoded in asked]
    while not all(request.done for request in requests):
        generator.engine.step()
    return [request.tokens for request in requests]


def _switched(generator: Generator, encoded: Encoded) -> list[int]:
    with generator.model.attached():
        return _answers(generator, [encoded])[0]
