"""From a checked request to the Sample that is answered: what a request may not hold is refused, its media are read.

Its parts are understood by ``mmllm/messages/openai.py``, as those of training data are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmllm.errors import MediaError
from mmllm.messages import placeholders
from mmllm.messages.openai import REQUEST_ROLES, MediaPart, Turn, assemble, read_part, read_turns
from mmllm.modalities import MODALITIES, refusal
from mmllm.serving.media import Limits, read_files, read_images
from mmllm.serving.requests.chat import ChatRequest
from mmllm.serving.schema import ApiError
from mmllm.serving.tools.prompt import plain_messages
from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from mmllm.generation.generator import Generator
    from mmllm.processors.base import Processor


@dataclass(frozen=True)
class Inputs:
    """Inputs of the served model besides text."""

    keys: Mapping[str, str]
    """Modality -> key of the input its items go to, the first of that modality."""
    processors: Mapping[str, Processor]
    """Key -> what reads its items; it needs no encoder."""

    @classmethod
    def of(cls, generator: Generator) -> Inputs:
        """Return the inputs of the generator's model."""
        found = {key: next(iter(one.processors.values())) for key, one in generator.inputs.items()}
        keys: dict[str, str] = {}
        for key, processor in found.items():
            keys.setdefault(processor.modality, key)
        return cls(keys, found)

    def key(self, modality: str) -> str:
        """Return the key of the input for ``modality``; MediaError where the model lacks it."""
        if modality not in self.keys:
            raise MediaError(f"This model {refusal(modality, self.keys)}.")
        return self.keys[modality]

    def check_seconds(self, modality: str, items: Sequence[Any], limits: Limits) -> None:
        """Raise MediaError for a video that is too long, as far as its header says so; nothing is decoded."""
        if modality != "video":  # of a sound ``media`` reads the header itself
            return
        processor = self.processors[self.key(modality)]
        for number, item in enumerate(items, 1):
            try:
                seconds = processor.seconds(processor.measure(item))
            except MediaError as error:
                raise MediaError(f"Video {number}: {error}") from error
            if seconds and seconds[-1] > limits.max_seconds:
                raise MediaError(
                    f"Video {number} lasts {seconds[-1]:.0f} s or longer; at most {limits.max_seconds:g} s."
                )


def to_sample(request: ChatRequest, name: str, inputs: Inputs, limits: Limits) -> Sample:
    """Return the request as a Sample named ``name``; ApiError 400 for what cannot be asked. Decodes images."""
    if request.messages[-1].role not in ("user", "tool"):
        raise ApiError(400, "The last message must be the user's: it is what gets answered.", param="messages")
    plain = plain_messages(request, inputs.processors)
    turns = list(read_turns([message for _, message in plain], REQUEST_ROLES))
    # before anything is decoded
    for modality in [part.modality for turn in turns for part in turn.content if isinstance(part, MediaPart)]:
        try:
            inputs.key(modality)
        except MediaError as error:
            plural = "images" if modality == "image" else modality
            raise ApiError(400, str(error), code=f"no_{plural}", param="messages") from error
    for turn, (number, message) in zip(turns, plain, strict=True):
        _check(turn, message["role"], number, inputs.processors)
    messages, urls = assemble(turns, lambda part: part.item, inputs.key)
    modality_of = {key: modality for modality, key in inputs.keys.items()}
    media = {key: read_media(modality_of[key], sent, inputs, limits) for key, sent in urls.items()}
    return Sample(name, messages, media)


def urls_of(request: ChatRequest, modality: str) -> list[str]:
    """Return the data URLs of all items of one modality, in order."""
    parts = [read_part(part.model_dump()) for message in request.messages for part in message.content or ()]
    return [str(part.item) for part in parts if isinstance(part, MediaPart) and part.modality == modality]


def read_media(modality: str, urls: Sequence[str], inputs: Inputs, limits: Limits) -> tuple[Any, ...]:
    """Read the items of one modality, images decoded; ApiError 400 ``invalid_<modality>`` names the one at fault."""
    try:
        if modality == "image":
            return read_images(urls, limits)
        files = read_files(modality, urls, limits)
        inputs.check_seconds(modality, files, limits)
        return files
    except MediaError as error:
        raise ApiError(400, str(error), code=f"invalid_{modality}", param="messages") from error


def _check(turn: Turn, role: str, number: int, keys: Collection[str]) -> None:
    """Refuse media outside the user's messages and placeholders typed as text: ApiError 400; ``number`` from 0."""
    param = f"messages.{number}.content"
    for part in turn.content:
        if isinstance(part, MediaPart) and role != "user":
            plural = MODALITIES[part.modality].plural
            text = f"Message {number + 1} is the {role}'s; only user messages hold {plural}."
            raise ApiError(400, text, param=param)
    typed = [Message(turn.role, part) for part in turn.content if isinstance(part, str)]
    for key in keys:
        if any(placeholders.count(message, key) for message in typed):
            raise ApiError(
                400,
                f"Message {number + 1} holds the text <{key}>, which marks the place of media; write \\<{key}> for "
                "the text itself, and send media as parts of their own (image_url, video_url, input_audio, file).",
                code="placeholder_in_text",
                param=param,
            )
