"""Answers: a sample goes in, text comes out, with a KV cache; streamed one by one or greedily in left-padded batches.

Between a loaded model (``checkpoints.load_run``) and everything that asks it: evaluation, the terminal, the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.errors import TooLongError
from mmllm.generation.sampling import AnswerText, Sampling
from mmllm.messages.tokenize import Prompter
from mmllm.model.metrics import added, plain
from mmllm.types import Sample

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from mmllm.model.decoding_state import DecodingState
    from mmllm.model.model import MultimodalLM

FinishReason = Literal["stop", "length"]
"""``stop``: the model ended its turn or a stop text came; ``length``: the token limit or the context was reached."""


@dataclass(frozen=True)
class Delta:
    """One piece of a stream: some more text, and where it stands."""

    text: str
    """Whole characters, possibly none."""
    finish: FinishReason | None
    """Set on the last piece only."""
    prompt_tokens: int
    """Media tokens included."""
    completion_tokens: int
    """Chosen so far, the end-of-turn token included."""


@dataclass(frozen=True)
class Completion:
    """One complete answer."""

    text: str
    n_tokens: int
    """Tokens chosen, the end-of-turn token included."""
    finish: FinishReason
    prompt_tokens: int
    """Media tokens included."""


class Generator:
    """Continues conversations with a model: the last message is the user's, the answer is the assistant's turn."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model.eval()
        self.llm = model.llm
        self.inputs = model.inputs
        self.prompter = Prompter(self.llm.tokenizer, list(model.inputs), model.reads_user_turn)
        self.metrics: dict[str, Any] = {}
        """Connector key -> metrics of the passes since the last ``take_metrics``."""
        self.end_ids = frozenset(self.prompter.end_ids) | _configured_ends(self.llm.model.generation_config)

    def encode(self, sample: Sample) -> Encoded:
        """Tokens and media inputs of a sample, on the CPU; safe to call from a loader thread.

        Raises SampleError: unreadable media, placeholders and media differ in number, no room for an answer.
        """
        encoded = encode(sample, self.prompter, self.inputs, self.llm.context, train=False)
        if len(encoded.ids) >= self.llm.context:
            raise TooLongError(
                f"{sample.name}: its {len(encoded.ids)} tokens fill the context of {self.llm.context} and leave no "
                "room for an answer; shorten it or raise llm.context"
            )
        return encoded

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
        generator = sampling.generator()
        row = self._row(encoded, sampling)
        state = self._prefill([encoded])
        while row.finish is None:
            token = int(sampling.choose(state.logits, generator))
            text = row.take(token, self.end_ids)
            if text or row.finish:
                yield Delta(text, row.finish, len(encoded.ids), row.n_tokens)
            if row.finish is None:
                state = self._decode(state, [token])

    def generate(self, samples: Sequence[Sample], max_new_tokens: int, stop: Sequence[str] = ()) -> list[Completion]:
        """Greedy answers in the order of the samples, the same as ``stream`` gives one by one."""
        return self.generate_encoded([self.encode(sample) for sample in samples], max_new_tokens, stop)

    def generate_encoded(
        self, encoded: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Completion]:
        """Like ``generate`` for samples already encoded (a loader did it while the last batch was answered)."""
        sampling = Sampling(max_new_tokens, stop=tuple(stop))
        rows = [self._row(one, sampling) for one in encoded]
        texts = ["" for _ in rows]
        alive = list(range(len(rows)))
        state = self._prefill(encoded) if rows else None
        while state is not None:
            tokens = state.logits.argmax(dim=-1).tolist()
            for i, token in zip(alive, tokens, strict=True):
                texts[i] += rows[i].take(token, self.end_ids)
            # finished rows leave the batch: they would be fed and attended for as long as the longest answer lasts
            going = [place for place, i in enumerate(alive) if rows[i].finish is None]
            if not going:
                break
            if len(going) < len(alive):
                state = self.model.select(state, torch.tensor(going, device=state.logits.device))
                alive, tokens = [alive[place] for place in going], [tokens[place] for place in going]
            state = self._decode(state, tokens)
        return [
            Completion(text, row.n_tokens, row.finish or "length", len(one.ids))
            for one, row, text in zip(encoded, rows, texts, strict=True)
        ]

    def _prefill(self, encoded: Sequence[Encoded]) -> DecodingState:
        state = self.model.prefill(collate(encoded, self.inputs).to(self.llm.device))
        self._count(state)
        return state

    def _decode(self, state: DecodingState, tokens: Sequence[int]) -> DecodingState:
        state = self.model.decode(state, torch.tensor(tokens, device=state.logits.device))
        self._count(state)
        return state

    def _count(self, state: DecodingState) -> None:
        self.metrics = added(self.metrics, self.model.metrics(state.ctx))

    def take_metrics(self) -> dict[str, Any]:
        """Connector key -> its metrics summed over all passes since the last call, as plain numbers."""
        found, self.metrics = self.metrics, {}
        return plain(found)

    def _row(self, encoded: Encoded, sampling: Sampling) -> _Row:
        room = self.llm.context - len(encoded.ids)
        return _Row(AnswerText(self.llm.tokenizer, sampling.stop), min(sampling.max_new_tokens, room))


class _Row:
    """One answer on its way: its text, how many tokens it has and whether it is finished."""

    def __init__(self, text: AnswerText, limit: int) -> None:
        self._text, self._limit = text, limit
        self.n_tokens = 0
        self.finish: FinishReason | None = None

    def take(self, token: int, end_ids: frozenset[int]) -> str:
        """Add the next token; returns the text that may be given out, and sets ``finish`` where this was the last."""
        self.n_tokens += 1
        text = "" if token in end_ids else self._text.push(token)
        if token in end_ids or self._text.stopped:
            self.finish = "stop"
        elif self.n_tokens == self._limit:
            self.finish = "length"
        if self.finish:
            text += self._text.close()
            # what was held back until now may have completed a stop text
            self.finish = "stop" if self._text.stopped else self.finish
        return text


def _configured_ends(config: GenerationConfig | None) -> frozenset[int]:
    """End tokens that the model's generation config names; many models end a turn with another than the tokenizer."""
    ends = None if config is None else config.eos_token_id
    return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)
