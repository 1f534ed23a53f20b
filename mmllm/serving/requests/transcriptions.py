"""Form of ``POST /v1/audio/transcriptions``: a sound file and how what is said in it is written down."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from mmllm.serving.requests.chat import ChatRequest
from mmllm.serving.requests.unsupported import check_extra
from mmllm.serving.schema import ApiError, validation_error

INSTRUCTION = "Transcribe the speech."
"""What the model is asked, unless the form's ``prompt`` asks it otherwise."""
NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "timestamp_granularities": (None,),
    "timestamp_granularities[]": (None,),
    "include": (None,),
    "include[]": (None,),
    "chunking_strategy": (None, "auto"),
    "known_speaker_names": (None,),
    "known_speaker_names[]": (None,),
}
"""Fields that are not offered, with the values that change nothing."""


class TranscriptionForm(BaseModel):
    """Fields beside the file."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Annotated[str, Field(max_length=500)]
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?$")] | None = None
    prompt: Annotated[str, Field(max_length=20_000)] | None = None
    response_format: Literal["json", "text"] | None = None
    temperature: float | None = None
    stream: bool | None = None

    @property
    def instruction(self) -> str:
        """Return what the model is asked about the sound."""
        asked = self.prompt or INSTRUCTION
        return asked if self.language is None else f"{asked} Language: {self.language}."


async def read_form(form: FormData) -> tuple[TranscriptionForm, ChatRequest]:
    """Return the form's fields, and the chat that it is; ApiError 400 where something is wrong with it."""
    file = form.get("file")
    fields: Mapping[str, Any] = {name: value for name, value in form.items() if name != "file"}
    if not isinstance(file, UploadFile):
        raise ApiError(400, "The form has no sound as its file.", code="invalid_request", param="file")
    try:
        found = TranscriptionForm.model_validate(fields)
        check_extra(found.model_extra, NOT_OFFERED)
        sound = base64.b64encode(await file.read()).decode()
        parts = [
            {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{sound}"}},
            {"type": "text", "text": found.instruction},
        ]
        chat = {"model": found.model, "messages": [{"role": "user", "content": parts}]}
        return found, ChatRequest.model_validate({**chat, "temperature": found.temperature, "stream": found.stream})
    except ValidationError as error:
        raise validation_error(list(error.errors())) from error
