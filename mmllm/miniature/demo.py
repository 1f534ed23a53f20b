"""The main job in small, start to end: what ``mmllm demo`` and ``make demo`` run on the committed miniature parts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.recipe.files import folder
from mmllm.recipe.shipped_parts import HOME, place_parts
from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from rich.console import Console

RECIPE = "mini/demo.yaml"
WORLD = HOME / "world"
SHOWN = ("mini_scenes", "mini_digits", "mini_documents")


def run(out: Path = Path("runs/demo")) -> None:
    """Check, draw the world, train both stages, evaluate with and without the image, answer three questions.

    Works in any folder: parts, world and run are put below it. Rerunning continues where an earlier run stopped; a
    finished run is only evaluated and shown again.
    """
    from rich.console import Console

    console = Console()
    started = time.time()
    recipe = folder() / RECIPE
    _check(recipe, console)
    _draw_world(console)
    _train(recipe, out, console)
    results = _evaluate(out, console)
    _answer(out, console)
    _say_what_next(out, results, time.time() - started, console)


def _check(recipe: Path, console: Console) -> None:
    """Every check of the recipe that needs no torch; then the parts it names are there."""
    from mmllm.recipe.load import load_recipe

    console.rule("[bold]1  check")
    loaded = load_recipe(recipe)
    console.print(f"{recipe}: {loaded.name}, stages {', '.join(loaded.stages)}")
    placed = place_parts(loaded)
    if placed:
        console.print(placed)


def _draw_world(console: Console) -> None:
    """Draw the pictures and questions once; they are not committed because a seed makes them again bit for bit."""
    from mmllm.miniature.tasks.images import write_world

    console.rule("[bold]2  draw the miniature world")
    if (WORLD / "complete").is_file():
        console.print(f"{WORLD} is there already")
        return
    started = time.time()
    write_world(WORLD)
    console.print(f"{WORLD}: drawn in {time.time() - started:.0f} s")


def _train(recipe: Path, out: Path, console: Console) -> None:
    """Both stages through DeepSpeed, in this process."""
    from mmllm.training.launch import launch

    console.rule("[bold]3  train: align, then instruct")
    launch(recipe, overrides=(), gpus=1, nodes=None, out=out)


def _evaluate(out: Path, console: Console) -> dict[str, Any]:
    """Score the test split with the image and, beside it, without."""
    from mmllm.evaluation.run import evaluate

    console.rule("[bold]4  evaluate, with the image and blind")
    return evaluate(out, benchmarks=None, limit=None, blind=True)


def _questions() -> list[tuple[Path, Sample, list[str]]]:
    """The first held-out question of each benchmark shown: (picture, sample, accepted answers)."""
    chosen = []
    for name in SHOWN:
        with (WORLD / "test" / f"{name}.jsonl").open() as lines:
            row = json.loads(lines.readline())
        picture = WORLD / "test" / row["image"]
        message = Message("user", f"<image>\n{row['question']}")
        chosen.append((picture, Sample(row["id"], (message,), {"image": (picture,)}), row["answers"]))
    return chosen


def _answer(out: Path, console: Console) -> None:
    """Three held-out pictures, drawn in the terminal, each with its question and the model's own answer."""
    from PIL import Image

    from mmllm.checkpoints.load import load_run
    from mmllm.drawing.terminal_image import draw
    from mmllm.generation.generator import Generator

    console.rule("[bold]5  three questions about pictures it has never seen")
    _, model = load_run(out)
    generator = Generator(model)
    for path, sample, answers in _questions():
        with Image.open(path) as picture:
            console.print(draw(picture.convert("RGB"), width=48))
        reply = generator.generate([sample], max_new_tokens=24)[0].text.strip()
        question = sample.messages[-1].text.removeprefix("<image>\n")
        console.print(f"[bold]{question}[/] [green]{reply}[/] [dim](truth: {answers[0]})[/]\n")


def _say_what_next(out: Path, results: dict[str, Any], seconds: float, console: Console) -> None:
    """The scores in one line, and how to go on."""
    from mmllm.serving.page import page_command

    scores = ", ".join(
        f"{name} {row['score']:.3f} (blind {row['blind']:.3f})" for name, row in results["benchmarks"].items()
    )
    console.rule("[bold]done")
    console.print(f"{scores}; {seconds:.0f} s in all")
    console.print(
        f"Chat in the terminal:   mmllm chat {out}\n"
        f"Chat in the browser:    mmllm serve {out}   and beside it   {page_command()}\n"
        f"Swap the encoder:       mmllm train mini/swap_encoder && mmllm eval runs/swap_encoder"
    )
