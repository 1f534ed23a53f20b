"""Which token comes next: settings of a request, and the steps from its logits to a token.

The order of the steps is vLLM's: what is allowed, bias, penalties; then temperature, ``min_p``, ``top_k``, ``top_p``.
Log-probabilities that are told are those before bias, penalties and temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch

from mmllm.errors import MmllmError

GREEDY = 1e-5
"""Temperatures below it take the likeliest token, as vLLM has it: only logits that differ by a rounding error could be
drawn from, and far below it float32 knows no such number."""

NUMBERS = {
    "max_new_tokens": Integral,
    "temperature": Real,
    "top_p": Real,
    "top_k": Integral,
    "min_p": Real,
    "presence_penalty": Real,
    "frequency_penalty": Real,
    "repetition_penalty": Real,
}
"""Setting -> kind of number it is."""


@dataclass(frozen=True)
class Sampling:
    """Settings of how tokens are chosen and when to stop; MmllmError for values that mean nothing."""

    max_new_tokens: int
    temperature: float = 0.0
    """0, or below ``GREEDY``, takes the likeliest token."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that holds this much probability (Holtzman et al. 2020, 1904.09751)."""
    seed: int | None = None
    """Same seed, same answer; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    top_k: int = 0
    """Sample from this many likeliest tokens, and those as likely as the last of them; 0 or -1: from all."""
    min_p: float = 0.0
    """Sample from tokens at least this many times as likely as the likeliest (Nguyen et al. 2024, 2407.01082)."""
    presence_penalty: float = 0.0
    """Taken off the logit of a token that the answer holds."""
    frequency_penalty: float = 0.0
    """Taken off the logit of a token, once for each time the answer holds it."""
    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies negative ones, of tokens that stand in prompt or answer (Keskar et al.
    2019, 1909.05858); media have none."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and what is added to its logit; ids below the width of the logits."""
    logprobs: int | None = None
    """For each token of the answer its log-probability is told, and those of so many likeliest; None: nothing."""
    probabilities: bool = False
    """Whether the probability of each chosen token is kept, before temperature and ``top_p``."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, kind in NUMBERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise MmllmError(f"{name} is {value!r}; it is a {'whole ' if kind is Integral else ''}number.")
            if not math.isfinite(value):
                raise MmllmError(f"{name} is {value!r}; it has to be finite.")
        if self.seed is not None and not isinstance(self.seed, Integral):
            raise MmllmError(f"seed is {self.seed!r}; it is a whole number or None.")
        if not all(isinstance(text, str) for text in self.stop):
            raise MmllmError(f"stop is {self.stop!r}; it is a text or a list of texts.")
        if self.max_new_tokens < 1:
            raise MmllmError(f"max_new_tokens is {self.max_new_tokens}; an answer has at least 1 token.")
        if self.temperature < 0:
            raise MmllmError(f"temperature is {self.temperature}; it has to be 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise MmllmError(f"top_p is {self.top_p}; it has to be above 0 and at most 1.")
        if self.top_k < -1:
            raise MmllmError(f"top_k is {self.top_k}; it has to be 1 or more, or 0 for all.")
        if not 0 <= self.min_p <= 1:
            raise MmllmError(f"min_p is {self.min_p}; it has to be from 0 to 1.")
        if self.repetition_penalty <= 0:
            raise MmllmError(f"repetition_penalty is {self.repetition_penalty}; it has to be above 0.")
        if any(not math.isfinite(value) for _, value in self.logit_bias):
            raise MmllmError("logit_bias holds a value that is not finite.")
        if self.logprobs is not None and self.logprobs < 0:
            raise MmllmError(f"logprobs is {self.logprobs}; it is a number of tokens, 0 or more.")
        if any(not text for text in self.stop):
            raise MmllmError("stop holds an empty text; every answer would end before it begins.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature < GREEDY

    @property
    def penalises(self) -> bool:
        """Whether tokens that were said, or stand in the prompt, become less likely."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)

    @property
    def unchanged(self) -> bool:
        """Whether logits stay as they are: neither bias nor penalties."""
        return not self.penalises and not self.logit_bias

    @property
    def plain(self) -> bool:
        """Whether the likeliest of the LLM's own logits is all that is asked for."""
        return self.greedy and self.unchanged and self.logprobs is None

    def generator(self) -> torch.Generator:
        """A random generator of its own, so that nothing else drawn in the process changes an answer."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed % 2**63)
        return generator

    def adjusted(self, logits: torch.Tensor, prompt: torch.Tensor, said: Sequence[int]) -> torch.Tensor:
        """Logits float[V] with bias and penalties; ``prompt`` int64[P]: token ids of the prompt's text, ``said``: those
        of the answer so far."""
        if self.unchanged:
            return logits
        logits = logits.float().clone()
        if self.logit_bias:
            ids, values = zip(*self.logit_bias, strict=True)
            logits[list(ids)] += torch.tensor(values, device=logits.device)
        if not self.penalises:
            return logits
        here, counts = torch.tensor(said, dtype=torch.int64).unique(return_counts=True)
        if self.repetition_penalty != 1:
            known = torch.cat([prompt, here]).unique().to(logits.device)
            values_of = logits[known]
            divided, multiplied = values_of / self.repetition_penalty, values_of * self.repetition_penalty
            logits[known] = torch.where(values_of > 0, divided, multiplied)
        logits[here.to(logits.device)] -= (self.frequency_penalty * counts + self.presence_penalty).to(logits)
        return logits

    def choose(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Next tokens int64[B] for ``logits`` float[B, V]; drawn on the CPU, so a seed means the same everywhere."""
        if self.greedy:
            return logits.argmax(dim=-1)
        scaled = logits.float().cpu()
        # the likeliest token stays at 0: a tiny temperature must not make inf - inf
        probabilities = ((scaled - scaled.amax(dim=-1, keepdim=True)) / self.temperature).softmax(dim=-1)
        if self.min_p > 0:
            least = self.min_p * probabilities.amax(dim=-1, keepdim=True)
            probabilities = probabilities.masked_fill(probabilities < least, 0.0)
        if 0 < self.top_k < probabilities.shape[-1]:
            last = probabilities.topk(self.top_k, dim=-1).values[..., -1:]
            probabilities = probabilities.masked_fill(probabilities < last, 0.0)
        if self.top_p < 1:
            if self.min_p > 0 or self.top_k > 0:
                probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
            ordered, order = probabilities.sort(dim=-1, descending=True)
            # the probability before a token, not with it: the likeliest one stays, however small top_p is
            outside = ordered.cumsum(dim=-1) - ordered >= self.top_p
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1).to(logits.device)


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token of an answer was, and which ones were likeliest in its place."""

    token: int
    logprob: float
    """Natural logarithm, before bias, penalties and temperature; -inf for a token that was not allowed."""
    likeliest: tuple[tuple[int, float], ...]
    """Pairs of an id and its log-probability, the likeliest first."""

    @classmethod
    def of(cls, token: int, logits: torch.Tensor, most: int) -> TokenLogprob:
        """Of ``token`` and the ``most`` likeliest under logits float[V]."""
        logprobs = logits.float().log_softmax(dim=-1)
        values, ids = logprobs.topk(min(most, len(logprobs)))
        return cls(token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
