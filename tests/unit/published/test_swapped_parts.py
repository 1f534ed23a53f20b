"""One line of an imported run changed: another connector in place of the published one learns, the rest is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.published.importing import assembled
from mmllm.published.source import Source
from mmllm.recipe.load import parse
from mmllm.testing.tiny.published import CASES, PUBLISHED, published_folder
from tests.support.published import key_of, needed, packed, said

pytestmark = pytest.mark.slow

SWAPPED: dict[str, dict[str, Any]] = {
    "LFM2-VL": {"type": "mlp"},
    "Idefics2, quarters": {"type": "pool", "stride": [2, 2]},
    "Ovis 2": {"type": "pool", "grid": [2, 2]},
    "Llama 4": {"type": "pool", "stride": [2, 2]},
    "Granite Speech, a LoRA for sounds": {"type": "mlp", "norm": True},
}
"""Configuration -> its new connector; token, text around it and marks between tiles stay."""
KEPT = ("from", "token", "around", "tiles", "stitch")


@pytest.mark.parametrize("case", SWAPPED)
def test_another_connector_learns(case: str, tmp_path: Path) -> None:
    made = CASES[case]
    needed(PUBLISHED[made.name])
    published_folder(made.name, tmp_path / "vlm", **made.changes)
    source = Source(str(tmp_path / "vlm"), made.tiles)
    words, _ = assembled(source, source.sections(), tmp_path, "swapped")
    key = "audio" if "audio" in words["connectors"] else "image"
    kept = {word: value for word, value in words["connectors"][key].items() if word in KEPT}
    words["connectors"][key] = {**SWAPPED[case], **kept}
    model = build(parse(yaml.safe_dump(words, sort_keys=False), stages=False), "cpu")
    assert key_of(model) == key
    set_trainable(model, {f"connectors.{key}": 1.0})
    batch = packed(model, [said(key, "What?", "A sign.", 0), said(key, "Both?", "Two of them.", 1, 2)])
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    optimizer = torch.optim.AdamW(learning, lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model.train()(batch)[0]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.98 * losses[0], losses
    assert all(torch.equal(one, frozen[name]) for name, one in model.named_parameters() if name in frozen)
