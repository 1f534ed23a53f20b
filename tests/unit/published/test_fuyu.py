"""Fuyu: pictures larger and smaller than its canvas, what its processor leaves as it is, and what cannot be taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers as t

import mmllm
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError, SampleError
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.published import published_folder


@pytest.fixture(scope="module")
def fuyu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuyu")
    published_folder("Fuyu", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.mark.parametrize("size", [(61, 33), (90, 60), (9, 4), (500, 90)])
@pytest.mark.parametrize("text", ["What is on it?", "<box>10, 20, 30, 40</box> What"])
def test_answers_are_transformers_own(fuyu: Path, size: tuple[int, int], text: str) -> None:
    """Smaller than its canvas of 90 x 60, just as large, less than a patch, larger; boxes stay as they are written."""
    model = mmllm.load(fuyu / "run")
    processor = t.AutoProcessor.from_pretrained(fuyu / "vlm")
    theirs = t.FuyuForCausalLM.from_pretrained(fuyu / "vlm").eval()
    given = processor(images=[picture(*size)], text=[text], return_tensors="pt", return_legacy_image_output=False)
    given = {word: given[word] for word in ("input_ids", "attention_mask", "pixel_values")}
    ids = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert model.chat(text, image=picture(*size), max_new_tokens=6).strip() == expected.strip()


def test_its_tokens_of_pictures_cannot_be_typed(fuyu: Path) -> None:
    """They are pieces of its vocabulary, so there is no other way to write them."""
    with pytest.raises(SampleError, match=r"has '\|SPEAKER\|' only as a special token; it cannot be plain text"):
        mmllm.load(fuyu / "run").chat("What is |SPEAKER|?", image=picture(20, 20), max_new_tokens=2)


def test_it_has_no_tower(fuyu: Path) -> None:
    with pytest.raises(MmllmError, match="is Fuyu, which has no tower: its LLM is given pixels; use patches"):
        HfVisionEncoder(model=str(fuyu / "vlm"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"size": {"height": 65, "width": 90}}, r"patches of 10 pixels, .* on a canvas of 65 \(height\)"),
        ({"do_pad": False}, "its image processor leaves out a step"),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, words: dict[str, object], sentence: str) -> None:
    folder = published_folder("Fuyu", tmp_path / "vlm")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"] |= words
    (folder / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(folder), tmp_path / "run")
