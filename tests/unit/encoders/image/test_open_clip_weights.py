"""Weights of open_clip in a local file: pixels and activation of the published tag, or a question which it is."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from PIL import Image
from safetensors.torch import save_file

from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.encoders.image.open_clip_weights import defaults, of_file, published
from mmllm.errors import MmllmError
from tests.support.stand_ins import TEXT, VISION, open_clip_folder

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "interpolation": "bilinear", "resize_mode": "squash"}
TAGS: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {"quick": {"quick_gelu": True}, "plain": {}},
    "tiny-half": {"half": HALF},
    "tiny-plain": {"plain": {}, "more": {}},
    "tiny-untagged": {},
    "tiny-quickgelu": {"quick": {"quick_gelu": True}},
}
"""Names of a small architecture -> its published weights, in open_clip's own words."""


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip knows these names too; nobody could download their weights."""
    for name, tags in TAGS.items():
        config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
        config |= {"quick_gelu": True} if name.endswith("quickgelu") else {}
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, deepcopy(config))
        if tags:
            monkeypatch.setitem(pretrained._PRETRAINED, name, tags)


def weights(tmp: Path, quick: bool = False) -> tuple[str, Any]:
    """A file of random weights, and the model that it is of."""
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT, quick_gelu=quick).eval()  # type: ignore
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp / "weights.safetensors")
    return str(tmp / "weights.safetensors"), model


def activations(encoder: OpenClipEncoder) -> set[str]:
    return {type(module).__name__ for module in encoder.visual.modules() if "GELU" in type(module).__name__}


@pytest.mark.parametrize(
    ("words", "activation"),
    [
        ({"model": "tiny", "tag": "quick"}, "QuickGELU"),
        ({"model": "tiny", "tag": "plain"}, "GELU"),
        ({"model": "tiny", "tag": "none"}, "GELU"),
        ({"model": "tiny", "tag": "none", "quick_gelu": True}, "QuickGELU"),
        ({"model": "tiny", "quick_gelu": True}, "QuickGELU"),
        ({"model": "tiny", "quick_gelu": False}, "GELU"),
        ({"model": "tiny-plain"}, "GELU"),
        ({"model": "tiny-untagged", "quick_gelu": True}, "QuickGELU"),
        ({"model": "tiny-untagged", "tag": "none"}, "GELU"),
        ({"model": "tiny-quickgelu"}, "QuickGELU"),
    ],
)
@torch.no_grad()
def test_a_file_has_the_activation_of_its_tag(words: dict[str, Any], activation: str, tmp_path: Path) -> None:
    path, model = weights(tmp_path, activation == "QuickGELU")
    encoder = OpenClipEncoder(pretrained=path, layers=["final"], **words)
    assert activations(encoder) == {activation}
    pixels = torch.randn(1, 3, 28, 28)
    found = model.visual.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, output_fmt="NLC", intermediates_only=True
    )["image_intermediates"][-1]
    torch.testing.assert_close(encoder(pixels=pixels).layers["final"], found, rtol=1e-5, atol=1e-5)


def test_a_file_has_the_pixels_of_its_tag(tmp_path: Path) -> None:
    path, _ = weights(tmp_path)
    encoder = OpenClipEncoder(model="tiny-half", pretrained=path, tag="half")
    picture = Image.new("RGB", (28, 28), (255, 0, 51))
    expected = torch.tensor([2.0, -2.0, -1.2])[:, None, None].expand(3, 28, 28)
    torch.testing.assert_close(encoder.processor.read(picture)["pixels"], expected)
    assert encoder.visual.preprocess_cfg["interpolation"] == "bilinear"
    openai = OpenClipEncoder(model="tiny-half", pretrained=path, tag="none").processor.read(picture)["pixels"]
    torch.testing.assert_close(openai[:, 0, 0], torch.tensor([1.9303, -1.7521, -0.7550]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            {"model": "tiny"},
            r"tag: quick \(mean .*, bicubic, QuickGELU\); plain \(mean .*, GELU\); or tag: none for the",
        ),
        ({"model": "tiny-half"}, r"name the tag that the file holds, tag: half \(mean \[0.5, 0.5, 0.5\], std \[0.25"),
        ({"model": "tiny-half", "quick_gelu": False}, "tag: half"),
        ({"model": "tiny-untagged"}, "no published ones of this name do; write quick_gelu: true"),
        ({"model": "tiny", "tag": "quik"}, 'no pretrained "quik"; known: quick, plain'),
        (
            {"model": "tiny", "tag": "quick", "quick_gelu": False},
            "quick_gelu: false, but .* has QuickGELU; leave it out",
        ),
        ({"model": "tiny-quickgelu", "quick_gelu": False}, "has QuickGELU; leave it out"),
    ],
)
def test_what_nobody_says_is_asked_for(words: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path, _ = weights(tmp_path)
    with pytest.raises(MmllmError, match=sentence):
        OpenClipEncoder(pretrained=path, **words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"model": "ViT-B-32", "pretrained": "openai", "tag": "openai"}, "says what a .safetensors file under"),
        ({"model": "ViT-B-32", "pretrained": "openai", "quick_gelu": False}, "has QuickGELU; leave it out"),
        ({"model": "hf-hub:some/repo", "quick_gelu": True}, 'the configuration of "hf-hub:some/repo" says which'),
    ],
)
def test_words_that_published_weights_leave_no_room_for(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        OpenClipEncoder(**words)


def test_a_folder_says_its_activation_or_lets_the_recipe_say_it(tmp_path: Path) -> None:
    open_clip_folder(tmp_path)
    assert activations(OpenClipEncoder(model=str(tmp_path))) == {"GELU"}
    assert activations(OpenClipEncoder(model=str(tmp_path), quick_gelu=True)) == {"QuickGELU"}
    open_clip_folder(tmp_path, quick_gelu=True)
    with pytest.raises(MmllmError, match="has QuickGELU; leave it out"):
        OpenClipEncoder(model=str(tmp_path), quick_gelu=False)
    for text in ("{", json.dumps({"preprocess_cfg": {}}), "[]"):
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(MmllmError, match=r"open_clip_config\.json is not a configuration of open_clip"):
            OpenClipEncoder(model=str(tmp_path))


def test_published_names_that_were_used_silently_wrong_ask_now() -> None:
    """OpenAI's CLIP ran with plain GELU, SigLIP's pixels had OpenAI's mean."""
    for model, tag in (("ViT-B-32", "openai"), ("ViT-L-14-336", "openai"), ("ViT-B-16-SigLIP", "webli")):
        with pytest.raises(MmllmError, match=rf"tag: .*{tag}"):
            of_file(model, None, None)
    assert of_file("ViT-B-32", "openai", None).quick_gelu is True
    assert of_file("ViT-B-16-SigLIP", "webli", None).mean == (0.5, 0.5, 0.5)
    with pytest.raises(MmllmError, match="write quick_gelu"):
        of_file("ViT-S-32-alt", None, None)


def test_every_name_is_asked_for_just_where_its_published_weights_differ() -> None:
    asked = 0
    for model in open_clip.list_models():
        known, plain = published(model), defaults(model)
        differ = any(training != plain for training in known.values())
        if differ or (not known and plain.quick_gelu is False):
            asked += 1
            with pytest.raises(MmllmError):
                of_file(model, None, None)
        else:
            assert of_file(model, None, None) == plain
    assert 0 < asked < len(open_clip.list_models())
