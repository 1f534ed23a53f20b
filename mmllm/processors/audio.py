"""Sound cut into the windows that an audio model hears; its processor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.audio_front_ends import FrontEnd
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file
from mmllm.processors.sound_files import MAX_SECONDS, TIMEOUT, Samples, read_sound, sound_length


class AudioProcessor(Processor):
    """Windows of sound after each other; the grid is (time,), or (time, frequencies) where it ``keep``s them."""

    modality = "audio"

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        window: int | None,
        fixed: bool = False,
        keep: bool = False,
        whole: bool = False,
        max_seconds: float = MAX_SECONDS,
        timeout: float = TIMEOUT,
    ) -> None:
        """Set up.

        Args:
            front_end: of the model that hears.
            window: samples of a window; None: a sound is one window whatever its length.
            fixed: every item is one full window; longer sound is refused.
            keep: whether rows of frequency are tokens of their own.
            whole: a sound is padded to whole windows and prepared at once, and what pads it gives tokens too.
            max_seconds: of the longest sound that is read.
            timeout: seconds that decoding in a process of its own may take.
        """
        self.front_end = front_end
        self.window = window
        self.fixed = fixed
        self.keep = keep
        self.whole = whole
        self.max_seconds, self.timeout = max_seconds, timeout

    def read(self, media: str | Path | bytes) -> Item:
        """Read one sound -> ``windows`` float[W, ..., L] for the model, ``samples`` int64[], how many it has."""
        samples = read_sound(media, self.front_end.rate, self.max_seconds, self.timeout)
        self._check(len(samples))
        return self._windows(samples)

    def content(self, media: str | Path | bytes) -> Content | None:
        """The file and its ending, which FFmpeg looks at too."""
        return of_file(media, Path(media).suffix.lower() if isinstance(media, str | Path) else "")

    def measure(self, media: str | Path | bytes) -> Item:
        """``samples`` from the header, where its container has one to trust."""
        samples = sound_length(media, self.front_end.rate, self.max_seconds, self.timeout)
        self._check(samples)
        return {"samples": torch.tensor(samples)}

    def grid(self, info: ItemInfo) -> tuple[int, ...]:
        """(time,), or (time, frequencies)."""
        return self.grid_of(int(info["samples"]))

    def seconds(self, info: ItemInfo) -> Sequence[float]:
        """Time at which each token begins."""
        span = 0.0 if self.window is None else self.window / self.front_end.rate
        counts = self.counts(int(info["samples"]))
        return [n * span + k * self.front_end.step for n, count in enumerate(counts) for k in range(count)]

    def fixed_grid(self) -> tuple[int, ...] | None:
        """Grid of one full window, under ``fixed``."""
        return self.grid_of(1) if self.fixed else None

    def blank(self) -> Item:
        """The shortest silence that gives a token."""
        return self._windows(np.zeros(self.front_end.least, np.float32))

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """``windows`` float[all W, ..., L], padded with zeros at their ends, and ``samples`` int64[N]."""
        windows = [window for item in items for window in item["windows"]]
        return {"windows": _stacked(windows), "samples": torch.stack([item["samples"] for item in items])}

    def lengths(self, samples: int) -> list[int]:
        """Real samples of each window of a sound of so many samples."""
        if self.window is None:
            return [samples]
        return [min(self.window, samples - start) for start in range(0, samples, self.window)]

    def heard(self, samples: int) -> list[int]:
        """Tokens in time of each window inside the model: real ones, or all under ``fixed`` and ``whole``."""
        lengths = self.lengths(samples)
        if self.fixed and self.window is not None:
            return [self.front_end.tokens(self.window)]
        if self.whole and self.window is not None:
            return [self.front_end.tokens(self.window)] * len(lengths)
        return [self.front_end.tokens(length) for length in lengths]

    def counts(self, samples: int) -> list[int]:
        """Tokens in time of each window that are given."""
        return [count // self.front_end.pool for count in self.heard(samples)]

    def grid_of(self, samples: int) -> tuple[int, ...]:
        """Grid of a sound of so many samples."""
        time = sum(self.counts(samples))
        return (time, *self.front_end.raster) if self.keep else (time,)

    def _check(self, samples: int) -> None:
        if self.fixed and self.window is not None and samples > self.window:
            rate = self.front_end.rate
            raise MediaError(
                f"a sound of {samples / rate:.2f} seconds is longer than the one window of {self.window / rate:g} "
                "seconds that `fixed` allows; remove the word for windows in a row."
            )

    def _windows(self, samples: Samples) -> Item:
        """Each window as the model's own feature extractor prepares it."""
        if self.whole:
            return {"windows": _stacked(self.front_end.prepare_whole(samples)), "samples": torch.tensor(len(samples))}
        parts, start = [], 0
        for length in self.lengths(len(samples)):
            part = samples[start : start + length]
            start += length
            made = self.front_end.prepare(np.pad(part, (0, max(0, self.front_end.smallest - length))))
            # raw sound alone: the extractors of Whisper and AST pad to their own window
            if self.fixed and self.window is not None and self.front_end.own_window is None:
                made = pad(made, (0, self.window - len(made)))
            parts.append(made)
        return {"windows": _stacked(parts), "samples": torch.tensor(len(samples))}


def window_samples(model: str, front_end: FrontEnd, asked: float | None) -> int | None:
    """Samples of a window of ``asked`` seconds (None: the model's own), or None: a sound is one window whatever its
    length. MmllmError where ``model`` hears no such windows."""
    own, rate = front_end.own_window, front_end.rate
    if asked is None:
        return own
    # the margin: AST's 10.24 seconds, as its authors call them, are 10.255 in samples
    if own is not None and not math.isclose(asked, own / rate, abs_tol=0.05):
        raise MmllmError(f'window: "{model}" hears windows of {own / rate:g} seconds and no others; remove the word.')
    if asked * rate < front_end.smallest:
        raise MmllmError(f"window: {asked:g} seconds are shorter than one token of this model.")
    return own if own is not None else round(asked * rate)


def _stacked(windows: Sequence[Tensor]) -> Tensor:
    """Windows float[..., L] of raw sound may differ in length: zeros at their ends."""
    longest = max(window.shape[-1] for window in windows)
    return torch.stack([pad(window, (0, longest - window.shape[-1])) for window in windows])
