"""From a checked request to the Sample that is answered: parts become text with placeholders, data URLs media."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmllm.errors import MediaError
from mmllm.modalities import MODALITIES, listed
from mmllm.serving.media import Limits, read_files, read_images
from mmllm.serving.parts import TextPart, modality_of, url_of
from mmllm.serving.schema import ApiError, ChatMessage, ChatRequest
from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from mmllm.encoders.base import Encoder
    from mmllm.generation.generator import Generator


@dataclass(frozen=True)
class Inputs:
    """What the served model takes besides text."""

    placeholders: tuple[str, ...]
    """``<key>`` of every encoder; none of them may be typed."""
    keys: Mapping[str, str]
    """Modality -> key of the encoder its items go to, the first of that modality."""
    encoders: Mapping[str, Encoder]
    """Key -> encoder."""

    @classmethod
    def of(cls, generator: Generator) -> Inputs:
        """Read them from the assembly."""
        encoders = {key: generator.readers[key].encoder for key in generator.assembly.sources}
        keys: dict[str, str] = {}
        for key, encoder in encoders.items():
            keys.setdefault(encoder.modality, key)
        return cls(tuple(f"<{key}>" for key in encoders), keys, encoders)

    def key(self, modality: str) -> str:
        """Key of the encoder for ``modality``; MediaError where the model lacks that sense."""
        if modality not in self.keys:
            known = [MODALITIES[name].plural for name in MODALITIES if name in self.keys]
            takes = f"it takes {listed(['text', *known])}" if known else "send text only"
            raise MediaError(f"This model takes no {MODALITIES[modality].plural}; {takes}.")
        return self.keys[modality]

    def check_seconds(self, modality: str, items: Sequence[Any], limits: Limits) -> None:
        """MediaError for a video that is too long, as far as its header says so; nothing is decoded."""
        if modality != "video":  # of a sound ``media`` reads the header itself
            return
        encoder = self.encoders[self.key(modality)]
        for number, item in enumerate(items, 1):
            try:
                seconds = encoder.seconds(encoder.measure(item))
            except MediaError as error:
                raise MediaError(f"Video {number}: {error}") from error
            if seconds and seconds[-1] > limits.max_seconds:
                raise MediaError(
                    f"Video {number} lasts {seconds[-1]:.0f} s or longer; at most {limits.max_seconds:g} s."
                )


def to_sample(request: ChatRequest, name: str, inputs: Inputs, limits: Limits) -> Sample:
    """The request as a Sample named ``name``; ApiError 400 for what cannot be asked. Decodes images."""
    if request.messages[-1].role != "user":
        raise ApiError(400, "The last message must be the user's: it is what gets answered.", param="messages")
    urls: dict[str, list[str]] = {}
    for message in request.messages:
        for part in message.content:
            if not isinstance(part, TextPart):
                urls.setdefault(modality_of(part), []).append(url_of(part))
    for modality in urls:
        try:
            inputs.key(modality)
        except MediaError as error:
            plural = "images" if modality == "image" else modality
            raise ApiError(400, str(error), code=f"no_{plural}", param="messages") from error
    messages = tuple(_message(message, number, inputs) for number, message in enumerate(request.messages))
    media: dict[str, tuple[Any, ...]] = {}
    for modality, sent in urls.items():
        media[inputs.key(modality)] = read_media(modality, sent, inputs, limits)
    return Sample(name, messages, media)


def read_media(modality: str, urls: Sequence[str], inputs: Inputs, limits: Limits) -> tuple[Any, ...]:
    """The items of one sense, checked, images decoded; ApiError 400 ``invalid_<modality>`` names the one at fault."""
    try:
        if modality == "image":
            return read_images(urls, limits)
        files = read_files(modality, urls, limits)
        inputs.check_seconds(modality, files, limits)
        return files
    except MediaError as error:
        raise ApiError(400, str(error), code=f"invalid_{modality}", param="messages") from error


def join(pieces: list[str]) -> str:
    """Texts and placeholders of one message, each on its own line, as training data has them."""
    text = ""
    for piece in pieces:
        text += piece if not text or text.endswith("\n") else "\n" + piece
    return text


def _message(message: ChatMessage, number: int, inputs: Inputs) -> Message:
    param = f"messages.{number}.content"
    pieces: list[str] = []
    places: Counter[str] = Counter()
    for part in message.content:
        if isinstance(part, TextPart):
            pieces.append(part.text)
            continue
        modality = modality_of(part)
        if message.role != "user":
            plural = MODALITIES[modality].plural
            text = f"Message {number + 1} is the {message.role}'s; only user messages hold {plural}."
            raise ApiError(400, text, param=param)
        pieces.append(f"<{inputs.key(modality)}>")
        places[pieces[-1]] += 1
    text = join(pieces)
    for placeholder in inputs.placeholders:
        if text.count(placeholder) != places[placeholder]:
            raise ApiError(
                400,
                f"Message {number + 1} holds the text {placeholder}, which marks the place of media; write it another "
                "way, and send media as parts of their own (image_url, video_url, input_audio, file).",
                code="placeholder_in_text",
                param=param,
            )
    return Message("system" if message.role == "developer" else message.role, text)
