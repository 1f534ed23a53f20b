"""Answers: a sample goes in, text comes out, streamed one by one or greedily for many at once, by one engine.

Between a loaded model (``checkpoints.load_run``) and everything that asks it: evaluation, the terminal, the server.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmllm.batches.sample import Encoded, check_characters, encode
from mmllm.errors import SampleError, TooLongError
from mmllm.generation.answer_text import AnswerText
from mmllm.generation.answers import Completion, Delta, FinishReason, Request
from mmllm.generation.engine import Engine
from mmllm.generation.memory import Sizes
from mmllm.generation.read_media import KnownInput, ReadItems
from mmllm.generation.sampling import Sampling
from mmllm.messages.system import with_system
from mmllm.messages.tokenize import Prompter
from mmllm.model.metrics import plain
from mmllm.types import IGNORE_INDEX, Message, Sample

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GenerationConfig

    from mmllm.generation.constraints import Constraint
    from mmllm.generation.learned_set import LearnedSet
    from mmllm.model.model import MultimodalLM

__all__ = ["Completion", "Delta", "Encoded", "FinishReason", "Generator"]


class Generator:
    """Continues conversations with a model: the last message is the user's, the answer is the assistant's turn."""

    def __init__(
        self,
        model: MultimodalLM,
        sizes: Sizes | None = None,
        system: str | None = None,
        engine: Engine | None = None,
        learned: LearnedSet | None = None,
        known: ReadItems | None = None,
    ) -> None:
        """Set up.

        Args:
            model: which answers.
            sizes: how much is answered at once and kept for later.
            system: message of conversations that have none.
            engine: of several sets of weights, which answers this one too; default: one of its own.
            learned: the set that ``model`` is in such an engine.
            known: where files that were read are kept, default: of its own.
        """
        self.model, self.learned = model.eval(), learned
        self.llm = model.llm
        self.system = system
        self.inputs = model.inputs
        self.prompter = Prompter(self.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)
        sizes = sizes or Sizes()
        self.engine = engine or Engine(model, sizes)
        self._known = known or ReadItems(sizes.media_bytes)
        self.reading = self._readers()
        """Placeholder -> what reads its media, each file once."""
        self.end_ids = frozenset(self.prompter.end_ids) | _configured_ends(self.llm.model.generation_config)

    def _readers(self, tenant: str = "") -> dict[str, KnownInput]:
        """Placeholder -> what reads its media for a tenant."""
        # of one file sets may make different items: they are found by who reads them too
        reads = "" if self.learned is None else self.learned.digest
        return {key: KnownInput(entry, self._known, tenant, reads) for key, entry in self.inputs.items()}

    def encode(self, sample: Sample, tenant: str = "") -> Encoded:
        """Tokens and media inputs of a sample, on the CPU; safe to call from a loader thread.

        ``tenant``: see :class:`Request`.

        Raises SampleError: unreadable media, placeholders and media differ in number, no room for an answer.
        """
        sample = with_system(sample, self.system)
        encoded = encode(sample, self.prompter, self._readers(tenant), self.llm.context, train=False)
        if len(encoded.ids) >= self.llm.context:
            raise TooLongError(
                f"{sample.name}: its {len(encoded.ids)} tokens fill the context of {self.llm.context} and leave no "
                "room for an answer; shorten it or raise llm.context"
            )
        return encoded

    def encode_text(self, name: str, text: str | Sequence[int]) -> Encoded:
        """A text, or its token ids, to go on from as it stands, without the chat template.

        Special tokens written in the text are special, as where a template is written by hand; media have no places.
        Raises SampleError: nothing to go on from, an id that the LLM does not have, no room for an answer.
        """
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise SampleError(f"{name}: the text is not Unicode (a lone surrogate at {error.start})") from error
        ids = list(text) if not isinstance(text, str) else self._backend.encode(text, add_special_tokens=True).ids
        if not ids:
            raise SampleError(f"{name}: the text is empty; there is nothing to go on from")
        wrong = next((token for token in ids if not 0 <= token < self.llm.vocab_size), None)
        if wrong is not None:
            raise SampleError(f"{name}: {wrong} is no token; there are 0 to {self.llm.vocab_size - 1}")
        if len(ids) >= self.llm.context:
            raise TooLongError(
                f"{name}: {len(ids)} tokens fill the context of {self.llm.context} and leave no room for an answer"
            )
        turns = [-1] * len(ids) if self.prompter.user_turn else []
        return Encoded(ids, [IGNORE_INDEX] * len(ids), {}, [], name, 0, user_turn=turns)

    def answer_ids(self, sample: Sample, text: str) -> list[int]:
        """Ids that the assistant says where ``text`` is its answer to ``sample``, its end of turn included.

        Raises SampleError: the chat template shows an answer otherwise than it is asked for, or nothing is said.
        """
        asked = self.prompter.tokenize_prompt(sample)
        told = replace(sample, messages=(*sample.messages, Message("assistant", text)))
        taught = self.prompter.tokenize_for_training(told)
        size = len(asked.ids)
        ids = [token for token, label in zip(taught.ids[size:], taught.labels[size:], strict=True) if label >= 0]
        if taught.ids[:size] != asked.ids or not ids:
            raise SampleError(f"{sample.name}: the chat template shows an answer otherwise than it is asked for")
        return ids

    @cached_property
    def _backend(self) -> Tokenizer:
        """A copy of the tokenizer that nobody sets to pad or cut."""
        backend = copy.deepcopy(self.llm.tokenizer.backend_tokenizer)
        backend.no_truncation()
        backend.no_padding()
        return backend

    @property
    def most_characters(self) -> int:
        """Return the number of characters that no text within the context is over."""
        return self.llm.context * self.prompter.longest_token

    def check_characters(self, name: str, count: int) -> None:
        """Raise TooLongError for messages of ``count`` characters that no context of the model holds; reads nothing."""
        check_characters(name, count, self.prompter, self.llm.context)

    def stream(
        self,
        sample: Sample,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Delta]:
        """The answer piece by piece; the last piece has ``finish`` set. Same seed, same answer.

        Checks and reads everything before it returns. Raises MmllmError (values) and SampleError (the sample).
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, seed, tuple(stop))
        return self.stream_encoded(self.encode(sample), sampling)

    def stream_encoded(self, encoded: Encoded, sampling: Sampling) -> Iterator[Delta]:
        """Like ``stream`` for a sample already encoded (the server does it before the sample waits its turn)."""
        request = self.submit(encoded, sampling)
        try:
            while True:
                while not request.events:
                    self.engine.step()
                event = request.events.popleft()
                if isinstance(event, Exception):
                    raise event
                yield event
                if event.finish is not None:
                    return
        finally:  # also where nobody asks for the rest
            self.engine.cancel(request)

    def generate(self, samples: Sequence[Sample], max_new_tokens: int, stop: Sequence[str] = ()) -> list[Completion]:
        """Greedy answers in the order of the samples, the same as ``stream`` gives one by one."""
        return self.complete([self.encode(sample) for sample in samples], Sampling(max_new_tokens, stop=tuple(stop)))

    def generate_encoded(
        self, encoded: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Completion]:
        """Like ``generate`` for samples already encoded (a loader did it while the last batch was answered), with the
        confidence of each answer."""
        return self.complete(encoded, Sampling(max_new_tokens, stop=tuple(stop), probabilities=True))

    def complete(self, encoded: Sequence[Encoded], sampling: Sampling) -> list[Completion]:
        """Answers to samples already encoded, all of them together, chosen as ``sampling`` says."""
        requests = [self.submit(one, sampling) for one in encoded]
        self.finish(requests)
        return [self._completion(request) for request in requests]

    def finish(self, requests: Sequence[Request]) -> None:
        """Answer requests that were submitted, all of them together; each then has its deltas, or its error."""
        try:
            while not all(request.done for request in requests):
                # all at once, as they were given
                self.engine.step(rows=max(len(requests), self.engine.sizes.rows))
        finally:
            for request in requests:
                self.engine.cancel(request)

    def submit(
        self,
        encoded: Encoded,
        sampling: Sampling,
        tell: Callable[[Delta | Exception], None] | None = None,
        tenant: str = "",
        constraint: Constraint | None = None,
        forced: Sequence[int] = (),
    ) -> Request:
        """Let a sample wait for its answer, which the engine's steps make.

        ``tell``, ``tenant``, ``constraint``, ``forced``: see :class:`Request`.
        """
        limit = min(sampling.max_new_tokens, self.llm.context - len(encoded.ids))
        text = AnswerText(self.llm.tokenizer, sampling.stop)
        request = Request(encoded, sampling, text, limit, self.end_ids, tell, tenant, constraint, forced)
        request.learned = self.learned
        self.engine.submit(request)
        return request

    @staticmethod
    def _completion(request: Request) -> Completion:
        if request.error is not None:
            raise request.error
        text = "".join(event.text for event in request.events if isinstance(event, Delta))
        sure = request.probabilities
        return Completion(
            text,
            len(request.tokens),
            request.finish or "length",
            len(request.encoded.ids),
            sum(sure) / len(sure) if sure else None,
        )

    def forget(self) -> None:
        """Let go of everything that was read and encoded before, and of its memory."""
        self._known.clear()
        self.engine.forget()

    def count_everything(self) -> None:
        """Read every prompt whole from now on where a connector has metrics: they count what was read."""
        if any(connector.has_metrics for connector in self.model.connectors.values()):
            self.engine.reuse = False

    def take_metrics(self) -> dict[str, Any]:
        """Connector key -> its metrics summed over all passes since the last call, as plain numbers."""
        found, self.engine.metrics = self.engine.metrics, {}
        return plain(found)


def _configured_ends(config: GenerationConfig | None) -> frozenset[int]:
    """End tokens that the model's generation config names; many models end a turn with another than the tokenizer."""
    ends = None if config is None else config.eos_token_id
    return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)
