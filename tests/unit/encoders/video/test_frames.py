"""``frames``: an image encoder on each frame, clips of different lengths in one batch, errors of the part inside it."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from mmllm import registry
from mmllm.encoders.image.several import image_encoder
from mmllm.encoders.video.frames import FramesEncoder, own_frames
from mmllm.errors import MediaError, MmllmError, RecipeError
from mmllm.processors.decoding.video_writing import mp4
from mmllm.processors.video import VideoReading
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny import encoders as tiny_encoders
from tests.support.layouts import features_of


@pytest.fixture(scope="module")
def encoder() -> FramesEncoder:
    return tiny_encoders.frames()


def collated(encoder: FramesEncoder) -> dict[str, torch.Tensor]:
    return encoder.processor.collate([encoder.processor.read(media) for media in tiny_encoders.clips()])


def test_each_frame_is_what_the_image_encoder_says_of_it(encoder) -> None:
    media = tiny_encoders.clips()[0]
    frames = [Image.fromarray(frame) for frame in encoder.processor.reading.read(media).frames]
    alone = features_of(encoder.image, *frames)
    features = features_of(encoder, media)
    assert features.grid == (3, 4, 4) and features.grids is None
    torch.testing.assert_close(features.concatenated(), alone.concatenated().flatten(0, 1)[None])
    assert not torch.allclose(alone.concatenated()[0], alone.concatenated()[1], atol=1e-3)


def test_clips_of_different_lengths_lie_behind_each_other(encoder) -> None:
    inputs = collated(encoder)
    assert inputs["pixels"].shape == (6, 3, 32, 32)
    assert inputs["counts"].tolist() == [3, 2, 1]
    expected = torch.tensor([[0.0, 0.2, 0.4], [0.0, 0.2, -1.0], [0.0, -1.0, -1.0]])
    torch.testing.assert_close(inputs["times"], expected.double())
    features = encoder(**inputs)
    assert features.grids == ((3, 4, 4), (2, 4, 4), (1, 4, 4))
    torch.testing.assert_close(features.extras["times"], expected)
    assert features.mask.sum(dim=1).tolist() == [48, 32, 16]


def test_what_works_inside_it_is_told_of_its_rows(encoder) -> None:
    seen = []
    handle = encoder.hook_points().before_block(0, lambda ctx, x: seen.append((ctx.layout, x.shape)) or x)
    inputs = collated(encoder)
    encoder(**inputs)
    handle.remove()
    ((layout, shape),) = seen
    assert layout.rows == (3, 2, 1) and layout.grid == (4, 4) and layout.prefix == encoder.image.prefix == 3
    assert shape == (6, 3 + 16, encoder.dim)


def test_an_adapter_that_learns_gets_gradients_through_the_frames() -> None:
    encoder = tiny_encoders.frames()
    adapter = torch.nn.Linear(encoder.dim, encoder.dim)
    encoder.adapters.append(adapter)
    handle = encoder.hook_points().before_block(1, lambda _, x: x + adapter(x))
    encoder(**collated(encoder)).concatenated().square().sum().backward()
    handle.remove()
    assert adapter.weight.grad is not None and adapter.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_copy_has_adapters_of_its_own() -> None:
    encoder = tiny_encoders.frames()
    other = copy.deepcopy(encoder)
    other.adapters.append(torch.nn.Linear(2, 2))
    assert other.learns() and other.image.learns() and not encoder.image.learns()


def test_without_fps_the_grid_is_fixed(tmp_path) -> None:
    encoder = tiny_encoders.frames()
    inner = image_encoder_folder(tmp_path, encoder)
    fixed = FramesEncoder(image=inner, frames=5).processor
    assert fixed.fixed_grid() == (5, 4, 4) == fixed.grid(fixed.blank())
    read = fixed.read(tiny_encoders.clip((1, 2, 3), 2))
    assert fixed.seconds(read) == [0.0, 0.0, 0.0, 0.2, 0.2] and torch.equal(read["pixels"][0], read["pixels"][2])
    assert encoder.processor.fixed_grid() is None and encoder.processor.grid(encoder.processor.blank()) == (1, 4, 4)


def image_encoder_folder(tmp_path: Any, encoder: FramesEncoder) -> dict[str, Any]:
    encoder.image.vision.save_pretrained(tmp_path / "vit")
    encoder.image.processor.transform.processor.save_pretrained(tmp_path / "vit")
    return {"type": "hf_vision", "model": str(tmp_path / "vit"), "layers": [-1, 1]}


def test_layers_are_those_of_the_image_encoder(tmp_path) -> None:
    encoder = FramesEncoder(image=image_encoder_folder(tmp_path, tiny_encoders.frames()), frames=2, backend="pyav")
    features = encoder(**encoder.processor.collate([encoder.processor.read(tiny_encoders.clip((200, 0, 0), 2))]))
    assert encoder.layers == (-1, 1) and list(features.layers) == [-1, 1]


def test_every_size_of_picture_is_brought_to_the_encoders(encoder) -> None:
    wide = mp4(numpy.full((2, 32, 96, 3), 90, numpy.uint8), [0.0, 0.2])
    assert encoder.processor.read(wide)["pixels"].shape == (2, 3, 32, 32)


def test_the_weights_and_the_copy_of_an_encoder_have_no_process(encoder) -> None:
    encoder.processor.read(tiny_encoders.clips()[0])
    other = copy.deepcopy(encoder)
    reading = other.processor.reading
    assert isinstance(reading, VideoReading) and reading.worker() is None
    assert encoder.processor.reading.worker() is not None
    assert all(name.startswith("image.") for name in encoder.state_dict())


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"model": "x"}, 'frames: image needs a "type", such as hf_vision or open_clip.'),
        ({"type": "hf_visoin", "model": "x"}, 'did you mean "hf_vision"?'),
        ({"type": "frames", "image": {}}, 'frames: image: "frames" is no encoder of images of one size.'),
        ({"type": "hf_vision"}, 'frames: image: hf_vision needs the argument "model"; known: model, layers, fit,'),
        ({"type": "hf_vision", "model": "x", "fps": 1}, 'frames: image: unknown argument "fps" of hf_vision; known: '),
    ],
)
def test_a_part_inside_that_is_none(part, sentence) -> None:
    with pytest.raises(MmllmError) as caught:
        image_encoder(part)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("fit", "model"), [("squash", {"model": "x"}), ("own", {})])
def test_frames_of_a_folder_need_one(fit: str, model: dict[str, str]) -> None:
    with pytest.raises(MmllmError, match=f'^fit: "{fit}": of frames there is own alone, with an image encoder whose'):
        own_frames(fit, {"type": "hf_vision", **model}, (28, 28))


RECIPE = """
llm: {path: x}
encoders:
  video: {type: frames, image: IMAGE}
connectors:
  video: {type: mlp, from: video}
data:
  d: {type: chat_jsonl, path: x}
stages:
  s: {train: {connectors.video: 1.0e-3}, data: {d: 1.0}, steps: 1, batch: 1}
"""


@pytest.mark.parametrize(
    ("image", "sentences"),
    [
        ("{type: hf_vision, modle: x}", ["encoders.video.image.modle", 'did you mean "model"?', "needs the argument"]),
        ("{type: hf_visoin, model: x}", ["encoders.video.image.type", 'did you mean "hf_vision"?']),
        ("{type: hf_vision, model: 7}", ["encoders.video.image.model", "found 7 (a whole number), expected str"]),
        ("{model: x}", ["encoders.video.image", '"type" is missing; known: ']),
        ("vit", ["encoders.video.image", 'found "vit" (text)']),
    ],
)
def test_a_recipe_is_checked_into_the_part_inside(tmp_path, image, sentences) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("IMAGE", image))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert all(sentence in str(caught.value) for sentence in sentences), str(caught.value)


def test_a_right_part_inside_passes_the_check(tmp_path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("IMAGE", "{type: hf_vision, model: x, layers: [-1]}"))
    assert load_recipe(path).encoders["video"].args["image"]["model"] == "x"
    assert registry.parameters("encoders", "frames")["image"].annotation == "EncoderPart"


def test_broken_bytes_name_their_video(encoder) -> None:
    with pytest.raises(MediaError, match=r"^video of 11 bytes cannot be decoded"):
        encoder.processor.read(b"hello world")
