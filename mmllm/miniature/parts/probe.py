"""Linear probes: what a linear classifier reads from an encoder's frozen features, on held-out combinations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor, nn

from mmllm.miniature.parts.cells import pool_cells
from mmllm.miniature.parts.pictures import COLUMN, LABELS, pictures, to_tensors

# Which label is probed on which sort of picture; the digit is read from the image's mean over cells.
PROBES = (
    ("scene", "color"),
    ("scene", "shape"),
    ("scene", "place"),
    ("digit", "digit"),
    ("document", "key"),
    ("document", "value"),
    ("document", "kind"),
    ("large", "color"),
    ("large", "shape"),
)


def quick_accuracy(logits: dict[str, Tensor], labels: Tensor) -> str:
    """Training accuracy of each label where it is present, as one line."""
    parts = []
    for name, scores in logits.items():
        wanted = labels[..., COLUMN[name]]
        present = wanted > 0
        good = (scores.argmax(-1) == wanted)[present].float().mean()
        parts.append(f"{name} {float(good):.3f}")
    return " ".join(parts)


@torch.no_grad()
def _features(encode: Callable[[Tensor], Tensor], sort: str, held_out: bool, n: int) -> tuple[Tensor, Tensor]:
    rng, features, labels = Random(f"probe/{sort}/{held_out}"), [], []
    for _ in range(0, n, 100):
        pixels, some = to_tensors(pictures(rng, 100, held_out, sort))
        features.append(pool_cells(encode(pixels)))
        labels.append(some)
    return torch.cat(features), torch.cat(labels)


def fit_linear(features: Tensor, wanted: Tensor, classes: int, steps: int = 400) -> Callable[[Tensor], Tensor]:
    """Multinomial logistic regression on standardised features float[M, D]; gives the predictor of classes int64[M]."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = nn.Linear(features.shape[1], classes)
    opt = torch.optim.AdamW(linear.parameters(), lr=0.02, weight_decay=1e-3)
    generator, scaled = torch.Generator().manual_seed(0), (features - mean) / std
    for step in range(steps):
        opt.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        chosen = torch.randint(len(scaled), (2048,), generator=generator)
        loss = nn.functional.cross_entropy(linear(scaled[chosen]), wanted[chosen])
        opt.zero_grad()
        loss.backward()
        opt.step()
    return lambda new: linear((new - mean) / std).argmax(-1)


def probe(encode: Callable[[Tensor], Tensor], n_train: int = 2000, n_test: int = 500) -> dict[str, float]:
    """Accuracies on held-out combinations by "sort label"; encode gives patches float[N, 64, D] from pixels.

    Colour, shape, key and value are counted on cells where they are present; scene occupied counts all cells.
    """
    report: dict[str, float] = {}
    for sort in dict.fromkeys(sort for sort, _ in PROBES):
        features, labels = _features(encode, sort, False, n_train)
        new, truth = _features(encode, sort, True, n_test)
        for label in [label for s, label in PROBES if s == sort]:
            if label == "digit":
                x, y, new_x, new_y = (
                    features.mean(1),
                    labels[:, 0, COLUMN[label]],
                    new.mean(1),
                    truth[:, 0, COLUMN[label]],
                )
            else:
                x, y = features.flatten(0, 1), labels[..., COLUMN[label]].flatten()
                new_x, new_y = new.flatten(0, 1), truth[..., COLUMN[label]].flatten()
            predicted = fit_linear(x, y, len(LABELS[label]))(new_x)
            present = new_y > 0 if label in ("color", "shape", "key", "value") else torch.ones_like(new_y).bool()
            report[f"{sort} {label}"] = float((predicted == new_y)[present].float().mean())
            if (sort, label) == ("scene", "color"):
                report["scene occupied"] = float(((predicted > 0) == (new_y > 0)).float().mean())
    return report
