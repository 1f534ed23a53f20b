"""From a checked request to the Sample that is answered: parts become text with placeholders, data URLs pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmllm.types import MediaError, Message, Sample
from serve.media import Limits, read_images
from serve.schema import ApiError, ChatMessage, ChatRequest, ImagePart

if TYPE_CHECKING:
    from mmllm.generate import Generator


@dataclass(frozen=True)
class Inputs:
    """What the served model takes besides text."""

    placeholders: tuple[str, ...]
    """``<key>`` of every encoder; none of them may be typed."""
    image: str | None
    """Key of the encoder that images go to; None when the model takes no images."""

    @classmethod
    def of(cls, generator: Generator) -> Inputs:
        """Read them from the assembly; the first encoder for images takes a request's images."""
        keys = list(generator.assembly.sources)
        encoders = generator.assembly.encoders
        image = next((key for key in keys if encoders[key].modality == "image"), None)
        return cls(tuple(f"<{key}>" for key in keys), image)


def to_sample(request: ChatRequest, name: str, inputs: Inputs, limits: Limits) -> Sample:
    """The request as a Sample named ``name``; ApiError 400 for what cannot be asked. Decodes images."""
    if request.messages[-1].role != "user":
        raise ApiError(400, "The last message must be the user's: it is what gets answered.", param="messages")
    messages = tuple(_message(message, number, inputs) for number, message in enumerate(request.messages))
    parts = [part for message in request.messages for part in message.content]
    urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if not urls:
        return Sample(name, messages)
    if inputs.image is None:
        raise ApiError(400, "This model takes no images; send text only.", code="no_images", param="messages")
    try:
        return Sample(name, messages, {inputs.image: read_images(urls, limits)})
    except MediaError as error:
        raise ApiError(400, str(error), code="invalid_image", param="messages") from error


def join(pieces: list[str]) -> str:
    """Texts and placeholders of one message, each on its own line, as training data has them."""
    text = ""
    for piece in pieces:
        text += piece if not text or text.endswith("\n") else "\n" + piece
    return text


def _message(message: ChatMessage, number: int, inputs: Inputs) -> Message:
    param = f"messages.{number}.content"
    pieces: list[str] = []
    for part in message.content:
        if not isinstance(part, ImagePart):
            pieces.append(part.text)
        elif message.role != "user":
            text = f"Message {number + 1} is the {message.role}'s; only user messages hold images."
            raise ApiError(400, text, param=param)
        else:
            pieces.append(f"<{inputs.image}>")
    text = join(pieces)
    n_images = sum(isinstance(part, ImagePart) for part in message.content)
    for placeholder in inputs.placeholders:
        allowed = n_images if placeholder == f"<{inputs.image}>" else 0
        if text.count(placeholder) != allowed:
            raise ApiError(
                400,
                f"Message {number + 1} holds the text {placeholder}, which marks the place of media; write it another "
                "way, and send images as image_url parts.",
                code="placeholder_in_text",
                param=param,
            )
    return Message("system" if message.role == "developer" else message.role, text)
