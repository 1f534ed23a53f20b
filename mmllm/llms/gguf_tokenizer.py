"""The tokenizer of a GGUF file: the one in the file, or the original's files where they lie beside it.

transformers (5.23) splits text as GPT-2 does where it does not know the file's rule, so such a file is refused unless
the rule stands in the table below.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from mmllm.errors import MmllmError
from mmllm.llms.gguf_file import GgufFile

GPT2 = ("gpt-2", "phi-2", "olmo", "mpt", "jais")
"""Rules that are GPT-2's, which transformers falls back to."""
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""GPT-2's rule after every digit was put apart."""
NFC = ("qwen2", "deepseek-r1-qwen")
"""Families whose own tokenizers compose accents first (NFC), which the file does not say."""
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""Word of transformers -> the file's."""
NORMAL = 1
"""Type of an ordinary token in ``tokenizer.ggml.token_type``."""


def load_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """Tokenizer with the chat template of the file; the original's ``tokenizer.json`` beside it is taken first.

    Raises:
        MmllmError: the file splits text by an unknown rule, or the files beside it are another model's.
    """
    folder = file.path.parent
    if (folder / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        _check_vocabulary(tokenizer, file)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = file.keys.get("tokenizer.chat_template")
        return tokenizer
    rule = file.keys.get("tokenizer.ggml.pre", "none")
    byte_level = file.keys.get("tokenizer.ggml.model") == "gpt2"
    if byte_level and rule not in {*GGUF_PRE_TOKENIZER_SPLITS, *GPT2, *DIGITS}:
        raise MmllmError(
            f"llm.path: {str(file.path)!r} splits text by the rule {rule!r}, which is not known here, so its tokens "
            f"would be wrong; put the original's tokenizer beside it: hf download MODEL --include 'tokenizer*' "
            f"--local-dir {folder}"
        )
    made = AutoTokenizer.from_pretrained(folder, gguf_file=file.path.name).backend_tokenizer
    if byte_level:
        _set_rule(made, str(rule))
    return _of_the_file(made, file)


def _of_the_file(made: Tokenizer, file: GgufFile) -> PreTrainedTokenizerBase:
    """A tokenizer with the file's tokens and special tokens alone.

    transformers takes the class of another model for it, whose own special tokens (``<|endoftext|>``) come on top.
    """
    tokens = file.keys["tokenizer.ggml.tokens"]
    told = json.loads(made.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if token["id"] < len(tokens)]
    special = {
        word: tokens[int(file.keys[f"tokenizer.ggml.{key}_token_id"])]
        for word, key in SPECIAL.items()
        if f"tokenizer.ggml.{key}_token_id" in file.keys
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(told)), **special)
    tokenizer.chat_template = file.keys.get("tokenizer.chat_template")
    return tokenizer


def _set_rule(backend: Any, rule: str) -> None:
    """Split and normalise as the family's own tokenizer does."""
    if rule in DIGITS:
        apart = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([apart, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if rule in NFC:
        backend.normalizer = normalizers.NFC()


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, file: GgufFile) -> None:
    """The ordinary tokens of a tokenizer beside the file are the file's."""
    tokens = file.keys.get("tokenizer.ggml.tokens", [])
    kinds = file.keys.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == NORMAL and tokenizer.convert_ids_to_tokens(index) != token:
            raise MmllmError(
                f"llm.path: the tokenizer.json beside {str(file.path)!r} is another model's (token {index} is "
                f"{tokenizer.convert_ids_to_tokens(index)!r} there, {token!r} in the file); move it away"
            )
