"""The recipes of published models: what an import of the checkpoint would write, laid out in full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from docs.write.full_sizes import FULL_SIZES
from docs.write.published_recipes import FOLDER, Known, text
from mmllm.planning.layout import laid_out
from mmllm.published.architectures import TABLE
from mmllm.published.media.pictures import picture
from mmllm.published.media.sounds import signal, wav
from mmllm.recipe.load import parse
from mmllm.testing.tiny.published import PUBLISHED
from tests.support.published import needed

TOKENS = {
    "llava_1_5": 576, "llava_next": 2928, "llava_next_video": 2928, "video_llava": 256,
    "llava_onevision": 3699, "idefics2": 320,
    "idefics3": 2873, "smolvlm": 1377, "internvl3": 256, "aya_vision": 169, "deepseek_vl": 576,
    "deepseek_vl_hybrid": 576, "blip2": 32, "instructblip": 32, "qwen2_vl": 196, "qwen2_5_vl": 196, "qwen3_vl": 144,
    "pixtral": 625, "mistral3": 225, "lfm2_vl": 144, "ovis2": 259, "llama4": 720, "fuyu": 196, "llama_3_2_vision": 0,
    "paligemma": 256, "gemma3": 256, "qwen2_audio": 750, "audio_flamingo_3": 750, "granite_speech": 300, "voxtral": 375,
}  # fmt: skip
"""Tokens of a picture of 400 x 400 pixels, or of 30 seconds of sound; those of one tile or window are their papers'."""


def test_every_family_has_one() -> None:
    assert {full.config(0).model_type for full in FULL_SIZES.values()} == set(TABLE)
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(FULL_SIZES) == set(TOKENS)


@pytest.mark.parametrize("name", FULL_SIZES)
def test_it_is_what_an_import_writes_and_can_be_built_in_full_size(name: str, tmp_path: Path) -> None:
    needed(PUBLISHED[FULL_SIZES[name].kind])
    full, written = FULL_SIZES[name], (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert written == text(name, full), "run: python -m docs.write.published_recipes"
    known = Known(full, str(tmp_path))
    known.config.architectures = [type(known.config).__name__.replace("Config", "")]
    known.config.save_pretrained(tmp_path)
    known.processor.save_pretrained(tmp_path)
    words = yaml.safe_load(written.replace(full.hub, str(tmp_path)))
    assert words.pop("start") == f"runs/{name}"
    words["llm"].pop("template", None)  # of the imported run
    model = laid_out(parse(yaml.safe_dump(words)))
    key = known.family.modality
    shown = picture(400, 400) if key == "image" else wav(signal(16000 * 30, 16000), 16000)
    entry = model.inputs[key]
    assert sum(span.length for span in entry.layout(entry.measure(shown))) == TOKENS[name]
