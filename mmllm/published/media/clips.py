"""Clips that a comparison shows, and the pixels that the encoder sees of their frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.video_utils import VideoMetadata

from mmllm.batches.sample import Encoded
from mmllm.processors.decoding.video_writing import mp4
from mmllm.processors.image import pixels_of
from mmllm.processors.native.clips import ClipProcessor
from mmllm.processors.video import Clip, VideoProcessor
from mmllm.published.media.base import Media, Shown
from mmllm.published.media.pictures import picture

SIZE = (48, 36)
"""Width and height of the clip that is looked at."""
RATE, FRAMES = 1, 5
"""Frames of a second, no more than models take, and how many there are: an odd number, so that towers which see frames
by pairs have one left, and more pairs than a small frame has rows."""


@cache
def film() -> bytes:
    """An mp4 file of a picture that moves to the left, always the same."""
    width, height = SIZE
    wide = numpy.asarray(picture(2 * width, height))
    frames: list[NDArray[numpy.uint8]] = [wide[:, 8 * n : 8 * n + width] for n in range(FRAMES)]
    return mp4(frames, [n / RATE for n in range(FRAMES)])


class Clips(Media):
    """One clip in a conversation, whose frames both sides take as they are decoded here."""

    key = "video"

    @property
    def token(self) -> int:
        """Id of a clip's tokens: some models give its frames that of pictures."""
        config = self.source.config
        alike = self.source.family.frames_are_pictures
        return int(config.image_token_id if alike else config.video_token_id)

    @property
    def _processor(self) -> VideoProcessor | ClipProcessor:
        found = self.ours.inputs[self.key].processors[self.key]
        assert isinstance(found, VideoProcessor | ClipProcessor)
        return found

    def shown(self) -> list[Shown]:
        """A clip of several frames."""
        made = film()
        clip = self._processor.reading.read(made)
        return [Shown(f"{len(clip.frames)} frames", (made,), (clip,))]

    def processed(self, text: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of a prompt and of chosen frames."""
        words: dict[str, Any] = self.source.special_tokens(text)
        if items:
            words |= {"videos": [numpy.stack(clip.frames) for clip in items], "do_sample_frames": False}
            words |= {"video_metadata": [_told(clip) for clip in items]}
        return dict(self.source.processor(text=[text], return_tensors="pt", **words))

    def inputs(self, given: dict[str, Tensor], encoded: Encoded) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Pixels of every frame, or patches."""
        items = [item["video"] for item in encoded.media["video"]]
        theirs = pixels_of(given)
        what = "patches" if "patches" in items[0] else "pixels"
        ours = torch.cat([item[what] for item in items])
        yield "pixels", theirs.reshape(-1, *ours.shape[1:]), ours


def _told(clip: Clip) -> VideoMetadata:
    """When its frames are, as a published processor is told: by their numbers, and the rate of a whole film.

    What some models are told is how long a frame lasts, which they take from the length of the film and the number of
    frames: it is made so long that this is what lies between two of them.
    """
    numbers = [round(second * RATE) for second in clip.seconds]
    between = (numbers[-1] - numbers[0]) / max(1, len(numbers) - 1)
    words = {"fps": float(RATE), "duration": FRAMES / RATE, "frames_indices": numbers}
    return VideoMetadata(total_num_frames=round(len(numbers) * between) or 1, **words)
