"""Whole trainings of two stages: what is said and written, what learned, what cannot go on, other types and ranks."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm.checkpoints.store import LEARNED, read_tensors
from mmllm.errors import CheckpointError, MmllmError
from mmllm.training.launch import launch
from mmllm.training.run_folder import locked
from tests.support.training import edit_manifest, finish, metrics, start, tiny_recipe, train_here

pytestmark = pytest.mark.slow


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    code = "import sys, time\nfrom pathlib import Path\nfrom mmllm.training.run_folder import locked\n"
    code += f"with locked(Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    time.sleep(100)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=rf"in use by another training \(process {holder.pid} on "):
            locked(tmp_path).__enter__()
        holder.kill()
    with locked(tmp_path):  # a killed holder holds nothing
        assert "process" in (tmp_path / "lock").read_text()


def train_watching(recipe: Path, out: Path, zero: int) -> None:
    """Train in this process, which fails where a stage's model is built beside that of the stage before."""
    from mmllm.training import run

    models: list[weakref.ref[Any]] = []
    plain = run.StageTraining

    def built(*args: Any, **words: Any) -> Any:
        assert not any(model() for model in models), "the last stage's model is still there"
        training = plain(*args, **words)
        models.append(weakref.ref(training.model))
        return training

    run.StageTraining = built  # type: ignore[assignment, misc]
    short = (f"stages.{name}.{word}" for name in ("align", "instruct") for word in ("steps=1", f"zero={zero}"))
    train_here(recipe, out, list(short))
    assert len(models) == 2


@pytest.mark.parametrize("zero", [0, 3])
def test_no_stage_is_built_beside_the_one_before(zero: int, tmp_path: Path) -> None:
    assert finish(start(train_watching, tiny_recipe(tmp_path), tmp_path / "run", zero)) == [0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trained tiny run: ``recipe.yaml`` and ``run/``, with everything it printed in ``said``."""
    folder = tmp_path_factory.mktemp("stages")
    said = finish_saying(tiny_recipe(folder), folder / "run", ["stages.align.monitor.csv=true"])
    (folder / "said").write_text(said)
    return folder


def finish_saying(recipe: Path, out: Path, overrides: list[str], code: int = 0) -> str:
    """What a training in a process of its own prints; its exit code is checked."""
    log = out.with_suffix(".log")
    assert finish(start(train_and_say, recipe, out, overrides, log)) == [code], log.read_text()
    return log.read_text()


def train_and_say(recipe: Path, out: Path, overrides: list[str], log: Path) -> None:
    with log.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        try:
            train_here(recipe, out, overrides)
        except MmllmError as error:
            print(f"{type(error).__name__}: {error}")
            sys.exit(2)


def test_the_table_says_what_learns(trained: Path) -> None:
    said = (trained / "said").read_text()
    rows = {line.split()[1]: line.split() for line in said.splitlines() if line.startswith("│")}
    assert rows["llm"][-2] == "frozen" and rows["llm"][5] == "0"
    assert rows["connectors.lora"][-2] == "0.002" and rows["connectors.lora"][3] == rows["connectors.lora"][5]
    assert "align step 4/4" in said and "tokens/s" in said and "all stages are trained" in said
    assert "[INFO]" not in said and "[WARNING]" not in said


def test_metrics_have_a_line_per_step(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [(s, k) for s in ("align", "instruct") for k in range(1, 5)]
    for row in rows:
        assert row["loss"] > 0 and row["grad_norm"] > 0 and row["tokens_per_second"] > 0 and row["memory"] > 2**20
        assert row["samples"] == 4 and row["labels"] < row["tokens"] and row["bad"] == 0 and row["seconds"] > 0
    assert list((trained / "run" / "csv_monitor" / "align").glob("*loss*.csv"))


def test_the_next_stage_starts_from_the_last_ones_weights_and_learns_what_it_names(trained: Path) -> None:
    stages = trained / "run" / "stages"
    aligned = read_tensors(stages / "align" / "step-4" / LEARNED)
    early = read_tensors(stages / "align" / "step-2" / LEARNED)
    tuned = read_tensors(stages / "instruct" / "step-2" / LEARNED)
    for name, tensor in aligned.items():
        learns = name.startswith("connectors.image")
        assert torch.equal(early[name], tensor) != learns, name  # lora is frozen in align
        assert not torch.equal(tuned[name], tensor), name
        assert torch.allclose(tuned[name], tensor, atol=0.02), name  # two small steps away, not a new start


def test_every_trainable_tensor_has_a_gradient_by_step_2(trained: Path) -> None:
    state = read_tensors(trained / "run" / "stages" / "instruct" / "step-2" / "optimizer-rank0.safetensors")
    moments = {name: tensor for name, tensor in state.items() if name.endswith("exp_avg_sq")}
    learned = read_tensors(trained / "run" / "stages" / "instruct" / "step-2" / LEARNED)
    assert len(moments) == len(learned)  # only what learns is in the optimizer
    assert all(bool(tensor.any()) for tensor in moments.values())


def test_finished_stages_are_not_repeated(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    shutil.rmtree(run / "stages" / "instruct")
    before = {path: path.stat().st_mtime_ns for path in (run / "stages" / "align").rglob("*.safetensors")}
    said = finish_saying(trained / "recipe.yaml", run, ["stages.align.monitor.csv=true"])
    assert "stage instruct" in said and "stage align" not in said
    assert {path: path.stat().st_mtime_ns for path in (run / "stages" / "align").rglob("*.safetensors")} == before
    assert metrics(run) == metrics(trained / "run")
    assert "stage" not in finish_saying(trained / "recipe.yaml", run, ["stages.align.monitor.csv=true"]).split("all")[0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages.align.train={connectors.image: 1.0e+30}", "stages.align.clip=0"], r"the loss is (nan|inf) in step"),
        (["stages.align.deepspeed={zero_optimization: {bucket: 3}}"], "RecipeError: DeepSpeed refuses"),
        (["data.pictures.media=."], "samples are bad, over the stage's max_bad"),
        (["stages.align.tokens=20"], "over the stage's tokens of 20"),
    ],
)
def test_what_cannot_go_on_says_why(trained: Path, tmp_path: Path, overrides: list[str], said: str) -> None:
    import re

    assert re.search(said, finish_saying(trained / "recipe.yaml", tmp_path / "run", overrides, code=2))


def test_another_number_of_ranks_inside_a_stage_is_refused(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    shutil.rmtree(run / "stages" / "instruct" / "step-4")
    edit_manifest(run / "stages" / "instruct" / "step-2" / "manifest.json", world=2)
    said = finish_saying(trained / "recipe.yaml", run, ["stages.align.monitor.csv=true"], code=2)
    assert "was written by 2 ranks and this run has 1" in said


def test_bfloat16_trains(trained: Path, tmp_path: Path) -> None:
    finish_saying(trained / "recipe.yaml", tmp_path / "run", ["llm.dtype=bfloat16", "stages.instruct.zero=2"])
    exact, rough = metrics(trained / "run"), metrics(tmp_path / "run")
    assert [row["loss"] for row in rough] == pytest.approx([row["loss"] for row in exact], rel=0.05)
    assert read_tensors(tmp_path / "run/stages/instruct/step-4" / LEARNED).keys()


def test_launcher_starts_two_cpu_ranks(trained: Path, tmp_path: Path) -> None:
    recipe = trained / "recipe.yaml"
    assert launch(recipe, ["connectors.lora.dropout=0.0"], gpus=2, out=tmp_path / "run") == 0
    assert [row["samples"] for row in metrics(tmp_path / "run")] == [4] * 8
    assert sorted(path.name for path in (tmp_path / "run/stages/instruct/step-4").glob("*rank*.safetensors")) == [
        "optimizer-rank0.safetensors",
        "optimizer-rank1.safetensors",
    ]


def test_ranks_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    """A rank whose launcher's command is killed hears SIGTERM, as if somebody had asked it to stop."""
    rank = (
        "import os, signal, sys, time; from mmllm.training import distributed\n"
        "with distributed.StopSignals() as stop:\n"
        "    distributed.follow_launcher(every=0.05); print('follows', flush=True)\n"
        "    while not stop.received: time.sleep(0.01)\n"
        f"open({str(tmp_path / 'heard')!r}, 'w').write(str(stop.received))\n"
    )
    command = (
        "import os, platform, subprocess, sys\n"
        "there = {**os.environ, 'MMLLM_LAUNCHER': f'{platform.node()}:{os.getpid()}'}\n"
        f"subprocess.run([sys.executable, '-c', {rank!r}], env=there, start_new_session=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "follows\n"
        process.kill()
        ended = time.monotonic() + 30
        while not (tmp_path / "heard").exists() and time.monotonic() < ended:
            time.sleep(0.05)
    assert (tmp_path / "heard").read_text() == str(int(signal.SIGTERM))


def test_ranks_are_told_which_command_started_them(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmllm.training import launch as module

    seen: dict[str, str] = {}

    class Popen:
        """Notes the environment that the launcher's process would get."""

        def __init__(self, command: list[str], env: dict[str, str], start_new_session: bool) -> None:
            seen.update(env)

        def __enter__(self) -> Popen:
            return self

        def __exit__(self, *exc: object) -> None: ...

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(module.subprocess, "Popen", Popen)
    assert launch(trained / "recipe.yaml", gpus=2, out=trained / "never") == 0
    assert seen["MMLLM_LAUNCHER"] == f"{platform.node()}:{os.getpid()}"


def test_launch_refuses_what_it_cannot_start(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=r"--gpus is 0"):
        launch(trained / "recipe.yaml", gpus=0)
    with pytest.raises(MmllmError, match=r"no such file; give a DeepSpeed hostfile"):
        launch(trained / "recipe.yaml", nodes=tmp_path / "hosts")
