"""Miniature clips: what is drawn is what is asked, splits never meet, the writer repeats itself, its recipe builds."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from mmllm.datasets.chat import Chat
from mmllm.evaluation.benchmarks.mini_video import MiniVideo
from mmllm.miniature.tasks.videos import write_video
from mmllm.miniature.world.render import INK
from mmllm.miniature.world.scenes import CELL
from mmllm.miniature.world.videos import KINDS, about_video, actors, draw_clip, place, video_held_out
from mmllm.miniature.world.words import SHAPES, TIMES, every_word
from mmllm.processors.video import VideoReading


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("video")
    write_video(out, 6, 12, 0)
    return out


def test_train_and_test_share_no_moment_colour_and_shape() -> None:
    for held_out in (True, False):
        for seed in range(30):
            for one in actors(Random(seed), 3, held_out):
                assert video_held_out(one.start, one.colour, one.shape) == held_out
    trained = {(one.colour, one.shape) for seed in range(300) for one in actors(Random(seed), 3, False)}
    assert len(trained) == len(INK) * len(SHAPES)  # a colour and shape is known, at other moments


def test_actors_never_meet_and_go_where_they_say() -> None:
    for seed in range(100):
        cast = actors(Random(seed), 3, False)
        assert [one.start for one in cast] == sorted({one.start for one in cast})
        for moment in range(len(TIMES)):
            cells = [cell for one in cast if (cell := one.at(moment))]
            assert len(cells) == len(set(cells))
        for one in cast:
            (x, y), (right, down) = one.cells[0], one.cells[-1]
            ways = {"left": right < x, "right": right > x, "above": down < y, "below": down > y}
            assert [word for word, goes in ways.items() if goes] in ([], [one.move])


def test_questions_have_one_right_answer_in_the_words_of_the_world() -> None:
    words, kinds = set(every_word()), set()
    for seed in range(200):
        rng = Random(seed)
        cast = actors(rng, 1 + seed % 3, False)
        found = about_video(rng, cast, len(KINDS))
        assert len({ask.kind for ask in found.asks}) == len(found.asks)
        for ask in found.asks:
            kinds.add(ask.kind)
            assert ask.answer in words
            assert set(ask.question.removesuffix("?").split()) <= words
            named = next((one for one in cast if f" {one.shape} " in ask.question.replace("?", " ")), None)
            if ask.kind == "when":
                assert ask.answer == TIMES[named.start]
            elif ask.kind == "end":
                assert ask.answer == place(named.cells[-1])
            elif ask.kind == "at":
                assert ask.answer == place(named.at(TIMES.index(ask.question[-3:-1])))
            elif ask.kind in ("first", "last"):
                one = cast[0 if ask.kind == "first" else -1]
                assert ask.answer == (one.colour if "color" in ask.question else one.shape)
        assert set(" ".join(found.caption.split(",")).split()) <= words
    assert kinds == set(KINDS)


def test_eight_even_frames_are_the_eight_moments() -> None:
    """The colours at each actor's cell, whatever the number of frames."""
    for seed in range(20):
        rng = Random(seed)
        cast = actors(rng, 2, False)
        frames, seconds = draw_clip(rng, cast)
        assert 8 <= len(frames) == len(seconds) <= 16
        taken = [frames[int(index)] for index in np.linspace(0, len(frames) - 1, 8).round()]
        for moment, frame in enumerate(taken):
            for one in cast:
                cell = one.at(moment)
                if cell is None:
                    continue
                box = frame[CELL * cell[1] : CELL * (cell[1] + 1), CELL * cell[0] : CELL * (cell[0] + 1)]
                assert np.abs(box.reshape(-1, 3).astype(int) - INK[one.colour]).max(axis=1).min() < 40


def test_written_clips_are_read_as_they_were_drawn(folder) -> None:
    reading = VideoReading(
        frames=99, fps=1000.0, backend="decord", timeout=20, max_pixels=10_000, max_seconds=60
    )  # fmt: skip
    rng = Random("a clip")
    frames, seconds = draw_clip(rng, actors(rng, 2, False))
    from mmllm.processors.decoding.video_writing import mp4

    clip = reading.read(mp4(frames, seconds, 14))
    reading.close()
    assert clip.seconds == pytest.approx(seconds, abs=2e-3)
    off = np.stack(clip.frames).astype(int) - np.stack(frames)
    assert np.abs(off).mean() < 6


def test_the_same_frames_make_the_same_file() -> None:
    from mmllm.processors.decoding.video_writing import mp4

    frames = [np.full((32, 32, 3), 200, np.uint8) for _ in range(8)]
    for number, frame in enumerate(frames):
        frame[8:20, 3 * number : 3 * number + 12] = (20, 60, 200)
    made = set()
    for number in range(30):
        # what memory held before decided about it, where x264 looks ahead
        used = [np.full(7_000 * n, number, np.uint8) for n in range(1, 6)]
        made.add(mp4(frames, [0.1 * place for place in range(8)]))
        del used
    assert len(made) == 1


def test_the_folder_is_complete_and_readable(folder) -> None:
    source = Chat(str(folder / "instruct.jsonl"))
    assert len(source) == 6 and source[0].media["video"][0].is_file()
    assert all(sample.messages[0].text.startswith("<video>\n") for sample in (source[0], source[5]))
    captions = Chat(str(folder / "captions.jsonl"))
    assert len(captions) == 6 and captions[0].messages[1].text.startswith("t")
    assert json.loads((folder / "complete").read_text()) == {"train": 6, "test": 12, "seed": 0}
    benchmark = MiniVideo(path=str(folder))
    assert len(benchmark) == 12 and benchmark[0].sample.media["video"][0].is_file()


def test_the_same_seed_writes_the_same_words(folder, tmp_path) -> None:
    write_video(tmp_path / "again", 6, 12, 0)
    write_video(tmp_path / "other", 6, 12, 1)
    for name in ("instruct.jsonl", "captions.jsonl", "test/mini_video.jsonl"):
        assert (tmp_path / "again" / name).read_text() == (folder / name).read_text()
        assert (tmp_path / "other" / name).read_text() != (folder / name).read_text()
