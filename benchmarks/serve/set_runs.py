"""Run folders of drawn LoRA over the miniature LLM, and what each answers alone; for the measurements of sets."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from mmllm.generation.generator import Generator
from mmllm.generation.model import Model
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.build import build, build_llm
from mmllm.recipe.load import load_recipe
from mmllm.types import Message, Sample

LLM = "data/mini/lm"
CAPTIONS = "data/mini/fixtures/captions.jsonl"
STD = 0.08


class SetRuns:
    """Writes runs into a folder; the LLM is loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._llm: CausalLM | None = None

    def write(self, run: Path, rank: int, seed: int, group: str | None = None) -> None:
        """A run whose LoRA of this rank is drawn from ``seed``."""
        data = {
            "type": "chat_jsonl",
            "path": str(Path(CAPTIONS).resolve()),
            **({} if group is None else {"group": group}),
        }
        words = {
            "name": run.name,
            "llm": {"path": str(Path(LLM).resolve()), "dtype": "float32", "context": 512},
            "connectors": {"lora": {"type": "lora", "rank": rank, "alpha": 2.0 * rank}},
            "data": {"rows": data},
            "stages": {"tune": {"train": {"connectors.lora": 1.0e-3}, "data": {"rows": 1.0}, "steps": 1, "batch": 1}},
        }
        file = self.folder / f"{run.name}.yaml"
        file.write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")
        recipe = load_recipe(file)
        self._llm = self._llm or build_llm(recipe, "cpu")
        model = build(recipe, "cpu", llm=self._llm)
        # a generator of its own: a server in the same process draws too
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.connectors.parameters():
                weight.normal_(std=STD, generator=generator)
        beside = run.with_name(f".{run.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        Model(model, recipe).save_pretrained(beside)
        model.detach()
        if run.exists():
            old = run.with_name(f".{run.name}.old")
            run.rename(old)
            beside.rename(run)
            shutil.rmtree(old)
        else:
            beside.rename(run)


def alone(run: Path, questions: Sequence[str], new: int) -> list[str]:
    """What a run answers when it is served by itself."""
    from mmllm.checkpoints.load import load_run

    generator = Generator(load_run(run, "cpu")[1])
    asked = [Sample(text, (Message("user", text),)) for text in questions]
    return [one.text for one in generator.generate(asked, new)]
