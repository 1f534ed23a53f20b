"""Fields of other servers that would change an answer and are not offered here: refused by name, never dropped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmllm.serving.schema import ApiError

LOG = logging.getLogger("serve")

KNOWN_AND_IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
        "verbosity", "reasoning_effort", "reasoning", "moderation", "prediction",
    }
)  # fmt: skip
"""Fields of OpenAI's API that cannot change what this server answers."""

_NONE = (None,)
_OFF = (None, False)
_EMPTY: tuple[Any, ...] = (None, [], {})

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "functions": _EMPTY,
    "function_call": (None, "none", "auto"),
    "modalities": (None, [], ["text"]),
    "audio": _NONE,
    "web_search_options": _NONE,
    # vLLM's, SGLang's and llama.cpp's: sampling
    "best_of": (None, 1),
    "n_predict": (None, -1),
    "mirostat": (None, 0),
    "dry_multiplier": (None, 0),
    "xtc_probability": (None, 0),
    "tfs_z": (None, 1),
    "top_a": (None, 0),
    "repeat_penalty": (None, 1),
    "length_penalty": (None, 1),
    "typical_p": (None, 1),
    "use_beam_search": _OFF,
    "min_tokens": (None, 0),
    "ignore_eos": _OFF,
    "stop_token_ids": _EMPTY,
    "bad_words": _EMPTY,
    "allowed_token_ids": _NONE,
    "logits_processors": _EMPTY,
    "include_stop_str_in_output": _OFF,
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "prompt_logprobs": _NONE,
    "vllm_xargs": _EMPTY,
    # their constraints of an answer
    "structured_outputs": _EMPTY,
    "guided_json": _NONE,
    "guided_regex": _NONE,
    "guided_choice": _NONE,
    "guided_grammar": _NONE,
    "guided_decoding_backend": _NONE,
    "structural_tag": _NONE,
    "json_schema": _NONE,
    "grammar": _NONE,
    "regex": _NONE,
    "ebnf": _NONE,
    # their changes of the prompt
    "chat_template": _NONE,
    "chat_template_kwargs": _EMPTY,
    "documents": _EMPTY,
    "echo": _OFF,
    "add_generation_prompt": (None, True),
    "continue_final_message": _OFF,
    "add_special_tokens": _OFF,
    "truncate_prompt_tokens": _NONE,
    "mm_processor_kwargs": _EMPTY,
    "media_io_kwargs": _EMPTY,
    "thinking": _NONE,
    "enable_thinking": _OFF,
    "lora_path": _NONE,
}
"""Fields that would change the answer and are not offered: any other value than these is refused, never dropped."""

CHAT_ONLY: dict[str, tuple[Any, ...]] = {
    "response_format": (None, {"type": "text"}),
    "tools": _EMPTY,
    "tool_choice": (None, "none", "auto"),
    "top_logprobs": (None, 0),
    "suffix": (None, ""),
}
"""The same of completions: fields of chats, and what comes behind the text."""
CHOSEN_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "temperature": (None, 0),
    "top_p": (None, 1),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "stop": _EMPTY,
    "logprobs": _OFF,
    "logit_bias": _EMPTY,
    "stream": _OFF,
}
"""The same where nothing is chosen: the settings of how tokens are."""
NONE_MORE: Mapping[str, tuple[Any, ...]] = {}


def check_extra(extra: Mapping[str, Any] | None, also: Mapping[str, tuple[Any, ...]] = NONE_MORE) -> None:
    """Refuse what would change the answer and is not offered; name the other unknown fields in one log line.

    ``also``: further fields that this endpoint does not offer, with the values that change nothing.
    """
    extra = extra or {}
    for name, neutral in {**NEUTRAL, **also}.items():
        if name in extra and extra[name] not in neutral:
            message = f"{name!r} is not supported by this server; leave out {name!r}."
            raise ApiError(400, message, code="unsupported_parameter", param=name)
    unknown = sorted(set(extra) - set(NEUTRAL) - KNOWN_AND_IGNORED - set(also))
    if unknown:
        LOG.info("ignored unknown request fields: %s", ", ".join(repr(name[:60]) for name in unknown[:10]))
