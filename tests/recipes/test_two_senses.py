"""The recipes of two senses at once with real readers and encoders: files of every kind in one row, or none of one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmllm.connectors.base import EncoderAdapter
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.datasets.chat import Chat
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.mini_together import MiniTogether
from mmllm.hooks import Handle
from mmllm.hooks.points import AdaptableEncoder
from mmllm.miniature.tasks.together import write_together
from mmllm.model.build import adapted, build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.encoders import wav
from tests.support.parts import tiny_llm_folder, tiny_vision_folder
from tests.support.stand_ins import audio_folder, vision_folder
from tests.support.talks import packed, talk

RED = Image.new("RGB", (40, 30), "red")


def sound(seconds: float) -> bytes:
    """A WAV file of noise."""
    return wav(np.random.default_rng(0).normal(size=int(8000 * seconds)) * 0.1)


class Inside(MlpConnector, EncoderAdapter):
    """An MLP that would also work inside encoders."""

    def attach(self, encoder: AdaptableEncoder, key: str) -> Handle:
        """Note which."""
        self.adapted = [*getattr(self, "adapted", ()), key]
        return Handle.of([])


TALKS = (
    talk(
        "all",
        "<image>\nWhat is it?",
        "Red.",
        "<audio> and <video>: which?",
        "Both.",
        image=(RED,),
        audio=(sound(1.0),),
        video=(tiny_encoders.clip((200, 30, 30), 12),),
    ),
    talk("text", "Which?", "None."),
    talk("two sounds", "<audio><audio>", "Noise.", audio=(sound(0.4), sound(2.0))),
    talk("clip", "<video>", "A bar.", video=(tiny_encoders.clip((30, 30, 200), 1),)),
)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, MultimodalLM]:
    """The full-size recipe with nothing changed but its frozen parts."""
    tmp = tmp_path_factory.mktemp("parts")
    llm = tiny_llm_folder(tmp, "qwen2", max_position_embeddings=8192, num_hidden_layers=2)
    (tmp / "audio").mkdir()
    seen = vision_folder(tmp / "vision", "siglip", 384, blocks=2)
    overrides = [
        f"llm.path={llm}",
        "llm.dtype=float32",
        f"encoders.image.model={seen}",
        f"encoders.video.image.model={seen}",
        f"encoders.audio.model={audio_folder(tmp / 'audio', 'whisper')}",
    ]
    recipe = load_recipe(folder() / "two_senses.yaml", overrides)
    return recipe, build(recipe, "cpu")


def test_files_of_every_sense_share_a_row(stand_in: tuple[Recipe, MultimodalLM]) -> None:
    """What each stage trains learns from its own sense; the row's loss is the sum of its conversations'."""
    recipe, model = stand_in
    batch = packed(model, TALKS)
    assert {key: len(owners) for key, owners in batch.item_sequence.items()} == {"image": 1, "audio": 3, "video": 2}
    assert len(batch.media_positions["image"]) == 27 * 27 and len(batch.media_positions["video"]) == (3 + 1) * 9 * 9
    assert len(batch.media_positions["audio"]) == 3 + 2 + 6  # 50 tokens of Whisper's a second, 17 make one
    text = model.llm.tokenizer.decode(batch.input_ids[batch.media_ids < 0])
    assert [word in text for word in ("0.0s", "1.2s", "2.2s")] == [True] * 3
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        for _ in range(1 + ("connectors.lora" in stage.train)):  # LoRA's A gets a gradient once its B has moved
            nll, *_ = model(batch)
            assert nll.isfinite()
            nll.backward()
            learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
            with torch.no_grad():
                for parameter in learned.values():
                    assert parameter.grad is not None
                    parameter -= 1e-3 * parameter.grad
        assert [name for name, p in learned.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
        model.zero_grad()


def test_a_row_without_a_sense_is_not_slowed_by_it(stand_in: tuple[Recipe, MultimodalLM]) -> None:
    """No encoder runs where nothing is read; the loss of a row is that of its conversations alone."""
    _, model = stand_in
    model.requires_grad_(False).eval()
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, key=key: ran.append(key)) for key, module in model.encoders.items()
    ]
    losses = [float(model(packed(model, [one]))[0]) for one in TALKS]
    assert ran == ["image", "video", "audio", "audio", "video"]
    together = float(model(packed(model, TALKS))[0])
    for hook in hooks:
        hook.remove()
    assert together == pytest.approx(sum(losses), rel=1e-4)


def test_a_connector_with_from_works_inside_its_own_encoder(tmp_path: Path) -> None:
    """`adapts` may be left out there; one that works inside no encoder is in none."""
    llm = tiny_llm_folder(tmp_path, "llama")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"llm: {{path: {llm}, dtype: float32, context: 256}}\n"
        "encoders:\n"
        f"  one: {{type: hf_vision, model: {tiny_vision_folder(tmp_path, 'vit')}, layers: [-1]}}\n"
        f"  two: {{type: hf_vision, model: {tiny_vision_folder(tmp_path, 'vit', 1)}, layers: [-1]}}\n"
        "connectors:\n"
        '  one: {type: "tests.recipes.test_two_senses:Inside", from: one}\n'
        "  two: {type: mlp, from: two}\n"
        "  both: {type: adaptformer, adapts: [two, one]}\n"
        "data: {x: {type: chat_jsonl, path: x.jsonl}}\n"
        "stages: {a: {train: {connectors.one: 1.0e-3}, data: {x: 1.0}, steps: 1, batch: 1}}\n",
    )
    model = build(load_recipe(recipe), "cpu")
    found = {key: adapted(part, model.connectors[key]) for key, part in model.recipe.connectors.items()}
    assert found == {"one": ("one",), "two": (), "both": ("two", "one")}
    assert model.connectors["one"].adapted == ["one"] and set(model.handles) == {"one", "two", "both"}
    adapters = {key: [type(adapter).__name__ for adapter in one.adapters] for key, one in model.encoders.items()}
    assert adapters == {"one": ["Inside", "AdaptformerConnector"], "two": ["AdaptformerConnector"]}


def test_the_miniature_joins_three_worlds(tmp_path: Path) -> None:
    """Every training conversation holds one item of each sense; test questions say which one they are about."""
    for world, key, test in (
        ("world", "image", "mini_scenes"),
        ("video", "video", "mini_video"),
        ("sound", "audio", "mini_sound"),
    ):
        (tmp_path / world / "test").mkdir(parents=True)
        (tmp_path / world / "0.x").touch()
        (tmp_path / world / "test" / "0.x").touch()
        said = [f"<{key}>\nwhat is it?", f"a {key}", "box of it?", "[1,2,3,4]", "more?", "no"]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
        row = {"id": "instruct_scene_0", "messages": messages, key: ["0.x"]}
        (tmp_path / world / "instruct.jsonl").write_text(json.dumps(row) + "\n")
        asked = {"id": "0", key: "0.x", "question": f"which {key}?", "answers": ["a"], "kind": "which"}
        (tmp_path / world / "test" / f"{test}.jsonl").write_text(json.dumps(asked) + "\n")
    write_together(tmp_path / "together", 20, 6, 0)
    source = Chat(str(tmp_path / "together" / "instruct.jsonl"), str(tmp_path))
    orders = set()
    for index in range(20):
        sample = source[index]
        text = "".join(message.text for message in sample.messages)
        assert sorted(sample.media) == ["audio", "image", "video"] and "box" not in text
        assert all(text.count(f"<{key}>") == 1 and items[0].is_file() for key, items in sample.media.items())
        assert len(sample.messages) == 12 and sample.messages[-1].role == "assistant"
        orders.add(tuple(sorted(sample.media, key=lambda key: text.index(f"<{key}>"))))
    assert len(orders) > 3
    benchmark = MiniTogether(path=str(tmp_path / "together"))
    kinds = [benchmark[n].kind for n in range(6)]
    assert kinds == ["image: which", "video: which", "audio: which"] * 2
    assert benchmark[1].text == "which video?"
    with pytest.raises(MmllmError, match="sense sound"):
        write_together(tmp_path / "elsewhere" / "together", 1, 1, 0)
