"""DINOv2 ViT-S/14 out of an ONNX file: a Dinov2Model whose last states must equal ONNX Runtime's on real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError
from mmllm.real.packages import run_original

if TYPE_CHECKING:
    import numpy as np
    from transformers import Dinov2Model

TOLERANCE = 2e-5
"""Largest allowed difference of a last hidden state, as a share of the largest one.

The largest is about 11 on photographs, and there ONNX Runtime and torch, both float32, are each 3e-5 to 4e-5 away from
the same model in float64: an absolute bound of 2e-5 would test the rounding of the two, not the conversion.
"""
SIDE = 224
"""Pixels of the side of the pictures that the ONNX file takes."""
RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""Names of transformers 4, with which the file was exported -> names of transformers 5."""


def convert(files: Sequence[Path], tools: Path | None, out: Path) -> list[str]:
    """Write the folder and compare it with ONNX Runtime; what was compared. Raises MmllmError where they differ."""
    import torch
    from transformers import BitImageProcessor, Dinov2Model

    (file,) = files
    if tools is None:
        raise MmllmError(
            f"{file.name}: it is read through the packages onnx and onnxruntime, which could not be installed."
        )
    processor = BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": SIDE, "width": SIDE},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pixels = processor(_photographs(), return_tensors="pt")["pixel_values"]
    original = run_original("dinov2", file, tools, {"pixels": pixels.numpy()})
    dinov2_from(original).save_pretrained(out)
    processor.save_pretrained(out)
    model = Dinov2Model.from_pretrained(out, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = model(pixel_values=pixels).last_hidden_state
    difference = float((states - torch.from_numpy(original["last"])).abs().max())
    largest = float(states.abs().max())
    if not difference <= TOLERANCE * largest:
        raise MmllmError(
            f"{out.name}: last states differ from ONNX Runtime's by {difference:.1e} where the largest is "
            f"{largest:.1f}; allowed: {TOLERANCE:.0e} of it."
        )
    return [
        f"{len(pixels)} photographs: last states equal ONNX Runtime's to {difference:.1e}, which is "
        f"{difference / largest:.1e} of the largest, {largest:.1f} (allowed {TOLERANCE:.0e} of it)"
    ]


def dinov2_from(original: Mapping[str, np.ndarray[Any, Any]]) -> Dinov2Model:
    """Model of the weights that ``originals.dinov2`` found (``w:`` before their names); every weight must be there."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    state = {}
    for key, array in original.items():
        if key.startswith("w:"):
            name = key.removeprefix("w:")
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            state[name] = torch.from_numpy(array)
    width = state["embeddings.cls_token"].shape[-1]
    # masked patches occur in DINOv2's own pretraining only, and no export has their vector
    state["embeddings.mask_token"] = torch.zeros(1, width)
    table, patch = state["embeddings.position_embeddings"], state["embeddings.patch_embeddings.projection.weight"]
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer.")),
        num_attention_heads=width // 64,  # every DINOv2 has heads of 64
        image_size=patch.shape[-1] * round((table.shape[1] - 1) ** 0.5),
        patch_size=patch.shape[-1],
    )
    model = Dinov2Model(config)
    model.load_state_dict(state)
    return model.eval()


def _photographs() -> list[np.ndarray[Any, Any]]:
    """The two photographs that scikit-learn ships, and a quarter of each: uint8[H, W, 3]."""
    from sklearn.datasets import load_sample_images

    whole = load_sample_images().images
    quarters = (picture[: picture.shape[0] // 2, : picture.shape[1] // 2] for picture in whole)
    return [picture.copy() for picture in (*whole, *quarters)]  # the loaded ones are read-only
