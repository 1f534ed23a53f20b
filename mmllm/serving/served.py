"""One model as the server has it: what reads requests for it, and the worker that answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mmllm.errors import ConstraintError, MmllmError, SampleError, TooLongError, UnreadableError
from mmllm.generation.constraints.guidance import Grammar, Guidance
from mmllm.serving.answers.logprobs import TokenTexts
from mmllm.serving.conversation import Inputs
from mmllm.serving.decisions.calibration import UNCALIBRATED, Calibration
from mmllm.serving.jobs import Jobs
from mmllm.serving.media import Limits
from mmllm.serving.metrics import ModelMetrics
from mmllm.serving.schema import ApiError
from mmllm.serving.worker import Worker

if TYPE_CHECKING:
    from mmllm.generation.generator import Encoded, Generator
    from mmllm.generation.sampling import Sampling

T = TypeVar("T")

LONGEST = 500
"""Maximum length of a library's message about a file that it cannot read, in characters."""


@dataclass(frozen=True)
class Asked:
    """A request, read and ready to be answered: as many times as there are settings."""

    encoded: Encoded
    samplings: Sequence[Sampling]
    grammar: Grammar | None = None
    """That every answer follows."""
    forced: Sequence[Sequence[int]] = ()
    """Of each answer its tokens, where they are measured instead of chosen."""


class Vocabulary:
    """What is made of the tokens of an LLM once, for all models over it."""

    def __init__(self, generator: Generator) -> None:
        llm = generator.llm
        self.guidance = Guidance(llm.tokenizer, llm.vocab_size, generator.end_ids)
        self.texts = TokenTexts(llm.tokenizer)


@dataclass(frozen=True)
class Served:
    """A model that can be asked now, its name and its limits."""

    name: str
    generator: Generator
    inputs: Inputs
    worker: Worker
    limits: Limits
    vocabulary: Vocabulary
    metrics: ModelMetrics
    calibration: Calibration | None = UNCALIBRATED

    @property
    def context(self) -> int:
        """Return the length of its longest conversation in tokens."""
        return self.generator.llm.context

    @property
    def width(self) -> int:
        """Return the width of its logits, V."""
        return self.generator.llm.vocab_size

    @property
    def texts(self) -> TokenTexts:
        """Return what its tokens stand for."""
        return self.vocabulary.texts

    def check_characters(self, ident: str, count: int, param: str) -> None:
        """Raise ApiError 400 for more characters than the context could hold; reads nothing."""
        self.encode(ident, count, lambda: None, param)

    def check_alone(self, what: str) -> None:
        """Refuse a set with adapters inside parts that it shares: outside of the engine's steps they are not in them.

        ``what``: is asked for, and takes a pass of its own.
        """
        learned = self.generator.learned
        if learned is not None and (learned.changes_llm or self.generator.model.adapts):
            changed = "LLM" if learned.changes_llm else "encoders"
            raise ApiError(
                400,
                f"{self.name!r} changes the {changed} that it shares with other models; its {what} can be had from a "
                "server of that run alone.",
                code="unsupported_model",
                param="model",
            )

    def encode(self, ident: str, n_characters: int, make: Callable[[], T], param: str = "messages") -> T:
        """Return what ``make`` reads for request ``ident``; ApiError 400 for every fault of it.

        ``n_characters``: of its texts, looked at before anything else; ``param``: the field at fault.
        """
        try:
            self.generator.check_characters(ident, n_characters)
            return make()
        except TooLongError as error:
            raise ApiError(400, _message(error, ident), code="context_length_exceeded", param=param) from error
        except UnreadableError as error:
            code = f"invalid_{self.inputs.processors[error.key].modality}"
            raise ApiError(400, _message(error, ident), code=code, param=param) from error
        except SampleError as error:
            raise ApiError(400, _message(error, ident), code="invalid_prompt", param=param) from error

    def limit(self, encoded: Encoded, asked: int | None, param: str, default: int | None = None) -> int:
        """Return the most tokens of an answer; ApiError 400 where more are ``asked`` for than the context holds.

        ``default``: where none are asked for and they have room; None: the server's.
        """
        room = self.context - len(encoded.ids)
        if asked is not None and asked > room:
            raise ApiError(
                400,
                f"The messages take {len(encoded.ids)} tokens and {asked} are asked for the answer; the context "
                f"is {self.context}, so at most {room} can be asked for.",
                code="context_length_exceeded",
                param=param,
            )
        return asked or min(default or self.limits.max_new_tokens, room)

    def compile(self, make: Callable[[], str], param: str) -> Grammar:
        """Return the grammar that ``make`` writes, compiled; ApiError 400 says what is wrong with it."""
        try:
            return self.vocabulary.guidance.compile(make())
        except ConstraintError as error:
            raise ApiError(400, f"{param} cannot be followed: {error}.", code="invalid_schema", param=param) from error
        except MmllmError as error:
            raise ApiError(400, f"{error}.", code="unsupported_parameter", param=param) from error

    def submit(self, tenant: str, *asked: Asked) -> Jobs:
        """Queue requests of ``tenant`` (on the event loop); ApiError where there is no room for all their answers."""
        count = sum(len(one.samplings) for one in asked)
        # as many as the server has places for are never too many for one that is idle
        places = self.worker.max_waiting + self.worker.engine.sizes.rows
        self.worker.check_room(min(count, places) - 1)
        jobs, prompts = [], []
        try:
            for number, one in enumerate(asked):
                for place, sampling in enumerate(one.samplings):
                    constraint = None if one.grammar is None else one.grammar.begin()
                    forced = one.forced[place] if one.forced else ()
                    job = self.worker.submit(
                        one.encoded,
                        sampling,
                        tenant,
                        constraint,
                        forced,
                        generator=self.generator,
                        metrics=self.metrics,
                        admitted=True,
                    )
                    jobs.append(job)
                    prompts.append(number)
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
        return Jobs(jobs, prompts)


def _message(error: SampleError, ident: str) -> str:
    """Return an error without the request's name, bounded: a library may have put much of a file into it."""
    message = str(error).removeprefix(f"{ident}: ")
    return f"{message[0].upper()}{message[1:LONGEST]}"
