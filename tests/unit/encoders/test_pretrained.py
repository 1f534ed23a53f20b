"""Folders that cannot be encoders: each is one sentence that names the folder and what helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.encoders.document import DocumentEncoder
from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.points.points import PointsEncoder
from mmllm.errors import MmllmError
from tests.support.stand_ins import open_clip_folder
from tests.unit.encoders.audio.test_hf_audio import made
from tests.unit.encoders.image.test_hf_vision import processor

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
KINDS: dict[str, Callable[[str], Any]] = {
    "vision": lambda model: HfVisionEncoder(model=model),
    "audio": lambda model: HfAudioEncoder(model=model),
    "text": lambda model: DocumentEncoder(model=model),
    "graph": lambda model: TextGraphEncoder(model=model),
    "points": lambda model: PointsEncoder(model=model),
}


def vit(folder: Path) -> Any:
    model = hf.ViTModel(hf.ViTConfig(**SMALL, image_size=28, patch_size=7))
    model.save_pretrained(folder)
    return model


def test_without_a_preprocessor_config(tmp_path: Path) -> None:
    vit(tmp_path / "vit")
    made("whisper")[0].save_pretrained(tmp_path / "whisper")
    made("wav2vec2")[0].save_pretrained(tmp_path / "wave")
    for name, kind in (("vit", "vision"), ("whisper", "audio"), ("wave", "audio")):
        folder = tmp_path / name
        command = f"hf download REPOSITORY preprocessor_config.json --local-dir {folder}"
        with pytest.raises(MmllmError, match=f"the folder {folder} has no preprocessor_config.json.*{command}"):
            KINDS[kind](str(folder))


def test_a_preprocessor_config_that_is_broken_or_for_other_media(tmp_path: Path) -> None:
    vit(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    hf.WhisperFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match=f"{file} does not say how a picture is prepared: Unrecognized [^\\n]*$"):
        HfVisionEncoder(model=str(tmp_path))
    file.write_text("{")
    with pytest.raises(MmllmError, match=f"{file} does not say how a picture is prepared: .*not a valid JSON file"):
        HfVisionEncoder(model=str(tmp_path))


@pytest.mark.parametrize(
    "model",
    [
        lambda: hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)),
        lambda: hf.SegformerModel(
            hf.SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4)
        ),
    ],
)
def test_what_is_no_plain_vision_transformer(model: Callable[[], Any], tmp_path: Path) -> None:
    made = model()
    made.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    name = type(made).__name__
    with pytest.raises(MmllmError, match=f'"{tmp_path}" holds a {name}, which is no .*choose a ViT'):
        HfVisionEncoder(model=str(tmp_path))


def test_a_vision_model_is_no_audio_model(tmp_path: Path) -> None:
    vit(tmp_path)
    processor().save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match=f'"{tmp_path}" holds a ViTModel; hf_audio knows Whisper'):
        HfAudioEncoder(model=str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_none_or_holds_no_model(kind: str, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=r"there is no such folder|neither a folder|Repo id") as found:
        KINDS[kind](str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(found.value)
    if kind != "points":
        (tmp_path / "notes.txt").write_text("none")
        with pytest.raises(MmllmError, match=r"the folder has no config\.json; it holds notes\.txt"):
            KINDS[kind](str(tmp_path))


def test_pickled_weights_come_with_the_command_that_writes_them_anew(tmp_path: Path) -> None:
    torch.save(vit(tmp_path).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    processor().save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match=r"its weights are pickled .* write them anew: python -c") as found:
        HfVisionEncoder(model=str(tmp_path))
    code = str(found.value).split('python -c "')[1].rstrip('"')
    exec(code)
    assert HfVisionEncoder(model=str(tmp_path)).n_blocks == 1


def test_points_need_a_tower_of_open_clips_own(tmp_path: Path) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
    open_clip_folder(tmp_path, vision, custom_text=True)
    with pytest.raises(MmllmError, match="has a TimmModel tower; points take open_clip's own ViTs"):
        PointsEncoder(model=str(tmp_path), backbone="image", points=32, tokens=8)
