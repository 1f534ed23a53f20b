"""Audio encoders of transformers (Whisper, AST, wav2vec 2.0, HuBERT) from a hub id or a local folder."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mmllm.encoders.audio.loading import load_audio
from mmllm.encoders.audio.models import recorded
from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.errors import MediaError, MmllmError
from mmllm.hooks import TokenLayout
from mmllm.processors.audio import MAX_SECONDS, TIMEOUT, Samples, read_sound, sound_length
from mmllm.types import Features

Frequencies = Literal["mean", "keep"]


class HfAudioEncoder(Encoder):
    """A sound as tokens in time. Its grid is (time,): the tokens that begin within the sound, window after window.

    A sound longer than ``window`` seconds is cut into windows, which do not hear each other. Whisper (30 s) and AST
    (10.24 s) have a window of their own and no mask: what is left of the last one is silence, made by the model's own
    feature extractor, whoever else is in the batch. wav2vec 2.0 and HuBERT take any length (``window``: none unless
    given); padding to a longer neighbour changes nothing. ``fixed``: every item is one full window, so all have one
    grid; longer sound is refused. ``max_seconds`` is the longest sound that is read, known from the header.
    What soundfile cannot read (M4A, WebM, MP4) is decoded in another process, killed after ``timeout`` seconds.
    ``frequencies`` (AST, whose patches are frequency x time): ``mean`` of them, or ``keep``: grid (time, frequencies).
    """

    modality = "audio"

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int] = (-1,),
        window: float | None = None,
        fixed: bool = False,
        max_seconds: float = MAX_SECONDS,
        frequencies: str = "mean",
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(layers=layers)
        if frequencies not in get_args(Frequencies):
            raise MmllmError(f'frequencies: "{frequencies}" is unknown; known: {", ".join(get_args(Frequencies))}.')
        if not timeout > 0:
            raise MmllmError(f"timeout: {timeout:g} must be more than 0 (seconds).")
        self.audio = load_audio(model)
        self.dim = self.audio.dim
        self.window = _window(model, self.audio.own_window, window, self.audio.rate, self.audio.smallest)
        if fixed and self.window is None:
            raise MmllmError(f'fixed: "{model}" takes sound of any length; say how long: window (seconds).')
        self.fixed = fixed
        self.max_seconds, self.timeout = max_seconds, timeout
        self.keep = frequencies == "keep" and bool(self.audio.raster)
        self.resolve(self.n_blocks)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the model."""
        return len(self.audio.blocks)

    def hook_points(self) -> BlockHooks:
        """Its blocks; a row is one window."""
        return BlockHooks(self.audio.blocks, self.dim, self.scope)

    def read(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """One sound -> ``windows`` float[W, ..., L] for the model, ``samples`` int64[], how many it has."""
        samples = read_sound(media, self.audio.rate, self.max_seconds, self.timeout)
        self._check(len(samples))
        return self._windows(samples)

    def measure(self, media: str | Path | bytes) -> Mapping[str, Tensor]:
        """``samples`` from the header, where its container has one to trust."""
        samples = sound_length(media, self.audio.rate, self.max_seconds, self.timeout)
        self._check(samples)
        return {"samples": torch.tensor(samples)}

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(time,), or (time, frequencies) under ``keep``."""
        return self._grid(int(inputs["samples"]))

    def seconds(self, inputs: Mapping[str, Tensor]) -> Sequence[float]:
        """When each token begins."""
        span = 0.0 if self.window is None else self.window / self.audio.rate
        counts = self._counts(int(inputs["samples"]))
        return [n * span + k * self.audio.step for n, count in enumerate(counts) for k in range(count)]

    def fixed_grid(self) -> tuple[int, ...] | None:
        """Of one full window, under ``fixed``."""
        return self._grid(1) if self.fixed else None

    def dummy(self) -> dict[str, Tensor]:
        """The shortest silence."""
        return self._windows(np.zeros(1, np.float32))

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """``windows`` float[all W, ..., L], padded with zeros at their ends, and ``samples`` int64[N]."""
        windows = [window for item in items for window in item["windows"]]
        return {"windows": _stacked(windows), "samples": torch.stack([item["samples"] for item in items])}

    def forward(self, **inputs: Tensor) -> Features:
        """Windows of N sounds -> layers of float[N, longest, D], each item's tokens first."""
        weight = next(self.parameters())
        windows = inputs["windows"].to(device=weight.device, dtype=weight.dtype)
        items = [int(n) for n in inputs["samples"]]
        lengths = [self._lengths(n) for n in items]
        counts = [self._counts(n) for n in items]
        width = self.audio.width(windows.shape[-1])
        real = torch.tensor([count for item in counts for count in item], device=windows.device)
        mask = (torch.arange(width, device=windows.device) < real[:, None]).repeat(1, prod(self.audio.raster))
        layout = TokenLayout(tuple(map(len, counts)), (*self.audio.raster, width), self.audio.prefix, mask)
        flat = torch.tensor([n for item in lengths for n in item], device=windows.device)
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout):
            states = recorded(self.audio, self.resolve(self.n_blocks), windows, flat)
            layers = [self._joined(self._timed(state, width), counts) for state in states]
        grids = tuple(self._grid(n) for n in items)
        largest = max(grids)
        tokens = torch.tensor([prod(grid) for grid in grids], device=windows.device)
        shown = torch.arange(prod(largest), device=windows.device) < tokens[:, None]
        alike = all(grid == largest for grid in grids)
        return Features(dict(zip(self.layers, layers, strict=True)), shown, largest, None if alike else grids)

    def _check(self, samples: int) -> None:
        if self.fixed and self.window is not None and samples > self.window:
            raise MediaError(
                f"a sound of {samples / self.audio.rate:.2f} seconds is longer than the one window of "
                f"{self.window / self.audio.rate:g} seconds that `fixed` allows; remove the word for windows in a row."
            )

    def _lengths(self, samples: int) -> list[int]:
        """Real samples of each window."""
        if self.window is None:
            return [samples]
        return [min(self.window, samples - start) for start in range(0, samples, self.window)]

    def _counts(self, samples: int) -> list[int]:
        """Tokens in time of each window that are given: real ones, or all under ``fixed``."""
        if self.fixed and self.window is not None:
            return [self.audio.tokens(self.window)]
        return [self.audio.tokens(length) for length in self._lengths(samples)]

    def _grid(self, samples: int) -> tuple[int, ...]:
        time = sum(self._counts(samples))
        return (time, *self.audio.raster) if self.keep else (time,)

    def _windows(self, samples: Samples) -> dict[str, Tensor]:
        """Each window as the model's own feature extractor prepares it."""
        parts, start = [], 0
        for length in self._lengths(len(samples)):
            part = samples[start : start + length]
            start += length
            made = self.audio.prepare(np.pad(part, (0, max(0, self.audio.smallest - length))))
            if self.fixed and self.window is not None and self.audio.own_window is None:
                made = pad(made, (0, self.window - len(made)))
            parts.append(made)
        return {"windows": _stacked(parts), "samples": torch.tensor(len(samples))}

    def _timed(self, state: Tensor, width: int) -> Tensor:
        """float[rows, prefix + T, D] -> float[rows, time, tokens per time * D or D], in the order of time."""
        state = state[:, self.audio.prefix :]
        expected = prod(self.audio.raster) * width
        if state.shape[1] != expected:
            raise MmllmError(f"the encoder gives {state.shape[1]} tokens for a window where {expected} were expected.")
        if not self.audio.raster:
            return state
        bands = state.unflatten(1, (self.audio.raster[0], width)).transpose(1, 2)
        return bands.flatten(2) if self.keep else bands.mean(2)

    def _joined(self, timed: Tensor, counts: Sequence[Sequence[int]]) -> Tensor:
        """Windows of each item after each other, without what pads them: float[N, longest, D]."""
        rows = iter(timed)
        joined = [torch.cat([next(rows)[:count] for count in item]) for item in counts]
        return pad_sequence(joined, batch_first=True).unflatten(-1, (-1, self.dim)).flatten(1, 2)

    @classmethod
    def tiny(cls) -> HfAudioEncoder:
        """A random Whisper: 3 blocks, width 16, windows of 1 second of 50 tokens, loaded from a folder."""
        from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

        config = WhisperConfig(
            vocab_size=2, num_mel_bins=16, d_model=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_layers=0, decoder_attention_heads=2, decoder_ffn_dim=4, max_source_positions=50,
            max_target_positions=1, pad_token_id=0, bos_token_id=0, eos_token_id=1, decoder_start_token_id=0,
            suppress_tokens=[], begin_suppress_tokens=[],
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            WhisperModel(config).save_pretrained(folder)
            WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
            return cls(model=folder)

    def tiny_media(self) -> list[Any]:
        """Three WAV files: a tone, a longer noise, a rising tone."""
        noise = np.random.default_rng(0).normal(0, 0.1, 11_000)
        time = np.arange(6000) / 8000
        return [
            wav(0.3 * np.sin(2 * np.pi * 440 * time[:2500])), wav(noise), wav(0.2 * np.sin(3000 * time**2 + time))
        ]  # fmt: skip


def _stacked(windows: Sequence[Tensor]) -> Tensor:
    """Windows float[..., L] of raw sound may differ in length: zeros at their ends."""
    longest = max(window.shape[-1] for window in windows)
    return torch.stack([pad(window, (0, longest - window.shape[-1])) for window in windows])


def wav(samples: Any, rate: int = 8000) -> bytes:
    """The samples, in -1 .. 1, as the bytes of a WAV file of 16 bits."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _window(model: str, own: int | None, asked: float | None, rate: int, smallest: int) -> int | None:
    """Samples of a window, or None: a sound is one window whatever its length."""
    if asked is None:
        return own
    if own is not None and not math.isclose(asked, own / rate, abs_tol=0.05):
        raise MmllmError(f'window: "{model}" hears windows of {own / rate:g} seconds and no others; remove the word.')
    if asked * rate < smallest:
        raise MmllmError(f"window: {asked:g} seconds are shorter than one token of this model.")
    return own if own is not None else round(asked * rate)
