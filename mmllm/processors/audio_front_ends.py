"""Front ends of audio models of transformers: how long their windows are, and which of their tokens are real.

``audio.py`` reads sound and cuts it into windows; here one window of samples becomes inputs and a number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.processors.sound_files import Samples


class FrontEnd:
    """Feature extractor and clock of one audio model, without its weights."""

    rate: int
    """Samples per second that it hears."""
    own_window: int | None = None
    """Samples of its window, where it hears no other length."""
    smallest: int = 1
    """A shorter window is padded with silence to so many samples."""
    step: float
    """Seconds from one token to the next."""
    raster: tuple[int, ...] = ()
    """Rows of frequency per time, where a model has them: they stand before time in its sequence."""
    pool: int = 1
    """Neighbouring tokens that are given as one."""
    raw: bool = False
    """Whether its inputs are the samples themselves, which may be padded."""
    least: int = 1
    """Samples of the shortest window that gives a token."""

    def __init__(self, extractor: Any) -> None:
        """``extractor``: the model's own feature extractor of transformers."""
        self.extractor = extractor
        self.rate = extractor.sampling_rate

    def tokens(self, samples: int) -> int:
        """Real tokens in time of a window that begins with so many real samples."""
        raise NotImplementedError

    def pooled(self, pool: int) -> None:
        """Let as many neighbouring tokens be given as one; what is left of them at a window's end is not given."""
        self.least = round((pool - 1) * self.step * self.rate) + 1
        self.pool, self.step = pool, self.step * pool

    def prepare(self, samples: Samples) -> Tensor:
        """A window's samples -> its inputs float[..., L] as the model's own feature extractor makes them."""
        made = self.extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        inputs: Tensor = made[self.extractor.model_input_names[0]][0]
        return inputs.float()

    def prepare_whole(self, samples: Samples) -> list[Tensor]:
        """A sound of any length, padded with silence to whole windows, whose inputs are made at once and then cut.

        Raises:
            MmllmError: its extractor makes no inputs that can be cut.
        """
        raise MmllmError("whole_windows: this model hears no log-mel windows; remove the word.")

    def __getstate__(self) -> dict[str, Any]:
        """Settings of the extractor instead of itself: its table of mel filters alone is 200 kB for Whisper large."""
        return self.__dict__ | {"extractor": (type(self.extractor), self.extractor.to_dict())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind, settings = state["extractor"]
        self.__dict__.update(state, extractor=kind.from_dict(settings))


class WhisperFrontEnd(FrontEnd):
    """Log-mel windows of 30 seconds, padded with silence."""

    def __init__(self, extractor: Any, positions: int) -> None:
        """``positions``: tokens of a window."""
        super().__init__(extractor)
        self.own_window: int = extractor.n_samples
        self._stride = extractor.n_samples // positions
        self.step = self._stride / self.rate

    def shorten(self, seconds: float) -> int:
        """Hear windows of so many seconds from now on; returns their tokens.

        Raises:
            MmllmError: no whole seconds, or more than the model's own window has.
        """
        own = self.own_window / self.rate
        # its feature extractor counts windows in whole seconds
        if seconds != int(seconds) or not 1 <= seconds <= own:
            raise MmllmError(
                f"window: {seconds:g} seconds are no window of this model; it hears whole seconds from 1 up to {own:g}."
            )
        settings = self.extractor.to_dict() | {"chunk_length": int(seconds)}
        self.extractor = type(self.extractor)(**settings)
        self.own_window = self.extractor.n_samples
        return self.own_window // self._stride

    def tokens(self, samples: int) -> int:
        """Count one for each 20 ms that are begun (two frames of 10 ms)."""
        return math.ceil(samples / self._stride)

    def frames(self, samples: int) -> int:
        """Frames of the spectrogram that begin within so many samples."""
        return math.ceil(samples / self.extractor.hop_length)

    def prepare_whole(self, samples: Samples) -> list[Tensor]:
        """Frames at a border reach into the next window, and the loudest frame of all sets the floor of every one."""
        made = self.extractor(
            samples, sampling_rate=self.rate, padding=True, truncation=False, pad_to_multiple_of=self.own_window,
            return_tensors="pt",
        )  # fmt: skip
        inputs: Tensor = made[self.extractor.model_input_names[0]][0]
        return list(inputs.float().split(self.own_window // self.extractor.hop_length, dim=-1))


class AstFrontEnd(FrontEnd):
    """Spectrograms whose patches are frequency x time."""

    smallest = 400  # one window of its filter banks: 25 ms at 16 kHz

    def __init__(self, extractor: Any, rows: int, columns: int, time_stride: int) -> None:
        """``rows`` x ``columns`` patches of a window; ``time_stride``: frames from one column to the next."""
        super().__init__(extractor)
        # 10 ms at the 16 kHz of its extractor, as Kaldi's filter banks take them
        self._hop, self._stride = 160, time_stride
        self.columns = columns
        self.raster = (rows,)
        # n samples have 1 + (n - 400) // hop frames
        self.own_window = self.smallest + (extractor.max_length - 1) * self._hop
        self.step = self._stride * self._hop / self.rate

    def tokens(self, samples: int) -> int:
        """Columns of patches that begin within the sound."""
        frames = 1 + max(0, samples - self.smallest) // self._hop
        return min(self.columns, math.ceil(frames / self._stride))


class GraniteFrontEnd(FrontEnd):
    """Log-mel frames of a sound of any length, two stacked; an odd last one is left out (Granite Speech)."""

    def __init__(self, extractor: Any) -> None:
        """Its frames are centred, with the sound's own ends mirrored, so it must be longer than half of one."""
        super().__init__(extractor)
        words = extractor.melspec_kwargs
        self._hop: int = words["hop_length"]
        self.step = 2 * self._hop / self.rate
        self.smallest = max(words["n_fft"] // 2 + 1, self._hop)

    def tokens(self, samples: int) -> int:
        """Pairs of frames; a shorter sound is padded to ``smallest``."""
        return (max(samples, self.smallest) // self._hop + 1) // 2

    def prepare(self, samples: Samples) -> Tensor:
        """float[2 * mels, tokens]."""
        made: Tensor = self.extractor(torch.from_numpy(samples))["input_features"][0]
        return made.T.contiguous()


class WaveFrontEnd(FrontEnd):
    """Raw sound of any length through convolutions of these kernels and strides."""

    raw = True

    def __init__(self, extractor: Any, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(extractor)
        self._layers = list(zip(kernels, strides, strict=True))
        self.step = math.prod(strides) / self.rate
        self.smallest = 1
        # back from one frame at the end: the fewest samples that give it
        for kernel, stride in reversed(self._layers):
            self.smallest = (self.smallest - 1) * stride + kernel

    def frames(self, samples: int) -> int:
        """Frames that the convolutions make of so many samples, at least ``smallest``."""
        for kernel, stride in self._layers:
            samples = (samples - kernel) // stride + 1
        return samples

    def tokens(self, samples: int) -> int:
        """Frames whose samples are all real; a sound shorter than one frame is padded to one."""
        return self.frames(max(samples, self.smallest))
