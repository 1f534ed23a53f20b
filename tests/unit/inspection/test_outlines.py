"""Outlines of encoders: they read, measure and count as the encoders themselves do, without their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm import registry
from mmllm.encoders.outlines.outline import MAKERS, outline
from mmllm.errors import MmllmError
from mmllm.testing.tiny import deep_fusion, projectors
from mmllm.testing.tiny import encoders as tiny
from mmllm.testing.tiny.llms import tiny_llm
from tests.unit.inspection.recipes import ENCODERS, MINI

PARTS: dict[str, dict[str, Any]] = {
    **ENCODERS,
    "vit": {"type": "hf_vision", "model": f"{MINI}/vit", "layers": [-1, -2], "fit": "pad"},
    "resized": {"type": "hf_vision", "model": f"{MINI}/vit", "image_size": 96, "fit": "crop"},
    "cropped": {"type": "open_clip", "model": f"{MINI}/clip", "fit": "crop"},
    "fixed": {"type": "hf_audio", "model": f"{MINI}/audio", "fixed": True, "window": 2.0},
    "raw": {"type": "waveform", "samples": 320, "normalise": "none"},
    "seen": {"type": "points", "model": f"{MINI}/clip", "backbone": "image", "points": 64, "tokens": 16},
}
MEDIA = {
    "image": tiny.pictures, "video": tiny.clips, "audio": tiny.sounds,
    "graph": tiny.graphs, "points": tiny.clouds, "document": tiny.documents,
}  # fmt: skip


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("key", PARTS)
def test_an_outline_reads_as_its_encoder_does(key: str) -> None:
    args = {name: value for name, value in PARTS[key].items() if name != "type"}
    encoder = registry.load("encoders", PARTS[key]["type"])(**args)
    found = outline(PARTS[key]["type"], args)
    assert found is not None
    assert (found.dim, found.n_layers) == (encoder.dim, len(encoder.layers))
    assert found.processor.fixed_grid() == encoder.processor.fixed_grid()
    for media in MEDIA[encoder.modality]():
        item = found.processor.read(media)
        assert same(item, encoder.processor.read(media))
        assert found.processor.grid(item) == encoder.processor.grid(item)


def test_no_weights_are_needed(tmp_path: Path) -> None:
    for part in ("clip", "vit", "audio"):
        (tmp_path / part).mkdir()
        for file in (MINI / part).iterdir():
            if file.suffix == ".json":
                (tmp_path / part / file.name).write_bytes(file.read_bytes())
    assert outline("open_clip", {"model": f"{tmp_path}/clip"}) is not None
    assert outline("hf_vision", {"model": f"{tmp_path}/vit"}) is not None
    assert outline("hf_audio", {"model": f"{tmp_path}/audio"}) is not None


def test_a_published_tag_brings_its_own_preprocessing() -> None:
    import open_clip

    found = outline("open_clip", {"model": "ViT-B-16-SigLIP", "pretrained": "webli"})
    if found is not None:  # a timm tower, laid out without its weights
        assert found.processor.transform.transforms[-1].mean == (0.5, 0.5, 0.5)
    found = outline("open_clip", {"model": "ViT-B-32", "pretrained": "openai"})
    assert found is not None and found.dim == 768 and found.processor.fixed_grid() == (7, 7)
    mean = open_clip.get_pretrained_cfg("ViT-B-32", "openai")["mean"]
    assert found.processor.transform.transforms[-1].mean == mean


def test_points_ask_a_published_model_for_its_width_alone() -> None:
    for backbone, width in (("language", 768), ("image", 1024)):
        found = outline("points", {"model": "ViT-L-14", "pretrained": "openai", "backbone": backbone})
        assert found is not None and found.dim == width


def test_what_is_not_known_has_no_outline(tmp_path: Path) -> None:
    assert set(MAKERS) == set(registry.table("encoders"))
    assert outline("some.package:Encoder", {}) is None
    assert outline("open_clip", {"model": "ViT-B-32", "pretrained": "file.safetensors"}) is None
    assert outline("hf_vision", {"model": f"{MINI}/vit", "later_word": 1}) is None
    with pytest.raises(MmllmError, match=r"the hf_vision encoder .* cannot be read"):
        outline("hf_vision", {"model": str(tmp_path / "nothing" / "here")})


PROJECTORS = {**projectors.TINY, **deep_fusion.TINY}


@pytest.mark.parametrize("name", PROJECTORS)
def test_a_connector_without_numbers_knows_its_places(name: str) -> None:
    one, llm = PROJECTORS[name], tiny_llm("llama")
    dim = 16 * one.encoders
    real = one.make(dim, llm)
    with torch.device("meta"):
        empty = one.make(dim, llm)
    assert empty.n_tokens(one.grid) == real.n_tokens(one.grid)
    assert all(parameter.is_meta for parameter in empty.parameters())
