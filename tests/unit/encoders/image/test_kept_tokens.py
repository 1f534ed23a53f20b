"""``keep: all``: class and register tokens stand in front of the patches, for connectors that need no map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.base import Encoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.encoders.image.tiles import TilesEncoder
from mmllm.encoders.video.frames import FramesEncoder
from mmllm.errors import MmllmError, RecipeError
from mmllm.features.keys import description
from mmllm.model.inputs import Input
from mmllm.processors.settings import settings
from mmllm.testing import check_encoder
from mmllm.testing.tiny.encoders import clips, pictures, write_clip, write_vision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A DINOv2 with a class token and two registers, 4 x 4 patches."""
    place = str(tmp_path_factory.mktemp("dino"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_vision(place)
    return place


def features(encoder: Encoder, media: list[Any]) -> Any:
    with torch.no_grad():
        return encoder(**encoder.processor.collate([encoder.processor.read(one) for one in media]))


@pytest.mark.parametrize("layers", [(-2,), (1, "final")])
def test_they_are_the_models_own(folder: str, layers: tuple[Any, ...]) -> None:
    kept = features(HfVisionEncoder(model=folder, layers=layers, keep="all"), pictures())
    plain = features(HfVisionEncoder(model=folder, layers=layers), pictures())
    assert kept.grid == (1, 19) and kept.mask.shape == (3, 19) and plain.grid == (4, 4)
    for layer in layers:
        assert torch.equal(kept.layers[layer][:, 3:], plain.layers[layer])
    encoder = HfVisionEncoder(model=folder, layers=layers, keep="all")
    pixels = encoder.processor.collate([encoder.processor.read(one) for one in pictures()])["pixels"]
    with torch.no_grad():
        own = encoder.vision(pixels, output_hidden_states=True)
    expected = own.last_hidden_state if "final" in layers else own.hidden_states[-2]
    torch.testing.assert_close(kept.layers[layers[-1]], expected)


def test_open_clip_has_one(tmp_path: Path) -> None:
    vision = {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    write_clip(str(tmp_path), vision, text)
    kept = features(OpenClipEncoder(model=str(tmp_path), keep="all"), pictures())
    plain = features(OpenClipEncoder(model=str(tmp_path)), pictures())
    assert kept.grid == (1, 17) and torch.equal(kept.layers[-2][:, 1:], plain.layers[-2])


@pytest.mark.parametrize(("kind", "media"), [(TilesEncoder, pictures), (FramesEncoder, clips)])
def test_each_picture_of_an_item_has_its_own(folder: str, kind: Any, media: Any) -> None:
    """On the grid (pictures, 1, n), so that times and text between tiles find each of them."""
    words = {"frames": 3, "fps": 5.0} if kind is FramesEncoder else {"most": 4}
    both = [kind(image={"type": "hf_vision", "model": folder, "keep": k}, **words) for k in ("all", "patches")]
    kept, plain = (features(encoder, media()) for encoder in both)
    assert [grid[1:] for grid in kept.item_grids()] == [(1, 19)] * 3
    for number, (count, _, _) in enumerate(kept.item_grids()):
        own = kept.layers[-2][number, : count * 19].unflatten(0, (count, 19))
        assert torch.equal(own[:, 3:].flatten(0, 1), plain.layers[-2][number, : count * 16])


def test_the_contract_of_encoders_holds(folder: str) -> None:
    check_encoder(lambda **words: HfVisionEncoder(model=folder, keep="all", **words), pictures())


def test_kept_features_are_others(folder: str) -> None:
    """What is kept of an encoder, and what a checkpoint says of it, tells the two apart; runs made before go on."""
    kept, plain = (HfVisionEncoder(model=folder, keep=word) for word in ("all", "patches"))
    assert description(kept, "", "float16") != description(plain, "", "float16")
    assert "prefix" not in settings(plain.processor) and settings(kept.processor)["prefix"] == 3


def test_what_needs_a_map_refuses_them(folder: str) -> None:
    encoder = HfVisionEncoder(model=folder, keep="all")
    entry = Input("image", {"eye": encoder}, MlpConnector(dim=16, llm_dim=8))
    assert entry.n_tokens() == 19
    sentence = r"connectors.image: PoolConnector works on a map .* encoders.eye gives tokens in front of them as well"
    with pytest.raises(RecipeError, match=sentence):
        Input("image", {"eye": encoder}, PoolConnector(dim=16, llm_dim=8, grid=(2, 2)))
    with pytest.raises(MmllmError, match='keep: "class" is unknown; known: patches, all'):
        HfVisionEncoder(model=folder, keep="class")  # type: ignore[arg-type]
