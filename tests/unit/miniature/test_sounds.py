"""The generated sound of the miniature audio encoder and of mini_sound: labels are true, splits never meet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.miniature.parts.audio import AudioPlan, train_audio
from mmllm.miniature.parts.audio_curriculum import COLUMN, LABELS, TOKENS, lesson
from mmllm.miniature.tasks.sounds import write_sound
from mmllm.miniature.world.sounds import RATE, SLOT, clip, event, fact_held_out
from mmllm.miniature.world.voices import PHONES, render, utter
from mmllm.miniature.world.words import PITCHES, SOUNDS, TIMES

PART = Path("data/mini/audio")


def level(sound: np.ndarray) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(np.square(sound))) + 1e-9))


def centre(sound: np.ndarray) -> float:
    """Mean frequency in Hz, by power."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float((power * np.fft.rfftfreq(len(sound), 1 / RATE)).sum() / power.sum())


@pytest.mark.parametrize("name", SOUNDS)
def test_manners_are_audible(name: str) -> None:
    def mean(manner: str, measure: object) -> float:
        assert callable(measure)
        return float(np.mean([measure(event(np.random.default_rng(n), name, manner)) for n in range(4)]))

    assert mean("high", centre) > 1.3 * mean("low", centre)
    assert mean("loud", level) > mean("soft", level) + 15
    assert mean("long", len) > 2 * mean("short", len)
    assert all(len(event(np.random.default_rng(0), name, manner)) <= SLOT for manner in PITCHES)


def test_a_clip_sounds_where_its_facts_say() -> None:
    sound = clip(np.random.default_rng(0), (("t2", "loud", "horn"), ("t7", "soft", "wind")))
    levels = [level(part) for part in sound.reshape(len(TIMES), SLOT)]
    assert sorted(range(8), key=lambda n: -levels[n])[:2] == [1, 6]
    assert min(levels[1], levels[6]) > max(levels[n] for n in range(8) if n not in (1, 6)) + 15


def test_speech_is_voiced_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tracks = [utter(rng, 400) for _ in range(4)]
    sound = render(rng, tracks)
    assert sound.shape == (4, 32_000) and sound.isfinite().all()
    loud = sound.unflatten(1, (400, 80)).square().mean(-1).sqrt()
    phone = torch.from_numpy(np.stack([track.phone for track in tracks]))
    vowels, silence = loud[phone == PHONES.index("vowel")], loud[phone == 0]
    assert vowels.median() > 20 * silence.median()


def test_lessons_are_a_pure_function_of_seed_and_step() -> None:
    one, again, other = lesson(3, 5, 6), lesson(3, 5, 6), lesson(3, 6, 6)
    assert torch.equal(one.samples, again.samples) and torch.equal(one.labels, again.labels)
    assert not torch.equal(one.samples, other.samples)
    assert one.labels.shape == (6, TOKENS, len(LABELS)) and one.samples.abs().max() <= 1
    assert all((one.labels[..., COLUMN[name]] < count).all() for name, count in LABELS.items())


def test_training_goes_on_where_it_stopped_and_the_folder_opens(tmp_path: Path) -> None:
    words = {"lessons": 1, "batch": 2, "width": 16, "layers": 2, "heads": 2, "inner": 16, "log_every": 100}
    train_audio(AudioPlan(steps=4, save_every=2, **words), tmp_path / "one", tmp_path / "whole")
    half = AudioPlan(steps=4, save_every=2, **words)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "stock_2_1.pt").write_bytes((tmp_path / "one" / "stock_2_1.pt").read_bytes())

    class Stopped(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmllm.miniature.parts.audio.save_audio", stop)
        with pytest.raises(Stopped):
            train_audio(half, tmp_path / "two", tmp_path / "resumed")
    train_audio(half, tmp_path / "two", tmp_path / "resumed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
    encoder = HfAudioEncoder(model=str(tmp_path / "whole"))
    assert encoder.processor.grid({"samples": torch.tensor(32_000)}) == (TOKENS,)


def test_written_sound_is_the_same_again_and_splits_never_meet(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sound(tmp_path / name, 12, 8, 0)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 12 + 8 + 2
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    train = [json.loads(line) for line in (tmp_path / "one" / "instruct.jsonl").read_text().splitlines()]
    test = [json.loads(line) for line in (tmp_path / "one" / "test" / "mini_sound.jsonl").read_text().splitlines()]
    assert len(soundfile.read(tmp_path / "one" / train[0]["audio"][0])[0]) == 4 * RATE
    heard = [
        (ask["content"].rpartition(" ")[2].rstrip("?"), *answer["content"].split(), False)
        for row in train
        for ask, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True)
        if "what is heard" in ask["content"]
    ]
    heard += [(row["question"].rpartition(" ")[2].rstrip("?"), *row["answers"][0].split(), True)
              for row in test if row["kind"] == "sound"]  # fmt: skip
    assert len(heard) > 15
    assert all(fact_held_out(time, manner, sound) == held_out for time, manner, sound, held_out in heard)
    assert (tmp_path / "one" / "complete").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not PART.is_dir(), reason="the miniature audio encoder is not here")
def test_the_committed_encoder_hears_what_it_was_taught() -> None:
    """Its phones on a few unheard windows, by a linear probe on few tokens; the full numbers are in RESULTS.md."""
    from mmllm.miniature.parts.audio_probe import probe_audio

    report = probe_audio(PART, n_train=80, n_test=40, names=["phone"])
    assert report["phone"] > 0.7
    assert sum(file.stat().st_size for file in PART.iterdir()) < 3_000_000
