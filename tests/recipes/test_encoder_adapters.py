"""The recipes of adapters inside encoders: full size with stand-ins of the same architectures, miniature ones read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.encoders import wav
from mmllm.types import Message, Sample
from tests.support.adapted import ADAPTERS
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import audio_folder, vision_folder
from tests.support.talks import packed
from tests.support.two_steps import two_steps


def stand_in(name: str, tmp: Path) -> tuple[Recipe, MultimodalLM]:
    """The recipe with nothing changed but its frozen parts, and two frames of a clip."""
    llm = tiny_llm_folder(tmp, "qwen2", max_position_embeddings=8192, num_hidden_layers=4)
    overrides = [f"llm.path={llm}", "llm.dtype=float32"]
    shipped = load_recipe(folder() / f"{name}.yaml")
    (tmp / "encoder").mkdir()
    if "audio" in shipped.encoders:
        kind = "ast" if name == "conformer_adapter" else "whisper"
        overrides.append(f"encoders.audio.model={audio_folder(tmp / 'encoder', kind)}")
    else:
        seen = vision_folder(tmp / "encoder", "clip", 224)
        overrides += [f"encoders.video.image.model={seen}", "encoders.video.frames=2"]
        if "image" in shipped.encoders:
            overrides.append(f"encoders.image.model={seen}")
    recipe = load_recipe(folder() / f"{name}.yaml", overrides)
    return recipe, build(recipe, "cpu")


def sample(key: str, source: str) -> Sample:
    """One question about one item."""
    tone = wav(0.1 * numpy.sin(numpy.arange(8000) / 3))
    picture = Image.new("RGB", (48, 48), "navy")
    media: dict[str, Any] = {"audio": tone, "video": tiny_encoders.clip((200, 30, 30), 2), "image": picture}
    said = (Message("user", f"<{key}> What is on the sign?"), Message("assistant", "red"))
    return Sample(source, said, {key: (media[key],)})


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # of AST's own extractor where torchaudio is missing
@pytest.mark.parametrize("name", ADAPTERS)
def test_full_size_recipe_with_stand_ins(name: str, tmp_path: Path) -> None:
    """Two steps of each stage: finite, and every weight that learns gets a gradient."""
    recipe, model = stand_in(name, tmp_path)
    for stage in recipe.stages.values():
        samples = [sample(key, data) for key, data in zip(_keys(recipe, stage.data), stage.data, strict=True)]
        batch = packed(model, samples)
        batch = replace(batch, dataset_names=list(stage.data))
        set_trainable(model, stage.train)
        model.train()
        _, silent = two_steps(model, batch)
        assert silent == []
        model.zero_grad()


def _keys(recipe: Recipe, data: dict[str, float]) -> list[str]:
    """Encoder key that each data entry of a stage is about: the encoders in turn."""
    keys = list(recipe.encoders)
    return [keys[number % len(keys)] for number in range(len(data))]


@pytest.mark.parametrize("name", ADAPTERS)
def test_miniature_recipe_is_one(name: str) -> None:
    recipe = load_recipe(folder() / "mini" / f"{name}.yaml")
    found = [part for part in recipe.connectors.values() if part.type == name]
    assert len(found) == 1 and set(found[0].adapts or ()) == set(recipe.encoders)
    assert all(str(part.args).count("data/mini") == 1 for part in recipe.encoders.values())
