"""Audio models of transformers, in what they differ: how they are called, and how many tokens they give for a window.

``hf_audio.py`` puts windows together; what a model hears stands in ``processors/audio_front_ends.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmllm import hooks
from mmllm.encoders.float32_buffers import HALF
from mmllm.processors.audio_front_ends import AstFrontEnd, FrontEnd, GraniteFrontEnd, WaveFrontEnd, WhisperFrontEnd


class AudioModel(nn.Module):
    """Frozen audio model. A window of n samples makes ``front_end.tokens(n)`` real tokens behind ``prefix`` others."""

    net: PreTrainedModel
    front_end: FrontEnd
    """Feature extractor and clock of the model."""
    prefix: int = 0
    """Tokens in front of the others."""
    pool: int = 1
    """Neighbouring tokens of the last block that the last norm takes the mean of."""
    alone: bool = False
    """Whether rows of unlike length must not be run together."""
    hears_padding: bool = True
    """Whether silence behind a sound is heard, where a window has a length of its own."""

    def __init__(self, net: PreTrainedModel, front_end: FrontEnd) -> None:
        super().__init__()
        self.net = net
        self.front_end = front_end

    @property
    def dim(self) -> int:
        """D."""
        return int(self.net.config.hidden_size)

    @property
    def blocks(self) -> nn.ModuleList:
        """Transformer blocks in order."""
        raise NotImplementedError

    def width(self, inputs: int) -> int:
        """Tokens in time of a row whose inputs are so long, real or not."""
        raise NotImplementedError

    def shorten(self, seconds: float) -> None:
        """Hear windows of so many seconds instead of its own, where it can; else nothing changes."""
        return None

    def run(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Run over float[rows, ..., L], of which int64[rows] samples are real -> float[rows, prefix + T // pool, D].

        That is the model's last state, after its last norm; hooks take the others.
        """
        raise NotImplementedError


class WhisperEncoderModel(AudioModel):
    """Whisper's encoder (Radford et al. 2022): log-mel windows of 30 seconds, padded with silence that it hears."""

    front_end: WhisperFrontEnd

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        super().__init__(net, WhisperFrontEnd(extractor, net.config.max_source_positions))

    @property
    def blocks(self) -> nn.ModuleList:
        """Transformer blocks in order."""
        return self.net.layers

    def shorten(self, seconds: float) -> None:
        """Cut its table of positions, which are sinusoids of the place alone: the first rows are a shorter window's.

        Raises:
            MmllmError: no whole seconds, or more than it has positions for.
        """
        n_tokens = self.front_end.shorten(seconds)
        table = self.net.embed_positions
        table.weight = nn.Parameter(table.weight[:n_tokens].detach().clone(), requires_grad=False)
        table.num_embeddings = n_tokens
        # its forward compares the length of the spectrogram with them
        self.net.config.max_source_positions = self.net.max_source_positions = n_tokens

    def width(self, inputs: int) -> int:
        """Always its number of positions."""
        return int(self.net.config.max_source_positions)

    def run(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """The model has no mask: what pads a window is heard as silence."""
        last: Tensor = self.net(windows).last_hidden_state
        return last


class VoxtralModel(WhisperEncoderModel):
    """Voxtral's encoder (arXiv 2507.13264): Whisper's, whose table of positions stays in float32 beside 16 bits."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VoxtralModel:
        """Cast or move all but the positions, which are moved alone."""
        # as `_keep_in_fp32_modules_strict` of its class says (transformers 5.23); private in torch (read in 2.15), the
        # one way that to(), half() and a module around all take
        table = self.net.embed_positions.weight
        values = table.data
        super()._apply(fn, recurse)
        if table.dtype in HALF:
            table.data = values.to(table.device)
        return self


class MaskedWhisperModel(WhisperEncoderModel):
    """Qwen2-Audio's encoder (Chu et al. 2024, arXiv 2407.10759): Whisper's, which does not hear what pads a window.

    Its last norm stands behind a mean of two tokens, which is not the mean of two normed ones.
    """

    pool = 2
    hears_padding = False

    def shorten(self, seconds: float) -> None:
        """Stays as it is: what is behind a sound costs time and is not heard."""
        return None

    def run(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Frames of silence behind the sound get no attention; rows of them are never read."""
        width = self.width(windows.shape[-1])
        real = torch.tensor([self.front_end.tokens(int(n)) for n in lengths], device=windows.device)
        hidden = torch.arange(width, device=windows.device) >= real[:, None]
        # the smallest finite number, not -inf: a window that is all silence must not become nan
        mask = torch.zeros(hidden.shape, dtype=windows.dtype, device=windows.device)
        mask.masked_fill_(hidden, torch.finfo(windows.dtype).min)
        last: Tensor = self.net(windows, attention_mask=mask[:, None, None].expand(-1, 1, width, -1)).last_hidden_state
        return last


class FramedWhisperModel(MaskedWhisperModel):
    """Audio Flamingo 3's encoder (Goel et al. 2025, arXiv 2507.08128): as Qwen2-Audio's, and makes its mask itself."""

    def run(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """It is told which frames of the spectrogram are real."""
        real = torch.tensor([self.front_end.frames(int(n)) for n in lengths], device=windows.device)
        mask = torch.arange(windows.shape[-1], device=windows.device) < real[:, None]
        last: Tensor = self.net(windows, input_features_mask=mask).last_hidden_state
        return last


class ConformerModel(AudioModel):
    """Granite Speech's encoder (Saon et al. 2025, arXiv 2505.08699): a conformer without a mask.

    What pads a row would be heard, so rows of unlike length are run apart.
    """

    alone = True
    hears_padding = False

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        super().__init__(net, GraniteFrontEnd(extractor))

    @property
    def blocks(self) -> nn.ModuleList:
        """Conformer blocks in order. Behind the middle one a guess at the letters is added to the stream."""
        return self.net.layers

    def width(self, inputs: int) -> int:
        """One for each pair of frames."""
        return inputs

    def run(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Rows of one length."""
        last: Tensor = self.net(windows.transpose(1, 2)).last_hidden_state
        return last


class AstModel(AudioModel):
    """Audio spectrogram transformer (Gong et al. 2021): patches of frequency x time behind two class tokens."""

    prefix = 2
    front_end: AstFrontEnd

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        rows, columns = net.embeddings.get_shape(net.config)
        super().__init__(net, AstFrontEnd(extractor, rows, columns, net.config.time_stride))

    @property
    def blocks(self) -> nn.ModuleList:
        """Transformer blocks in order."""
        return self.net.layers

    def width(self, inputs: int) -> int:
        """Always all its columns."""
        return self.front_end.columns

    def run(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """The model has no mask for padding of its spectrogram: it is heard."""
        last: Tensor = self.net(windows).last_hidden_state
        return last


class WaveModel(AudioModel):
    """wav2vec 2.0 and HuBERT (Baevski et al. 2020, Hsu et al. 2021): raw sound of any length.

    Padding to a longer neighbour changes nothing: later frames of the convolutions never reach back, the transformer
    is given a mask, and a group norm over time (the base models) takes its statistics over the real frames alone.
    """

    front_end: WaveFrontEnd

    def __init__(self, net: PreTrainedModel, extractor: Any) -> None:
        config = net.config
        super().__init__(net, WaveFrontEnd(extractor, config.conv_kernel, config.conv_stride))
        self._first = config.conv_kernel[0], config.conv_stride[0]
        self._lengths: hooks.Scope[Tensor] = hooks.Scope()
        if config.feat_extract_norm == "group":
            # on this instance, for its whole life: without padding it gives what the model's own gives
            norm = net.feature_extractor.conv_layers[0].layer_norm
            hooks.wrap_forward(norm, lambda lengths, _, x: self._group_norm(norm, x, lengths), self._lengths)

    @property
    def blocks(self) -> nn.ModuleList:
        """Transformer blocks in order."""
        return self.net.encoder.layers

    def width(self, inputs: int) -> int:
        """Frames that the convolutions make."""
        return self.front_end.frames(inputs)

    def run(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """The mask says which samples are real."""
        lengths = lengths.clamp(min=self.front_end.smallest)
        mask = torch.arange(windows.shape[1], device=windows.device) < lengths[:, None]
        last: list[Tensor] = []
        # of the transformer: some models have an adapter behind it that makes fewer tokens
        handle = self.net.encoder.register_forward_hook(lambda _, __, output: last.append(output.last_hidden_state))
        try:
            with self._lengths.open(lengths):
                self.net(windows, attention_mask=mask.long())
        finally:
            handle.remove()
        return last[-1]

    def _group_norm(self, norm: nn.GroupNorm, x: Tensor, lengths: Tensor) -> Tensor:
        """Norm with one group per channel over the real frames of each row: float[rows, C, frames]."""
        kernel, jump = self._first
        frames = (lengths - kernel) // jump + 1
        real = (torch.arange(x.shape[-1], device=x.device) < frames[:, None])[:, None]
        # float32: sums over thousands of frames
        values = x.float()
        count = frames[:, None, None].float()
        mean = (values * real).sum(-1, keepdim=True) / count
        spread = ((values - mean).square() * real).sum(-1, keepdim=True) / count
        values = (values - mean) * torch.rsqrt(spread + norm.eps)
        return (values * norm.weight[:, None].float() + norm.bias[:, None].float()).to(x.dtype)
