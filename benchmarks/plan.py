"""What `mmllm plan` says of a step's memory beside what the step takes: ``python -m benchmarks.plan run``.

Four recipes with random parts of middling size; each is planned in one fresh process and trained for a few steps in
another, on the CPU, in float32, one thread. Memory is the process's resident memory beyond what it had with all
libraries imported, at its highest. Rewrites benchmarks/PLAN.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.demo import machine
from benchmarks.speed.measure import status

RESULTS = Path("benchmarks/PLAN.md")
BOUND = 0.15
RECIPES: dict[str, dict[str, Any]] = {
    "projector": {"llm": "8x512", "connectors": {}, "train": {"connectors.image": 1e-3}, "stage": {}},
    "projector and LoRA": {
        "llm": "8x512",
        "connectors": {"lora": {"type": "lora", "rank": 16}},
        "train": {"connectors.image": 1e-3, "connectors.lora": 1e-3},
        "stage": {},
    },
    "projector, 152k tokens": {
        "llm": "8x512, 152k",
        "connectors": {},
        "train": {"connectors.image": 1e-3},
        "stage": {},
    },
    "copied blocks in the LLM, recomputed": {
        "llm": "8x512",
        "connectors": {"inner": {"type": "inner_adaptor", "after": [1, 3, 5], "init": "copy", "when": ["image"]}},
        "train": {"connectors.image": 1e-3, "connectors.inner": 1e-3},
        "stage": {"gradient_checkpointing": True, "batch": 8, "micro_batch": 4},
    },
}
"""Name -> LLM (a shape of random_parts), connectors beside the projector, what learns, words of the stage."""
WORDS = [12, 40, 120, 60, 16, 90, 30, 200, 25, 70, 45, 150]
STEPS = 2
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""Lets glibc give every tensor back as soon as nothing holds it, instead of keeping it for the next of its size."""


def recipe_file(folder: Path, name: str) -> Path:
    """Write a recipe and the parts it names."""
    import yaml

    from benchmarks.random_parts import conversations, llm_folder, vit_folder

    words = RECIPES[name]
    data = conversations(folder / "data", WORDS)
    llm = llm_folder(folder / f"llm {words['llm']}", words["llm"])
    vit = vit_folder(folder / "vit", "6x384")
    stage = {"train": words["train"], "data": {"chat": 1.0}, "steps": STEPS, "batch": 4, "save_every": 100}
    recipe = {
        "llm": {"path": str(llm), "dtype": "float32", "context": 2048},
        "encoders": {"image": {"type": "hf_vision", "model": str(vit), "layers": [-2]}},
        "connectors": {"image": {"type": "mlp", "from": "image"}, **words["connectors"]},
        "data": {"chat": {"type": "chat_jsonl", "path": str(data), "media": str(data.parent)}},
        "stages": {"learn": {**stage, **words["stage"]}},
    }
    path = folder / f"{list(RECIPES).index(name)}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def planned(path: Path) -> dict[str, Any]:
    """What the plan says of the recipe's only stage, in bytes."""
    from mmllm.planning.plan import Machine, plans
    from mmllm.recipe.load import load_recipe

    before = status("VmRSS")
    plan = next(iter(plans(load_recipe(path), None, Machine())))
    held, cost = plan.held, plan.cost
    found = {"weights": held.weights, "gradients": held.gradients, "optimizer": held.optimizer}
    taken = status("VmHWM") - before
    return {**found, "activations": cost.activations, "total": plan.peak, "own": taken, "tokens": cost.n_tokens}


def measured(path: Path, out: Path) -> dict[str, Any]:
    """Train the recipe's only stage; resident memory at its highest beyond that of the imported libraries, in bytes."""
    import torch

    from mmllm.recipe.load import load_recipe
    from mmllm.training import distributed
    from mmllm.training.log import Log
    from mmllm.training.run_folder import Metrics  # noqa: F401 (imported before memory is read)
    from mmllm.training.stage import StageTraining

    torch.set_num_threads(1)
    device = distributed.init_distributed()
    recipe = load_recipe(path)
    import mmllm.connectors.llm_adapters.inner_adaptor
    import mmllm.connectors.llm_adapters.lora
    import mmllm.connectors.projectors.mlp
    import mmllm.datasets.chat
    import mmllm.encoders.image.hf_vision  # noqa: F401

    before = status("VmRSS")
    training = StageTraining(recipe, "learn", out, device, None)
    built = status("VmRSS") - before
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # what loading took does not count
    with Log("learn", training.n_steps, 100, shown=False) as log, distributed.StopSignals() as stop:
        training.train(stop, log)
    return {"built": built, "total": status("VmHWM") - before}


def fresh(action: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Result of an action of this module in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plan", action, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(folder: Path, names: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Name -> ``plan``, and ``step`` with and without an allocator that keeps what is freed."""
    found = {}
    for name in names:
        path = recipe_file(folder, name)
        runs = [folder / f"run {path.stem} {number}" for number in range(2)]
        for out in runs:
            out.mkdir(parents=True)
        found[name] = {
            "plan": fresh("planned", str(path)),
            "step": fresh("measured", str(path), str(runs[0]), **AT_ONCE),
            "kept": fresh("measured", str(path), str(runs[1])),
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def table(found: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Markdown, in MB; the difference is of what is planned from what was taken."""
    lines = [
        "| recipe | weights | gradients | optimizer | activations | planned | held | difference | resident |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        plan, step = one["plan"], one["step"]
        kinds = " | ".join(f"{plan[word] / 1e6:,.0f}" for word in ("weights", "gradients", "optimizer", "activations"))
        off = plan["total"] / step["total"] - 1
        totals = " | ".join(f"{number / 1e6:,.0f}" for number in (plan["total"], step["total"]))
        lines.append(f"| {name} | {kinds} | {totals} | {off:+.1%} | {one['kept']['total'] / 1e6:,.0f} |")
    return "\n".join(lines)


def run(names: Sequence[str]) -> None:
    """Compare all, and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder), names)
    worst = max(abs(one["plan"]["total"] / one["step"]["total"] - 1) for one in found.values())
    own = max(one["plan"]["own"] for one in found.values())
    RESULTS.write_text(
        "# What `mmllm plan` says beside what a step takes\n\nWritten by `python -m benchmarks.plan run`. Random Qwen2 "
        "of 8 blocks, width 512, and a ViT of 6 blocks, width 384 (256 tokens a picture), float32, on the CPU, one "
        f"thread, ZeRO 0, {STEPS} steps. MB beyond the imported libraries; planned without reading a weight, in a "
        f"process that took {own / 1e6:,.0f} MB for it at most. Held: the resident memory's highest in a fresh process "
        "whose allocator gives every tensor back at once (`MALLOC_MMAP_THRESHOLD_=131072`), which is what a GPU's "
        "`max_memory_allocated` says. Resident: the same with glibc's own settings, which keep what was freed for the "
        f"next tensor. Wanted: planned within {BOUND:.0%} of held; the worst here is {worst:.1%}.\n\n{table(found)}\n\n"
        f"Machine: {machine()}.\n",
        encoding="utf-8",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """``run`` compares; the other actions are what it starts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("action", choices=["run", "planned", "measured"])
    parser.add_argument("paths", nargs="*", type=Path)
    options = parser.parse_args(argv)
    if options.action == "run":
        run(list(RECIPES))
    else:
        print(json.dumps({"planned": planned, "measured": measured}[options.action](*options.paths)))


if __name__ == "__main__":
    main()
