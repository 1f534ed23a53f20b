"""``POST /v1/decisions``: predicates, choices and scores about texts, pictures, sounds and clips.

Every option is read as the whole answer to the question, in a row of its own over the one prompt that all share, so
the order in which options are sent changes nothing. Nothing is drawn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from mmllm.generation.sampling import Sampling
from mmllm.serving.api import Api, ident_of, tenant_of
from mmllm.serving.conversation import to_sample
from mmllm.serving.decisions.probabilities import answer_of, log_weights
from mmllm.serving.decisions.prompt import put
from mmllm.serving.requests.decisions import DecisionRequest, Question
from mmllm.serving.schema import ApiError
from mmllm.serving.served import Asked, Served
from mmllm.types import Sample


class Decisions:
    """The endpoint."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create(self, body: DecisionRequest, request: Request) -> JSONResponse:
        """Answer every question, one after the other."""
        answers: list[dict[str, Any]] = []
        used: Counter[str] = Counter()
        has_media = body.chat.has_media
        async with self.api.lease(body.model, request) as served:
            body.check_extra()
            calibration = served.calibration
            if calibration is None:
                raise ApiError(
                    503,
                    f"The decisions of {served.name!r} were calibrated with other weights than it has now.",
                    code="model_unavailable",
                )
            sample = await self.api.read(has_media, _sample, served, body, ident_of(request, "dec-"))
            for question in body.questions:
                work = (_read, served, sample, question, tenant_of(request))
                texts, asked = await self.api.read(has_media, *work)
                of_text = dict(zip(texts, await _measure_all(served, asked, request), strict=True))
                used["input"] += len(asked.encoded.ids)
                used["output"] += sum(map(len, asked.forced))
                weights = log_weights([[of_text[text] for text in option] for option in question.options])
                answers.append(answer_of(question, calibration.of(question.type).probabilities(weights)))
            calibrated = sorted(calibration.scales)
        return JSONResponse({"model": served.name, "answers": answers, "calibrated": calibrated, "usage": _usage(used)})


async def _measure_all(served: Served, asked: Asked, request: Request) -> list[float]:
    """Return the log-probability of each forced answer."""
    logprobs: list[float] = []
    # as many at once as are answered at once: the queue stays open to others
    rows = served.worker.engine.sizes.rows
    for begin in range(0, len(asked.samplings), rows):
        some = slice(begin, begin + rows)
        part = replace(asked, samplings=asked.samplings[some], forced=asked.forced[some])
        logprobs += await _measure(served, part, request)
    return logprobs


async def _measure(served: Served, asked: Asked, request: Request) -> list[float]:
    """The same of as many as are answered at once."""
    jobs = served.submit(tenant_of(request), asked)
    sums = [0.0] * len(asked.samplings)

    def push(number: int, delta: Any) -> None:
        sums[number] += sum(one.logprob for one in delta.logprobs)

    await jobs.collect(request, push)
    return sums


def _sample(served: Served, body: DecisionRequest, ident: str) -> Sample:
    """Return the input, its media decoded; ApiError 400 for every fault of it."""
    served.check_characters(ident, body.chat.n_characters, "input")
    return to_sample(body.chat, ident, served.inputs, served.limits)


def _read(served: Served, sample: Sample, question: Question, tenant: str) -> tuple[list[str], Asked]:
    """Return the texts of all options, in an order that is theirs, and how each is measured behind the question."""
    generator = served.generator
    whole = put(sample, question, generator.inputs)
    texts = sorted(text for option in question.options for text in option)
    n_characters = sum(len(message.text) for message in whole.messages)
    encoded = served.encode(sample.name, n_characters, lambda: generator.encode(whole, tenant), "questions")
    forced = [
        served.encode(sample.name, len(text), lambda text=text: generator.answer_ids(whole, text), "questions")  # type: ignore[misc]
        for text in texts
    ]
    limits = [served.limit(encoded, len(ids), "questions") for ids in forced]
    return texts, Asked(encoded, [Sampling(limit, logprobs=0) for limit in limits], forced=forced)


def _usage(used: Counter[str]) -> dict[str, Any]:
    return {
        "input_tokens": used["input"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used["output"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used["input"] + used["output"],
    }
