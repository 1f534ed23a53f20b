"""Sounds that a comparison plays: log-mel features that the encoder sees of them, and how much of these it hears."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GraniteSpeechProcessor, Qwen2AudioProcessor, VoxtralProcessor

from mmllm.batches.sample import Encoded
from mmllm.processors.audio import AudioProcessor
from mmllm.published.media.base import Media, Shown

SHORT, LITTLE = 0.02, 0.01
"""Seconds of the shortest sound that is played, and by which one is longer than a window."""
PART, LONG = 0.1, 7 / 3
"""Windows that an ordinary sound and a long one take: 3 and 70 seconds where a window is one of 30."""

Samples = NDArray[numpy.float32]


def signal(samples: int, rate: int) -> Samples:
    """A rising tone with noise that fades in and out, always the same."""
    rng = numpy.random.default_rng(samples)
    time = numpy.arange(samples) / rate
    tone = numpy.sin(2 * numpy.pi * (200 + 300 * time) * time) * numpy.sin(2.1 * time + 0.3)
    return (0.3 * tone + rng.normal(0, 0.02, samples)).astype("float32")


def wav(samples: Samples, rate: int) -> bytes:
    """A file with exactly these samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


class Sounds(Media):
    """Sounds of lengths at which models differ: nearly none, part of a window, one, a little more, several; and two."""

    key = "audio"

    @property
    def token(self) -> int:
        """Id of a sound's token."""
        return int(self.source.config.audio_token_id)

    @property
    def _rate(self) -> int:
        return int(self.source.extractor.sampling_rate)

    @property
    def _stacked(self) -> bool:
        """Whether it is Granite Speech, whose frames are stacked by its extractor."""
        return isinstance(self.source.processor, GraniteSpeechProcessor)

    @property
    def _processor(self) -> AudioProcessor:
        found = self.ours.inputs[self.key].processors[self.key]
        assert isinstance(found, AudioProcessor)
        return found

    def shown(self) -> list[Shown]:
        """As many of them as the model takes."""
        processor = self._processor
        # any length where there is no window: of tiny models one second is several of their stretches of attention
        window = 1.0 if processor.window is None else processor.window / self._rate
        lengths = [[SHORT], [PART * window], [window]]
        lengths += [[one] for one in (window + LITTLE, LONG * window) if one <= processor.max_seconds]
        if self.source.family.several:
            lengths.append([PART * window * (1 if self.source.family.pads_together else 0.5), PART * window])
        return [self._sounds(one) for one in lengths]

    def _sounds(self, lengths: Sequence[float]) -> Shown:
        made = [signal(round(seconds * self._rate), self._rate) for seconds in lengths]
        name = " and ".join(f"{round(seconds, 2):g} s" for seconds in lengths)
        return Shown(name, tuple(wav(one, self._rate) for one in made), tuple(made))

    def processed(self, text: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of a prompt and of sounds."""
        if isinstance(self.source.processor, VoxtralProcessor):
            return self._of_voxtral(text, items)
        words: dict[str, Any] = self.source.special_tokens(text)
        if items:
            words |= {"audio": list(items)}
            # its extractor asks for none
            words |= {} if self._stacked else {"sampling_rate": self._rate}
        return dict(self.source.processor(text=[text], return_tensors="pt", **words))

    def _of_voxtral(self, text: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """Its processor leaves ids with sounds to the package mistral_common, and makes the features itself."""
        processor = self.source.processor
        found = dict(processor.tokenizer(text, return_tensors="pt", **self.source.special_tokens(text)))
        if not items:
            return found
        # as its `apply_chat_template` calls it (transformers 5.23)
        words = dict(processor.audio_kwargs)
        positions = words.pop("max_source_positions")
        each = [processor._retrieve_input_features([one], positions, **words) for one in items]
        config = self.source.config.audio_config
        tokens = config.max_source_positions * config.hidden_size // config.intermediate_size
        counts = iter([tokens * len(one) for one in each])
        ids = [[one] * next(counts) if one == self.token else [one] for one in found["input_ids"][0].tolist()]
        row = torch.tensor([[number for run in ids for number in run]])
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "input_features": torch.cat(each)}

    def inputs(self, given: dict[str, Tensor], encoded: Encoded) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Log-mel features of each window, and how many tokens of the tower's blocks are no silence behind a sound."""
        items = [item["audio"] for item in encoded.media["audio"]]
        theirs = given["input_features"]
        if self._stacked:  # frames first, and a mask of what its projector gives
            yield "spectrogram", theirs.transpose(1, 2), torch.cat([item["windows"] for item in items])
            places = torch.tensor([span.length for span in encoded.spans])
            yield "mask", given["input_features_mask"].sum(-1).float(), places.float()
            return
        yield "spectrogram", theirs, torch.cat([item["windows"] for item in items])
        heard = [count for item in items for count in self._processor.heard(int(item["samples"]))]
        mask = given.get("feature_attention_mask", given.get("input_features_mask"))
        frames = theirs.new_full((len(theirs),), theirs.shape[-1]) if mask is None else mask.sum(-1)
        yield "mask", ((frames + 1) // 2).float(), torch.tensor(heard, dtype=torch.float32)

    def of_text(self, theirs: Any, given: dict[str, Tensor]) -> Tensor:
        """Logits of a text; without the LoRA of Granite Speech, which its ``generate`` switches off there."""
        # private in transformers (read in 5.23), as its own `generate` asks
        if not theirs._hf_peft_config_loaded:
            return super().of_text(theirs, given)
        theirs.disable_adapters()
        try:
            return super().of_text(theirs, given)
        finally:
            theirs.enable_adapters()

    def answers(self, given: dict[str, Tensor]) -> bool:
        """All but those of Qwen2-Audio without two neighbouring tokens of a sound, as of one shorter than 0.08 s."""
        place = given["input_ids"][0] == self.token
        # it then takes an older way that asks for a mask, which `generate` leaves out where it is all ones
        # (transformers 5.23: TypeError)
        return not isinstance(self.source.processor, Qwen2AudioProcessor) or bool((place[1:] & place[:-1]).any())
