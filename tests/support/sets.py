"""Sets over one tiny LLM: in memory, and as run folders that were not trained but drawn."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.generation.answers import Request
from mmllm.generation.generator import Generator
from mmllm.generation.learned_set import LearnedSet
from mmllm.generation.memory import Sizes
from mmllm.generation.model import Model
from mmllm.generation.sampling import Sampling
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.recipe.load import load_recipe
from mmllm.sets.engine import SetsEngine
from mmllm.testing.tiny.models import tiny_vision
from mmllm.types import Message, Sample
from tests.support.parts import randomise
from tests.support.serving import picture
from tests.support.training import tiny_recipe

NEW = 6
"""Tokens of an answer."""


def samples() -> list[Sample]:
    """Conversations without a picture, with one, and with two."""
    red, blue = picture("red"), picture("blue")
    return [
        Sample("text", (Message("user", "Hi there"),)),
        Sample("one", (Message("user", "<image>What?"),), {"image": (red,)}),
        Sample("two", (Message("user", "<image>Now <image> this one is longer"),), {"image": (blue, red)}),
    ]


Answered = list[tuple[list[int], torch.Tensor]]
"""Tokens of each request, and the logits float[n, V] that they were chosen by."""


def answers(generators: Sequence[Generator], asked: Sequence[Sample]) -> Answered:
    """Each generator's greedy answer to its sample, all of them at once by the one engine that they have."""
    engine = generators[0].engine
    requests = [one.submit(one.encode(sample), Sampling(NEW)) for one, sample in zip(generators, asked, strict=True)]
    logits: dict[Request, list[torch.Tensor]] = {request: [] for request in requests}
    plain = engine.way.advance

    def advance() -> Any:
        for metrics, due, found in plain():
            for request, row in zip(due, found, strict=True):
                logits[request].append(row.clone())
            yield metrics, due, found

    engine.way.advance = advance  # type: ignore[method-assign]
    try:
        while not all(request.done for request in requests):
            engine.step()
    finally:
        del engine.way.advance
    for request in requests:
        if request.error is not None:
            raise request.error
    return [(request.tokens, torch.stack(logits[request])) for request in requests]


def alone(model: MultimodalLM, asked: Sequence[Sample]) -> Answered:
    """What a model that is served by itself answers, one after the other; it is detached afterwards."""
    generator = Generator(model)
    found = [answers([generator], [sample])[0] for sample in asked]
    model.detach()
    return found


def joined(models: dict[str, MultimodalLM], sizes: Sizes | None = None) -> tuple[SetsEngine, dict[str, Generator]]:
    """An engine with these detached models as sets, and what asks each."""
    engine = SetsEngine(sizes or Sizes())
    found = {}
    for name, model in models.items():
        learned = LearnedSet(name, name, model, 0, 0)
        engine.add(learned)
        found[name] = Generator(model, engine=engine, learned=learned)
    return engine, found


def close(found: Answered, expected: Answered) -> None:
    """The same tokens, and logits within 1e-5."""
    for (tokens, logits), (own_tokens, own_logits) in zip(found, expected, strict=True):
        assert tokens == own_tokens
        assert float((logits - own_logits).abs().max()) <= 1e-5 * max(1.0, float(own_logits.abs().max()))


def over(
    llm: CausalLM,
    seed: int,
    when: tuple[str, ...] | None = None,
    adapts: dict[str, list[str]] | None = None,
    **connectors: object,
) -> MultimodalLM:
    """A model over this LLM with a projector of pictures and further connectors, all drawn."""
    torch.manual_seed(seed)
    encoder = tiny_vision()
    made = {"image": PoolConnector(dim=encoder.dim, llm_dim=llm.dim, grid=[2, 2]), **connectors}
    for key, connector in connectors.items():
        connector.bind(key, when)  # type: ignore[attr-defined]
    model = MultimodalLM(llm, {"image": encoder}, made, {"image": "image"}, adapts=adapts)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    randomise(model.connectors)
    return model.requires_grad_(False).eval()


class Runs:
    """Run folders over one tiny LLM and one encoder, with drawn weights."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._recipe = folder, tiny_recipe(folder)
        self.sets = folder / "sets"
        self.sets.mkdir()

    def use_llm(self, folder: str) -> None:
        """Let runs written from now on be over another LLM, a folder beside the recipe."""
        words = yaml.safe_load(self._recipe.read_text(encoding="utf-8"))
        words["llm"]["path"] = str(self.folder / folder)
        self._recipe.write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")

    def write(self, name: str, seed: int, rank: int = 2, group: str | None = None, **connectors: Any) -> Path:
        """A run with these weights in the folder of sets, in the place of one that is there."""
        words = yaml.safe_load(self._recipe.read_text(encoding="utf-8"))
        words["name"] = name
        words["connectors"]["lora"] = {"type": "lora", "rank": rank}
        words["connectors"] |= connectors
        if group is not None:
            words["data"]["texts"]["group"] = group
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")
        recipe = load_recipe(file)
        model = build(recipe, "cpu")
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.connectors.parameters():
                weight.normal_(std=0.2)
        beside = self.folder / f"{name}.new"
        Model(model, recipe).save_pretrained(beside)
        shutil.rmtree(self.sets / name, ignore_errors=True)
        return beside.rename(self.sets / name)
