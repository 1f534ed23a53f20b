"""Raw sound cut into frames of samples; the processor of the ``waveform`` encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm.errors import MmllmError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file
from mmllm.processors.sound_files import MAX_SECONDS, TIMEOUT, Samples, read_sound, sound_length


class WaveformProcessor(Processor):
    """Frames after each other, the last one filled up with silence; the grid is (time,)."""

    modality = "audio"

    def __init__(self, *, samples: int, rate: int, max_seconds: float = MAX_SECONDS, timeout: float = TIMEOUT) -> None:
        """Set up.

        Args:
            samples: of a frame.
            rate: samples per second.
            max_seconds: of the longest sound that is read.
            timeout: seconds that decoding in a process of its own may take.
        """
        if samples < 1 or rate < 1:
            raise MmllmError(f"samples: {samples} of a frame at rate: {rate} (samples per second) must be at least 1.")
        if not timeout > 0:
            raise MmllmError(f"timeout: {timeout:g} must be more than 0 (seconds).")
        self.samples, self.rate = samples, rate
        self.max_seconds, self.timeout = max_seconds, timeout

    def read(self, media: str | Path | bytes) -> Item:
        """Read one sound -> ``frames`` float[T, samples], values -1 .. 1, and ``samples`` int64[], how many it has."""
        return self._cut(read_sound(media, self.rate, self.max_seconds, self.timeout))

    def content(self, media: str | Path | bytes) -> Content | None:
        """The file and its ending, which FFmpeg looks at too."""
        return of_file(media, Path(media).suffix.lower() if isinstance(media, str | Path) else "")

    def measure(self, media: str | Path | bytes) -> Item:
        """``samples`` from the header, where its container has one to trust."""
        return {"samples": torch.tensor(sound_length(media, self.rate, self.max_seconds, self.timeout))}

    def grid(self, info: ItemInfo) -> tuple[int]:
        """(time,): frames that are begun."""
        return (-(-int(info["samples"]) // self.samples),)

    def seconds(self, info: ItemInfo) -> Sequence[float]:
        """Time at which each frame begins."""
        return [n * self.samples / self.rate for n in range(self.grid(info)[0])]

    def blank(self) -> Item:
        """One silent frame."""
        return self._cut(np.zeros(1, np.float32))

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """``frames`` float[N, longest T, samples], padded with zeros, and ``samples`` int64[N]."""
        frames = pad_sequence([item["frames"] for item in items], batch_first=True)
        return {"frames": frames, "samples": torch.stack([item["samples"] for item in items])}

    def _cut(self, sound: Samples) -> Item:
        filled = np.pad(sound, (0, -len(sound) % self.samples))
        frames = torch.from_numpy(filled.reshape(-1, self.samples))
        return {"frames": frames, "samples": torch.tensor(len(sound))}
