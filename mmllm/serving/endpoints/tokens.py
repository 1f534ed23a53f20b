"""``POST /tokenize``: the tokens of a text or a conversation, media included, under the limits of any request."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from mmllm.generation.generator import Encoded
from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.endpoints.chats import encode_chat
from mmllm.serving.requests.tokens import TokenizeRequest
from mmllm.serving.served import Served


class Tokens:
    """The endpoint."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create(self, body: TokenizeRequest, request: Request) -> dict[str, Any]:
        """Return ids and their number; -1 stands at each place of a media item."""
        has_media = body.chat is not None and body.chat.has_media
        ident = ident_of(request, "tok-")
        async with self.api.lease(body.model, request) as served:
            body.check_extra()
            encoded = await self.api.read(has_media, _read, served, body, ident, tenant_of(request))
        ids, signs = list(encoded.ids), {}
        for span in encoded.spans:
            for place in range(span.start, span.start + span.length):
                ids[place], signs[place] = -1, f"<{span.key}>"
        answer: dict[str, Any] = {"count": len(ids), "max_model_len": served.context, "tokens": ids}
        if body.return_token_strs:
            texts = [signs.get(place) or served.texts.text(token) for place, token in enumerate(ids)]
            answer["token_strs"] = texts
        return answer


def _read(served: Served, body: TokenizeRequest, ident: str, tenant: str) -> Encoded:
    if body.chat is not None:
        return encode_chat(served, body.chat, ident, tenant)
    text = body.prompt or ""
    return served.encode(ident, len(text), lambda: served.generator.encode_text(ident, text), "prompt")
