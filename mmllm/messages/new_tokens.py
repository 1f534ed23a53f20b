"""Adds the tokens of ``llm.tokens`` to a tokenizer: for the LLM that learns rows for them, and for what reads data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def known_token(backend: Tokenizer, texts: Sequence[str]) -> str | None:
    """Return a sentence where one of ``texts`` is a token already, as it stands or as the vocabulary writes it."""
    for text in texts:
        ids = backend.encode(text, add_special_tokens=False).ids
        # an unknown character is one token too, but its text is another
        whole = len(ids) == 1 and backend.decode(ids, skip_special_tokens=False) == text
        if whole or backend.token_to_id(text) is not None:
            return f'"{text}" is a token of the tokenizer already; leave it out, it can be used as it is'
    return None


def add_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> int:
    """Append tokens to ``tokenizer``, in order; returns the first one's id.

    They are ordinary text, not control tokens: they are found where a message has them, learned in answers and shown.

    Raises:
        MmllmError: it has one of them already, has no fast version, or its numbers have gaps.
    """
    from tokenizers import AddedToken

    if not tokenizer.is_fast:
        raise MmllmError(f"the tokenizer of {tokenizer.name_or_path!r} has no fast version (tokenizer.json)")
    backend = tokenizer.backend_tokenizer
    sentence = known_token(backend, texts)
    if sentence is not None:
        raise MmllmError(f"llm.tokens: {sentence}")
    last = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    # not normalized: found as it is written, before a normalizer changes case or adds blanks
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts])
    ids = [backend.token_to_id(text) for text in texts]
    if ids != list(range(ids[0], ids[0] + len(ids))) or ids[0] <= last:
        raise MmllmError(
            f"llm.tokens: the tokenizer of {tokenizer.name_or_path!r} numbers its tokens with gaps, so no new ones can "
            "be put behind them; leave llm.tokens out"
        )
    return int(ids[0])
