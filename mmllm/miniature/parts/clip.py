"""Trains the miniature CLIP (open_clip): picture against caption, every cell against phrases; saves a folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast

from mmllm.miniature.parts.cells import cell_loss, pool_cells
from mmllm.miniature.parts.clip_text import (
    CONTEXT,
    build_clip_tokenizer,
    cell_phrase,
    label_phrases,
    save_clip_tokenizer,
)
from mmllm.miniature.parts.pictures import Phases, Picture, lesson, share_of_peak, to_tensors
from mmllm.miniature.parts.probe import quick_accuracy
from mmllm.miniature.parts.snapshot import load_snapshot, save_snapshot
from mmllm.miniature.parts.vit import optimizers_for

SCALE = 16.0


@dataclass(frozen=True)
class ClipPlan:
    """Settings of the miniature CLIP and its training."""

    steps: int = 6200
    digits_from: int = 2800
    blends_from: int = 4200
    batch: int = 64
    width: int = 128
    layers: int = 5
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    cooldown: float = 0.35
    seed: int = 2
    log_every: int = 50
    save_every: int = 300


def model_config(plan: ClipPlan, vocabulary: int) -> dict[str, Any]:
    """open_clip's model_cfg; hf_tokenizer_name "." lets local-dir read the tokenizer from the same folder."""
    vision = {"image_size": 64, "patch_size": 8, "width": plan.width, "head_width": 32, "layers": plan.layers}
    text = {"context_length": CONTEXT, "vocab_size": vocabulary, "width": 64, "heads": 4, "layers": 2}
    return {"embed_dim": plan.width, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "."}}


class TaughtClip(nn.Module):
    """A CLIP whose pooled cells also meet phrases in the joint space (as region-word alignment does in RegionCLIP)."""

    def __init__(self, plan: ClipPlan, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        config = model_config(plan, len(tokenizer))
        config["text_cfg"] = {key: value for key, value in config["text_cfg"].items() if key != "hf_tokenizer_name"}
        self.clip = open_clip.CLIP(**config)
        self.clip.visual.output_tokens = True
        self.clip.logit_scale.data.fill_(SCALE).log_()
        self.clip.logit_scale.requires_grad_(False)
        self.tokenizer = tokenizer

    def words(self, phrases: list[str], length: int) -> Tensor:
        """Unit text features float[P, D] of phrases of at most length tokens.

        The same as encode_text on the full context, because the text tower is causal and reads out at the end token,
        but several times cheaper, because the padding after it is left out.
        """
        found = self.tokenizer(phrases, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids, clip = found["input_ids"], self.clip
        x = clip.token_embedding(ids) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        x = x[torch.arange(len(ids)), ids.argmax(-1)] @ clip.text_projection
        return nn.functional.normalize(x, dim=-1)

    def seen(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features of whole pictures float[N, D] and of their cells float[N, 16, D]."""
        whole, patches = self.clip.visual(pixels)
        cells = self.clip.visual.ln_post(pool_cells(patches)) @ self.clip.visual.proj
        return nn.functional.normalize(whole, dim=-1), nn.functional.normalize(cells, dim=-1)

    def loss(self, batch: list[Picture]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Caption, phrase and label contrasts together; also the cells' scores by label, and the labels."""
        pixels, labels = to_tensors(batch)
        whole, cells = self.seen(pixels)
        scale = self.clip.logit_scale.exp()
        total = self._captions(whole, [picture.caption for picture in batch], scale)
        total = total + self._phrases(cells, labels, scale)
        names = label_phrases()
        texts = self.words([phrase for phrases in names.values() for phrase in phrases], 4)
        scores = (2 * scale * cells @ texts.T).split([len(phrases) for phrases in names.values()], dim=-1)
        by_label = dict(zip(names, scores, strict=True))
        return total + cell_loss(by_label, labels), by_label, labels

    def _captions(self, whole: Tensor, captions: list[str], scale: Tensor) -> Tensor:
        kinds = sorted(set(captions))
        wanted = torch.tensor([kinds.index(caption) for caption in captions])
        return nn.functional.cross_entropy(scale * whole @ self.words(kinds, CONTEXT).T, wanted)

    def _phrases(self, cells: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
        phrases = [cell_phrase(row) for row in labels.flatten(0, 1).tolist()]
        kinds = sorted(set(phrases))
        place = {phrase: index for index, phrase in enumerate(kinds)}
        wanted = torch.tensor([place[phrase] for phrase in phrases])
        return nn.functional.cross_entropy(scale * cells.flatten(0, 1) @ self.words(kinds, 5).T, wanted)


def train_clip(plan: ClipPlan, work: Path, out: Path) -> None:
    """Trains to the end of the plan, from the last snapshot in work if there is one; writes the folder out."""
    torch.manual_seed(plan.seed)
    model = TaughtClip(plan, build_clip_tokenizer())
    learned = nn.ModuleDict({"clip": model.clip})
    opts = optimizers_for(learned, plan.muon_lr, plan.adam_lr)
    step, peaks, started = load_snapshot(work, learned, opts), (plan.muon_lr, plan.adam_lr), time.monotonic()
    phases = Phases(plan.digits_from, plan.blends_from, plan.steps)
    while step < plan.steps:
        batch = lesson(plan.seed, step, plan.batch, phases)
        with sdpa_kernel(SDPBackend.MATH):  # twice as fast on CPUs
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, scores, labels = model.loss(batch)
            loss.backward()
        nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        share = share_of_peak(step, phases, plan.cooldown)
        for opt, peak in zip(opts, peaks, strict=True):
            opt.param_groups[0]["lr"] = peak * share
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        if step % plan.log_every == 0:
            seconds = time.monotonic() - started
            print(
                f"step {step} loss {float(loss.detach()):.4f} s {seconds:.0f} {quick_accuracy(scores, labels)}",
                flush=True,
            )
        if step % plan.save_every == 0 or step == plan.steps:
            save_snapshot(work, learned, opts, step)
            save_clip(model, plan, out)


def save_clip(model: TaughtClip, plan: ClipPlan, out: Path) -> None:
    """Writes open_clip_config.json, open_clip_model.safetensors and the tokenizer; loads with local-dir:."""
    out.mkdir(parents=True, exist_ok=True)
    save_clip_tokenizer(out)
    prepare = {
        "size": [64, 64],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    config = {"model_cfg": model_config(plan, len(model.tokenizer)), "preprocess_cfg": prepare}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.clip.state_dict().items()}
    save_file(tensors, out / "open_clip_model.safetensors")
