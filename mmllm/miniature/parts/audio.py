"""Trains the miniature audio encoder (transformers' Whisper encoder) on generated sound only; saves a folder of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from mmllm.miniature.parts.audio_curriculum import COLUMN, LABELS, SECONDS, TOKENS, lesson
from mmllm.miniature.parts.snapshot import load_snapshot, save_snapshot
from mmllm.miniature.parts.vit import optimizers_for

MELS = 64


@dataclass(frozen=True)
class AudioPlan:
    """Settings of the miniature audio encoder and its training."""

    lessons: int = 450
    """Times 32 windows of 2 seconds: the stock of generated sound, made before the first step."""
    steps: int = 3000
    batch: int = 64
    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 320
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    cooldown: float = 0.5
    seed: int = 2
    log_every: int = 50
    save_every: int = 250


def whisper(plan: AudioPlan) -> WhisperModel:
    """A Whisper of the plan's size with random weights; its decoder has no layers, for only its encoder is of use."""
    config = WhisperConfig(
        vocab_size=2, num_mel_bins=MELS, d_model=plan.width, encoder_layers=plan.layers,
        encoder_attention_heads=plan.heads, encoder_ffn_dim=plan.inner, decoder_layers=0,
        decoder_attention_heads=plan.heads, decoder_ffn_dim=4, max_source_positions=TOKENS, max_target_positions=1,
        pad_token_id=0, bos_token_id=0, eos_token_id=1, decoder_start_token_id=0, suppress_tokens=[],
        begin_suppress_tokens=[], dropout=0.0,
    )  # fmt: skip
    return WhisperModel(config)


def extractor() -> WhisperFeatureExtractor:
    """Log-mel spectrograms of windows of two seconds at 16 kHz."""
    return WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)


def features_of(samples: Tensor) -> Tensor:
    """float[N, 2 s] -> log-mel float[N, MELS, 2 * TOKENS], as the saved feature extractor makes them."""
    made = extractor()(list(samples.numpy()), sampling_rate=16_000, return_tensors="pt")
    return made["input_features"]


class TaughtWhisper(nn.Module):
    """The encoder with its throw-away heads on the last layer and on the one before it."""

    def __init__(self, plan: AudioPlan) -> None:
        super().__init__()
        self.encoder = whisper(plan).encoder
        self.encoder.set_attn_implementation("eager")  # faster than SDPA's backward on CPUs in bfloat16
        classes = sum(LABELS.values())
        self.last, self.before = nn.Linear(plan.width, classes), nn.Linear(plan.width, classes)

    def loss(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss of a batch, and the last layer's scores float[N, TOKENS, classes]."""
        states = self.encoder(features, output_hidden_states=True).hidden_states
        last, before = self.last(states[-1]), self.before(states[-2])
        return token_loss(last, labels) + 0.5 * token_loss(before, labels), last


def token_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy summed over labels; where a label says "nothing of the sort", it counts a third."""
    total, parts = scores.new_zeros(()), scores.float().split(list(LABELS.values()), dim=-1)
    for part, wanted in zip(parts, labels.unbind(-1), strict=True):
        loss = nn.functional.cross_entropy(part.flatten(0, 1), wanted.flatten(), reduction="none")
        weight = torch.where(wanted.flatten() > 0, 1.0, 0.33)
        total = total + (loss * weight).sum() / weight.sum()
    return total


def stock(plan: AudioPlan, work: Path) -> tuple[Tensor, Tensor]:
    """The generated windows: log-mel float16[n, MELS, 2 * TOKENS], labels uint8; kept in work between runs."""
    path = work / f"stock_{plan.seed}_{plan.lessons}.pt"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        features, labels = [], []
        for number in range(plan.lessons):
            made = lesson(plan.seed, number, 32)
            features.append(features_of(made.samples).half())
            labels.append(made.labels.to(torch.uint8))
        torch.save([torch.cat(features), torch.cat(labels)], path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
    found: list[Tensor] = torch.load(path, weights_only=True)
    return found[0], found[1]


def _varied(rng: Generator, features: Tensor) -> Tensor:
    """Other levels, and a band of frequencies or a stretch of time missing in half of the windows (SpecAugment)."""
    level = torch.from_numpy(rng.uniform(-0.3, 0.3, (len(features), 1, 1)).astype(np.float32))
    features = (features + level).clone()
    for window in features:
        low = window.min()
        if rng.random() < 0.5:
            start = int(rng.integers(0, MELS - 8))
            window[start : start + int(rng.integers(1, 9))] = low
        if rng.random() < 0.3:
            start = int(rng.integers(0, 2 * TOKENS - 10))
            window[:, start : start + int(rng.integers(1, 10))] = low
    return features


def _share_of_peak(step: int, plan: AudioPlan) -> float:
    return min(1.0, (step + 1) / 100, (plan.steps - step) / (plan.cooldown * plan.steps))


def train_audio(plan: AudioPlan, work: Path, out: Path) -> None:
    """Trains to the end of the plan, from the last snapshot in work if there is one; writes the folder out."""
    torch.manual_seed(plan.seed)
    model = TaughtWhisper(plan)
    opts = optimizers_for(model, plan.muon_lr, plan.adam_lr)
    step, peaks = load_snapshot(work, model, opts), (plan.muon_lr, plan.adam_lr)
    features, labels = stock(plan, work)
    started = time.monotonic()
    while step < plan.steps:
        # from the step alone: a build that was stopped goes on with the same numbers
        rng = np.random.default_rng((plan.seed, 1, step))
        chosen = torch.from_numpy(rng.integers(0, len(features), plan.batch))
        wanted = labels[chosen].long()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, scores = model.loss(_varied(rng, features[chosen].float()), wanted)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, peak in zip(opts, peaks, strict=True):
            opt.param_groups[0]["lr"] = peak * _share_of_peak(step, plan)
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        if step % plan.log_every == 0:
            seconds = time.monotonic() - started
            print(f"step {step} loss {float(loss.detach()):.4f} s {seconds:.0f} {accuracy(scores, wanted)}", flush=True)
        if step % plan.save_every == 0 or step == plan.steps:
            save_snapshot(work, model, opts, step)
            save_audio(model, plan, out)


def accuracy(scores: Tensor, labels: Tensor) -> str:
    """Accuracy of each label where it is present, as one line."""
    parts = []
    for (name, column), part in zip(COLUMN.items(), scores.split(list(LABELS.values()), dim=-1), strict=True):
        wanted = labels[..., column]
        present = wanted > 0
        parts.append(f"{name} {float((part.argmax(-1) == wanted)[present].float().mean()):.3f}")
    return " ".join(parts)


def save_audio(model: TaughtWhisper, plan: AudioPlan, out: Path) -> None:
    """Writes the Hugging Face folder: model and feature extractor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)  # the decoder's two embeddings are of no use, but should be the same every time
        saved = whisper(plan)
    saved.encoder.load_state_dict(model.encoder.state_dict())
    saved.save_pretrained(out)
    extractor().save_pretrained(out)
