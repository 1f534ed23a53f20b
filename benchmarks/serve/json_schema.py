"""What answers by a JSON Schema cost: ``python -m benchmarks.serve.json_schema``; writes JSON_SCHEMA.md beside it.

8 requests are answered at once, free and by a schema of which no answer ends, as many tokens each: CPU time, the two
ways interleaved. By the miniature LM, whose passes cost less than those of any real one, so that the share of the
grammar is the largest, and by one of random weights whose passes cost more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.demo import machine
from mmllm.generation.constraints.grammars import json_grammar
from mmllm.generation.constraints.guidance import Grammar, Guidance
from mmllm.generation.generator import Generator
from mmllm.generation.sampling import Sampling
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.types import Message, Sample

PAGE = Path("benchmarks/serve/JSON_SCHEMA.md")
LM = Path("data/mini/lm")
ROWS = 8
LARGER = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
ITEM = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0, "maximum": 9999},
        "name": {"type": "string", "maxLength": 16},
        "kind": {"enum": ["circle", "square", "triangle"]},
        "whole": {"type": "boolean"},
    },
    "required": ["id", "name", "kind", "whole"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": ITEM, "minItems": 1000}


def tokens_per_second(generator: Generator, grammar: Grammar | None, temperature: float, tokens: int) -> float:
    """Tokens of all answers, so many each, by seconds of the processor."""
    encoded = generator.encode(Sample("x", (Message("user", "List what you see."),)))
    requests = [
        generator.submit(
            encoded,
            Sampling(tokens, temperature, seed=seed),
            constraint=None if grammar is None else grammar.begin(),
        )
        for seed in range(ROWS)
    ]
    began = time.process_time()
    while not all(request.done for request in requests):
        generator.engine.step()
    seconds = time.process_time() - began
    assert all(len(request.tokens) == tokens for request in requests), "an answer ended"
    return ROWS * tokens / seconds


def rows_of(name: str, llm: CausalLM, tokens: int, rounds: int) -> list[str]:
    """Lines of the table about one LLM."""
    generator = Generator(MultimodalLM(llm, {}, {}, {}))
    guidance = Guidance(llm.tokenizer, llm.vocab_size, generator.end_ids)
    generator.end_ids = frozenset()  # free answers are as long as the others
    grammar = guidance.compile(json_grammar(SCHEMA))
    size = sum(weight.numel() for weight in llm.parameters())
    lines = []
    for way, temperature in (("greedy", 0.0), ("temperature 1", 1.0)):
        found: dict[bool, list[float]] = {False: [], True: []}
        for number in range(rounds + 1):
            # the order turns: what the first of a pair leaves in the caches would always help the same one
            for by_schema in ((False, True), (True, False))[number % 2]:
                speed = tokens_per_second(generator, grammar if by_schema else None, temperature, tokens)
                if number:  # the first warms up
                    found[by_schema].append(speed)
        costs = [100 * (1 - slow / fast) for fast, slow in zip(found[False], found[True], strict=True)]
        free, bound = (statistics.median(found[key]) for key in (False, True))
        cost = f"{statistics.median(costs):.1f} % ({min(costs):.1f} to {max(costs):.1f})"
        lines.append(
            f"| {name}, {size / 1e6:.1f} M parameters | {way} | {tokens} | {free:.0f} | {bound:.0f} | {cost} |"
        )
    return lines


def larger(folder: Path) -> CausalLM:
    """A Llama of random weights with the miniature LM's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(LM)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **LARGER)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CausalLM.load(str(folder), dtype="float32")


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.json_schema", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    lines = rows_of("miniature LM", CausalLM.load(str(LM), dtype="float32"), 96, rounds)
    with tempfile.TemporaryDirectory() as folder:
        lines += rows_of("random weights", larger(Path(folder)), 32, rounds)
    text = "\n".join(
        [
            "# What answers by a JSON Schema cost",
            "",
            f"Written by `python -m benchmarks.serve.json_schema --rounds {rounds}`: {ROWS} answers at once, "
            f"seeds 0 to {ROWS - 1}; CPU time, the two ways in turn, {rounds} rounds after one that warms up.",
            "",
            "| LLM | tokens are chosen | tokens each | tokens/s free | by the schema "
            "| cost: median (range over rounds) |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            f"{machine()}, 1 thread.",
            "",
        ]
    )
    PAGE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
