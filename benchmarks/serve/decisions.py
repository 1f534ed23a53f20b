"""How far decisions can be trusted: ``python -m benchmarks.serve.decisions RUN --data FOLDER``; writes DECISIONS.md.

Questions of easy-VQA's test split to a run that sees (``mmllm train recipes/real/real.yaml``): of yes or no as
predicates, of shapes and colours as choices. ``mmllm calibrate`` fits on half and measures on the other; then a server
is asked choices with their options in other orders.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

PAGE = Path("benchmarks/serve/DECISIONS.md")
ORDERS, ASKED = 6, 20


def known(folder: Path, n: int, seed: int) -> list[dict[str, Any]]:
    """n questions of each sort, drawn; those of yes or no are as often answered yes as no."""
    rows = json.loads((folder / "test" / "questions.json").read_text())
    words = sorted({answer for _, answer, _ in rows if answer not in ("yes", "no")})
    shapes = [word for word in words if word in ("circle", "rectangle", "triangle")]
    colours = [word for word in words if word not in shapes]
    sorts: dict[str, list[dict[str, Any]]] = {"yes": [], "no": [], "choice": []}
    for text, answer, image in rows:
        row = {
            "question": text,
            "answer": answer,
            "image": str((folder / "test" / "images" / f"{image}.png").resolve()),
        }
        if answer in ("yes", "no"):
            sorts[answer].append(row)
        else:
            sorts["choice"].append({**row, "options": shapes if answer in shapes else colours})
    draw = Random(seed)
    counts = {"yes": n // 2, "no": n // 2, "choice": n}
    return [row for sort, found in sorts.items() for row in draw.sample(found, counts[sort])]


def moved(run: Path, rows: list[dict[str, Any]]) -> float:
    """Largest difference of an option's probability between orders in which a server is sent the options."""
    import base64

    from fastapi.testclient import TestClient

    from mmllm.serving.app import load_app

    draw, most = Random(0), 0.0
    recipe, app = load_app(run)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for row in rows[:ASKED]:
            shown = f"data:image/png;base64,{base64.b64encode(Path(row['image']).read_bytes()).decode()}"
            body = {
                "model": recipe.name,
                "input": [{"role": "user", "content": [{"type": "input_image", "image_url": shown}]}],
            }
            seen: dict[str, set[float]] = {}
            for order in range(ORDERS + 1):
                options = draw.sample(row["options"], len(row["options"]))
                question = {
                    "type": "choice",
                    "instructions": row["question"],
                    "choices": [{"value": one} for one in options],
                }
                answer = client.post("/v1/decisions", json={**body, "questions": [question]}).json()["answers"][0]
                if order:  # by the first the picture is read; from then on the prompt is known
                    for one in answer["probabilities"]:
                        seen.setdefault(one["value"], set()).add(one["probability"])
            most = max(most, *(max(found) - min(found) for found in seen.values()))
    return most


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.decisions", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="easy-VQA, with test/questions.json")
    parser.add_argument("--questions", type=int, default=400, metavar="N", help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from benchmarks.demo import machine
    from mmllm.calibration.calibrate import calibrate

    rows = known(asked.data, asked.questions, asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(asked.run, Path(folder) / "run"))
        file = Path(folder) / "known.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = calibrate(run, str(file), seed=asked.seed)
        change = moved(run, [row for row in rows if "options" in row])
    lines = [
        "# How far decisions can be trusted",
        "",
        f"Written by `python -m benchmarks.serve.decisions {asked.run} --data FOLDER --questions {asked.questions} "
        f"--seed {asked.seed}`. Questions of easy-VQA's test split: half of them, by their pictures, fit the scale, "
        "the other half has the figures, before -> after. *nll*: negative log likelihood; *Brier*: squared error "
        "summed over options; *ECE*: calibration error in ten groups of as many questions.",
        "",
        "| kind | n | slope | bias | nll | Brier | ECE | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, one in found.measured.items():
        scale, before, after = found.of(kind), one["before"], one["after"]
        cells = [f"{before[name]:.3f} -> {after[name]:.3f}" for name in ("nll", "brier", "ece", "accuracy")]
        lines.append(f"| {kind} | {one['n']} | {scale.slope:.3g} | {scale.bias:.3g} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Options sent in {ORDERS} orders, {ASKED} choices: probabilities differ by {change:.1e} at most.",
        "",
        f"Machine: {machine()}.",
    ]
    PAGE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
