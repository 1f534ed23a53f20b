"""The tokenizer of an LLM as keys of a GGUF file: byte-level BPE with its rule, or SentencePiece's BPE with scores."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from mmllm.errors import MmllmError

BLANK = "\u2581"
"""What SentencePiece writes for a blank."""
UNUSED, ADDED, LOWEST = -10000.0, -1000.0, 0.0
"""Scores of rows without a token, of added tokens, and of tokens that nothing is merged into."""
RULES: Mapping[tuple[str, bool], str] = {
    (GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"], True): "llama-bpe",
    (GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"], False): "smaug-bpe",
    (GGUF_PRE_TOKENIZER_SPLITS["qwen2"], False): "qwen2",
    (GGUF_PRE_TOKENIZER_SPLITS["tekken"], True): "tekken",
    (GGUF_PRE_TOKENIZER_SPLITS["gpt-4o"], False): "gpt-4o",
    (GGUF_PRE_TOKENIZER_SPLITS["qwen35"], False): "qwen35",
}
"""(Regular expression by which text is split, whether whole words of the vocabulary are taken first) -> name."""


class Vocabulary:
    """Keys of a tokenizer.

    Raises MmllmError for one that llama.cpp has no words for.
    """

    def __init__(self, tokenizer: Any, rows: int) -> None:
        """Set up.

        Args:
            tokenizer: a fast one of transformers.
            rows: of the LLM's table of embeddings, each of which has a token in the file.
        """
        self.tokenizer, self.rows = tokenizer, rows
        told = json.loads(tokenizer.backend_tokenizer.to_str())
        self.pieces, self.normalizer, self.splitter = told["model"], told["normalizer"], told["pre_tokenizer"]
        self.added = {one["id"]: one for one in told["added_tokens"]}
        if self.pieces["type"] != "BPE":
            raise _unknown(f"its pieces are of the kind {self.pieces['type']}, and BPE alone is written")
        self.sentencepiece = bool(self.pieces.get("byte_fallback"))
        self.rule = "default" if self.sentencepiece else _rule(self.splitter, bool(self.pieces.get("ignore_merges")))
        self.prefix = self.sentencepiece and _puts_blank_first(self.normalizer, self.splitter)
        if not self.sentencepiece and self.normalizer and self.normalizer["type"] != "NFC":
            # Qwen composes accents (NFC) first; llama.cpp does not, and so splits texts otherwise that come apart
            raise _unknown(f"it prepares text by {self.normalizer['type']}")
        if self.pieces.get("continuing_subword_prefix") or self.pieces.get("end_of_word_suffix"):
            raise _unknown("its pieces are marked as parts of words")

    @property
    def starts(self) -> bool:
        """Whether the tokenizer puts its beginning in front of every text."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a").input_ids[:1] == [bos]

    def add_keys(self, writer: GGUFWriter) -> None:
        """Tokens, rule, special tokens and chat template."""
        tokens, scores, kinds = self._tokens()
        writer.add_tokenizer_model("llama" if self.sentencepiece else "gpt2")
        writer.add_tokenizer_pre(self.rule)
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        if self.sentencepiece:
            writer.add_token_scores(scores)
            writer.add_add_space_prefix(self.prefix)
        else:
            writer.add_token_merges([" ".join(one) if isinstance(one, list) else one for one in self.pieces["merges"]])
        for word, add in (
            ("bos", writer.add_bos_token_id),
            ("eos", writer.add_eos_token_id),
            ("unk", writer.add_unk_token_id),
            ("pad", writer.add_pad_token_id),
        ):
            number = getattr(self.tokenizer, f"{word}_token_id")
            if number is not None and number < self.rows:
                add(number)
        writer.add_add_bos_token(self.starts)
        writer.add_add_eos_token(False)
        if self.tokenizer.chat_template:
            writer.add_chat_template(_without_marks(self.tokenizer.chat_template))

    def _tokens(self) -> tuple[list[str], list[float], list[int]]:
        """Token, score and kind of every row."""
        known = {number: token for token, number in self.tokenizer.get_vocab().items()}
        scores = self._scores()
        unknown = self.tokenizer.unk_token_id
        tokens, found, kinds = [], [], []
        for number in range(self.rows):
            token, kind, score = known.get(number, f"[PAD{number}]"), TokenType.NORMAL, UNUSED
            if number not in known:
                kind = TokenType.UNUSED
            elif number == unknown and self.sentencepiece:
                kind, score = TokenType.UNKNOWN, LOWEST
            elif number in self.added:
                kind = TokenType.CONTROL if self.added[number]["special"] else TokenType.USER_DEFINED
                token, score = self.added[number]["content"], ADDED
            elif self.sentencepiece and _is_byte(token):
                kind, score = TokenType.BYTE, LOWEST
            else:
                score = scores.get(token, LOWEST)
            tokens.append(token)
            found.append(score)
            kinds.append(int(kind))
        return tokens, found, kinds

    def _scores(self) -> dict[str, float]:
        """Token -> score by which llama.cpp chooses what to merge first: the earlier a merge, the higher.

        Raises:
            MmllmError: two merges into one token are not neighbours, so no order of tokens gives that of merges.
        """
        if not self.sentencepiece:
            return {}
        found: dict[str, float] = {}
        last = ""
        for rank, merge in enumerate(self.pieces["merges"]):
            token = "".join(merge) if isinstance(merge, list) else merge.replace(" ", "", 1)
            if token in found and token != last:
                raise _unknown("the order of its merges is none of its tokens, as SentencePiece's is")
            found.setdefault(token, -float(rank + 1))
            last = token
        return found


def _unknown(why: str) -> MmllmError:
    return MmllmError(f"--to gguf: llama.cpp has no words for this run's tokenizer; {why}")


def _rule(splitter: Any, whole_words: bool) -> str:
    """Name in llama.cpp of the rule by which a byte-level tokenizer splits text."""
    steps = splitter["pretokenizers"] if splitter and splitter["type"] == "Sequence" else [splitter]
    kinds = [step["type"] if step else "none" for step in steps]
    if kinds[-1] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise _unknown(f"it splits text by {', '.join(kinds)}, and byte-level rules without a blank in front are known")
    own = steps[-1].get("use_regex", True)
    if kinds == ["ByteLevel"] and own and not whole_words:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and own and steps[0]["individual_digits"] and not whole_words:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not own and steps[0]["behavior"] == "Isolated":
        name = RULES.get((steps[0]["pattern"].get("Regex", ""), whole_words))
        if name is not None:
            return name
    raise _unknown(f"none of its rules splits text as this one does ({', '.join(kinds)})")


def _puts_blank_first(normalizer: Any, splitter: Any) -> bool:
    """Whether a SentencePiece tokenizer writes a blank in front of a text.

    Raises:
        MmllmError: it does something else to text besides.
    """
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    steps = [step for step in [*steps, splitter] if step]
    first, replaced = False, False
    for step in steps:
        if step["type"] == "Prepend" and step["prepend"] == BLANK:
            first = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == BLANK:
            replaced = True
        elif step["type"] == "Metaspace" and not step.get("split", True):
            first, replaced = step.get("prepend_scheme", "always") != "never", True
        elif step["type"] != "Split" or step["pattern"] != {"String": " "}:
            # blanks are gone by then, so that Gemma's split at blanks splits nothing
            raise _unknown(f"it prepares text by {step['type']}, and SentencePiece's blanks alone are written")
    if not replaced:
        raise _unknown(f"it does not write {BLANK} for a blank")
    return first


def _without_marks(template: str) -> str:
    """A template without transformers' ``{% generation %}``, which no other engine knows; it writes the same."""
    return re.sub(r"({%[-+]?\s*)(end)?generation(\s*[-+]?%})", lambda m: _as_if(*m.groups()), template)


def _as_if(start: str, end: str | None, stop: str) -> str:
    """A block that is always taken: with its signs of blanks, which a comment need not have in every engine."""
    return f"{start}{'endif' if end else 'if true'}{stop}"


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
