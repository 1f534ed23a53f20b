"""Body of ``POST /v1/decisions``: evidence, and questions about it whose answers are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, model_validator

from mmllm.serving.requests.chat import ChatRequest
from mmllm.serving.requests.items import chat_messages
from mmllm.serving.requests.unsupported import CHAT_ONLY, CHOSEN_ONLY, check_extra

MOST_QUESTIONS = 400
MOST_OPTIONS = 1000
"""Options of all questions together: each is read as an answer of its own."""


def _as_text(value: Any) -> Any:
    """Return the text of instructions in parts."""
    if not isinstance(value, list):
        return value
    if not all(isinstance(part, dict) and part.get("type") == "input_text" for part in value):
        raise ValueError("instructions are text; media belong into input")
    return "\n".join(str(part.get("text")) for part in value)


Instructions = Annotated[str, Field(min_length=1), BeforeValidator(_as_text, json_schema_input_type=list | str)]
Label = Annotated[StrictStr, Field(min_length=1, max_length=1000)]
Name = Annotated[str, Field(max_length=200)]
Description = Annotated[str, Field(max_length=4000)]


class Part(BaseModel):
    """A part of a question; fields it does not know are refused, as they would say something about the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Predicate(Part):
    """How likely is it that this is so?"""

    type: Literal["predicate"]
    instructions: Instructions
    name: Name | None = None

    @property
    def options(self) -> Sequence[Sequence[str]]:
        """Return of each answer the texts that say it: yes, then no."""
        return (("Yes", "yes"), ("No", "no"))


class Choice(Part):
    """One value of a choice."""

    value: Label | StrictBool
    description: Description | None = None

    @property
    def text(self) -> str:
        """Return how the model says it."""
        return str(self.value).lower() if isinstance(self.value, bool) else self.value


class ChoiceQuestion(Part):
    """Which of these is it?"""

    type: Literal["choice"]
    instructions: Instructions
    choices: Annotated[list[Choice], Field(min_length=2, max_length=255)]
    name: Name | None = None

    @model_validator(mode="after")
    def _different(self) -> ChoiceQuestion:
        _check_different([choice.text for choice in self.choices], "choices")
        return self

    @property
    def options(self) -> Sequence[Sequence[str]]:
        """Return of each answer the texts that say it."""
        return [(choice.text,) for choice in self.choices]


class Level(Part):
    """One level of a score."""

    label: Label
    description: Description | None = None


class ScoreQuestion(Part):
    """How far up these levels is it? They stand from the lowest to the highest."""

    type: Literal["score"]
    instructions: Instructions
    levels: Annotated[list[Level], Field(min_length=2, max_length=10)]
    name: Name | None = None

    @model_validator(mode="after")
    def _different(self) -> ScoreQuestion:
        _check_different([level.label for level in self.levels], "levels")
        return self

    @property
    def options(self) -> Sequence[Sequence[str]]:
        """Return of each answer the texts that say it."""
        return [(level.label,) for level in self.levels]


Question = Annotated[Predicate | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]


class DecisionRequest(BaseModel):
    """Questions about one input, a chat whose last message is the user's; each is put by itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Annotated[str, Field(max_length=500)]
    chat: ChatRequest
    questions: Annotated[list[Question], Field(min_length=1, max_length=MOST_QUESTIONS)]

    @model_validator(mode="before")
    @classmethod
    def _as_chat(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "input" not in value:
            raise ValueError("input is needed")
        value = {name: one for name, one in value.items() if name != "chat"}
        return {**value, "chat": {"model": value.get("model"), "messages": chat_messages(value.pop("input"))}}

    @model_validator(mode="after")
    def _bounded(self) -> DecisionRequest:
        _check_different([one.name for one in self.questions if one.name is not None], "names of questions")
        count = sum(len(one.options) for one in self.questions)
        if count > MOST_OPTIONS:
            raise ValueError(f"the questions have {count} options; at most {MOST_OPTIONS} are taken at once")
        return self

    def check_extra(self) -> None:
        """Refuse what would change the answer and is not offered."""
        check_extra(self.model_extra, {**CHAT_ONLY, **CHOSEN_ONLY, "prompt_cache_options": (self._cache_options,)})

    @property
    def _cache_options(self) -> Any:
        """What it says about caching, which changes no answer."""
        return (self.model_extra or {}).get("prompt_cache_options")


def _check_different(texts: Sequence[str], what: str) -> None:
    if len(set(texts)) < len(texts):
        raise ValueError(f"two of the {what} say the same")
