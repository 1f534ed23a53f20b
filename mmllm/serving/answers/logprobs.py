"""Log-probabilities of tokens as OpenAI lays them out, each token with the bytes that it stands for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmllm.generation.sampling import TokenLogprob

LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have; vLLM's number."""


class TokenTexts:
    """Bytes of the tokens of one tokenizer: a token may be part of a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        """Sign -> byte of a vocabulary that writes bytes as signs; empty for others."""
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        decoder = json.dumps(json.loads(self._tokenizer.backend_tokenizer.to_str())["decoder"])
        return {sign: byte for byte, sign in bytes_to_unicode().items()} if '"ByteLevel"' in decoder else {}

    @cached_property
    def _added(self) -> dict[int, str]:
        return {number: token.content for number, token in self._tokenizer.added_tokens_decoder.items()}

    def bytes(self, token: int) -> bytes:
        """Return what a token stands for; nothing for an id that the tokenizer does not have."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if self._byte_of:
            return bytes(self._byte_of[sign] for sign in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):  # SentencePiece's single bytes
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace("▁", " ").encode()

    def text(self, token: int) -> str:
        """Return what a token stands for; bytes that are no character become a sign of their own."""
        return self.bytes(token).decode(errors="replace")

    def name(self, token: int) -> str:
        """Return what a token stands for, so that it can be told from others: parts of characters by their bytes, in
        the form of OpenAI's completions."""
        try:
            return self.bytes(token).decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes(token))


def chat_logprobs(found: Sequence[TokenLogprob], texts: TokenTexts) -> dict[str, Any]:
    """Return ``logprobs`` of a choice of a chat."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {"token": texts.text(token), "logprob": finite(logprob), "bytes": list(texts.bytes(token))}

    content = []
    for one in found:
        likeliest = [entry(token, logprob) for token, logprob in one.likeliest]
        content.append({**entry(one.token, one.logprob), "top_logprobs": likeliest})
    return {"content": content, "refusal": None}


def completion_logprobs(found: Sequence[TokenLogprob], texts: TokenTexts, offset: int) -> dict[str, Any]:
    """Return ``logprobs`` of a choice of a completion; ``offset``: characters of its tokens before these."""
    tokens = [texts.name(one.token) for one in found]
    offsets = []
    for one in found:
        offsets.append(offset)
        offset += len(texts.text(one.token))
    likeliest = [{texts.name(token): finite(logprob) for token, logprob in reversed(one.likeliest)} for one in found]
    for top, token, one in zip(likeliest, tokens, found, strict=True):
        top.setdefault(token, finite(one.logprob))  # the chosen one is always among them
    logprobs = [finite(one.logprob) for one in found]
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": likeliest, "text_offset": offsets}


def finite(logprob: float) -> float:
    """Return a log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else LEAST
