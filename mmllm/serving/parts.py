"""Schema of the parts of a message's content in a request: text, and media in OpenAI's and vLLM's forms.

``schema.py`` takes them into a request; ``mmllm/messages/openai.py`` decides what a part means.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmllm.errors import MediaError
from mmllm.messages.openai import file_modality

ModalityName = Literal["image", "video", "audio", "graph", "points", "document"]


CHANGES = (
    "fps", "nframes", "num_frames", "min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels",
    "resized_height", "resized_width", "video_start", "video_end", "start", "end",
)  # fmt: skip
"""Fields by which other servers are told how to read a file (Qwen's): here the recipe says it."""


class Part(BaseModel):
    """One part of a message's content; fields it does not know are ignored (``uuid``, ``cache_control``).

    Those of ``CHANGES`` are refused: the answer would be about something else than was asked.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _nothing_dropped(cls, value: Any) -> Any:
        for name in CHANGES:
            if isinstance(value, dict) and value.get(name) is not None:
                raise ValueError(f"{name!r} is not supported by this server; leave it out")
        return value


class TextPart(Part):
    """``{"type": "text", "text": "..."}``."""

    type: Literal["text"]
    text: str


class Url(Part):
    """The address of a media item; only data URLs are read. ``detail`` is accepted: an encoder has one resolution."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


def _as_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


AnyUrl = Annotated[Url, BeforeValidator(_as_url, json_schema_input_type=Url | str)]


class ImageUrlPart(Part):
    """``{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}``; the URL may also stand bare."""

    type: Literal["image_url"]
    image_url: AnyUrl


class VideoUrlPart(Part):
    """``{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,..."}}``, as vLLM takes it."""

    type: Literal["video_url"]
    video_url: AnyUrl


class AudioUrlPart(Part):
    """``{"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,..."}}``, as vLLM takes it."""

    type: Literal["audio_url"]
    audio_url: AnyUrl


class GraphUrlPart(Part):
    """``{"type": "graph_url", "graph_url": {"url": "data:application/json;base64,..."}}``."""

    type: Literal["graph_url"]
    graph_url: AnyUrl


class PointsUrlPart(Part):
    """``{"type": "points_url", "points_url": {"url": "data:application/octet-stream;base64,..."}}``."""

    type: Literal["points_url"]
    points_url: AnyUrl


class DocumentUrlPart(Part):
    """``{"type": "document_url", "document_url": {"url": "data:text/plain;base64,..."}}``."""

    type: Literal["document_url"]
    document_url: AnyUrl


class ImagePart(Part):
    """``{"type": "image", "image": "data:image/png;base64,..."}``, as training data has it, with its own item."""

    type: Literal["image"]
    image: AnyUrl


class VideoPart(Part):
    """``{"type": "video", "video": "data:video/mp4;base64,..."}``."""

    type: Literal["video"]
    video: AnyUrl


class AudioPart(Part):
    """``{"type": "audio", "audio": "data:audio/wav;base64,..."}``."""

    type: Literal["audio"]
    audio: AnyUrl


class GraphPart(Part):
    """``{"type": "graph", "graph": "data:application/json;base64,..."}``."""

    type: Literal["graph"]
    graph: AnyUrl


class PointsPart(Part):
    """``{"type": "points", "points": "data:application/octet-stream;base64,..."}``."""

    type: Literal["points"]
    points: AnyUrl


class DocumentPart(Part):
    """``{"type": "document", "document": "data:text/plain;base64,..."}``."""

    type: Literal["document"]
    document: AnyUrl


class InputAudio(Part):
    """Base64 of a sound file and its format."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg"]


class InputAudioPart(Part):
    """``{"type": "input_audio", "input_audio": {"data": "<base64>", "format": "wav"}}``, as OpenAI takes it."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class FileData(Part):
    """A file; its modality is ``modality``, or else what the ending of ``filename`` and the URL's media type say."""

    file_data: str
    filename: Annotated[str, Field(max_length=500)] = ""
    modality: ModalityName | None = None

    @model_validator(mode="after")
    def _one_modality(self) -> FileData:
        """Refuse a file whose modality is not declared, or declared in two ways."""
        try:
            file_modality(self.filename, self.file_data, self.modality)
        except MediaError as error:
            raise ValueError(str(error)) from error
        return self


class FilePart(Part):
    """``{"type": "file", "file": {"filename": "graph.json", "file_data": "data:application/json;base64,..."}}``.

    OpenAI's form, for every modality; ``"modality": "points"`` inside ``file`` decides where the ending does not.
    """

    type: Literal["file"]
    file: FileData


ItemPart = ImagePart | VideoPart | AudioPart | GraphPart | PointsPart | DocumentPart
UrlPart = ImageUrlPart | VideoUrlPart | AudioUrlPart
OtherUrlPart = GraphUrlPart | PointsUrlPart | DocumentUrlPart
MediaPart = UrlPart | InputAudioPart | FilePart | OtherUrlPart | ItemPart
"""In the order in which an error lists them: those that other servers take come first."""

Content = Annotated[TextPart | MediaPart, Field(discriminator="type")]
MediaContent = Annotated[MediaPart, Field(discriminator="type")]
