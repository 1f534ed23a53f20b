"""What people are shown of media: drawings and facts, asked for over HTTP, drawn from what the readers give."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from mmllm.drawing import plots
from mmllm.drawing.waveform import blocks
from mmllm.errors import MediaError
from mmllm.generation.generator import Generator
from mmllm.serving.app import create_app
from mmllm.serving.media import Limits
from mmllm.serving.preview import NODES, document, graph, points
from tests.support.senses import FILES, every_sense, graph_file, points_file, sound_file, video_file
from tests.support.serving import MODEL, RED, file_part, image_part, local, tiny_generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return every_sense()


@pytest.fixture(scope="module")
def limits() -> Limits:
    return Limits(max_seconds=30, max_body=300_000)


def ask(http: TestClient, part: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = http.post("/preview", json={"part": part})
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]


def picture(shown: dict[str, Any], number: int = 0) -> Image.Image:
    head, _, text = shown["pictures"][number]["url"].partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def test_frames_of_a_video_carry_their_times(http: TestClient) -> None:
    shown = ask(http, file_part("a.mp4", video_file(13)))
    assert [one["caption"] for one in shown["pictures"]] == [f"{at:.2f} s" for at in (0, 0.5, 1.25, 1.75, 2.5, 3)]
    brightness = [picture(shown, number).convert("L").getpixel((20, 10)) for number in range(6)]
    assert brightness == sorted(brightness) and brightness[-1] > brightness[0] + 100
    assert "3.0 s" in shown["caption"] and "48 x 32" in shown["caption"]
    assert len(ask(http, file_part("a.mp4", video_file(2)))["pictures"]) == 2


def test_a_sound_is_drawn_and_written(http: TestClient) -> None:
    shown = ask(http, file_part("a.wav", sound_file(seconds=1.5)))
    assert "1.5 s" in shown["caption"] and picture(shown).width >= 500
    levels = [" ▁▂▃▄▅▆▇█".index(letter) for letter in shown["text"]]
    assert levels == sorted(levels) and levels[0] <= 1 and levels[-1] == 8


def test_graph_points_document_and_image(http: TestClient) -> None:
    shown = ask(http, file_part("a.json", graph_file(3)))
    assert "3 nodes and 2 edges; about node 1" in shown["caption"] and "tea 0; tea 1; tea 2" in shown["text"]
    assert len(picture(shown).getcolors(10**6) or ()) > 10
    shown = ask(http, file_part("a.npy", points_file(40)))
    assert "40 points" in shown["caption"] and len(picture(shown).getcolors(10**6) or ()) > 10
    shown = ask(http, file_part("a.txt", b"one two\nthree"))
    assert shown["caption"].startswith("document of 3 words") and shown["text"] == "one two\nthree"
    assert "40 x 30" in ask(http, image_part(RED))["caption"]


def test_what_cannot_be_read_is_refused_as_in_a_message(http: TestClient) -> None:
    for name, data, code in (
        ("a.mp4", b"#EXTM3U\n", "invalid_video"),
        ("a.mp4", video_file()[:60], "invalid_video"),
        ("a.wav", b"RIFF1234WAVE", "invalid_audio"),
        ("a.json", b"[" * 200_000, "invalid_graph"),
        ("a.json", b'{"nodes": []}', "invalid_graph"),
        ("a.json", b'{"nodes": ["a"], "target": 7}', "invalid_graph"),
        ("a.npy", b"\x93NUMPY", "invalid_points"),
        ("a.txt", b"\xff\xfe\xfd", "invalid_document"),
    ):
        error = ask(http, file_part(name, data), 400)
        assert error["code"] == code and len(error["message"]) < 400, error
    assert ask(http, {"type": "text", "text": "x"}, 400)["code"] == "invalid_request"
    assert ask(http, file_part("a.mp4", FILES["video"][1]))["pictures"]
    with local(create_app(tiny_generator(), MODEL), raise_server_exceptions=False) as other:
        assert "takes no videos" in ask(other, file_part("a.mp4", FILES["video"][1]), 400)["message"]


def test_a_large_graph_is_drawn_around_one_node() -> None:
    star = {"nodes": [f"${n}_\u6f22 \\frac" for n in range(300)], "edges": [[7, n] for n in range(300)]}
    shown = graph(json.dumps(star).encode())
    assert "300 nodes" in shown.caption and "11 of them around node 7 are drawn" in shown.caption
    edges = [[n, (n + k * k * 7) % 500] for n in range(500) for k in range(1, 9)]
    ring = {"nodes": ["a"] * 500, "edges": edges, "target": 400}
    shown = graph(json.dumps(ring).encode())
    assert f"{NODES} of them around node 400" in shown.caption


def test_extremes_of_what_is_drawn() -> None:
    assert plots.sound(numpy.zeros(0), 8000).size == plots.sound(numpy.ones(3), 8000).size
    assert plots.points(numpy.zeros((1, 3))).size == plots.points(numpy.full((9000, 3), 1e30)).size
    assert blocks(numpy.zeros(5)) == " " * 5
    with pytest.raises(MediaError, match="UTF-8"):
        document(b"\xff")
    assert document(b"x" * 10_000).text.endswith("…")
    with pytest.raises(MediaError):
        points(b"")


def test_a_spectrogram_shows_the_pitch() -> None:
    rate = 8000
    tone = numpy.sin(2 * numpy.pi * 1000 * numpy.arange(rate) / rate)
    assert plots.spectrogram(tone).mean(axis=1).argmax() == round(1000 / (rate / 512))
