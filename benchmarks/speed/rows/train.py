"""One optimizer step of a recipe beside a padded transformers loop (LLaVA, and peft in stage 2) on the same weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.llava import llava, padded, with_lora
from benchmarks.speed.measure import Comparison
from benchmarks.speed.parts import conversations, made, mixed_lengths
from mmllm import load_recipe
from mmllm.batches.loader import StepBatches
from mmllm.training import distributed
from mmllm.training.stage import StageTraining

RECIPE = """
name: speed
seed: 0
llm: {{path: {parts}/llm_{vocab}, dtype: float32, context: 2048}}
encoders:
  image: {{type: hf_vision, model: {parts}/vit, layers: [-2]}}
connectors:
  image: {{type: mlp, from: image}}
  lora: {{type: lora, rank: 16, alpha: 32}}
data:
  all: {{type: chat, path: {data}, media: {parts}}}
stages:
  one: {{train: {train}, data: {{all: 1.0}}, steps: 1000, batch: {batch}, warmup: 0, schedule: constant{more}}}
"""
"""Rates so small that no step moves a weight: every round must give the loss of the first."""

PROJECTOR = "{connectors.image: 1.0e-12}"
LORA = "{connectors.image: 1.0e-12, connectors.lora: 1.0e-12}"
LENGTHS = {4: mixed_lengths(4, seed=1), 2: mixed_lengths(2, seed=1), 16: mixed_lengths(16, seed=3)}


class _Stop:
    received = 0


def stage1() -> Comparison:
    """Projector only, a picture per conversation, a vocabulary of 32k."""
    return _compared(PROJECTOR, 32_000, 4, 4)


def stage2() -> Comparison:
    """LoRA of rank 16 on all linear layers and the projector."""
    return _compared(LORA, 32_000, 4, 4)


def stage1_shared() -> Comparison:
    """Projector only, four conversations about each of four pictures."""
    return _compared(PROJECTOR, 32_000, 16, 4)


def stage2_shared() -> Comparison:
    """LoRA, four conversations about each of four pictures."""
    return _compared(LORA, 32_000, 16, 4)


def memory_stage1() -> Comparison:
    """Memory of a step with a vocabulary of 152k, projector only."""
    return _compared(PROJECTOR, 151_936, 2, 2, memory=True)


def memory_stage2() -> Comparison:
    """Memory of a step with a vocabulary of 152k, LoRA."""
    return _compared(LORA, 151_936, 2, 2, memory=True)


def _compared(train: str, vocab: int, n: int, pictures: int, memory: bool = False) -> Comparison:
    folder = made(vocab)
    data = conversations(folder, f"train_{n}_{pictures}", LENGTHS[n], pictures)
    training = _training(folder, data, train, vocab, n, "")
    steps = training.loader.steps()
    step = next(steps)
    other = llava(training.model, folder, vocab)
    if train == LORA:
        _open(training.model.connectors["lora"])
        with_lora(other, training.model)
    batch = padded(_plain(training, step))
    filled = int(batch["attention_mask"].sum())
    finish = _Loop(other)
    return Comparison(
        baseline=lambda: finish(other(**batch).loss),
        ours=lambda: training._step(step, _Stop)[0]["loss"],  # type: ignore[arg-type]
        check=_same,
        what=f"{n} conversations about {pictures} pictures, vocabulary {vocab:,}: "
        + ("projector and LoRA r=16 on all linear layers" if train == LORA else "projector"),
        against="LlavaForConditionalGeneration" + (" + peft" if train == LORA else "") + ", padded, sdpa, AdamW, clip",
        facts={"pad_efficiency": filled / batch["attention_mask"].numel(), "labels": step.n_labels_global},
        memory=memory,
    )


def _training(parts: Path, data: Path, train: str, vocab: int, batch: int, more: str) -> StageTraining:
    """The stage as ``mmllm train`` builds it."""
    folder = Path(tempfile.mkdtemp(prefix="mmllm-speed-"))
    words: dict[str, Any] = {"parts": parts.absolute(), "data": data.absolute(), "train": train, "more": more}
    (folder / "speed.yaml").write_text(RECIPE.format(vocab=vocab, batch=batch, **words))
    device = distributed.init_distributed()
    return StageTraining(distributed.resolved(load_recipe(folder / "speed.yaml")), "one", folder / "run", device, None)


def _plain(training: StageTraining, step: StepBatches) -> Any:
    """The step's conversations in one packed row, each by itself."""
    assert len(step.micro) == 1
    return step.micro[0]


def _open(lora: Any) -> None:
    """Random updates instead of zero ones, so that both sides have something to compute."""
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.b.weight.normal_(0, 0.02)


class _Loop:
    """The rest of a plain training loop."""

    def __init__(self, model: Any) -> None:
        self.learning = [tensor for tensor in model.parameters() if tensor.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=0.0)

    def __call__(self, loss: torch.Tensor) -> float:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def _same(theirs: float, ours: float) -> None:
    assert abs(theirs - ours) <= 2e-5 * abs(theirs), f"losses {theirs} and {ours}"
