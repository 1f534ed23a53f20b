"""The miniature LM's gate: exact answers (greedy) to held-out questions about matters described in text, per kind."""

from __future__ import annotations

import math
from collections import defaultdict
from random import Random

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mmllm.miniature.parts.lm_curriculum import matter_of
from mmllm.miniature.parts.lm_rows import Row, RowWriter
from mmllm.miniature.world.described import Described
from mmllm.miniature.world.text import skill

SORTS = {"scene": 12, "document": 6, "large": 4, "digit": 1, "recall": 1, "sound": 1, "graph": 1}
GATED = ("scene", "document", "large")


def held_out_rows(writer: RowWriter, n: int, merged: bool, seed: int = 123) -> list[tuple[str, str, Row]]:
    """(sort, kind, row) of held-out single questions: n times the weights of SORTS, one description for each."""
    rng, rows = Random(f"gate/{seed}/{merged}"), []
    for sort, share in SORTS.items():
        for _ in range(n * share):
            matter = matter_of(rng, sort, 1.0, 9, held_out=True)
            one = Described(matter.matter, matter.facts, (rng.choice(matter.asks),), matter.caption, matter.ordered)
            if merged and matter.matter == "boxes":
                continue
            row = writer.merged(rng, one) if merged else writer.plain(rng, one, 0.5)
            rows.append((sort, one.asks[0].kind, row))
    if not merged:
        for _ in range(2 * n):
            asks = skill(rng, 1)
            rows.append(("skill", asks[0].kind, writer.turns(Row([], []), asks, opened=False)))
    return rows


@torch.no_grad()
def exact(model: PreTrainedModel, rows: list[Row], pad: int) -> tuple[list[bool], float]:
    """Whether greedy decoding gives each row's answer exactly, end included; and the mean NLL over all text.

    Every answer token being the most likely one given the true ones before it is the same thing as greedy decoding
    giving the answer.
    """
    right: list[bool] = []
    nll, count = 0.0, 0
    table = model.get_input_embeddings()
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        longest = max(len(row.positions) for row in part)
        embeds = torch.zeros(len(part), longest, table.embedding_dim)
        targets = torch.full((len(part), longest), pad)
        for index, row in enumerate(part):
            for at, position in enumerate(row.positions):
                embeds[index, at] = table.weight[list(position)].sum(0)
                targets[index, at] = position[0]
        logits = model(inputs_embeds=embeds, use_cache=False).logits
        for index, row in enumerate(part):
            asked = [at for at, weight in enumerate(row.weights) if weight == 1.0]
            right.append(bool((logits[index, [a - 1 for a in asked]].argmax(-1) == targets[index, asked]).all()))
            text = [at for at, weight in enumerate(row.weights) if weight > 0]
            here = nn.functional.cross_entropy(logits[index, [a - 1 for a in text]], targets[index, text])
            nll, count = nll + float(here) * len(text), count + len(text)
    return right, nll / max(1, count)


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int) -> dict[str, float]:
    """Accuracies: gate (scenes, documents, large shapes), per kind, merged positions, and perplexity of the text."""
    model.eval()
    writer = RowWriter(tokenizer.backend_tokenizer)
    rows = held_out_rows(writer, n, merged=False)
    right, nll = exact(model, [row for _, _, row in rows], tokenizer.pad_token_id)
    kinds: dict[str, list[bool]] = defaultdict(list)
    for (_, kind, _), good in zip(rows, right, strict=True):
        kinds[kind].append(good)
    gated = [good for (sort, _, _), good in zip(rows, right, strict=True) if sort in GATED]
    joint = held_out_rows(writer, n, merged=True)
    merged, _ = exact(model, [row for _, _, row in joint], tokenizer.pad_token_id)
    merged_gated = [good for (sort, _, _), good in zip(joint, merged, strict=True) if sort in GATED]
    report = {"gate": sum(gated) / len(gated), "n": len(gated), "merged": sum(merged_gated) / len(merged_gated)}
    return report | {"perplexity": math.exp(nll)} | {kind: sum(v) / len(v) for kind, v in sorted(kinds.items())}
