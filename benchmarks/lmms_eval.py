"""lmms-eval beside `mmllm eval`: the same run, the same questions, are the answers the same?

    python -m benchmarks.lmms_eval run [--python PYTHON] [--questions 100] [--steps 60]
    python -m benchmarks.lmms_eval table       writes the paragraph of docs/evaluation-and-serving.md from the figures

A run on the miniature parts (recipes/mini/two_senses.yaml) is trained for some steps on miniature pictures, clips and
sounds. `mmllm eval` asks it the questions of mini_scenes, mini_video and mini_sound; then lmms-eval's own command,
``--model mmllm``, asks it the same rows of the same files, as three tasks in YAML, and what it logs of each answer is
compared. ``--python``: an interpreter that has lmms-eval beside this package; by default this one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KEPT = Path("benchmarks/lmms_eval.json")
DOCS = Path("docs/evaluation-and-serving.md")
START, END = "<!-- lmms-eval: written by python -m benchmarks.lmms_eval table -->", "<!-- end of lmms-eval -->"
RECIPE = "recipes/mini/two_senses.yaml"
TASKS = {"mini_scenes": ("image", "world"), "mini_video": ("video", "video"), "mini_sound": ("audio", "sound")}
"""Benchmark -> modality, folder of its data."""
TRAIN = 200
"""Conversations of each modality that are drawn for training."""
NEW = 4
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function shown.{modality}
doc_to_text: question
doc_to_target: !function shown.target
generation_kwargs: {{max_new_tokens: {new}, do_sample: false, until: []}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
SHOWN = """from PIL import Image

FOLDERS = {folders!r}


def image(row):
    return [Image.open(FOLDERS["image"] + "/" + row["image"])]


def video(row):
    return [FOLDERS["video"] + "/" + row["video"]]


def audio(row):
    import soundfile

    samples, rate = soundfile.read(FOLDERS["audio"] + "/" + row["audio"], dtype="float32")
    return [{{"array": samples, "sampling_rate": rate}}]


def target(row):
    return row["answers"][0]
"""
"""Python beside the tasks: what each row shows, in the forms of lmms-eval's own tasks."""


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lmms_eval", description=__doc__)
    parser.add_argument("task", choices=["run", "table"])
    parser.add_argument("--python", default=sys.executable, help="interpreter that has lmms-eval")
    parser.add_argument("--questions", type=int, default=100, help="of each modality (default: 100)")
    parser.add_argument("--steps", type=int, default=60, help="of training (default: 60)")
    parser.add_argument("--at", type=Path, help="folder in which the run is kept, for another go")
    asked = parser.parse_args()
    if asked.task == "run":
        with tempfile.TemporaryDirectory() as place:
            found = _compared((asked.at or Path(place)).resolve(), asked.python, asked.questions, asked.steps)
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))
    _write(json.loads(KEPT.read_text(encoding="utf-8")))


def _compared(place: Path, python: str, questions: int, steps: int) -> dict[str, Any]:
    run = _trained(place, questions, steps)
    chosen = [f"{name}={{path: {place / folder}}}" for name, (_, folder) in TASKS.items()]
    _call(sys.executable, "-m", "mmllm", "eval", str(run), "--benchmarks", *chosen)
    logged = _by_lmms_eval(place, python, run)
    rows = {name: _equal(run / "predictions" / f"{name}.jsonl", logged[name]) for name in TASKS}
    version = subprocess.run(
        [python, "-c", "from importlib.metadata import version; print(version('lmms_eval'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return {"lmms_eval": version, "python": platform.python_version(), "steps": steps, "tasks": rows}


def _call(*command: str, **environment: str) -> None:
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, env={**os.environ, **quiet, **environment})


def _trained(place: Path, questions: int, steps: int) -> Path:
    """The run: its data drawn, its recipe written, some steps made."""
    import yaml

    from mmllm.miniature.tasks.images import write_world
    from mmllm.miniature.tasks.sounds import write_sound
    from mmllm.miniature.tasks.videos import write_video

    shutil.rmtree(place / "tasks", ignore_errors=True)
    shutil.rmtree(place / "logged", ignore_errors=True)
    for folder, write in (("world", write_world), ("video", write_video), ("sound", write_sound)):
        write(place / folder, TRAIN, questions, 0)
    words = yaml.safe_load(Path(RECIPE).read_text(encoding="utf-8"))
    words["data"] = {
        "scenes": {"type": "chat_jsonl", "path": str(place / "world" / "instruct.jsonl")},
        "clips": {"type": "chat_jsonl", "path": str(place / "video" / "instruct.jsonl")},
        "sounds": {"type": "chat_jsonl", "path": str(place / "sound" / "instruct.jsonl")},
    }
    rates = {f"connectors.{key}": 4e-3 for key in words["connectors"]}
    mixture = dict.fromkeys(words["data"], 1.0)
    words["stages"] = {"learn": {"train": rates, "data": mixture, "steps": steps, "batch": 8}}
    words["eval"] = {"max_new_tokens": NEW, "batch": 16}
    (place / "recipe.yaml").write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")
    _call(sys.executable, "-m", "mmllm", "train", str(place / "recipe.yaml"), "--out", str(place / "run"))
    return place / "run"


def _by_lmms_eval(place: Path, python: str, run: Path) -> dict[str, dict[str, str]]:
    """Task -> id of a row -> the answer that lmms-eval logged."""
    tasks, out = place / "tasks", place / "logged"
    tasks.mkdir()
    folders = {modality: str(place / folder / "test") for modality, folder in TASKS.values()}
    (tasks / "shown.py").write_text(SHOWN.format(folders=folders), encoding="utf-8")
    for name, (modality, folder) in TASKS.items():
        file = place / folder / "test" / f"{name}.jsonl"
        text = TASK.format(name=name, file=file, modality=modality, new=NEW)
        (tasks / f"{name}.yaml").write_text(text, encoding="utf-8")
    command = [python, "-m", "lmms_eval", "--model", "mmllm", "--model_args", f"pretrained={run},device=cpu"]
    command += ["--tasks", ",".join(TASKS), "--include_path", str(tasks), "--batch_size", "16"]
    command += ["--log_samples", "--output_path", str(out)]
    _call(*command, HF_HUB_OFFLINE="1", HF_HOME=str(place / "hub"))
    return {name: _logged(out, name) for name in TASKS}


def _logged(out: Path, name: str) -> dict[str, str]:
    (file,) = out.rglob(f"*samples_{name}.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {str(row["doc_id"]): row["filtered_resps"] for row in rows}


def _equal(predictions: Path, logged: dict[str, str]) -> dict[str, int]:
    """How many questions were asked, how many answers are the same, and how many different ones there are."""
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    same = sum(row["prediction"] == logged[str(number)] for number, row in enumerate(rows))
    return {"questions": len(rows), "equal": same, "different": len({row["prediction"] for row in rows})}


def _write(kept: dict[str, Any]) -> None:
    """Replace the table in the docs."""
    rows = ["| task | shown | answers equal to `mmllm eval` | different answers |", "|---|---|---|---|"]
    for name, found in kept["tasks"].items():
        rows.append(f"| {name} | {TASKS[name][0]} | {found['equal']} of {found['questions']} | {found['different']} |")
    text = DOCS.read_text(encoding="utf-8")
    told = f"lmms-eval {kept['lmms_eval']}, a run trained for {kept['steps']} steps:"
    block = f"{START}\n\n{told}\n\n" + "\n".join(rows) + f"\n\n{END}"
    DOCS.write_text(
        re.sub(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: block, text, flags=re.S), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
