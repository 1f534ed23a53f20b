"""Published models there and back: imported, trained for some steps, written again for transformers, imported again.

    python -m benchmarks.round_trips run [MODEL ...]     tiny random models in the formats that their own classes save
    python -m benchmarks.round_trips table               writes the table of docs/published-models.md from the figures

Each model runs in a process of its own with one thread; what was found is kept in benchmarks/round_trips.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KEPT = Path("benchmarks/round_trips.json")
DOCS = Path("docs/published-models.md")
STEPS = 20
START, END = "<!-- round trips: written by python -m benchmarks.round_trips table -->", "<!-- end of round trips -->"


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.round_trips", description=__doc__)
    parser.add_argument("task", choices=["run", "one", "table"])
    parser.add_argument("names", nargs="*", metavar="MODEL", help="default: all")
    asked = parser.parse_args()
    if asked.task == "table":
        _write(json.loads(KEPT.read_text(encoding="utf-8")))
        return
    from mmllm.testing.tiny.published import CASES

    known = _first(CASES)
    unknown = [name for name in asked.names if name not in known]
    if unknown:
        parser.error(f"no model {unknown[0]!r}; known: {', '.join(known)}")
    for name in asked.names or known:
        if asked.task == "one":
            _keep(name, _there_and_back(name))
            continue
        threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "benchmarks.round_trips", "one", name]
        subprocess.run(command, env={**os.environ, **threads}, check=True)


def _first(cases: Any) -> list[str]:
    """The plain configuration of each model."""
    found: dict[str, str] = {}
    for name, case in cases.items():
        found.setdefault(case.name, name)
    return list(found.values())


def _keep(name: str, found: dict[str, Any]) -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    KEPT.write_text(json.dumps({**kept, name: found}, indent=1) + "\n", encoding="utf-8")
    print(name, json.dumps(found))


def _there_and_back(name: str) -> dict[str, Any]:
    import mmllm
    from mmllm.errors import MmllmError
    from mmllm.exporting.export import export_run
    from mmllm.published.importing import import_checkpoint
    from mmllm.testing.tiny.published import CASES, published_folder

    case = CASES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        published = published_folder(case.name, folder / "vlm", **case.changes)
        stages = import_checkpoint(str(published), folder / "run", tiles=case.tiles)
        found: dict[str, Any] = {"import": _largest(stages)}
        found["train"] = _trained(folder / "run", folder)
        try:
            found["export"] = _largest(export_run(folder / "run", "hf", folder / "out"))
        except MmllmError as error:
            # the folder's name is of no use in a table
            found["refused"] = str(error).replace(str(folder), "").removeprefix("/run: ")
            return found
        import_checkpoint(str(folder / "out"), folder / "again", tiles=case.tiles)
        told = [_answer(mmllm.load(folder / run)) for run in ("run", "again")]
        found["again"] = told[0] == told[1]
    return found


def _largest(stages: Sequence[Any]) -> float:
    """Largest difference of any stage."""
    return max(stage.difference for stage in stages)


def _media(model: Any) -> dict[str, Any]:
    """One item of what a model takes."""
    from mmllm.published.media.pictures import picture
    from mmllm.published.media.sounds import signal, wav

    if "image" in model.model.inputs:
        return {"image": picture(70, 40)}
    return {"audio": wav(signal(8000, 16000), 16000)}


def _answer(model: Any) -> str:
    return str(model.chat("What is on it?", max_new_tokens=8, **_media(model)))


def _trained(run: Path, folder: Path) -> dict[str, float]:
    """Loss of the first and the last of some steps of its connectors on four conversations."""
    import yaml

    import mmllm
    from mmllm.published.media.pictures import picture
    from mmllm.published.media.sounds import signal, wav

    path = run / "recipe.yaml"
    words = yaml.safe_load(path.read_text(encoding="utf-8"))
    key = next(iter(words["connectors"]))
    rows = []
    for number, said in enumerate(("A sign.", "Two birds.", "A loud noise.", "Nothing.")):
        file = f"{number}.{'png' if key == 'image' else 'wav'}"
        if key == "image":
            picture(60 + 10 * number, 50).save(folder / file)
        else:
            (folder / file).write_bytes(wav(signal(8000 + 800 * number, 16000), 16000))
        turns = [{"role": "user", "content": f"<{key}>\nWhat is {number}?"}, {"role": "assistant", "content": said}]
        rows.append({key: file, "messages": turns})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words["data"] = {"rows": {"type": "chat", "path": str(folder / "rows.jsonl")}}
    stage = {"train": {f"connectors.{key}": 1e-3}, "data": {"rows": 1.0}, "steps": STEPS, "batch": 4}
    words["stages"] = {"learn": stage}
    path.write_text(yaml.safe_dump(words, sort_keys=False), encoding="utf-8")
    mmllm.train(run)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    return {"first": losses[0], "last": losses[-1]}


def _write(kept: dict[str, dict[str, Any]]) -> None:
    """Replace the table in the docs."""
    rows = ["| model | imported | loss, trained further | written again | imported again |", "|---|---|---|---|---|"]
    for name, found in kept.items():
        train = found["train"]
        refused = found.get("refused")
        back = f"no: {refused}" if refused else _shown(found["export"])
        again = "" if refused else "the same answer" if found["again"] else "ANOTHER ANSWER"
        rows.append(
            f"| {name} | {_shown(found['import'])} | {train['first']:.2f} to {train['last']:.2f} | {back} | {again} |"
        )
    text = DOCS.read_text(encoding="utf-8")
    table = f"{START}\n\n" + "\n".join(rows) + f"\n\n{END}"
    between = f"{re.escape(START)}.*?{re.escape(END)}"
    DOCS.write_text(re.sub(between, lambda _: table, text, flags=re.S), encoding="utf-8")


def _shown(difference: float) -> str:
    return "equal" if not difference else f"equal within {max(difference, 1e-7):.0e}"


if __name__ == "__main__":
    main()
