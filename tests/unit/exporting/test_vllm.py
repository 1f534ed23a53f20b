"""`mmllm export --to vllm`: the folder gives the run's ids, picture tokens, logits and answers, or is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mmllm
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.exporting import export
from mmllm.exporting.export import export_run
from mmllm.exporting.vllm.media import Media
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe
from tests.support.training import flip, tiny_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP tower, an mlp and a Llama with LoRA, whose weights are drawn."""
    folder = tmp_path_factory.mktemp("for-vllm")
    recipe = load_recipe(tiny_recipe(folder))
    model = build(recipe, "cpu")
    torch.manual_seed(0)
    for weight in model.connectors.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    mmllm.Model(model, recipe).save_pretrained(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def out(run: Path) -> Path:
    assert main(["export", str(run), "--to", "vllm", "--out", str(run.parent / "out")]) == 0
    return run.parent / "out"


def test_it_holds_all_that_is_needed(out: Path, run: Path) -> None:
    report = json.loads((out / "mmllm_export.json").read_text())
    compared = [stage["name"] for stage in report["stages"]]
    assert compared[:3] == ["ids (text)", "logits (text)", "answer (text)"]
    assert compared[3:7] == [f"{what} (333 x 250)" for what in ("ids", "tokens", "logits", "answer")]
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["MmllmForConditionalGeneration"] and config["tokens_per_image"] == 16
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert config["image_token_id"] not in json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    # nothing of it is a path of this machine: the tower lies in it
    assert str(run.parent) not in (out / "media" / "recipe.yaml").read_text()
    assert "vllm serve" in (out / "README.md").read_text()


def test_its_pictures_are_the_runs(out: Path, run: Path) -> None:
    (run.parent / "tiny-clip-0").rename(run.parent / "away")  # the copy is used
    try:
        media = Media.open(out / "media")
    finally:
        (run.parent / "away").rename(run.parent / "tiny-clip-0")
    shown = [picture(61, 90), picture(90, 61)]
    together = media([media.read(one) for one in shown])
    assert together.shape == (2, media.n_tokens, 32)
    for one, tokens in zip(shown, together, strict=True):
        torch.testing.assert_close(media([media.read(one)])[0], tokens)
    assert (together[0] - together[1]).abs().max() > 1e-3
    half = Media.open(out / "media").cast(torch.bfloat16)
    assert {one.dtype for one in half.connectors.parameters()} == {torch.float32}
    assert {one.dtype for one in half.encoders.parameters()} == {torch.bfloat16}
    assert 0 < (half([half.read(shown[0])])[0] - together[0]).abs().max() < 0.1
    reader = Media.open(out / "media").without_weights()
    assert reader.n_tokens == 16 and sum(one.numel() for one in reader.parameters()) == 0
    given = reader.read(shown[0])
    assert given.keys() == {"image.pixels"} and torch.equal(given["image.pixels"], media.read(shown[0])["image.pixels"])


def changed(run: Path, change: str) -> tuple[Recipe, MultimodalLM]:
    """The run's recipe with overrides, and a model of it that has not learned."""
    recipe = load_recipe(run.parent / "recipe.yaml", change.replace("HERE", str(run.parent)).split(" & "))
    return recipe, build(recipe, "cpu")


MORE = "encoders.more={type: hf_vision, model: HERE/tiny-clip-0, layers: [-1]}"
OTHERS = (
    f"{MORE} & connectors.image={{type: concat, from: [image, more]}}",
    "connectors.image={type: resampler, from: image, latents: 3, depth: 1, heads: 2}",
    'encoders.image.fit=pad & llm.tokens=["<here>"]',
)


@pytest.mark.parametrize("change", OTHERS)
def test_other_encoders_and_projectors_go_along(
    change: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model = changed(run, change)
    monkeypatch.setattr(export, "load_run", lambda *_: (recipe, model))
    assert all(stage.equal for stage in export_run(run, "vllm", tmp_path / "out"))
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tokens_per_image"]
        == model.inputs["image"].n_tokens()
    )


@pytest.mark.parametrize("file", ["image-model/model.safetensors", "learned.safetensors"])
def test_other_weights_are_refused(file: str, out: Path) -> None:
    path = out / "media" / file
    before = path.read_bytes()
    try:
        flip(path)
        with pytest.raises(MmllmError, match="are others than those that were exported"):
            Media.open(out / "media")
    finally:
        path.write_bytes(before)


ASKS = (
    "{type: qformer, from: image, queries: 2, depth: 2, heads: 2, width: 8, words: 400, tokenizer: HERE/tiny-llama-0}"
)


def test_a_folder_of_something_else_is_refused(run: Path) -> None:
    with pytest.raises(MmllmError, match=f"{run / 'media'} has no recipe.yaml; give a folder that mmllm export"):
        Media.of(str(run))


REFUSED = {
    "connectors.lora={type: lora, rank: 2, when: [image]}": "works only in conversations with image",
    "connectors.lora={type: series_adapter}": "SeriesAdapterConnector) works inside a frozen part",
    "connectors.image={type: gated_cross_attention, from: image}": "works inside the LLM, which is vLLM's own there",
    f"connectors.image={ASKS}": "reads the question",
    "connectors.image.attends=bidirectional": "the LLM is causal everywhere there",
    "llm.attention=prefix": "reads prompts in both directions",
    'connectors.image.around=["<", ">"]': "the same number of tokens there whatever it shows",
    f"{MORE} & connectors.more={{type: mlp, from: more}}": "this run's placeholders are image, more",
    "encoders.image={type: frames, image: {type: hf_vision, model: HERE/tiny-clip-0}, frames: 2}": (
        "pictures alone are shown to the LLM there, and connectors.image takes video"
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_vllm_cannot_hold_is_refused(
    change: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model = changed(run, change)
    monkeypatch.setattr(export, "load_run", lambda *_: (recipe, model))
    with pytest.raises(MmllmError) as found:
        export_run(run, "vllm", tmp_path / "out")
    assert REFUSED[change] in str(found.value) and len(str(found.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
