"""``connectors.KEY: {start: ...}``: what a published projector computes, plain files, and what cannot be taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmllm.checkpoints.start import start_weights
from mmllm.errors import MmllmError, RecipeError
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.start import Started
from mmllm.recipe.load import digest, dump, parse
from mmllm.types import Features, Layer
from tests.support.vlms import vlm_folder

RECIPE = """
name: started
llm: {{path: {path}, dtype: float32, context: 64}}
encoders:
  item: {encoder}
connectors:
  item: {connector}
data:
  rows: {{type: chat_jsonl, path: rows.jsonl}}
stages:
  align: {{train: {{connectors.item: 1.0e-3}}, data: {{rows: 1.0}}, steps: 1, batch: 1}}
"""
VISION = "{type: hf_vision, model: PATH, layers: [LAYER]}"


def begun(path: Path, connector: str, layer: Layer = -2, encoder: str = VISION) -> tuple[MultimodalLM, Started]:
    """The model of a recipe whose parts all come from ``path`` as its training begins, and what ``item`` began with."""
    filled = encoder.replace("PATH", str(path)).replace("LAYER", str(layer))
    recipe = parse(RECIPE.format(path=path, encoder=filled, connector=connector.replace("PATH", str(path))))
    model = build(recipe)
    return model, start_weights(model, recipe)["connectors.item.start"]


def made(path: Path, connector: str, layer: Layer = -2, encoder: str = VISION) -> MultimodalLM:
    """The model alone."""
    return begun(path, connector, layer, encoder)[0]


def projected(model: MultimodalLM, **inputs: Any) -> torch.Tensor:
    """float[N, T, D] of the connector."""
    return model.connectors["item"](model.encoders["item"](**inputs))


@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize(
    ("name", "connector", "layer"),
    [
        ("Llava", "{type: mlp, from: item, start: PATH}", -2),
        ("LlavaNext", "{type: mlp, from: item, start: PATH}", -2),
        ("LlavaOnevision", "{type: mlp, from: item, start: PATH}", -1),
        ("InternVL", "{type: pixel_shuffle, from: item, start: PATH}", -1),
        (
            "AyaVision",
            "{type: pixel_shuffle, gated: true, activation: silu, eps: 1.0e-6, from: item, start: PATH}",
            -1,
        ),
    ],
)
@torch.no_grad()
def test_tokens_of_pictures_are_the_published_models(name, connector, layer, names, tmp_path) -> None:
    """Tower, layer and projector together give what the whole model puts into its text."""
    folder, whole = vlm_folder(name, tmp_path / "vlm", names)
    model, started = begun(folder, connector, layer)
    pixels = torch.randn(2, 3, 28, 28)
    options: dict[str, Any] = {}
    if name in ("LlavaNext", "LlavaOnevision"):  # their tiles are put together after the projector: not of one view
        tower = whole.model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states[layer]
        expected = whole.model.multi_modal_projector(tower[:, 1:] if name == "LlavaNext" else tower)
    else:
        expected = torch.stack(list(whole.model.get_image_features(pixel_values=pixels, **options).pooler_output))
    torch.testing.assert_close(projected(model, pixels=pixels), expected, atol=1e-5, rtol=1e-5)
    # a connector that takes pictures whole has no place for what stands behind the rows of a map
    left = ("newline",) if name in ("LlavaNext", "LlavaOnevision") else ()
    assert started.path == str(folder) and started.left == left
    assert set(started.taken) == set(model.connectors["item"].state_dict())


@pytest.mark.parametrize(
    ("name", "connector"),
    [
        ("Idefics3", "{type: pixel_shuffle, norm: false, depth: 1, bias: false, from: item, start: PATH}"),
        ("SmolVLM", "{type: pixel_shuffle, norm: false, depth: 1, bias: false, from: item, start: PATH}"),
        (
            "Gemma3",
            "{type: pool, grid: [2, 2], norm: rms, norm_after: true, eps: 1.0e-6, depth: 1, bias: false, from: item, "
            "start: PATH}",
        ),
    ],
)
@torch.no_grad()
def test_projectors_without_biases(name: str, connector: str, tmp_path: Path) -> None:
    folder, whole = vlm_folder(name, tmp_path / "vlm")
    model, started = begun(folder, connector, "final")
    pixels = torch.randn(2, 3, 28, 28)
    if name == "Gemma3":
        expected = whole.model.multi_modal_projector(whole.model.vision_tower(pixel_values=pixels).last_hidden_state)
    else:
        expected = whole.model.connector(whole.model.vision_model(pixel_values=pixels).last_hidden_state)
    torch.testing.assert_close(projected(model, pixels=pixels), expected, atol=1e-5, rtol=1e-5)
    assert started.left == () and set(started.taken) == set(model.connectors["item"].state_dict())
    old, new, sentence = ("depth: 1", "depth: 2", "gives 1 of the connector's 2 tensors")
    if name == "Gemma3":
        old, new, sentence = ("1.0e-6", "1.0e-3", "has eps: 1e-06, the connector pool has 0.001")
    with pytest.raises(RecipeError, match=sentence):
        begun(folder, connector.replace(old, new), "final")


@torch.no_grad()
def test_frames_of_sound_side_by_side(tmp_path: Path) -> None:
    """Voxtral's projector; a tower of 1,500 frames of which four make a token."""
    folder, whole = vlm_folder("Voxtral", tmp_path / "vlm")
    words = "axes: 1, factor: 4, norm: false, bias: false"
    encoder = "{type: hf_audio, model: PATH, layers: [final]}"
    connector = made(folder, f"{{type: pixel_shuffle, {words}, from: item, start: PATH}}", encoder=encoder).connectors[
        "item"
    ]
    states = torch.randn(2, 1500, 16)
    features = Features({"final": states}, torch.ones(2, 1500, dtype=torch.bool), (1500,))
    expected = whole.model.multi_modal_projector(states.reshape(-1, 64)).reshape(2, 375, 32)
    torch.testing.assert_close(connector(features), expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(MmllmError, match="must divide a grid of time alone; this encoder gives"):
        connector.out_grid((1501,))
    with pytest.raises(RecipeError, match="has axes: 1, the connector pixel_shuffle has 2; write axes: 1"):
        made(folder, "{type: pixel_shuffle, factor: 4, from: item, start: PATH}", encoder=encoder)


@torch.no_grad()
def test_one_linear_layer(tmp_path) -> None:
    """PaliGemma's and Qwen2-Audio's projectors are one linear layer of what their towers give."""
    folder, whole = vlm_folder("PaliGemma", tmp_path / "see")
    connector = made(folder, "{type: mlp, from: item, depth: 1, start: PATH}").connectors["item"]
    assert torch.equal(connector.mlp[0].weight, whole.model.multi_modal_projector.linear.weight)
    folder, whole = vlm_folder("Qwen2Audio", tmp_path / "hear")
    audio = "{type: hf_audio, model: PATH}"
    connector = made(folder, "{type: mlp, from: item, depth: 1, start: PATH}", encoder=audio).connectors["item"]
    assert torch.equal(connector.mlp[0].weight, whole.model.multi_modal_projector.linear.weight)
    assert torch.equal(connector.mlp[0].bias, whole.model.multi_modal_projector.linear.bias)


@torch.no_grad()
def test_a_projector_without_biases_gets_zeros(tmp_path) -> None:
    folder, whole = vlm_folder("Llava", tmp_path / "vlm")
    tensors = load_file(folder / "model.safetensors")
    less = {key: tensor for key, tensor in tensors.items() if "projector" not in key or "bias" not in key}
    save_file(less, folder / "model.safetensors", metadata={"format": "pt"})
    connector = made(folder, "{type: mlp, from: item, start: PATH}").connectors["item"]
    assert torch.equal(connector.mlp[0].weight, whole.model.multi_modal_projector.linear_1.weight)
    assert not connector.mlp[0].bias.any() and not connector.mlp[2].bias.any()


@pytest.mark.parametrize(
    ("name", "connector", "sentence"),
    [
        (
            "AyaVision",
            "mlp",
            r"connectors\.item\.start: the projector of .* \(Aya Vision\) is what the connector pixel_shuffle computes",
        ),
        (
            "Idefics3",
            "mlp",
            r"is what the connector pixel_shuffle computes \(factor: 2, norm: false, depth: 1, bi",
        ),
        (
            "Llava",
            "pixel_shuffle",
            r"\(LLaVA 1\.5\) is what the connector mlp computes \(depth: 2\), not pixel_shuffle",
        ),
        ("PaliGemma", "mlp", r"gives 2 of the connector's 4 tensors; mlp\.2\.bias has no value"),
    ],
)
def test_projectors_that_cannot_be_taken(name, connector, sentence, tmp_path) -> None:
    folder, _ = vlm_folder(name, tmp_path / "vlm")
    with pytest.raises(RecipeError, match=sentence):
        made(folder, f"{{type: {connector}, from: item, start: PATH}}")


def test_another_activation_and_other_widths_are_refused(tmp_path) -> None:
    folder, _ = vlm_folder("Llava", tmp_path / "vlm")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"projector_hidden_act": "gelu"', '"projector_hidden_act": "relu"')
    )
    with pytest.raises(RecipeError, match="has activation: relu, the connector mlp has gelu; write activation: relu"):
        made(folder, "{type: mlp, from: item, start: PATH}")
    (folder / "config.json").write_text(config)
    two = "{type: hf_vision, model: PATH, layers: [-2, -1]}"
    with pytest.raises(RecipeError, match=r"mlp\.0\.weight is \[32, 16\] in .* and \[32, 32\] in the connector"):
        made(folder, "{type: mlp, from: item, start: PATH}", encoder=two)


@torch.no_grad()
def test_a_plain_file_with_prefix_and_names(tmp_path) -> None:
    folder, _ = vlm_folder("Llava", tmp_path / "vlm")
    torch.manual_seed(1)
    shapes = {"in.weight": (32, 16), "in.bias": (32,), "out.weight": (32, 32), "out.bias": (32,), "extra": (1,)}
    weights = {f"net.{key}": torch.randn(shape) for key, shape in shapes.items()}
    file = tmp_path / "weights.safetensors"
    save_file({**weights, "other.weight": torch.ones(2)}, file)
    start = f"{{type: mlp, from: item, start: {{path: {file}, prefix: net., rename: {{in.: mlp.0., out: mlp.2}}}}}}"
    model, started = begun(folder, start)
    assert torch.equal(model.connectors["item"].mlp[2].weight, weights["net.out.weight"])
    assert torch.equal(model.connectors["item"].mlp[0].bias, weights["net.in.bias"])
    assert started.left == ("extra",)
    for old, new, sentence in (
        ("prefix: net.", "prefix: web.", "no tensor of .* begins with the prefix 'web.'"),
        (
            "in.: mlp.0.",
            "inn.: mlp.0.",
            "rename: no tensor below the prefix begins with 'inn.'; the file has extra, in",
        ),
        ("out: mlp.2", "out: mlp.0", "rename gives two tensors .* the name 'mlp.0"),
        (", out: mlp.2", "", "gives 2 of the connector's 4 tensors; mlp.2.bias has no value"),
        ("weights.safetensors", "nothing.safetensors", "there is no file"),
        (str(file), str(folder), "prefix and rename are for a safetensors file"),
        (f"{file}, prefix: net., rename: {{in.: mlp.0., out: mlp.2}}", str(tmp_path), "has no config.json"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            made(folder, start.replace(old, new))


def test_the_word_in_recipes(tmp_path) -> None:
    """A path alone is {path}; it goes through dump, counts in the digest, and is deepstack's own where that has one."""
    text = RECIPE.format(path="llm", encoder=VISION.replace("LAYER", "-1"), connector="{type: mlp, from: item}")
    plain = parse(text)
    short = parse(text.replace("from: item}", "from: item, start: some/vlm}"))
    long = parse(text.replace("from: item}", "from: item, start: {path: some/vlm}}"))
    assert short == long and digest(short) != digest(plain)
    assert parse(dump(short)) == short and parse(dump(plain)) == plain
    stacked = parse(text.replace("{type: mlp, from: item}", "{type: deepstack, from: item, start: 2}"))
    assert stacked.connectors["item"].args == {"start": 2} and stacked.connectors["item"].start is None
    with pytest.raises(
        RecipeError, match=r"connectors\.item\.start\.pth: unknown key; known: path, stage, prefix, rename"
    ):
        parse(text.replace("from: item}", "from: item, start: {pth: some/vlm}}"))
    with pytest.raises(RecipeError, match=r"encoders\.item\.start: unknown argument of hf_vision"):
        parse(text.replace("layers: [-1]}", "layers: [-1], start: some/vlm}"))


def test_the_digest_of_older_recipes_stays() -> None:
    """Runs made before these words came keep their digest."""
    text = RECIPE.format(path="llm", encoder=VISION.replace("LAYER", "-1"), connector="{type: mlp, from: item}")
    assert digest(parse(text)) == "08decafbdb1318cf2717193e0237cb1cf9334982cefbef01050a80dc9bc6406f"
    for word in ("file: a.gguf", "template: chatml"):
        assert (
            digest(parse(text.replace("context: 64", f"context: 64, {word}")))
            != "08decafbdb1318cf2717193e0237cb1cf9334982cefbef01050a80dc9bc6406f"
        )
