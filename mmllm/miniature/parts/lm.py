"""Trains the miniature LM on text only, resumably, bit-equal on one machine, and saves a Hugging Face folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from mmllm.miniature.parts.lm_acceptance import measure
from mmllm.miniature.parts.lm_curriculum import lesson
from mmllm.miniature.parts.lm_rows import Row, RowWriter
from mmllm.miniature.parts.lm_save import save_lm
from mmllm.miniature.parts.mimetic_init import new_model
from mmllm.miniature.parts.snapshot import load_snapshot, save_snapshot
from mmllm.miniature.parts.tokenizer import build_tokenizer


@dataclass(frozen=True)
class LmPlan:
    """Settings of the miniature LM and its training; the curriculum ends after `lessons` steps.

    Muon takes the hidden matrices, AdamW the embedding and the norms.
    """

    steps: int = 4500
    lessons: int = 4500
    rows: int = 32
    turns: int = 9
    width: int = 128
    layers: int = 6
    heads: int = 4
    inner: int = 384
    muon_lr: float = 0.01
    adam_lr: float = 3e-3
    cooldown: float = 0.35
    seed: int = 0
    log_every: int = 50
    gate_every: int = 300
    save_every: int = 250


def start_of(plan: LmPlan, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """The model before training."""
    return new_model(tokenizer, plan.width, plan.layers, plan.heads, plan.inner, plan.seed)


def _batch(rows: list[Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids int64[B, S, K] (K words may share a position, -1 = none), targets int64[B, S] and weights float[B, S]."""
    longest = max(len(row.positions) for row in rows)
    words = max(len(position) for row in rows for position in row.positions)
    ids = torch.full((len(rows), longest, words), -1)
    weights = torch.zeros(len(rows), longest)
    for index, row in enumerate(rows):
        for at, position in enumerate(row.positions):
            ids[index, at, : len(position)] = torch.tensor(position)
        weights[index, : len(row.weights)] = torch.tensor(row.weights)
    ids[:, :, 0].masked_fill_(ids[:, :, 0] < 0, pad)
    return ids, ids[:, :, 0], weights


def _embed(model: Qwen2ForCausalLM, ids: Tensor, generator: torch.Generator, noise: bool) -> Tensor:
    """Token embeddings; several words at one position are summed, scaled at random and given noise."""
    table = model.get_input_embeddings()
    if ids.shape[2] == 1:
        return table(ids[:, :, 0])
    held = (ids >= 0).unsqueeze(-1)
    summed = (table(ids.clamp(min=0)) * held).sum(2)
    shared = held[:, :, 1:].any(2)
    scale = 0.5 + 0.8 * torch.rand(ids.shape[0], 1, 1, generator=generator)
    level = 0.35 * torch.rand(ids.shape[0], 1, 1, generator=generator) if noise else torch.zeros(1, 1, 1)
    rough = torch.randn(summed.shape, generator=generator) * table.weight.detach().std() * level
    return torch.where(shared, scale * summed + rough, summed)


def loss_of(model: Qwen2ForCausalLM, rows: list[Row], pad: int, generator: torch.Generator) -> Tensor:
    """Weighted sum of the cross-entropies at the positions whose token is to be predicted."""
    ids, targets, weights = _batch(rows, pad)
    wanted = weights[:, 1:] > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(inputs_embeds=_embed(model, ids, generator, True), use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][wanted])
    losses = nn.functional.cross_entropy(logits.float(), targets[:, 1:][wanted], reduction="none")
    return (losses * weights[:, 1:][wanted]).sum()


def learn(model: Qwen2ForCausalLM, rows: list[Row], pad: int, generator: torch.Generator, parts: int = 4) -> float:
    """Gradients of the weighted mean loss, rows of like length together so that little is padding; gives the loss."""
    ordered = sorted(rows, key=lambda row: len(row.positions))
    size, weight, total = -(-len(rows) // parts), sum(sum(row.weights[1:]) for row in rows), 0.0
    for start in range(0, len(ordered), size):
        loss = loss_of(model, ordered[start : start + size], pad, generator) / weight
        loss.backward()
        total += float(loss.detach())
    return total


def optimizers(plan: LmPlan, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices (Jordan 2024), AdamW without decay for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=plan.muon_lr, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=plan.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def share_of_peak(step: int, plan: LmPlan) -> float:
    """Learning rate as a share of its peak: short warm-up, constant, linear to zero."""
    return min(1.0, (step + 1) / 50, (plan.steps - step) / (plan.cooldown * plan.steps))


def train_lm(plan: LmPlan, work: Path, out: Path) -> None:
    """Trains to the end of the plan, from the last snapshot in work if there is one; writes the folder out."""
    tokenizer = build_tokenizer()
    writer, model = RowWriter(tokenizer.backend_tokenizer), start_of(plan, tokenizer)
    opts = optimizers(plan, model)
    step = load_snapshot(work, model, opts)
    peaks = [group["lr"] for opt in opts for group in opt.param_groups] if step == 0 else [plan.muon_lr, plan.adam_lr]
    started, tokens, total = time.monotonic(), 0, 0.0
    model.train()
    while step < plan.steps:
        # from the step alone: a build that was stopped goes on with the same numbers
        rng, generator = Random(f"{plan.seed}/{step}"), torch.Generator().manual_seed(plan.seed + step)
        rows = [lesson(rng, writer, min(1.0, step / plan.lessons), plan.turns) for _ in range(plan.rows)]
        loss = learn(model, rows, tokenizer.pad_token_id, generator)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, peak in zip(opts, peaks, strict=True):
            opt.param_groups[0]["lr"] = peak * share_of_peak(step, plan)
            opt.step()
            opt.zero_grad(set_to_none=True)
        step, tokens, total = step + 1, tokens + sum(len(row.positions) for row in rows), total + loss
        if step % plan.log_every == 0:
            seconds = time.monotonic() - started
            print(
                f"step {step} loss {total / plan.log_every:.4f} tokens/s {tokens / seconds:.0f} s {seconds:.0f}",
                flush=True,
            )
            total = 0.0
        if step % plan.save_every == 0 or step == plan.steps:
            save_snapshot(work, model, opts, step)
        if step % plan.gate_every == 0:
            print(f"step {step} " + brief(measure(model, tokenizer, 20)), flush=True)
            save_lm(model, tokenizer, out)
            model.train()
    save_lm(model, tokenizer, out)


def brief(report: dict[str, Any]) -> str:
    """One line of a gate's report."""
    return json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in report.items()})
