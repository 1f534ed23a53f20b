"""What a model is given of media, and where its words look: the attention of the LLM's own eager forward."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, MediaSpan
from mmllm.errors import MediaError
from mmllm.generation.attention_maps import attention_of, tokens_of
from mmllm.generation.generator import Generator
from mmllm.generation.sampling import Sampling
from mmllm.serving.app import create_app
from mmllm.serving.looks import maps
from mmllm.types import Message, Sample
from tests.support.parts import tiny_model
from tests.support.senses import FILES, SENSES_LIMITS, every_sense
from tests.support.serving import (
    MODEL,
    body,
    file_part,
    image_part,
    local,
    picture,
    post,
    text_part,
    tiny_generator,
    user,
)

ASK = "What is it?"


def sent(http: TestClient, path: str, status: int = 200, **data: Any) -> dict[str, Any]:
    answer = http.post(path, json={"model": MODEL, **data})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found if status == 200 else found["error"]


def asked(generator: Generator) -> tuple[Encoded, list[int]]:
    """A conversation that shows a picture, and an answer's tokens."""
    sample = Sample("x", (Message("user", f"<image>\n{ASK}"),), {"image": (picture("red"),)})
    return generator.encode(sample), generator.answer_ids(sample, "How many red")


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # grouped heads; soft-caps and sliding windows
def test_attention_is_that_of_the_llms_own_forward(family: str) -> None:
    generator = tiny_generator(family)
    encoded, answer = asked(generator)
    found = attention_of(generator, encoded, answer, range(1, 3))

    ids = [*encoded.ids, *answer]
    longer = Encoded(ids, [-100] * len(ids), encoded.media, encoded.spans, "x", 0)
    _, embeds = generator.model.embed(collate([longer], generator.inputs))
    plain = tiny_model(family)
    plain.set_attn_implementation("eager")
    output = plain.get_decoder()(inputs_embeds=embeds[None], output_attentions=True, use_cache=False)
    start = len(encoded.ids)
    expected = torch.stack(output.attentions)[:, 0].mean(dim=(0, 1))[start : start + 2, :start].mean(dim=0)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)
    assert 0 < found.sum() <= 1 + 1e-5 and found.std() > 0
    # and answers go on as before
    again = [one.complete([encoded], Sampling(4))[0].text for one in (generator, tiny_generator(family))]
    assert again[0] == again[1]


def test_a_words_attention_lies_over_the_picture_as_it_was_seen(http: TestClient, generator: Generator) -> None:
    encoded, answer = asked(generator)
    told = "How many red"
    messages = [user([image_part(), text_part(ASK)])]
    found = sent(http, "/attention", messages=messages, answer=told, start=4, end=8)
    assert found["text"].strip() == "many" and 0 < found["share"] < 1
    (item,) = found["items"]
    (one,) = item["maps"]
    (span,) = encoded.spans
    rows, cols = span.grid
    assert item["name"] == "image 1" and (len(one["weights"]), len(one["weights"][0])) == (rows, cols)
    chosen = tokens_of(generator, answer, 4, 8)
    expected = attention_of(generator, encoded, answer, chosen)[span.start : span.start + span.length]
    assert torch.allclose(torch.tensor(one["weights"]).flatten(), expected, atol=1e-6)
    assert found["share"] == pytest.approx(float(expected.sum()), abs=1e-5)
    size = generator.inputs["image"].encoders["image"].processor.size
    assert _opened(one["url"]).size == (size[1], size[0])
    everything = [tokens_of(generator, answer, place, place + 1) for place in range(len(told))]
    assert all(everything) and everything[0].start == 0 and everything[-1].stop <= len(answer)  # not its end of turn


def test_what_was_seen_is_shown(http: TestClient, generator: Generator) -> None:
    found = sent(http, "/seen", part=image_part())
    (view,) = found["views"]
    (shown,) = view["pictures"]
    seen = _opened(shown["url"]).convert("RGB")
    assert "pixels after fitting" in view["caption"] and "places of the LLM" in view["caption"]
    assert max(abs(a - b) for a, b in zip(seen.getpixel((3, 3)), (255, 0, 0), strict=True)) <= 2


def _opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("/attention", {"messages": [user("Hi")]}, "shows nothing that a word could look at"),
        ("/attention", {"start": 5, "end": 5}, "have to be letters of the answer"),
        ("/attention", {"end": 99}, "which has 12"),
        ("/attention", {"messages": None}, "messages"),
        ("/attention", {"answer": "cat " * 300}, "at most 217 can be asked for"),
        ("/attention", {"extra": 1}, "extra"),
        ("/seen", {"part": image_part("data:image/png;base64,AAAA")}, "could not be read"),
        ("/seen", {"part": file_part("a.wav", b"RIFF")}, "takes no sounds"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(http: TestClient, path: str, change: dict[str, Any], words: str) -> None:
    whole = {"messages": [user([image_part(), text_part(ASK)])], "answer": "How many red", "start": 0, "end": 3}
    error = sent(http, path, 400, **({**whole, **change} if path == "/attention" else change))
    assert words in error["message"], error
    assert post(http, body())[0] == 200


@pytest.fixture(scope="module")
def wide() -> Iterator[TestClient]:
    with local(create_app(every_sense(), MODEL, SENSES_LIMITS), raise_server_exceptions=False) as client:
        yield client


def test_every_sense_can_be_looked_at(wide: TestClient) -> None:
    for modality in ("video", "audio", "graph", "points", "document"):
        name, data = FILES[modality]
        part = file_part(name, data, modality=modality)
        assert "3 tokens of the encoder" in sent(wide, "/seen", part=part)["views"][0]["caption"]
        content = [part, image_part(), text_part(ASK)]
        found = sent(wide, "/attention", messages=[user(content)], answer="red", start=0, end=3)
        weights = {item["name"].split()[0]: item["maps"][0]["weights"] for item in found["items"]}
        assert len(weights) == 2 and any(len(one) == 1 and len(one[0]) == 3 for one in weights.values())


def _spans(*grids: tuple[int, ...]) -> list[MediaSpan]:
    """Spans of one item, a word between each two."""
    spans, start = [], 1
    for grid in grids:
        length = torch.Size(grid).numel()
        spans.append(MediaSpan(start, length, "image", 0, grid))
        start += length + 1
    return spans


def test_places_are_laid_over_pictures_tiles_rows_and_frames() -> None:
    weights = [float(number) for number in range(40)]
    pictures = [(name, Image.new("RGB", (4, 4))) for name in "abcd"]
    (one,) = maps("image", _spans((2, 3)), weights, pictures[:1])
    assert one.weights == [[1, 2, 3], [4, 5, 6]] and one.caption == "a"
    tiles = maps("image", _spans((1, 2, 2), (1, 2, 2)), weights, pictures[:2])
    assert [tile.weights for tile in tiles] == [[[1, 2], [3, 4]], [[6, 7], [8, 9]]]
    assert [tile.picture for tile in tiles] == [picture for _, picture in pictures[:2]]
    (rows,) = maps("image", _spans((1, 3), (1, 3)), weights, pictures[:1])
    assert rows.weights == [[1, 2, 3], [5, 6, 7]]
    frames = maps("video", _spans((2, 1, 2)), weights, pictures)  # two frames a step
    assert [(frame.caption, frame.weights) for frame in frames] == [("", [[3.0, 7.0]])] or len(frames) == 2
    (curve,) = maps("audio", _spans((3,)), weights, pictures[:1])
    assert curve.weights == [[1, 2, 3]] and curve.picture is None
    (stretch,) = maps("image", _spans((2, 2), (3, 2)), weights, pictures[:1])[:1]
    assert stretch.picture is None  # more parts than pictures: no guess which is whose
    for grid, words in (((1, 8), "each stand for all of it"), ((0,), "inside the model's layers")):
        with pytest.raises(MediaError, match=words):
            maps("image", _spans(grid), weights, pictures[:1])
