"""The ``waveform`` encoder: raw samples are the features, no model hears them first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, rms_norm

from mmllm.encoders.base import Encoder
from mmllm.encoders.masks import real_tokens
from mmllm.errors import MmllmError
from mmllm.processors.sound_files import MAX_SECONDS, TIMEOUT
from mmllm.processors.waveform import WaveformProcessor
from mmllm.types import Features

NORMS = {"none": None, "rms": rms_norm, "layer": layer_norm}
"""Word -> what brings the samples of each frame to one size; none of them has a weight."""


class WaveformEncoder(Encoder):
    """A sound as frames of ``samples`` raw values at ``rate`` per second; it has no weights, the connector learns all.

    The grid is (time,), the width ``samples``; the last frame is filled up with silence. Encoder-free models of sound
    read such frames: with the defaults these are those of Gemma 4 unified, 25 a second, each over the root of its mean
    square, and ``{type: mlp, depth: 1, bias: false}`` is its projector. ``normalise``: ``rms`` so, ``layer`` also
    without its mean, ``none`` as they are read (-1 .. 1); ``eps`` is added to the mean square or variance.
    ``max_seconds`` and ``timeout``: as in ``hf_audio``.
    """

    processor: WaveformProcessor
    host_inputs = ("samples",)

    def __init__(
        self,
        *,
        samples: int = 640,
        rate: int = 16_000,
        normalise: str = "rms",
        eps: float = 1e-6,
        max_seconds: float = MAX_SECONDS,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(layers=(0,))
        if normalise not in NORMS:
            raise MmllmError(f'normalise: "{normalise}" is unknown; known: {", ".join(NORMS)}.')
        self.dim = samples
        self.norm, self.eps = NORMS[normalise], eps
        self.processor = WaveformProcessor(samples=samples, rate=rate, max_seconds=max_seconds, timeout=timeout)
        # what says where features are wanted and in which dtype, as weights do elsewhere
        self.register_buffer("like", torch.empty(0), persistent=False)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """Collated sounds -> their one layer float[N, longest, samples], each item's frames first."""
        like = self.get_buffer("like")
        frames = inputs["frames"].to(like.device)
        if self.norm is not None:
            frames = self.norm(frames, (self.dim,), eps=self.eps)
        grids = tuple(self.processor.grid({"samples": n}) for n in inputs["samples"].tolist())
        mask = real_tokens([grid[0] for grid in grids], like.device, frames.shape[1])
        alike = len(set(grids)) == 1
        return Features({0: frames.to(like.dtype)}, mask, max(grids), None if alike else grids)
