"""Pictures told apart and likened: a hash that like documents nearly share, and a digest that only one picture has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mmllm.errors import MediaError

SIDE = 16
"""Blocks across and down. Documents differ by where their text stands, for which photographs' 8 are few."""


@dataclass(frozen=True)
class PictureHash:
    """What is compared of a picture."""

    bits: np.ndarray
    """bool[SIDE * SIDE]: which blocks are lighter than the median one."""
    size: tuple[int, int]
    """Width and height in pixels, upright."""
    digest: str
    """sha256 (hex) of size and pixels: equal pictures, whatever file they are in."""

    def distance(self, other: PictureHash) -> int:
        """Number of blocks that differ: the Manhattan distance of the bits."""
        return int(np.count_nonzero(self.bits != other.bits))


def read_hash(path: Path) -> PictureHash:
    """The hash of a picture's file; MediaError where it cannot be read.

    A wavelet hash, as RASG retrieves by (Cesista et al. 2024, arXiv 2405.20245): the low band of a Haar transform is
    the mean of each block, which a box filter gives.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{path} cannot be read as a picture: {error}") from error
    means = np.asarray(upright.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64).ravel()
    digest = hashlib.sha256(f"{upright.size}".encode())
    digest.update(upright.tobytes())
    return PictureHash(means < np.mean(means), upright.size, digest.hexdigest())
