"""Stages that keep features: resumed as uninterrupted, two ranks that partition the encoder, room, computed ahead."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from mmllm.cli import main as mmllm
from mmllm.features import files
from mmllm.model.build import build
from mmllm.model.feature_cache import cache_features
from mmllm.recipe.load import dump, load_recipe
from mmllm.recipe.shaping import changes, shaping
from mmllm.recipe.stage_sections import Cache
from mmllm.training import feature_room
from tests.support.training import finish, metrics, sharing, start, tiny_recipe, train_and_die, train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tiny recipe of one stage."""
    made = tmp_path_factory.mktemp("cached")
    path = tiny_recipe(made, save_every=1, steps=3)
    recipe = load_recipe(path)
    one = recipe.model_copy(update={"stages": {"align": recipe.stages["align"]}})
    path.write_text(dump(one), encoding="utf-8")
    return made


def words(store: Path, dtype: str = "float16") -> str:
    """An override that keeps features there."""
    return f"stages.align.cache={{dir: {store}, dtype: {dtype}}}"


@pytest.mark.slow
def test_9_resumed_equals_uninterrupted_and_ranks_equal_one(folder: Path, tmp_path: Path) -> None:
    """Killed in a save after features were kept; and two ranks under ZeRO-3, which need the encoder at other times.

    With shared prefixes, which show an item once in several conversations.
    """
    recipe = folder / "recipe.yaml"
    whole, killed, ranks = (tmp_path / name for name in ("whole", "killed", "ranks"))
    stores = [tmp_path / f"store-{run.name}" for run in (whole, killed, ranks)]
    three, shared = "stages.align.zero=3", sharing(folder, "align")
    runs = [
        start(train_here, recipe, whole, [words(stores[0]), *shared]),
        start(train_and_die, recipe, killed, [words(stores[1]), *shared], 28),
    ]
    assert [finish(run) for run in runs] == [[0], [-signal.SIGKILL]]
    assert len(metrics(killed)) == 2 and list(stores[1].glob(f"*/*{files.SUFFIX}"))
    runs = [
        start(train_here, recipe, killed, [words(stores[1]), *shared]),
        start(train_here, recipe, ranks, [words(stores[2]), *shared, three], ranks=2),
    ]
    assert [finish(run) for run in runs] == [[0], [0, 0]]
    assert metrics(killed) == metrics(whole)
    assert [row["loss"] for row in metrics(ranks)] == pytest.approx([row["loss"] for row in metrics(whole)], rel=1e-5)


def test_computed_ahead_a_stage_calls_no_encoder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mmllm cache` says the room first, goes on where it was stopped, names what cannot be read."""
    recipe, store = str(folder / "recipe.yaml"), tmp_path / "store"
    assert mmllm(["cache", recipe, words(store)]) == 0
    said = capsys.readouterr().out
    assert "stages.align.cache: 9.0 KiB of features to be kept in" in said and "8 items computed, 8 are kept" in said
    assert mmllm(["cache", recipe, "--stage", "align", words(store)]) == 0
    assert "0 items computed, 8 are kept" in capsys.readouterr().out
    model = build(load_recipe(recipe))
    cache = cache_features(model, store)
    for number in range(8):
        assert "cached.grid" in model.inputs["image"].read(folder / f"{number}.png")["image"]
    assert cache.n_computed == 0
    whole = shutil.copytree(folder, tmp_path / "broken")
    (whole / "3.png").write_bytes(b"torn")
    moved = [f"data.{key}.media={whole}" for key in ("pictures", "texts")]
    assert mmllm(["cache", recipe, words(tmp_path / "other"), *moved]) == 0
    said = capsys.readouterr().out
    assert "skipped image" in said and "3.png cannot be opened" in said and "7 items computed" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stage", "none"], "--stage none: the recipe has no such stage; its stages are align"),
        ([], "the recipe tiny keeps no features: write `cache: true` under a stage, or name one with --stage"),
        (
            ["stages.align.cache=5"],
            "found 5 (a whole number), expected true, false or a mapping of dir, dtype, encoders",
        ),
        (["stages.align.cache={encoders: [imag]}"], 'unknown encoder; known: image; did you mean "image"?'),
        (["stages.align.cache={dtype: int8}"], "unknown value; known: float16, bfloat16, float32"),
        (["stages.align.cache=true", "stages.align.train.encoders.image=0.1"], "this stage trains encoders.image"),
        (
            ["eval.cache=true", "connectors.lora={type: adaptformer, adapts: [image]}"],
            "lora works inside encoders.image",
        ),
    ],
)
def test_what_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert mmllm(["cache", str(folder / "recipe.yaml"), *words]) == 2
    assert said in capsys.readouterr().err


def test_an_encoder_that_an_earlier_stage_trains_is_not_computed_ahead(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    align = recipe.stages["align"]
    first = align.model_copy(update={"train": {"encoders.image": 0.1}})
    both = {"first": first, "align": align.model_copy(update={"cache": Cache()})}
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe.model_copy(update={"stages": both})), encoding="utf-8")
    assert mmllm(["cache", str(path)]) == 2
    assert "stages.first.train names encoders.image, so stage align sees other features" in capsys.readouterr().err


def test_a_disk_that_cannot_hold_them_is_refused_before_anything_is_computed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_room, "free_bytes", lambda _: 5000)
    recipe = str(folder / "recipe.yaml")
    assert mmllm(["cache", recipe, words(tmp_path / "store")]) == 2
    assert (
        "(8 items of encoders.image x 1.1 KiB), 4.9 KiB free: they do not fit; name a `dir`" in capsys.readouterr().err
    )
    assert not (tmp_path / "store").exists()
    assert mmllm(["train", recipe, words(tmp_path / "store"), "--out", str(tmp_path / "run")]) == 2
    assert "they do not fit" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert mmllm(["cache", str(folder / "recipe.yaml"), words(tmp_path / "file" / "store")]) == 2
    assert "file/store (Not a directory); name another `dir` under `cache`" in capsys.readouterr().err


def test_what_is_kept_as_float16_shapes_the_weights_and_where_it_lies_does_not(folder: Path) -> None:
    def shaped(*overrides: str) -> dict[str, Any]:
        return shaping(load_recipe(folder / "recipe.yaml", overrides))

    plain, kept = shaped(), shaped("stages.align.cache=true")
    assert shaped("stages.align.cache=false") == plain
    assert shaped("stages.align.cache={dir: elsewhere}") == kept
    assert changes(plain, kept) == ['stages.align.cache was null, is {"dtype": "float16"}']
    recipe = load_recipe(folder / "recipe.yaml", ["stages.align.cache={dir: here, encoders: [image]}"])
    path = folder / "dumped.yaml"
    path.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
