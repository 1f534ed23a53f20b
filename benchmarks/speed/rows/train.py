"""One optimizer step of a recipe beside a padded transformers loop (LLaVA, and peft in stage 2) on the same weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.speed.llava import Loop, NeverStopped, llava, padded, with_lora
from benchmarks.speed.measure import Comparison
from benchmarks.speed.parts import conversations, made, mixed_lengths
from mmllm import load_recipe
from mmllm.batches.collate import collate
from mmllm.batches.sample import load_media
from mmllm.training import distributed
from mmllm.training.stage import StageTraining
from mmllm.types import Batch

Resolutions = Sequence[Sequence[int]]
"""(height, width) of each canvas that a picture may be cut on."""
RECIPE = """
name: speed
seed: 0
llm: {{path: {parts}/llm_{vocab}, dtype: float32, context: 2048}}
encoders:
  image: {encoder}
connectors:
  image: {{type: mlp, from: image{stitch}}}
  lora: {{type: lora, rank: 16, alpha: 32}}
data:
  all: {{type: chat, path: {data}, media: {parts}}}
stages:
  one: {{train: {train}, data: {{all: 1.0}}, steps: 1000, batch: {batch}, warmup: 0, {words}}}
"""
"""Rates so small that no step moves a weight: every round must give the loss of the first."""

PROJECTOR = "{connectors.image: 1.0e-12}"
TILES = ((224, 448), (448, 224), (448, 448), (672, 224), (224, 672))
"""LLaVA-NeXT's resolutions in tiles of 224 pixels."""
LORA = "{connectors.image: 1.0e-12, connectors.lora: 1.0e-12}"
LENGTHS = {4: mixed_lengths(4, seed=1), 2: mixed_lengths(2, seed=1), 16: mixed_lengths(16, seed=3)}


def stage1() -> Comparison:
    """Projector only, a picture per conversation, a vocabulary of 32k."""
    return _compared(PROJECTOR, 32_000, 4, 4)


def stage1_tiles() -> Comparison:
    """Projector and newline, four pictures of unlike shape, each cut into tiles as LLaVA-NeXT does."""
    return _compared(PROJECTOR, 32_000, 4, 4, resolutions=TILES)


def stage2() -> Comparison:
    """LoRA of rank 16 on all linear layers and the projector."""
    return _compared(LORA, 32_000, 4, 4)


def stage1_shared() -> Comparison:
    """Projector only, four conversations about each of four pictures."""
    return _compared(PROJECTOR, 32_000, 16, 4, more=", share_prefix: true")


def stage2_shared() -> Comparison:
    """LoRA, four conversations about each of four pictures."""
    return _compared(LORA, 32_000, 16, 4, more=", share_prefix: true")


def memory_stage1() -> Comparison:
    """Memory of a step with a vocabulary of 152k, projector only."""
    return _compared(PROJECTOR, 151_936, 2, 2, memory=True)


def memory_stage2() -> Comparison:
    """Memory of a step with a vocabulary of 152k, LoRA."""
    return _compared(LORA, 151_936, 2, 2, memory=True)


def _compared(
    train: str,
    vocab: int,
    n: int,
    pictures: int,
    *,
    memory: bool = False,
    more: str = "",
    resolutions: Resolutions | None = None,
) -> Comparison:
    folder = made(vocab)
    shown = ("img", "") if resolutions is None else ("shapes", "_shapes")
    data = conversations(folder, f"train_{n}_{pictures}{shown[1]}", LENGTHS[n], pictures, shown[0])
    training = _training(folder, data, train, vocab, n, more, resolutions)
    row, seen = _plain(training)
    batch = padded(row, **seen)
    steps = training.loader.steps()
    # the first epoch keeps the features, the second finds them; in each, a step has all of the data
    training._step(next(steps), NeverStopped)  # type: ignore[arg-type]
    training.keep_features()
    step = next(steps)
    other = llava(training.model, folder, vocab, resolutions)
    if train == LORA:
        _open(training.model.connectors["lora"])
        with_lora(other, training.model)
    filled = int(batch["attention_mask"].sum())
    finish = Loop(other)
    return Comparison(
        baseline=lambda: finish(other(**batch).loss),
        ours=lambda: training._step(step, NeverStopped)[0]["loss"],  # type: ignore[arg-type]
        check=_same,
        what=f"{n} conversations about {pictures} pictures, vocabulary {vocab:,}, "
        + ("projector and LoRA r=16 on all linear layers" if train == LORA else "projector")
        + (", pictures of unlike shape in tiles, stitched (LLaVA-NeXT)" if resolutions else "")
        + "; features kept by an epoch before (`cache`)"
        + (", beginnings shared (`share_prefix`)" if more else ""),
        against=f"Llava{'Next' if resolutions else ''}ForConditionalGeneration"
        + (" + peft" if train == LORA else "")
        + ", padded, sdpa, AdamW, clip",
        facts={"pad_efficiency": filled / batch["attention_mask"].numel(), "labels": step.n_labels_global},
        memory=memory,
    )


def _training(
    parts: Path, data: Path, train: str, vocab: int, batch: int, more: str, resolutions: Resolutions | None
) -> StageTraining:
    """The stage as ``mmllm train`` builds it."""
    folder = Path(tempfile.mkdtemp(prefix="mmllm-speed-"))
    # float32: with float16 features the losses would differ in the fourth digit, and they are asserted to be equal
    words = f"schedule: constant, cache: {{dir: {folder / 'features'}, dtype: float32}}{more}"
    encoder = f"{{type: hf_vision, model: {parts.absolute()}/vit, layers: [-2]}}"
    if resolutions is not None:
        grids = [list(one) for one in resolutions]
        encoder = f"{{type: tiles, rule: resolutions, resolutions: {grids}, image: {encoder}}}"
    stitch = "" if resolutions is None else ", stitch: {newline: row}"
    named = {"parts": parts.absolute(), "data": data.absolute(), "train": train, "words": words}
    named |= {"encoder": encoder, "stitch": stitch}
    (folder / "speed.yaml").write_text(RECIPE.format(vocab=vocab, batch=batch, **named))
    device = distributed.init_distributed()
    recipe = distributed.resolved(load_recipe(folder / "speed.yaml"))
    return StageTraining(recipe, "one", folder / "run", device, None)


def _plain(training: StageTraining) -> tuple[Batch, dict[str, torch.Tensor]]:
    """The conversations of the first step in one packed row, each by itself, and the pixels of each as LLaVA's
    processor gives them: of tiles padded to the most, with the pictures' sizes."""
    loader, processor = training.loader, training.model.encoders["image"].processor
    plans = [(loader._plan(name, index), name) for name, index in loader.mixture.step(0)]
    row = collate([load_media(planned, loader.inputs, name) for planned, name in plans], loader.inputs)
    items = [processor.read(planned.sample.media["image"][0]) for planned, _ in plans]
    if "cut" not in items[0]:
        return row, {"pixel_values": processor.collate(items)["pixels"]}
    sizes = torch.stack([item["cut"][[4, 3]] for item in items])  # height and width
    return row, {"pixel_values": pad_sequence([item["pixels"] for item in items], True), "image_sizes": sizes}


def _open(lora: Any) -> None:
    """Random updates instead of zero ones, so that both sides have something to compute."""
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.b.weight.normal_(0, 0.02)


def _same(theirs: float, ours: float) -> None:
    assert abs(theirs - ours) <= 2e-5 * abs(theirs), f"losses {theirs} and {ours}"
