"""``hf_video``: clips have the patches of the folder's own video processor and the features of its tower alone."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
import transformers as t

from mmllm.encoders.outlines.outline import outline
from mmllm.encoders.video.hf_video import HfVideoEncoder
from mmllm.errors import MediaError, MmllmError
from mmllm.inspection.views import view
from mmllm.processors.native.qwen_clips import Qwen3Clips, QwenClips
from mmllm.testing.tiny.encoders import clip, write_native
from mmllm.testing.tiny.published import published_folder
from tests.support.films import film

CLIPS = (clip((200, 30, 30), 5), film(4, (40, 90), turned=90), clip((30, 160, 30), 1))
"""An odd number of frames, an even one that is shown turned by a quarter, a single one."""


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Qwen2VL", "Qwen2_5_VL", "Qwen3VL"])
def test_clips_are_those_of_transformers_own(kind: str, tmp_path: Path) -> None:
    folder = published_folder(kind, tmp_path / "vlm")
    encoder = HfVideoEncoder(model=str(folder), layers=[-1], frames=5, fps=None if kind == "Qwen2VL" else 25.0)
    processor = encoder.processor
    items = [processor.read(one) for one in CLIPS]
    found = encoder(**processor.collate(items))
    own = t.AutoVideoProcessor.from_pretrained(folder)
    tower = t.AutoModelForImageTextToText.from_pretrained(folder).model.visual.eval()
    tower.merger, tower.deepstack_visual_indexes = torch.nn.Identity(), []
    for number, (one, item) in enumerate(zip(CLIPS, items, strict=True)):
        measured = processor.measure(one)
        assert all(torch.equal(measured[word], item[word]) for word in ("grid", "times"))
        frames = processor.reading.read(one).frames
        frames *= 2 if kind == "Qwen3VL" and len(frames) == 1 else 1  # its processor takes no fewer than two
        given = own(videos=[numpy.stack(frames)], do_sample_frames=False, return_tensors="pt")
        assert torch.equal(item["patches"], given["pixel_values_videos"])
        assert processor.grid(item) == tuple(given["video_grid_thw"][0].tolist()) == found.item_grids()[number]
        expected = tower(given["pixel_values_videos"], grid_thw=given["video_grid_thw"]).last_hidden_state
        ours = found.layers[-1][number, : len(expected)]
        # the same states, as tokens of one clip alone: orders of towers are compared in test_native_qwen
        torch.testing.assert_close(ours.sum(0), expected.sum(0), atol=1e-4, rtol=1e-4)
    _, rows, cols = found.item_grids()[1]
    assert len(set(found.item_grids())) >= 2 and rows >= 2 * cols, "shapes are kept, upright"
    facts = view("<video>", processor, CLIPS[0], items[0])
    assert "3 steps of 2 frames of 28 x 28 pixels" in facts.facts and len(facts.pictures) == 3
    red = numpy.array(facts.pictures[0][1]).reshape(-1, 3)
    assert (abs(red - (200, 30, 30)).sum(1) < 30).any() and (red > 240).all(1).any(), "a red bar over white"
    known = outline("hf_video", {"model": str(folder), "frames": 5})
    assert known is not None and (known.dim, known.n_layers) == (16, 1) and known.processor.modality == "video"


def test_times_of_steps() -> None:
    times = [0.0, 0.5, 1.0, 1.5, 2.0]
    words = {"own": None, "patch": 14, "least": 1, "most": 9, "merge": 2, "steps": 2}
    assert QwenClips(**words).seconds(times) == [0.0, 1.0, 2.0]
    assert Qwen3Clips(**words).seconds(times) == [0.25, 1.25, 2.0]


def test_what_is_refused(tmp_path: Path) -> None:
    folder = str(published_folder("Qwen2VL", tmp_path / "vlm"))
    with pytest.raises(MmllmError, match="least: 900 pixels are more than most: 800"):
        HfVideoEncoder(model=folder, least=900, most=800)
    write_native(str(tmp_path / "pictures"))
    t.Qwen2VLVideoProcessor().save_pretrained(tmp_path / "pictures")
    with pytest.raises(MmllmError, match="a tower of the kind siglip2_vision_model sees pictures alone; use another"):
        HfVideoEncoder(model=str(tmp_path / "pictures"))
    with pytest.raises(MediaError, match="frames of 9 x 9000 pixels are too narrow"):
        HfVideoEncoder(model=folder).processor.patching.grid(4, 9, 9000)
