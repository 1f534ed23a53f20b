"""The fast tokenizer behind a tokenizer, copied: with placeholders it is to find, and with no added token at all."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase


def backends_of(tokenizer: PreTrainedTokenizerBase, placeholders: list[str]) -> tuple[Tokenizer, Tokenizer]:
    """Two copies of the fast tokenizer: one that knows the placeholders, one that knows no added token at all."""
    from tokenizers import Tokenizer

    if not tokenizer.is_fast:
        raise MmllmError(f"the tokenizer of {tokenizer.name_or_path!r} has no fast version (tokenizer.json)")
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    # tokenizer.json may ask for both, and would cut a long conversation without a word
    backend.no_truncation()
    backend.no_padding()
    parts = json.loads(backend.to_str())
    # the post-processor goes too: it names special tokens that this copy no longer has
    parts["added_tokens"], parts["post_processor"] = [], None
    plain = Tokenizer.from_str(json.dumps(parts))
    # not normalized: a placeholder is found as it is written, before a normalizer changes case or adds blanks
    backend.add_special_tokens([whole(text) for text in placeholders])
    return backend, plain


def whole(text: str) -> AddedToken:
    """A control token that is found as it is written, wherever it stands."""
    from tokenizers import AddedToken

    return AddedToken(text, special=True, normalized=False)


def longest_token(backend: Tokenizer) -> int:
    """Return the most characters that one token stands for."""
    longest = max((len(token) for token in backend.get_vocab()), default=1)
    # of a vocabulary that does not hold every byte, one token may be an unknown word, however long; WordPiece stops
    # reading a word at a hundred letters, and no honest text has many that are longer
    unknown = getattr(backend.model, "unk_token", None) or getattr(backend.model, "unk_id", None)
    return longest if unknown is None or getattr(backend.model, "byte_fallback", False) else max(longest, 100)
