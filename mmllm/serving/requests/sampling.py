"""Fields of a request by which tokens are chosen: OpenAI's, and vLLM's where OpenAI has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmllm.generation.sampling import Sampling
from mmllm.serving.requests.unsupported import check_extra
from mmllm.serving.schema import ApiError

MOST_ANSWERS = 8
"""Answers to one request; each takes a place of the server."""
MOST_LOGPROBS = 20
"""Tokens beside the chosen one of which the log-probability may be asked, as OpenAI has it."""


def _as_stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value if value is not None else []


# four texts, and below temperatures up to 2 and penalties from -2 to 2, are OpenAI's limits
StopString = Annotated[str, Field(min_length=1, max_length=200)]
Stops = Annotated[
    list[StopString], Field(max_length=4), BeforeValidator(_as_stops, json_schema_input_type=list | str | None)
]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(BaseModel):
    """Options of a stream: ``include_usage`` asks for a chunk with the token counts before ``[DONE]``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    include_usage: bool = False


class SamplingFields(BaseModel):
    """Temperature 0 (the default) takes the likeliest token each time."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=1024)] | None = None
    # torch takes seeds of 64 bits
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def include_usage(self) -> bool:
        """Return whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check_extra(self) -> None:
        """Refuse what would change the answer and is not offered."""
        check_extra(self.model_extra)

    def samplings(self, limit: int, width: int, logprobs: int | None = None) -> list[Sampling]:
        """Return the settings of each answer, each with a seed of its own.

        Args:
            limit: most tokens of an answer.
            width: of the logits; ApiError 400 for a bias of a token that is not below it.
            logprobs: see ``Sampling``.
        """
        bias = tuple((int(token), value) for token, value in (self.logit_bias or {}).items())
        beyond = next((token for token, _ in bias if token >= width), None)
        if beyond is not None:
            message = f"logit_bias names the token {beyond}; this model has tokens 0 to {width - 1}."
            raise ApiError(400, message, code="invalid_request", param="logit_bias")
        first = Sampling(
            max_new_tokens=limit,
            # OpenAI's default is 1; here the likeliest token, so that answers are the same each time
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(self.stop),
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=bias,
            logprobs=logprobs,
        )
        count = self.n or 1
        if count > 1 and first.greedy:
            message = f"n is {count} at temperature 0, where all answers are the same; give a temperature."
            raise ApiError(400, message, code="invalid_request", param="n")
        # vLLM's rule: the answers of a seed have the seeds that follow it
        return [first if self.seed is None else replace(first, seed=self.seed + number) for number in range(count)]
