"""``POST /seen`` and ``POST /attention``: what a model is given of media, and where a word of its answer looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from mmllm.errors import MediaError
from mmllm.generation.attention_maps import attention_of, tokens_of
from mmllm.generation.generator import Encoded
from mmllm.messages.openai import MediaPart, read_part
from mmllm.modalities import MODALITIES
from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.conversation import read_media, to_sample
from mmllm.serving.looks import maps, seen_body, views
from mmllm.serving.requests.looks import AttentionRequest, SeenRequest
from mmllm.serving.schema import ApiError
from mmllm.serving.served import Served
from mmllm.types import Sample


class Looks:
    """Both endpoints."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def seen(self, body: SeenRequest, request: Request) -> dict[str, Any]:
        """Return each encoder's view of one media part: the fitted picture or tiles, frames with their times, ..."""
        async with self.api.lease(body.model, request) as served:
            return await self.api.read(True, _seen, served, body)

    async def attention(self, body: AttentionRequest, request: Request) -> dict[str, Any]:
        """Return the attention of a word of an answer over every item that its conversation shows."""
        ident, tenant = ident_of(request, "view-"), tenant_of(request)
        async with self.api.lease(body.model, request) as served:
            served.check_alone("attention")
            asked = await self.api.read(True, _read, served, body, ident, tenant)
            # as a request without media: the engine's steps go on before and after the pass
            return await self.api.read(False, _attention, served, asked)


@dataclass(frozen=True)
class _Asked:
    sample: Sample
    encoded: Encoded
    answer: list[int]
    chosen: range


def _seen(served: Served, body: SeenRequest) -> dict[str, Any]:
    found = read_part(body.part.model_dump())
    assert isinstance(found, MediaPart)  # the schema lets no text in
    try:
        entry = served.generator.inputs[served.inputs.key(found.modality)]
        (item,) = read_media(found.modality, [found.item], served.inputs, served.limits)
        return seen_body(entry, item)
    except MediaError as error:
        raise ApiError(400, str(error), code=f"invalid_{found.modality}", param="part") from error


def _read(served: Served, body: AttentionRequest, ident: str, tenant: str) -> _Asked:
    """Return question and answer as tokens, and which of them the word is; ApiError 400 for every fault."""
    if not body.chat.has_media:
        raise ApiError(
            400, "The conversation shows nothing that a word could look at.", code="no_media", param="messages"
        )
    generator = served.generator
    sample: Sample = served.encode(
        ident,
        body.chat.n_characters + len(body.answer),
        lambda: to_sample(body.chat, ident, served.inputs, served.limits),
    )
    encoded = served.encode(ident, 0, lambda: generator.encode(sample, tenant))
    answer = served.encode(ident, 0, lambda: generator.answer_ids(sample, body.answer), "answer")
    served.limit(encoded, len(answer), "answer")
    # a chat template may take the space around an answer away
    cut = len(body.answer) - len(body.answer.lstrip()) if not _begins_blank(served, answer) else 0
    chosen = tokens_of(generator, answer, max(0, body.start - cut), max(0, body.end - cut))
    if not chosen:
        raise ApiError(400, "No token of the answer writes these letters.", code="no_token", param="start")
    return _Asked(sample, encoded, answer, chosen)


def _begins_blank(served: Served, answer: list[int]) -> bool:
    return served.generator.llm.tokenizer.decode(answer, skip_special_tokens=True)[:1].isspace()


def _attention(served: Served, asked: _Asked) -> dict[str, Any]:
    generator = served.generator
    try:
        weights = attention_of(generator, asked.encoded, asked.answer, asked.chosen).tolist()
    except ValueError as error:
        message = "This model's LLM has no attention that could be looked at."
        raise ApiError(400, message, code="unsupported_model", param="model") from error
    items, share = [], 0.0
    for key, media in asked.sample.media.items():
        entry = generator.inputs[key]
        for number, item in enumerate(media):
            spans = [span for span in asked.encoded.spans if span.key == key and span.item == number]
            share += sum(sum(weights[span.start : span.start + span.length]) for span in spans)
            name = f"{MODALITIES[entry.modality].noun} {number + 1}"
            try:
                shown = maps(entry.modality, spans, weights, views(entry, item)[0].pictures)
            except MediaError as error:
                message = f"{name[0].upper()}{name[1:]} {error}."
                raise ApiError(400, message, code="unsupported_model", param="model") from error
            items.append({"name": name, "maps": [one.body() for one in shown]})
    text = generator.llm.tokenizer.decode([asked.answer[number] for number in asked.chosen])
    return {"object": "attention", "text": text, "share": share, "items": items}
