"""Questions of easy-VQA to the committed real model, beside transformers' generate on the same prompts.

Needs the real parts and data: ``python -m mmllm.real fetch data/real``, ``python -m mmllm.real data data/real/data``.
"""

from __future__ import annotations

import os
import tempfile
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed.measure import Comparison
from mmllm.batches.collate import collate
from mmllm.checkpoints.load import load_run
from mmllm.evaluation.predictions import predict
from mmllm.evaluation.run import opened, under
from mmllm.exporting.merging import updates
from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.model.feature_cache import cache_as_said
from mmllm.model.model import MultimodalLM
from mmllm.real.opening import real_run
from mmllm.types import Sample

QUESTIONS = int(os.environ.get("MMLLM_SPEED_QUESTIONS", "1000"))
"""The first so many of the test split."""
BENCHMARK = "easy_vqa"


def eval_real() -> Comparison:
    """An evaluation of the real model, features of its pictures kept."""
    recipe, model = load_run(real_run())
    cache = cache_as_said(model, recipe.eval.cache)
    generator = Generator(model, Sizes.of(recipe.serve))
    entry = recipe.eval.benchmarks[BENCHMARK]
    benchmark = opened({BENCHMARK: entry})[0]
    questions = [under(entry["system"], benchmark[number]) for number in range(min(QUESTIONS, len(benchmark)))]
    prompts = _prompts(generator, [one.sample for one in questions])
    if cache is not None:
        cache.commit()
    other = _Transformers(model, recipe.llm.path)
    folder = Path(tempfile.mkdtemp(prefix="mmllm-speed-"))
    files = (folder / f"{number}.jsonl" for number in count())
    batch, most = recipe.eval.batch, recipe.eval.max_new_tokens

    def ours() -> list[str]:
        generator.forget()
        found = predict(
            generator, benchmark, questions, next(files), "key", batch, most, lambda _: None, lambda one: one
        )
        return [one.prediction for one in found]

    return Comparison(
        baseline=lambda: other.answers(prompts, batch, most, sorted(generator.end_ids)),
        ours=ours,
        check=_same,
        what=f"easy-VQA's first {len(questions):,} questions to the real model (SmolLM2-135M), features kept, by the "
        "evaluation's own path",
        against=f"LlamaForCausalLM.generate, LoRA merged, left-padded batches of {batch} in the order of the file; its "
        "pictures encoded and projected beforehand, which is not counted",
        facts={"questions": len(questions)},
    )


@torch.inference_mode()
def _prompts(generator: Generator, samples: list[Sample]) -> list[Tensor]:
    """Embeddings of each prompt with its picture's tokens in it, float[S, D]."""
    model = generator.model
    encoded = [generator.encode(sample) for sample in samples]
    return [model.embed(collate([one], model.inputs, model.llm.positions))[1] for one in encoded]


class _Transformers:
    """The same language model as transformers has it, with the LoRA in its weights: every prompt shows a picture."""

    def __init__(self, model: MultimodalLM, path: str) -> None:
        from transformers import AutoModelForCausalLM

        self.llm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = model.llm.tokenizer
        with torch.no_grad():
            for name, update in updates(model.connectors["lora"]):  # type: ignore[arg-type]
                self.llm.get_submodule(name).weight += update

    @torch.inference_mode()
    def answers(self, prompts: list[Tensor], batch: int, most: int, ends: list[int]) -> list[str]:
        """Greedy answers, in the order of the prompts."""
        found = []
        for first in range(0, len(prompts), batch):
            some = prompts[first : first + batch]
            length = max(map(len, some))
            embeds = torch.stack([torch.nn.functional.pad(one, (0, 0, length - len(one), 0)) for one in some])
            mask = torch.stack([(torch.arange(length) >= length - len(one)).long() for one in some])
            ids = self.llm.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
            found += [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return found


def _same(theirs: list[str], ours: list[str]) -> None:
    unlike = [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]]
    assert not unlike, f"{len(unlike)} of {len(ours)} answers differ: {unlike[:5]}"
