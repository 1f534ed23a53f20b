"""What audio models of transformers differ in: what they hear, how long their windows are, which tokens are real.

``hf_audio.py`` reads sound and puts windows together; here one window of samples becomes inputs and rows of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmllm import hooks
from mmllm.processors.audio import Samples


class AudioModel(nn.Module):
    """One frozen model. A window of n samples makes ``grid(n)`` real tokens behind ``prefix`` others."""

    net: PreTrainedModel
    rate: int
    """Samples per second that it hears."""
    own_window: int | None
    """Samples of its window, where it hears no other length."""
    smallest: int = 1
    """A shorter window is padded with silence to so many samples."""
    prefix: int = 0
    step: float
    """Seconds from one token to the next."""
    raster: tuple[int, ...] = ()
    """Rows of frequency per time, where a model has them: they stand before time in its sequence."""

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        super().__init__()
        self.net = net
        self.extractor = extractor
        self.rate = extractor.sampling_rate

    @property
    def dim(self) -> int:
        """D."""
        return int(self.net.config.hidden_size)

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks."""
        raise NotImplementedError

    def tokens(self, samples: int) -> int:
        """Real tokens in time of a window that begins with so many real samples."""
        raise NotImplementedError

    def prepare(self, samples: Samples) -> Tensor:
        """A window's samples -> its inputs float[..., L] as the model's own feature extractor makes them."""
        made = self.extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        return made[self.extractor.model_input_names[0]][0].float()

    def width(self, inputs: int) -> int:
        """Tokens in time of a row whose inputs are so long, real or not."""
        raise NotImplementedError

    def run(self, windows: Tensor, lengths: Tensor) -> None:
        """One pass over float[rows, ..., L], of which int64[rows] samples are real; hooks take what it gives."""
        raise NotImplementedError


class WhisperEncoderModel(AudioModel):
    """Whisper's encoder (Radford et al. 2022): log-mel windows of 30 seconds, padded with silence that it hears."""

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        super().__init__(net, extractor)
        self.own_window = extractor.n_samples
        self._stride = extractor.n_samples // net.config.max_source_positions
        self.step = self._stride / self.rate

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks."""
        return self.net.layers

    def tokens(self, samples: int) -> int:
        """One for each 20 ms that are begun (two frames of 10 ms)."""
        return math.ceil(samples / self._stride)

    def width(self, inputs: int) -> int:
        """Always its number of positions."""
        return int(self.net.config.max_source_positions)

    def run(self, windows: Tensor, lengths: Tensor) -> None:
        """The model has no mask: what pads a window is heard as silence."""
        self.net(windows)


class AstModel(AudioModel):
    """Audio spectrogram transformer (Gong et al. 2021): patches of frequency x time behind two class tokens."""

    prefix = 2
    smallest = 400

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        super().__init__(net, extractor)
        config = net.config
        self._hop, self._stride = 160, config.time_stride
        rows, self._columns = net.embeddings.get_shape(config)
        self.raster = (rows,)
        # n samples have 1 + (n - 400) // hop frames
        self.own_window = self.smallest + (extractor.max_length - 1) * self._hop
        self.step = self._stride * self._hop / self.rate

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks."""
        return self.net.layers

    def tokens(self, samples: int) -> int:
        """Columns of patches that begin within the sound."""
        frames = 1 + max(0, samples - self.smallest) // self._hop
        return min(self._columns, math.ceil(frames / self._stride))

    def width(self, inputs: int) -> int:
        """Always all its columns."""
        return self._columns

    def run(self, windows: Tensor, lengths: Tensor) -> None:
        """The model has no mask for padding of its spectrogram: it is heard."""
        self.net(windows)


class WaveModel(AudioModel):
    """wav2vec 2.0 and HuBERT (Baevski et al. 2020, Hsu et al. 2021): raw sound of any length.

    Padding to a longer neighbour changes nothing: later frames of the convolutions never reach back, the transformer
    is given a mask, and a group norm over time (the base models) takes its statistics over the real frames alone.
    """

    own_window = None

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        super().__init__(net, extractor)
        config = net.config
        self._layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        stride = math.prod(config.conv_stride)
        self.step = stride / self.rate
        self.smallest = 1
        for kernel, jump in reversed(self._layers):
            self.smallest = (self.smallest - 1) * jump + kernel
        self._lengths: Tensor | None = None
        if config.feat_extract_norm == "group":
            # on this instance, for its whole life: without padding it gives what the model's own gives
            norm = net.feature_extractor.conv_layers[0].layer_norm
            hooks.wrap_forward(norm, lambda _, __, x: self._group_norm(norm, x), hooks.Scope.without_context())

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks."""
        return self.net.encoder.layers

    def tokens(self, samples: int) -> int:
        """Frames whose samples are all real; a sound shorter than one frame is padded to one."""
        return self.width(max(samples, self.smallest))

    def width(self, inputs: int) -> int:
        """Frames that the convolutions make."""
        for kernel, jump in self._layers:
            inputs = (inputs - kernel) // jump + 1
        return inputs

    def run(self, windows: Tensor, lengths: Tensor) -> None:
        """The mask says which samples are real."""
        lengths = lengths.clamp(min=self.smallest)
        self._lengths = lengths
        mask = torch.arange(windows.shape[1], device=windows.device) < lengths[:, None]
        self.net(windows, attention_mask=mask.long())

    def _group_norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """One group per channel, over the real frames of each row: float[rows, C, frames]."""
        assert self._lengths is not None
        kernel, jump = self._layers[0]
        frames = (self._lengths - kernel) // jump + 1
        real = (torch.arange(x.shape[-1], device=x.device) < frames[:, None])[:, None]
        values = x.float()
        count = frames[:, None, None].float()
        mean = (values * real).sum(-1, keepdim=True) / count
        spread = ((values - mean).square() * real).sum(-1, keepdim=True) / count
        values = (values - mean) * torch.rsqrt(spread + norm.eps)
        return (values * norm.weight[:, None].float() + norm.bias[:, None].float()).to(x.dtype)


def _keep_output(
    keep: Callable[[int, None, Tensor], Tensor], index: int, _: None, __: Tensor, output: Tensor
) -> Tensor:
    return keep(index, None, output)


def recorded(model: AudioModel, indices: Sequence[int], windows: Tensor, lengths: Tensor) -> list[Tensor]:
    """float[rows, prefix + T, D] of each layer (0: what enters the first block), with all that works inside."""
    wanted = set(indices)
    states: dict[int, Tensor] = {}
    scope = hooks.Scope.without_context()

    def keep(index: int, _: None, state: Tensor) -> Tensor:
        states[index] = state
        return state

    handles = []
    if 0 in wanted:
        handles.append(hooks.before(model.blocks[0], partial(keep, 0), scope))
    for index in wanted - {0}:
        handles.append(hooks.after(model.blocks[index - 1], partial(_keep_output, keep, index), scope))
    try:
        model.run(windows, lengths)
    finally:
        for handle in handles:
            handle.remove()
    return [states[index] for index in indices]
