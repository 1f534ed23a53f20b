"""``hf_vision`` and ``hf_audio`` on a published VLM's folder: features are those of its own tower."""

from __future__ import annotations

import json

import numpy
import pytest
import soundfile
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file

from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError
from tests.support.vlms import FOREIGN, foreign_folder, vlm_folder

SEEING = {
    "Llava": "vision_tower", "LlavaNext": "vision_tower", "LlavaOnevision": "vision_tower", "PaliGemma": "vision_tower",
    "Gemma3": "vision_tower", "AyaVision": "vision_tower", "InternVL": "vision_tower", "Idefics3": "vision_model",
    "SmolVLM": "vision_model",
}  # fmt: skip


@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize("name", SEEING)
@torch.no_grad()
def test_features_of_pictures_are_the_towers(name, names, tmp_path) -> None:
    folder, model = vlm_folder(name, tmp_path / "vlm", names)
    encoder = HfVisionEncoder(model=str(folder), layers=[0, 1, 2])
    assert encoder.processor.fixed_grid() == (4, 4)
    pixels = torch.randn(2, 3, 28, 28)
    tower = model.model.get_submodule(SEEING[name])
    states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    found = encoder(pixels=pixels)
    for layer in (0, 1, 2):
        torch.testing.assert_close(found.layers[layer], states[layer][:, encoder.prefix :], atol=1e-6, rtol=1e-6)


def test_older_names_of_the_towers_own_level(tmp_path) -> None:
    """Files on the hub have CLIP's and SigLIP's inner ``vision_model.`` level."""
    for name in ("Llava", "PaliGemma"):
        folder, model = vlm_folder(name, tmp_path / name)
        tensors = load_file(folder / "model.safetensors")
        older = {key.replace("vision_tower.", "vision_tower.vision_model."): tensors[key] for key in tensors}
        assert older.keys() != tensors.keys()
        save_file(older, folder / "model.safetensors", metadata={"format": "pt"})
        own = model.model.vision_tower.state_dict()
        for key, tensor in HfVisionEncoder(model=str(folder)).vision.state_dict().items():
            assert torch.equal(tensor, own[key])


def test_a_tower_without_its_pooling_head(tmp_path) -> None:
    """LLaVA-OneVision's checkpoints leave SigLIP's head out; hidden states do not pass through it."""
    folder, _ = vlm_folder("LlavaOnevision", tmp_path / "vlm")
    tensors = load_file(folder / "model.safetensors")
    less = {key: tensor for key, tensor in tensors.items() if not key.startswith("vision_tower.head.")}
    assert len(less) < len(tensors)
    save_file(less, folder / "model.safetensors", metadata={"format": "pt"})
    HfVisionEncoder(model=str(folder))


@pytest.mark.parametrize(
    ("encoder", "name", "sentence"),
    [
        (HfVisionEncoder, "Qwen2VL", r"is Qwen2-VL, whose tower \(.*\) takes pictures of any shape"),
        (HfVisionEncoder, "Qwen2Audio", "is Qwen2-Audio, whose tower is for audio; use hf_audio"),
        (HfAudioEncoder, "Llava", "is LLaVA 1.5, whose tower is for image; use hf_vision"),
    ],
)
def test_what_is_no_such_tower(encoder, name, sentence, tmp_path) -> None:
    folder, _ = vlm_folder(name, tmp_path / "vlm")
    with pytest.raises(MmllmError, match=sentence):
        encoder(model=str(folder))


REFUSED = "(, whose vision tower is not taken| does not take plain pict)"


@pytest.mark.parametrize("name", FOREIGN)
def test_towers_of_other_models_are_refused_by_their_class(name, tmp_path) -> None:
    folder = foreign_folder(name, tmp_path / "vlm")
    kind = name.removesuffix("ForConditionalGeneration").removesuffix("ForCausalLM").removesuffix("Model")
    with pytest.raises(MmllmError, match=rf"a {kind}\w*{REFUSED}"):
        HfVisionEncoder(model=str(folder))
    # as `mmllm check --build` and `mmllm plan` make it
    with torch.device("meta"), pytest.raises(MmllmError, match=r"is not taken|does not take plain pictures"):
        HfVisionEncoder(model=str(folder))


SIDE = {"height": 28, "width": 28}
PROCESSORS = {
    "LlavaNext": lambda: t.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size=SIDE, image_grid_pinpoints=[[28, 56], [56, 28]]
    ),
    "LlavaOnevision": lambda: t.LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=[[28, 56], [56, 28]]),
    "InternVL": lambda: t.GotOcr2ImageProcessor(size=SIDE),
    "Idefics3": lambda: t.Idefics3ImageProcessor(size={"longest_edge": 28}, max_image_size={"longest_edge": 28}),
    "Gemma3": lambda: t.Gemma3ImageProcessor(size=SIDE),
    "PaliGemma": lambda: t.SiglipImageProcessor(size=SIDE),
}
"""Family -> its own image processor."""


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_are_prepared_by_the_folders_own_processor(name, nested, tmp_path) -> None:
    """One view of the whole picture, as the family itself makes it beside its tiles (LLaVA: first, others: last)."""
    folder, _ = vlm_folder(name, tmp_path / "vlm")
    own = PROCESSORS[name]()
    if nested:  # as processors of transformers 5 are saved
        (folder / "preprocessor_config.json").unlink()
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": own.to_dict()}))
    else:
        own.save_pretrained(folder)
    # a square of the tile's size for Idefics3, which resizes twice
    size = (28, 28) if name == "Idefics3" else (90, 50)
    image = Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (*size, 3), dtype="uint8"))
    expected = own(image, return_tensors="pt")["pixel_values"].flatten(0, -4)[0]
    encoder = HfVisionEncoder(model=str(folder))
    torch.testing.assert_close(encoder.processor.transform(image), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["Qwen2Audio", "Voxtral"])
@torch.no_grad()
def test_features_of_sounds_are_the_towers(name, tmp_path) -> None:
    """Qwen2-Audio's tower is given a mask of what is sound, Voxtral's hears the silence behind it."""
    folder, model = vlm_folder(name, tmp_path / "vlm")
    encoder = HfAudioEncoder(model=str(folder), layers=[2])
    sound = numpy.random.default_rng(0).standard_normal(16000 * 3).astype("float32")
    soundfile.write(tmp_path / "sound.wav", sound, 16000, subtype="FLOAT")
    found = encoder(**encoder.processor.collate([encoder.processor.read(tmp_path / "sound.wav")]))
    made = t.WhisperFeatureExtractor.from_pretrained(folder)(
        sound, sampling_rate=16000, return_tensors="pt", return_attention_mask=True
    )
    tower, states = model.model.audio_tower, []
    handle = tower.layers[-1].register_forward_hook(lambda _, __, output: states.append(output))
    if name == "Qwen2Audio":
        ids = torch.full((1, 75), model.config.audio_token_id)
        model(input_ids=ids, input_features=made.input_features, feature_attention_mask=made.attention_mask)
    else:
        tower(made.input_features)
    handle.remove()
    state = states[0][0] if isinstance(states[0], tuple) else states[0]
    tokens = found.layers[2].shape[1]
    assert tokens == 150
    torch.testing.assert_close(found.layers[2][0], state[0, :tokens], atol=1e-5, rtol=1e-5)
