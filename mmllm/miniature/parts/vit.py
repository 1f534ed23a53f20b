"""Trains the miniature ViT (transformers' ViTModel) by dense supervision of every cell; saves a Hugging Face folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from mmllm.miniature.parts.cells import CellHeads, cell_loss, pool_cells
from mmllm.miniature.parts.pictures import Phases, lesson, share_of_peak, to_tensors
from mmllm.miniature.parts.probe import quick_accuracy
from mmllm.miniature.parts.snapshot import load_snapshot, save_snapshot


@dataclass(frozen=True)
class VitPlan:
    """Settings of the miniature ViT and its training."""

    steps: int = 7700
    digits_from: int = 3600
    blends_from: int = 5200
    batch: int = 64
    width: int = 128
    layers: int = 6
    heads: int = 4
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    cooldown: float = 0.4
    seed: int = 1
    log_every: int = 50
    save_every: int = 300


class TaughtVit(nn.Module):
    """The ViT with its throw-away heads on the last layer and on the one before it."""

    def __init__(self, plan: VitPlan) -> None:
        super().__init__()
        config = ViTConfig(
            image_size=64,
            patch_size=8,
            hidden_size=plan.width,
            num_hidden_layers=plan.layers,
            num_attention_heads=plan.heads,
            intermediate_size=4 * plan.width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.vit.set_attn_implementation("eager")  # faster than SDPA's backward on CPUs in bfloat16
        self.last, self.before = CellHeads(plan.width), CellHeads(plan.width)

    def loss(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss of a batch, and the last layer's logits by label."""
        out = self.vit(pixel_values=pixels, output_hidden_states=True)
        logits = self.last(pool_cells(out.last_hidden_state[:, 1:]))
        before = self.before(pool_cells(out.hidden_states[-2][:, 1:]))
        return cell_loss(logits, labels) + 0.5 * cell_loss(before, labels), logits


def optimizers_for(module: nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for everything else."""
    inside = {
        name for name, p in module.named_parameters() if p.ndim == 2 and (".layer" in name or ".resblocks." in name)
    }
    named = list(module.named_parameters())
    return [
        torch.optim.Muon([p for name, p in named if name in inside], lr=muon_lr, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(
            [p for name, p in named if name not in inside], lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0
        ),
    ]


def train_vit(plan: VitPlan, work: Path, out: Path) -> None:
    """Trains to the end of the plan, from the last snapshot in work if there is one; writes the folder out."""
    torch.manual_seed(plan.seed)
    model = TaughtVit(plan)
    opts = optimizers_for(model, plan.muon_lr, plan.adam_lr)
    step, peaks, started = load_snapshot(work, model, opts), (plan.muon_lr, plan.adam_lr), time.monotonic()
    phases = Phases(plan.digits_from, plan.blends_from, plan.steps)
    while step < plan.steps:
        pixels, labels = to_tensors(lesson(plan.seed, step, plan.batch, phases))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, logits = model.loss(pixels, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = share_of_peak(step, phases, plan.cooldown)
        for opt, peak in zip(opts, peaks, strict=True):
            opt.param_groups[0]["lr"] = peak * share
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        if step % plan.log_every == 0:
            seconds = time.monotonic() - started
            print(
                f"step {step} loss {float(loss.detach()):.4f} s {seconds:.0f} {quick_accuracy(logits, labels)}",
                flush=True,
            )
        if step % plan.save_every == 0 or step == plan.steps:
            save_snapshot(work, model, opts, step)
            save_vit(model.vit, out)


def save_vit(vit: ViTModel, out: Path) -> None:
    """Writes the Hugging Face folder with an image processor: 64 pixels, no crop, mean and deviation 0.5."""
    vit.save_pretrained(out)
    size = {"height": 64, "width": 64}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(out)
