"""Fields of miniature documents by a schema: ``python -m benchmarks.extract run`` trains and measures.

The miniature frozen parts learn (a pool projector and LoRA, as in ``recipes/mini/demo.yaml``) to write documents as
JSON, half of the time behind a solved one that looks alike. Held-out documents are then extracted with and without an
example, following the schema and freely, and scored cell by cell. ``table`` writes ``benchmarks/EXTRACT.md`` anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.demo import machine

HOME = Path("runs/extract")
RESULTS = Path("benchmarks/EXTRACT.md")
RECIPE = Path("recipes/mini/demo.yaml")
TRAIN, TEST, SHOWN = 3000, 100, 200
"""Documents: that are learned from, that are asked about, and that are shown as examples when they are."""
ASK = "read it."
CELL = {"type": "string", "maxLength": 12}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["receipt", "form", "table", "chart"]},
        "rows": {
            "type": "array",
            "maxItems": 4,
            "items": {"type": "object", "properties": {"key": CELL, "value": CELL}, "required": ["key", "value"]},
        },
    },
    "required": ["kind", "rows"],
}
LIMIT = 160


def write_documents(folder: Path, n: int, held_out: bool, seed: int) -> list[dict[str, Any]]:
    """Draw documents, each with its fields beside it; rows of ``{"image", "answer"}``."""
    from mmllm.miniature.world.documents import document
    from mmllm.miniature.world.render import draw_document

    rng, rows = Random(f"extract/{folder.name}/{seed}"), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        kind, cells = document(rng, held_out)
        path = folder / f"{number:05d}.png"
        draw_document(rng, kind, cells).save(path, compress_level=1)
        answer = {"kind": kind, "rows": [{"key": key, "value": value} for key, value in cells]}
        path.with_suffix(".json").write_text(json.dumps(answer), encoding="utf-8")
        rows.append({"image": str(path.resolve()), "answer": answer})
    return rows


def write_talks(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Conversations to learn from: every document alone, and every other one behind the most alike of the examples."""
    from mmllm.extraction.pictures import read_hash
    from mmllm.extraction.records import Examples, Record
    from mmllm.miniature.tasks.rows import write_rows

    records = [Record(Path(row["image"]), row["answer"]) for row in rows]
    examples = Examples(records[:SHOWN], lambda record: json.dumps(record.answer))
    talks: list[dict[str, object]] = []
    for number, record in enumerate(records):
        shown = examples.nearest(read_hash(record.image)) if number % 2 else None
        before = [] if shown is None else [(shown[0].image, shown[1])]
        pairs = [*before, (record.image, json.dumps(record.answer))]
        messages = [
            {"role": role, "content": text}
            for _, answer in pairs
            for role, text in (("user", f"<image>\n{ASK}"), ("assistant", answer))
        ]
        talks.append({"id": f"{number}", "messages": messages, "image": [str(image) for image, _ in pairs]})
    write_rows(path, talks)


def run(steps: int, seed: int) -> None:
    """Train, where there is no run yet, and measure."""
    from mmllm.cli import main as mmllm

    out = HOME / f"seed{seed}"
    learned = write_documents(HOME / "train", TRAIN, False, 0)
    asked = write_documents(HOME / "test", TEST, True, 0)
    write_documents(HOME / "examples", SHOWN, False, 0)
    talks = HOME / "talks.jsonl"
    write_talks(talks, learned)
    if not (out / "stages" / "instruct" / "latest").exists():
        words = [
            f"data.{name}.{word}={path}"
            for name in ("captions", "instruct")
            for word, path in (("path", talks), ("media", HOME))
        ]
        words += [
            f"seed={seed}",
            f"stages.align.steps={max(1, steps // 5)}",
            "stages.instruct.epochs=",
            f"stages.instruct.steps={steps}",
        ]
        if code := mmllm(["train", str(RECIPE), *words, "--out", str(out)]):
            raise SystemExit(code)
    (out / "extract.json").write_text(json.dumps(measure(out, asked) | {"steps": steps}, indent=1) + "\n")


def measure(out: Path, asked: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores of the ways, and how good what was retrieved is."""
    from mmllm.evaluation.metrics.fields import Counts, counts_of, record_of
    from mmllm.extraction.extract import Settings
    from mmllm.extraction.run import Truth, extract
    from mmllm.generation.model import Model

    model = Model.open(out)
    files = [Path(row["image"]) for row in asked]
    truth, found = Truth(HOME / "test", files), {}
    kinds: list[bool] = []
    for name, examples in (("0-shot", None), ("1-shot", HOME / "examples")):
        lines = extract(model, files, Settings(SCHEMA, ask=ASK, limit=LIMIT, examples=examples), say=lambda text: None)
        found[f"{name}, schema"] = {
            **truth.score(lines),
            "whole": sum(line.error is None for line in lines) / len(lines),
        }
        talks = []
        for file, line in zip(files, lines, strict=True):
            parts = [{"type": "image_url", "image_url": {"url": str(file)}}, {"type": "text", "text": ASK}]
            before: list[dict[str, Any]] = []
            if line.example is not None:
                answer = Path(line.example).with_suffix(".json").read_text()
                shown = [{"type": "image_url", "image_url": {"url": line.example}}, {"type": "text", "text": ASK}]
                before = [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}]
                kinds.append(json.loads(answer)["kind"] == json.loads(file.with_suffix(".json").read_text())["kind"])
            talks.append([*before, {"role": "user", "content": parts}])
        said = [record_of(one.text) for one in model.generate(talks, max_new_tokens=LIMIT)]
        every = [counts_of(one, row["answer"]) for one, row in zip(said, asked, strict=True)]
        total = sum(every, Counts(0.0, 0, 0))
        whole = sum(isinstance(one, dict) and one.keys() == {"kind", "rows"} for one in said) / len(said)
        found[f"{name}, free"] = {
            "field_f1": total.f1,
            "precision": total.precision,
            "recall": total.recall,
            "whole": whole,
        }
    return {"ways": found, "same_kind": sum(kinds) / len(kinds), "n": len(files)}


def table() -> str:
    """The whole of EXTRACT.md."""
    paths = sorted(HOME.glob("seed*/extract.json"))
    if not paths:
        raise SystemExit(f"no run below {HOME}: run `python -m benchmarks.extract run` first")
    lines = [
        "# Fields of miniature documents by a schema",
        "",
        "Written by `python -m benchmarks.extract table` from runs of `python -m benchmarks.extract run`; do not edit.",
        f"{TRAIN} drawn documents are learned from, {TEST} of held-out combinations are asked about, {SHOWN} others",
        "are the examples. `schema`: the answer follows it; `free`: it does not have to. *whole*: share of answers",
        "that are an object of the two keys. F1, precision and recall of the cells, `exact`.",
        "",
        f"Machine: {machine()}.",
        "",
        "| seed | steps | way | F1 | precision | recall | whole | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in paths:
        row = json.loads(path.read_text())
        for way, one in row["ways"].items():
            figures = " | ".join(f"{one[word]:.3f}" for word in ("field_f1", "precision", "recall", "whole"))
            lines.append(
                f"| {path.parent.name.removeprefix('seed')} | {row['steps']} | {way} | {figures} | {row['n']} |"
            )
    shares = ", ".join(f"{json.loads(path.read_text())['same_kind']:.2f}" for path in paths)
    lines += [
        "",
        f"Share of documents whose example, found by picture hash among {SHOWN}, is of the same kind: {shares}.",
        "",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """``run`` or ``table``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extract", description=__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument(
        "--steps", type=int, default=1500, help="of the second stage, 8 conversations each; the first has a fifth"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args(argv)
    if arguments.action == "run":
        for seed in arguments.seeds:
            run(arguments.steps, seed)
    RESULTS.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
