"""The entry point of lmms-eval: what it hands over is read as it is meant, and answers are those of `mmllm eval`."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmllm
from mmllm.errors import MmllmError
from mmllm.interop.lmms_eval.requests import asked, messages_of, question, sampling_of
from tests.support.training import finish, start, tiny_recipe, train_here


def part(kind: str, item: Any, **more: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": kind, "url": item, **more}, {"type": "text", "text": "What is <image>?"}],
    }


def test_media_are_parts_and_texts_show_no_placeholder() -> None:
    image = Image.new("RGB", (4, 4))
    given = [
        {"role": "system", "content": [{"type": "text", "text": "Be short: <image>"}]},
        part("image", image),
        {"role": "assistant", "content": [{"type": "text", "text": "An <image>."}]},
        part("video", "/clips/a.mp4"),
    ]
    system, asked, said, clip = messages_of(given, ("image", "video"))
    assert system["content"] == [{"type": "text", "text": r"Be short: \<image>"}]
    assert asked["content"][0] == {"type": "image_url", "image_url": {"url": image}}
    assert asked["content"][1]["text"] == r"What is \<image>?"
    assert said["content"][0]["text"] == "An <image>."
    assert clip["content"][0] == {"type": "video_url", "video_url": {"url": "/clips/a.mp4"}}


def test_sounds_have_the_forms_of_datasets() -> None:
    wave = np.zeros(8, "float32")
    samples = SimpleNamespace(data=SimpleNamespace(numpy=lambda: wave[None]), sample_rate=16000)
    decoder = SimpleNamespace(get_all_samples=lambda: samples)
    forms = (
        {"array": wave, "sampling_rate": 16000},
        {"bytes": b"RIFF", "path": "a.wav"},
        {"bytes": None, "path": "a.wav"},
        "a.wav",
        decoder,
    )
    found = [messages_of([part("audio", form)], ())[0]["content"][0]["audio_url"]["url"] for form in forms]
    assert found[0][0] is wave and found[0][1] == 16000
    assert found[1:4] == [b"RIFF", "a.wav", "a.wav"]
    assert found[4][0].shape == (8, 1) and found[4][1] == 16000


def test_what_a_task_shows_has_its_kind() -> None:
    image, decoder = Image.new("RGB", (4, 4)), SimpleNamespace(get_all_samples=None)
    shown = {
        "image": [image, "a.png", {"path": "b.jpg", "bytes": b"JPEG"}],
        "audio": [
            {"array": [0.0], "path": "a.wav", "sampling_rate": 8},
            decoder,
            "a.flac",
            {"type": "audio", "url": "a"},
        ],
        "video": ["a.mp4", "a", {"type": "video", "url": "a.webm"}],
    }
    for kind, visuals in shown.items():
        (message,) = question(visuals, "What?")
        assert [one["type"] for one in message["content"]] == [kind] * len(visuals) + ["text"]
    assert question(shown["image"], "")[0]["content"][2]["url"] == b"JPEG"
    with pytest.raises(MmllmError, match="with start_time, and clips are read whole"):
        messages_of(question([{"type": "video", "url": "a.mp4", "video_start": 1.0}], "What?"), ())


class Task:
    """As lmms-eval's tasks are: with messages of their own, or with what they show and a text."""

    def __init__(self, own: object = None) -> None:
        self.config = SimpleNamespace(doc_to_messages=own, doc_to_visual="shown")

    def doc_to_visual(self, doc: str) -> list[Any]:
        return [{"array": [0.0], "path": doc, "sampling_rate": 8}]

    def doc_to_text(self, doc: str) -> str:
        return f"What is {doc}?"

    def doc_to_messages(self, doc: str) -> list[Any]:
        return [doc]


def test_a_sound_of_a_task_without_messages_is_a_sound() -> None:
    ((sound, text),) = [one["content"] for one in asked(Task().doc_to_messages, "a.wav")]
    assert sound["type"] == "audio" and text["text"] == "What is a.wav?"
    assert asked(Task("its own").doc_to_messages, "a") == ["a"]
    assert asked(lambda doc: [doc], "a") == ["a"]


def test_a_part_of_a_clip_is_refused() -> None:
    with pytest.raises(MmllmError, match="a video is to be read with end_time, and clips are read whole here"):
        messages_of([part("video", "a.mp4", start_time=None, end_time=3.0)], ())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({}, (16, 0.0, 1.0, ())),
        ({"max_new_tokens": 4, "temperature": 0, "top_p": None, "num_beams": 1, "do_sample": False}, (4, 0.0, 1.0, ())),
        ({"until": ["\n\n", ""], "max_gen_toks": 8, "image_aspect_ratio": "original"}, (8, 0.0, 1.0, ("\n\n",))),
        ({"do_sample": True, "until": "."}, (16, 1.0, 1.0, (".",))),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0}, (16, 0.0, 1.0, ())),
        ({"temperature": 0.7, "top_p": 0.9}, (16, 0.7, 0.9, ())),
    ],
)  # fmt: skip
def test_words_of_generation(words: dict[str, Any], found: tuple[Any, ...]) -> None:
    sampling = sampling_of(words, 16)
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.stop) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"num_beams": 4}, "num_beams is 4, and answers are not searched"),
        ({"typical_p": 0.5}, "typical_p is no way of generating"),
    ],
)
def test_what_cannot_be_done_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(MmllmError, match=said):
        sampling_of(words, 16)


def test_it_is_found_by_its_entry_point() -> None:
    found = [one for one in entry_points(group="lmms_eval.models") if one.name == "mmllm"]
    if not found:
        pytest.skip("this package is not installed anew since it has the entry point")
    assert found[0].value == "mmllm.interop.lmms_eval:manifests" and callable(found[0].load())


@pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed")
def test_its_answers_are_those_of_the_run(tmp_path: Path) -> None:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from mmllm.interop.lmms_eval import manifests

    assert finish(start(train_here, tiny_recipe(tmp_path, steps=3), tmp_path / "run")) == [0]
    registry = ModelRegistryV2()
    for manifest in manifests():
        registry.register_manifest(manifest)
    kind = registry.get_model_class("mmllm")
    loaded = kind.create_from_arg_string(f"pretrained={tmp_path / 'run'}", {"batch_size": 2, "device": "cpu"})
    pictures = [Image.new("RGB", (30, 20), (70 * n, 255 - 70 * n, 90)) for n in range(3)]
    loaded.task_dict["t"] = {"test": [part("image", one) for one in pictures] + [part("image", "no.png")]}
    words = [{"max_new_tokens": 6}, {"max_new_tokens": 3}, {"max_new_tokens": 6}, {"max_new_tokens": 6}]
    requests = [
        Instance(
            "generate_until",
            ("", lambda doc: [doc], words[n], n, "t", "test"),
            n,
            {"task": "t", "doc_id": n, "repeats": 1},
        )
        for n in range(4)
    ]
    found = [one.text for one in loaded.generate_until(requests)]
    model = mmllm.load(tmp_path / "run")
    expected = [
        model.chat(r"What is \<image>?", image=one, max_new_tokens=words[n]["max_new_tokens"]).strip()
        for n, one in enumerate(pictures)
    ]
    assert found == [*expected, ""] and len(set(expected)) > 1
    for refused in (loaded.loglikelihood, loaded.generate_until_multi_round):
        with pytest.raises(MmllmError, match="are not run through mmllm"):
            refused(requests)
