"""``POST /v1/embeddings``: one vector for each text, or for a conversation with pictures and other media."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse

from mmllm.generation.generator import Encoded
from mmllm.generation.pooling import pooled
from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.endpoints.chats import encode_chat
from mmllm.serving.requests.completions import n_characters
from mmllm.serving.requests.embeddings import EmbeddingRequest
from mmllm.serving.schema import ApiError
from mmllm.serving.served import Served


class Embeddings:
    """The endpoint."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create(self, body: EmbeddingRequest, request: Request) -> JSONResponse:
        """Return vectors of length 1: the LLM's final hidden states, pooled."""
        has_media = body.chat is not None and body.chat.has_media
        ident, tenant = ident_of(request, "embd-"), tenant_of(request)
        data = []
        async with self.api.lease(body.model, request) as served:
            body.check_extra()
            served.check_alone("embeddings")
            read = await self.api.read(has_media, _read, served, body, ident, tenant)
            for number, encoded in enumerate(read):
                # a place in the queue for each, so that answers go on between them
                vector = (await self.api.read(False, pooled, served.generator, encoded, body.pooling)).numpy()
                if body.dimensions not in (None, len(vector)):
                    message = f"dimensions is {body.dimensions}; this model's vectors have {len(vector)}, uncut."
                    raise ApiError(400, message, code="invalid_request", param="dimensions")
                written = _written(vector, body.encoding_format)
                data.append({"object": "embedding", "index": number, "embedding": written})
        count = sum(len(one.ids) for one in read)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": usage})


def _written(vector: np.ndarray[Any, Any], form: str | None) -> list[float] | str:
    if form != "base64":
        return [float(value) for value in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _read(served: Served, body: EmbeddingRequest, ident: str, tenant: str) -> list[Encoded]:
    if body.chat is not None:
        return [encode_chat(served, body.chat, ident, tenant)]
    return [
        served.encode(
            ident,
            n_characters(text),
            lambda text=text: served.generator.encode_text(ident, text),  # type: ignore[misc]
            "input",
        )
        for text in body.input or ()
    ]
