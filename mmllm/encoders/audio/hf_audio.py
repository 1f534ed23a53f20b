"""Audio encoders of transformers (Whisper, AST, wav2vec 2.0, HuBERT) from a hub id or a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mmllm.encoders.audio.loading import load_audio
from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.masks import real_tokens
from mmllm.encoders.recording import recorded
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from mmllm.hooks.shards import calls_of_all
from mmllm.processors.audio import AudioProcessor, window_samples
from mmllm.processors.sound_files import MAX_SECONDS, TIMEOUT
from mmllm.types import Features

Frequencies = Literal["mean", "keep"]


class HfAudioEncoder(Encoder):
    """A sound as tokens in time. Its grid is (time,): the tokens that begin within the sound, window after window.

    A sound longer than ``window`` seconds is cut into windows, which do not hear each other. Whisper (30 s) and AST
    (10.24 s) have a window of their own and no mask: what is left of the last one is silence, made by the model's own
    feature extractor, whoever else is in the batch. Whisper's may be shorter, in whole seconds, so that short clips
    cost less: its positions are sinusoids, of which a shorter window has the first. wav2vec 2.0 and HuBERT take any
    length (``window``: none unless given); padding to a longer neighbour changes nothing. ``fixed``: every item is one
    full window, so all have one grid; longer sound is refused. ``max_seconds`` is the longest sound that is read, known
    from the header.
    What soundfile cannot read (M4A, WebM, MP4) is decoded in another process, killed after ``timeout`` seconds.
    ``whole_windows`` (models that hear silence): a sound is padded to whole windows, its spectrogram is made of all of
    it and then cut, and what pads it gives tokens too, as in Voxtral (arXiv 2507.13264). Granite Speech's conformer
    takes any length, and sounds of unlike length are run apart, as it hears what pads them.
    ``frequencies`` (AST, whose patches are frequency x time): ``mean`` of them, or ``keep``: grid (time, frequencies).
    """

    processor: AudioProcessor

    gives_final = True
    host_inputs = ("samples",)

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int | Literal["final"]] = (-1,),
        window: float | None = None,
        fixed: bool = False,
        whole_windows: bool = False,
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
        heard = self.audio.front_end
        if window is not None:
            self.audio.shorten(window)
        samples = window_samples(model, heard, window)
        if fixed and samples is None:
            raise MmllmError(f'fixed: "{model}" takes sound of any length; say how long: window (seconds).')
        if fixed and heard.own_window is None and not heard.raw:
            raise MmllmError(f'fixed: "{model}" hears what pads a sound; remove the word.')
        if whole_windows and not self.audio.hears_padding:
            raise MmllmError(f'whole_windows: "{model}" does not hear what pads a window; remove the word.')
        self.final_alone = self.audio.pool > 1
        self._check_words()
        if "final" in self.layers:
            heard.pooled(self.audio.pool)
        self.keep = frequencies == "keep" and bool(heard.raster)
        self.processor = AudioProcessor(
            heard,
            window=samples,
            fixed=fixed,
            keep=self.keep,
            whole=whole_windows,
            max_seconds=max_seconds,
            timeout=timeout,
        )
        if whole_windows:
            self.processor.blank()  # one that cannot be cut is told now
        self.resolve(self.n_blocks)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the model."""
        return len(self.audio.blocks)

    def hook_points(self) -> BlockHooks:
        """Return its blocks; a row is one window."""
        return BlockHooks(self.audio.blocks, self.dim, self.scope)

    def forward(self, **inputs: Tensor) -> Features:
        """Windows of N sounds -> layers of float[N, longest, D], each item's tokens first."""
        weight = next(self.parameters())
        windows = inputs["windows"].to(device=weight.device, dtype=weight.dtype)
        items: list[int] = inputs["samples"].tolist()
        lengths = [self.processor.lengths(n) for n in items]
        counts = [self.processor.counts(n) for n in items]
        width = self.audio.width(windows.shape[-1])
        heard = [count for n in items for count in self.processor.heard(n)]
        # rows of frequency stand one after the other in the sequence, each over all of time
        mask = real_tokens(heard, windows.device, width).repeat(1, prod(self.audio.front_end.raster))
        layout = TokenLayout(tuple(map(len, counts)), (*self.audio.front_end.raster, width), self.audio.prefix, mask)
        flat = torch.tensor([n for item in lengths for n in item]).to(windows.device, non_blocking=True)
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout):
            wanted = self.resolve(self.n_blocks)
            if self.audio.alone:
                states = self._each_length(windows, flat, heard)
            else:
                states = recorded(self.audio.blocks, wanted, lambda: self.audio.run(windows, flat))
            given = width // self.audio.pool if "final" in self.layers else width
            layers = [self._joined(self._timed(state, given), counts) for state in states]
        grids = tuple(self.processor.grid_of(n) for n in items)
        # time comes first and frequencies are alike, so the largest tuple has the most tokens
        largest = max(grids)
        shown = real_tokens([prod(grid) for grid in grids], windows.device)
        alike = all(grid == largest for grid in grids)
        return Features(dict(zip(self.layers, layers, strict=True)), shown, largest, None if alike else grids)

    def _each_length(self, windows: Tensor, flat: Tensor, heard: Sequence[int]) -> list[Tensor]:
        """States float[rows, T, D] of each layer, rows with as many tokens run together, zeros behind a row's own."""
        wanted = self.resolve(self.n_blocks)
        found: list[Tensor] = []
        counts = list(dict.fromkeys(heard))
        # under ZeRO-3 all ranks gather weights together: those with fewer lengths run one of theirs again
        more = calls_of_all(len(counts), self) - len(counts)
        for place, count in enumerate([*counts, *counts[:1] * more]):
            rows = torch.tensor([row for row, n in enumerate(heard) if n == count], device=windows.device)
            inputs, lengths = windows[rows, ..., :count], flat[rows]
            states = recorded(self.audio.blocks, wanted, partial(self.audio.run, inputs, lengths))
            found = found or [one.new_zeros(len(heard), windows.shape[-1], one.shape[-1]) for one in states]
            if place < len(counts):
                padded = [pad(one, (0, 0, 0, windows.shape[-1] - count)) for one in states]
                found = [whole.index_copy(0, rows, one) for whole, one in zip(found, padded, strict=True)]
        return found

    def _timed(self, state: Tensor, width: int) -> Tensor:
        """float[rows, prefix + T, D] -> float[rows, time, tokens per time * D or D], in the order of time."""
        state = state[:, self.audio.prefix :]
        expected = prod(self.audio.front_end.raster) * width
        if state.shape[1] != expected:
            raise MmllmError(f"the encoder gives {state.shape[1]} tokens for a window where {expected} were expected.")
        if not self.audio.front_end.raster:
            return state
        bands = state.unflatten(1, (self.audio.front_end.raster[0], width)).transpose(1, 2)
        return bands.flatten(2) if self.keep else bands.mean(2)

    def _joined(self, timed: Tensor, counts: Sequence[Sequence[int]]) -> Tensor:
        """Windows of each item after each other, without what pads them: float[N, longest, D]."""
        rows = iter(timed)
        joined = [torch.cat([next(rows)[:count] for count in item]) for item in counts]
        return pad_sequence(joined, batch_first=True).unflatten(-1, (-1, self.dim)).flatten(1, 2)
