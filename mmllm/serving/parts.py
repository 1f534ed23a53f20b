"""Parts of a message's content in OpenAI's and vLLM's forms: text, and media of every sense; which sense is declared.

``schema.py`` takes them into a request, ``conversation.py`` turns them into placeholders and media.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmllm.modalities import MODALITIES, MODALITY_OF

Modality = Literal["image", "video", "audio", "graph", "points", "document"]


class Part(BaseModel):
    """One part of a message's content; fields it does not know are ignored (``uuid``, ``cache_control``)."""

    model_config = ConfigDict(frozen=True, extra="ignore")


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


class ImagePart(Part):
    """``{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}``; the URL may also stand bare."""

    type: Literal["image_url"]
    image_url: AnyUrl


class VideoPart(Part):
    """``{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,..."}}``, as vLLM takes it."""

    type: Literal["video_url"]
    video_url: AnyUrl


class AudioUrlPart(Part):
    """``{"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,..."}}``, as vLLM takes it."""

    type: Literal["audio_url"]
    audio_url: AnyUrl


class InputAudio(Part):
    """Base64 of a sound file and its format."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg"]


class AudioPart(Part):
    """``{"type": "input_audio", "input_audio": {"data": "<base64>", "format": "wav"}}``, as OpenAI takes it."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class FileData(Part):
    """A file; its sense is ``modality``, or else what the ending of ``filename`` and the URL's media type say."""

    file_data: str
    filename: Annotated[str, Field(max_length=500)] = ""
    modality: Modality | None = None

    @property
    def declared(self) -> set[str]:
        """The senses that name and media type speak of, where ``modality`` does not decide."""
        if self.modality is not None:
            return {self.modality}
        kind = self.file_data[5:40].lower()
        by_type = {name for name, sense in MODALITIES.items() if sense.declared and kind.startswith(sense.declared)}
        ending = self.filename.rpartition(".")[2].lower()
        return by_type | ({MODALITY_OF[ending]} if ending in MODALITY_OF else set())

    @model_validator(mode="after")
    def _one_sense(self) -> FileData:
        """Nothing is guessed from the bytes."""
        if len(self.declared) > 1:
            raise ValueError(f"filename and media type disagree ({', '.join(sorted(self.declared))}); send modality")
        if not self.declared:
            raise ValueError(f"send modality ({', '.join(MODALITIES)}) or a filename with a known ending")
        return self


class FilePart(Part):
    """``{"type": "file", "file": {"filename": "graph.json", "file_data": "data:application/json;base64,..."}}``.

    OpenAI's form, for every sense; ``"modality": "points"`` inside ``file`` decides where the ending does not.
    """

    type: Literal["file"]
    file: FileData


MediaPart = ImagePart | VideoPart | AudioUrlPart | AudioPart | FilePart

Content = Annotated[TextPart | MediaPart, Field(discriminator="type")]
MediaContent = Annotated[MediaPart, Field(discriminator="type")]


def modality_of(part: MediaPart) -> str:
    """The sense a part is for."""
    if isinstance(part, FilePart):
        (one,) = part.file.declared
        return one
    return "image" if isinstance(part, ImagePart) else "video" if isinstance(part, VideoPart) else "audio"


def url_of(part: MediaPart) -> str:
    """The item as a data URL, or whatever else the client sent in its place."""
    if isinstance(part, ImagePart):
        return part.image_url.url
    if isinstance(part, VideoPart):
        return part.video_url.url
    if isinstance(part, AudioUrlPart):
        return part.audio_url.url
    if isinstance(part, AudioPart):
        return f"data:audio/{part.input_audio.format};base64,{part.input_audio.data}"
    return part.file.file_data
