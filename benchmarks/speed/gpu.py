"""One GPU in six minutes: ``python -m benchmarks.speed.gpu run`` (``--tiny``: a minute on a CPU, to try the script).

Stage 1 (projector) and stage 2 (projector and LoRA) in bfloat16 with ZeRO 2, on random LLMs of the shapes of
Qwen2.5-0.5B and -7B behind a ViT-L of 336 pixels, beside a padded transformers loop on the same weights and card:
samples a second, share of the card's peak (MFU), memory planned and held. Then answers to 1, 8 and 64 requests at once.
Each case has a process of its own; what there is no time for is left out and named. Rewrites benchmarks/speed/GPU.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/speed/GPU.md")
LIMIT = 350.0
"""Seconds for all of it, making the random weights included."""
WANTED = 558_000
"""Samples of LLaVA's first stage, whose GPU hours are told."""
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Part of a card's name -> dense bfloat16 operations a second, by its maker."""
CLIENTS = (1, 8, 64)
LORA = {"lora": {"type": "lora", "rank": 16, "alpha": 32}}


@dataclass(frozen=True)
class Case:
    """One training step that is measured."""

    llm: str
    """A shape of ``random_parts``."""
    vit: str
    vocab: int
    stage: int
    batch: int


CASES = {
    "0.5B stage 1": Case("0.5B", "ViT-L", 151_936, 1, 32),
    "0.5B stage 2": Case("0.5B", "ViT-L", 151_936, 2, 32),
    "7B stage 1": Case("7B", "ViT-L", 152_064, 1, 8),
    "7B stage 2": Case("7B", "ViT-L", 152_064, 2, 8),
}
TINY = {
    "tiny stage 1": Case("tiny", "tiny", 32_000, 1, 4),
    "tiny stage 2": Case("tiny", "tiny", 32_000, 2, 4),
}
WORDS = (20, 60, 110, 35, 80, 15, 150, 45)
"""Words of the answers, in turns: with the miniature tokenizer about as many tokens as LLaVA's data have."""


def recipe_file(folder: Path, case: Case) -> Path:
    """Write the recipe of a case, and the parts it names where they are not there yet."""
    import torch
    import yaml

    from benchmarks.random_parts import conversations, llm_folder, vit_folder

    cuda = torch.cuda.is_available()
    parts = folder / case.llm
    # the names by which benchmarks.speed.llava finds them
    llm = llm_folder(parts / f"llm_{case.vocab}", case.llm, torch.bfloat16 if cuda else torch.float32)
    vit = vit_folder(parts / "vit", case.vit)
    data = conversations(folder / "data", [WORDS[n % len(WORDS)] for n in range(case.batch)])
    learned = ["connectors.image", *(["connectors.lora"] if case.stage == 2 else [])]
    stage = {
        # so small that no step moves a weight
        "train": dict.fromkeys(learned, 1e-12),
        "data": {"chat": 1.0},
        "steps": 1000,
        "batch": case.batch,
        "warmup": 0.0,
        "schedule": "constant",
        "zero": 2,
    }
    recipe = {
        "llm": {"path": str(llm), "dtype": "bfloat16" if cuda else "float32", "context": 2048},
        "encoders": {"image": {"type": "hf_vision", "model": str(vit), "layers": [-2]}},
        "connectors": {"image": {"type": "mlp", "from": "image"}, **(LORA if case.stage == 2 else {})},
        "data": {"chat": {"type": "chat_jsonl", "path": str(data), "media": str(data.parent)}},
        "stages": {"learn": stage},
    }
    path = folder / f"{case.llm}-{case.stage}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def training_case(folder: Path, case: Case, seconds: float) -> dict[str, Any]:
    """Samples a second and memory of our step and of the padded loop, in this process."""
    from benchmarks.speed.llava import Loop, NeverStopped, padded
    from mmllm.planning.plan import Machine, plans
    from mmllm.recipe.load import load_recipe
    from mmllm.training import distributed
    from mmllm.training.stage import StageTraining

    path = recipe_file(folder, case)
    device = distributed.init_distributed()
    recipe = distributed.resolved(load_recipe(path))
    machine = Machine(1, _card_memory())
    plan = next(iter(plans(recipe, None, machine)))
    flops, peak = sum(plan.cost.flops.values()), plan.peak
    training = StageTraining(recipe, "learn", folder / f"run {path.stem}", device, None)
    step = next(training.loader.steps())
    ours = _timed(lambda: training._step(step, NeverStopped())[0]["loss"], seconds)  # type: ignore[arg-type]
    row = step.micro[0].to(device)
    batch = padded(row, pixel_values=row.media["image"]["image"]["pixels"])
    other = _llava(training, case)
    dtype = training.model.llm.dtype
    batch = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
    training.engine.close()
    finish = Loop(other)
    theirs = _timed(lambda: finish(other(**batch).loss), seconds)
    return {
        "samples_s": case.batch / ours["seconds"],
        "flops_s": flops / ours["seconds"],
        "planned": peak,
        "held": ours["memory"],
        "loss": ours["result"],
        "their_samples_s": case.batch / theirs["seconds"],
        "their_memory": theirs["memory"],
        "their_loss": theirs["result"],
        "tokens": step.micro[0].n_tokens,
        "pad_efficiency": float(batch["attention_mask"].float().mean()),
    }


def _llava(training: Any, case: Case) -> Any:
    """LLaVA of transformers on the weights of ours, made where they are: on a CPU 7 billion numbers take minutes."""
    import torch

    from benchmarks.speed.llava import llava, with_lora

    model, before = training.model, torch.get_default_dtype()
    try:
        torch.set_default_dtype(model.llm.dtype)
        with training.device:
            other = llava(model, Path(training.recipe.llm.path).parent, case.vocab)
            return with_lora(other, model) if case.stage == 2 else other
    finally:
        torch.set_default_dtype(before)


def serving_case(folder: Path, case: Case, seconds: float, new: int) -> dict[str, Any]:
    """Tokens a second where so many requests are answered at once, each about a picture of its own."""
    import torch

    from mmllm.generation.generator import Generator
    from mmllm.model.build import build
    from mmllm.recipe.load import load_recipe
    from mmllm.types import Message, Sample

    model = build(load_recipe(recipe_file(folder, case)))
    generator = Generator(model)
    generator.end_ids = frozenset()
    pictures = sorted((folder / "data").glob("*.png"))
    found: dict[str, Any] = {}
    for n in CLIENTS:
        asked = [Message("user", "<image>\nWhat is in this picture?")]
        samples = [Sample(f"{i}", tuple(asked), {"image": (pictures[i % len(pictures)],)}) for i in range(n)]
        timed = _timed(lambda samples=samples: generator.generate(samples, new), seconds, least=1)  # type: ignore[misc]
        found[str(n)] = {"tokens_s": n * new / timed["seconds"], "memory": timed["memory"]}
    return {"clients": found, "device": str(torch.device(model.llm.device))}


def _timed(work: Callable[[], Any], seconds: float, least: int = 2) -> dict[str, Any]:
    """Seconds of one call after a first one, on average over ``seconds``; the most memory held, the last result."""
    import torch

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    work()
    n, start = 0, time.perf_counter()
    while n < least or time.perf_counter() - start < seconds:
        result = work()
        if cuda:
            torch.cuda.synchronize()
        n += 1
    spent = (time.perf_counter() - start) / n
    return {"seconds": spent, "memory": torch.cuda.max_memory_allocated() if cuda else 0, "result": result, "n": n}


def _card_memory() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def card() -> tuple[str, float | None]:
    """Name of the device, and its peak where that is known; of a CPU the measured rate of float32 products."""
    import torch

    from benchmarks.demo import machine
    from mmllm.planning.rate import measured_rate

    if not torch.cuda.is_available():
        return machine(), measured_rate()
    name = torch.cuda.get_device_name(0)
    return f"{name}, torch {torch.__version__}", next((PEAKS[part] for part in PEAKS if part in name), None)


def run(tiny: bool, out: Path) -> None:
    """All cases within the limit, each in a process of its own; writes the page."""
    cases = TINY if tiny else CASES
    names = [*cases, f"serving {next(iter(cases.values())).llm}"]
    # small ones first: what is left out for lack of time is what takes longest to load
    began, found, left = time.monotonic(), {}, []
    with tempfile.TemporaryDirectory(prefix="mmllm-gpu-") as folder:
        for name in names:
            room = LIMIT - (time.monotonic() - began)
            command = [sys.executable, "-m", "benchmarks.speed.gpu", "case", name, "--folder", folder]
            done = _within(command + ["--tiny"] * tiny, room)
            if isinstance(done, str):
                left.append(f"{name} ({done})")
            else:
                found[name] = done
                print(name, json.dumps(done), flush=True)
    out.write_text(page(found, left, time.monotonic() - began), encoding="utf-8")


def _within(command: Sequence[str], room: float) -> dict[str, Any] | str:
    """What a case printed last, or why there is nothing."""
    if room < 20:
        return "no time left"
    try:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=room, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return f"not done within the {room:.0f} s that were left"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["ended without a word"])[-1]
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def page(found: dict[str, Any], left: Sequence[str], seconds: float) -> str:
    """The page: both tables, and what is not in them."""
    name, peak = card()
    heads = ("step", "samples/s", "transformers", "times", "MFU", "held, planned", "transformers'", "558k samples")
    lines = [
        "# Speed on one device\n\nWritten by `python -m benchmarks.speed.gpu run`. Random weights, losses compared; "
        f"memory in GiB, time of 558k samples in hours of one card. Device: {name}. {seconds:.0f} s in all.\n",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for case, one in found.items():
        if "samples_s" in one:
            held, planned, theirs = (one[word] / 2**30 for word in ("held", "planned", "their_memory"))
            cells = (
                case,
                f"{one['samples_s']:.2f}",
                f"{one['their_samples_s']:.2f}",
                f"{one['samples_s'] / one['their_samples_s']:.2f}",
                f"{one['flops_s'] / peak:.0%}" if peak else "unknown",
                f"{held:.1f}, {planned:.1f}",
                f"{theirs:.1f}",
                f"{WANTED / one['samples_s'] / 3600:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    for case, one in found.items():
        if "clients" in one:
            lines += [f"\n| {case}: requests at once | tokens/s | memory (GiB) |", "|---|---|---|"]
            lines += [
                f"| {n} | {row['tokens_s']:.0f} | {row['memory'] / 2**30:.1f} |" for n, row in one["clients"].items()
            ]
    lines += [f"\nLeft out: {'; '.join(left)}."] if left else []
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """``run`` measures and writes; ``case`` is what it starts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.gpu", description=__doc__)
    parser.add_argument("action", choices=["run", "case"])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--tiny", action="store_true", help="parts of a few megabytes, for a CPU")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    if options.action == "run":
        run(options.tiny, options.out)
        return
    cases = TINY if options.tiny else CASES
    seconds = 0.5 if options.tiny else 8.0
    if options.name in cases:
        answer = training_case(options.folder, cases[options.name], seconds)
        # both have the same weights and data: in bfloat16 their sums differ in order
        assert abs(answer["loss"] / answer["their_loss"] - 1) < (1e-3 if options.tiny else 2e-2), answer
    else:
        answer = serving_case(options.folder, next(iter(cases.values())), seconds, 8 if options.tiny else 64)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
