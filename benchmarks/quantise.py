"""A frozen LLM in 8 and 4 bits beside the plain one: ``python -m benchmarks.quantise table``.

The miniature LM, which was trained, on the miniature world's committed examples: loss per label of the first stage's
model, the direction of the projector's gradient, and bytes; for the shapes of real LLMs the bytes alone, from their
configurations. Rewrites its table in docs/training.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.demo import machine, put
from benchmarks.random_parts import LLMS
from mmllm.llms.quantisation import WEIGHT_BYTES

PAGE = Path("docs/training.md")
FOLDER = Path("data/mini/fixtures")
WORDS = ("null", "int8_weight_only", "int8", "nf4")


def loss_and_gradient(word: str) -> tuple[float, Tensor, int]:
    """Loss per label, the projector's gradient as one row, and bytes of the LLM's weights."""
    from mmllm.model.build import build
    from mmllm.model.trainable import set_trainable
    from mmllm.planning.workload import fullest, workload
    from mmllm.recipe.load import load_recipe

    data = [f"data.captions.path={FOLDER}/captions.jsonl", f"data.captions.media={FOLDER}"]
    words = [*data, f"llm.quantize={word}", "stages.align.batch=24", "stages.align.steps=1"]
    recipe = load_recipe(Path("recipes/mini/demo.yaml"), words)
    model = build(recipe, "cpu")
    set_trainable(model, recipe.stages["align"].train)
    batch = fullest(workload(recipe, "align", model), recipe.stages["align"], 1, 1, model)
    loss = model.train()(batch)[0] / batch.n_labels
    loss.backward()
    gradients = [p.grad.flatten() for p in model.connectors["image"].parameters() if p.grad is not None]
    size = sum(p.numel() * p.element_size() for p in model.llm.parameters())
    return float(loss.detach()), torch.cat(gradients), size


def of_shape(name: str, word: str) -> float:
    """Bytes of the weights of an LLM of this shape, what is not quantised in bfloat16."""
    shape = LLMS[name]
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    linears = shape["num_hidden_layers"] * (2 * width * width + 2 * width * keys + 3 * width * inner)
    tables = shape["vocab_size"] * width * (1 if shape.get("tie_word_embeddings") else 2)
    return linears * WEIGHT_BYTES.get(word, 2.0) + 2.0 * tables


def table() -> str:
    """Markdown."""
    lines = [
        "| `llm.quantize` | loss | difference | projector's gradient: cosine | miniature LM | 0.5B | 7B |",
        "|---|---|---|---|---|---|---|",
    ]
    plain, direction, _ = loss_and_gradient("null")
    for word in WORDS:
        loss, gradient, size = loss_and_gradient(word)
        cosine = float(torch.nn.functional.cosine_similarity(gradient, direction, dim=0))
        real = " | ".join(f"{of_shape(name, word) / 2**30:.2f} GiB" for name in ("0.5B", "7B"))
        name = "none" if word == "null" else word
        lines.append(f"| {name} | {loss:.4f} | {loss / plain - 1:+.2%} | {cosine:.4f} | {size / 1e6:.2f} MB | {real} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantise", description=__doc__)
    parser.add_argument("action", choices=["table"])
    parser.parse_args(argv)
    torch.set_num_threads(1)
    note = (
        "Loss per label of `recipes/mini/demo.yaml` before its first step on 24 committed captions, in float32; the "
        "miniature LM's weights as they lie in memory, those of LLMs of the shapes of Qwen2.5 by their configurations "
        f"with the rest in bfloat16. {machine()}."
    )
    put(PAGE, "quantise", "benchmarks.quantise", f"{table()}\n\n{note}")


if __name__ == "__main__":
    main()
