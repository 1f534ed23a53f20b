"""Measures the miniature audio encoder: what a linear classifier reads from its frozen tokens of unheard windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.miniature.parts.audio_curriculum import COLUMN, LABELS, lesson
from mmllm.miniature.parts.probe import fit_linear

LAYERS = {-2: "", -1: " (last layer)"}
_LABELS = ("phone", "f1", "f2", "f3", "pitch", "friction", "event", "manner")
_TRAIN, _TEST = 9001, 9002
"""Seeds of windows that no training heard."""


@torch.no_grad()
def _features(encoder: HfAudioEncoder, seed: int, n: int) -> tuple[dict[int, Tensor], Tensor]:
    """float[n * tokens, D] of each layer and labels int64[n * tokens, labels]."""
    states: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS}
    labels = []
    for step in range(n // 40):
        made = lesson(seed, step, 40, events=0.4)
        windows = [{"windows": encoder.audio.front_end.prepare(one)[None], "samples": torch.tensor(len(one))}
                   for one in made.samples.numpy()]  # fmt: skip
        for layer, state in encoder(**encoder.processor.collate(windows)).layers.items():
            states[layer].append(state.flatten(0, 1))
        labels.append(made.labels.flatten(0, 1))
    return {layer: torch.cat(state) for layer, state in states.items()}, torch.cat(labels)


def probe_audio(
    folder: Path, n_train: int = 800, n_test: int = 200, names: Sequence[str] = _LABELS
) -> dict[str, float]:
    """Accuracy of each label on tokens where it is present (phone: on all tokens), by name of label and layer."""
    encoder = HfAudioEncoder(model=str(folder), layers=list(LAYERS))
    features, labels = _features(encoder, _TRAIN, n_train)
    new, truth = _features(encoder, _TEST, n_test)
    report = {}
    for layer, end in LAYERS.items():
        for name in names:
            wanted, right = labels[:, COLUMN[name]], truth[:, COLUMN[name]]
            predicted = fit_linear(features[layer], wanted, LABELS[name])(new[layer])
            present = torch.ones_like(right).bool() if name == "phone" else right > 0
            report[f"{name}{end}"] = float((predicted == right)[present].float().mean())
    return report
