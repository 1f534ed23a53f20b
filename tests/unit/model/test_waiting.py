"""A training step asks its device for nothing: on one that has no numbers it runs from the batch to the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.stitching import Stitch
from mmllm.encoders.base import Encoder
from mmllm.messages.tokenize import Prompter
from mmllm.model.feature_cache import cache_features
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.testing.tiny import encoders
from mmllm.testing.tiny.llms import tiny_llm
from mmllm.types import Batch, Message, Sample
from tests.support.assemblies import Row, batch_of, tiny_assembly

MIXED = (Row(1, (4, "image", 3, "page", 5)), Row(2, (9,)), Row(3, ("image", "image", 6)), Row(4, (2, "page", 4)))


@pytest.mark.parametrize("rows", [MIXED, MIXED[1:2]], ids=["mixed", "text"])
def test_a_step_never_waits_for_its_device(rows: tuple[Row, ...]) -> None:
    model = tiny_assembly()
    batch = batch_of(model, rows)
    set_trainable(model, {"connectors.image": 1.0, "connectors.lora": 1.0})
    model.train().to("meta")
    there = batch.to("meta")
    assert there.host is batch and there.input_ids.is_meta and not there.host.input_ids.is_meta
    nll, extra, _ = model(there)
    (nll + extra).backward()
    assert nll.is_meta
    gradients = [weight.grad for weight in model.connectors["lora"].parameters()]
    assert gradients and all(one is not None and one.is_meta for one in gradients)


def _tiles() -> Encoder:
    return encoders.tiles(rule="resolutions", resolutions=[[32, 64], [64, 32], [64, 64]])


MAKERS: Mapping[str, Any] = {**{name: one.make for name, one in encoders.TINY.items()}, "stitch": _tiles}
COUNTED = ("tiles", "stitch", "frames", "hf_native", "hf_video", "patches", "hf_audio", "waveform")
"""Encoders whose items differ in size: shapes follow from numbers that the loader knows."""
FIXED = ("hf_vision", "hf_sam", "open_clip", "mllama_vision", "points")


def _model(kind: str) -> MultimodalLM:
    """A tiny LLM behind such an encoder."""
    encoder, llm = MAKERS[kind](), tiny_llm()
    widths: dict[str, Any] = {"dim": encoder.dim * len(encoder.layers), "llm_dim": llm.dim}
    connector = MlpConnector(**widths)
    if kind == "stitch":
        connector.stitch = Stitch(llm_dim=llm.dim)
    key = encoder.modality
    return MultimodalLM(llm, {key: encoder}, {key: connector}, {key: key}).requires_grad_(False).eval()


def _batch(model: MultimodalLM, kind: str) -> Batch:
    """Three conversations about three items that differ, in size where the encoder lets them, and one of text."""
    (key,) = model.inputs
    media = encoders.TINY[kind if kind in encoders.TINY else "tiles"].media()
    said = Message("assistant", "A sign.")
    samples = [Sample(f"{n}", (Message("user", f"<{key}>What?"), said), {key: (one,)}) for n, one in enumerate(media)]
    samples.append(Sample("text", (Message("user", "Why?"), said)))
    prompter = Prompter(model.llm.tokenizer, model.places)
    return collate([encode(one, prompter, model.inputs, 2048, train=True) for one in samples], model.inputs)


def _step(model: MultimodalLM, batch: Batch) -> dict[str, torch.Tensor]:
    """Gradients of the connector."""
    (key,) = model.inputs
    set_trainable(model, {f"connectors.{key}": 1.0})
    nll, extra, _ = model.train()(batch)
    (nll + extra).backward()
    assert nll.device == batch.input_ids.device
    found = {name: weight.grad for name, weight in model.connectors[key].named_parameters()}
    assert found
    return {name: gradient for name, gradient in found.items() if gradient is not None or pytest.fail(name)}


@pytest.mark.parametrize("kind", [*COUNTED, *FIXED])
def test_numbers_of_items_come_with_the_batch(kind: str) -> None:
    model = _model(kind)
    batch = _batch(model, kind)
    unlike = len({int((batch.media_ids == item).sum()) for item in range(3)}) > 1
    assert unlike == (kind in COUNTED)
    model.to("meta")
    for rows in (batch, _text(batch)):
        assert all(gradient.is_meta for gradient in _step(model, rows.to("meta")).values())


@pytest.mark.parametrize("kind", ["stitch", "frames", "hf_native", "patches", "waveform"])
def test_kept_features_are_not_waited_for(kind: str, tmp_path: Path) -> None:
    model = _model(kind)
    cache = cache_features(model, tmp_path, "float32")
    first = _batch(model, kind)
    wanted = {name: gradient.clone() for name, gradient in _step(model, first).items()}
    cache.commit()
    known = _batch(model, kind)
    model.zero_grad()
    assert all(torch.equal(gradient, wanted[name]) for name, gradient in _step(model, known).items())
    assert cache.n_computed == 3
    model.to("meta")
    assert all(gradient.is_meta for gradient in _step(model, known.to("meta")).values())


def _text(batch: Batch) -> Batch:
    """A batch without media, for which blank items stand."""
    ids = torch.tensor([5, 6, 7])
    row: dict[str, Any] = {name: {} for name in ("media", "media_positions", "item_starts", "item_sequence")}
    return replace(
        batch, **row, input_ids=ids, labels=ids, position_ids=torch.arange(3)[None], media_ids=ids * 0 - 1,
        sequence_ids=ids * 0, cu_seqlens=torch.tensor([0, 3], dtype=torch.int32), names=["t"], dataset_names=[""],
        user_turn=None, n_conversations=1,
    )  # fmt: skip
