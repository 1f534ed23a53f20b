"""What a language model is fed and ends with beside its weights: tokenizer, template, prompts, generation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from mmllm.batches.sample import Encoded
from mmllm.certificates.conversations import Turn
from mmllm.certificates.frozen import Difference, differing_words
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.processors.settings import vocabulary


def json_digest(value: Any) -> str:
    """sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def word_digests(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> dict[str, str]:
    """Digests of what the tokenizer does with a text, of the chat template, and of the settings of generation."""
    return {
        "tokenizer": json_digest(_tokenizer(tokenizer)),
        "template": json_digest(tokenizer.chat_template),
        "generation": json_digest(_generation(generation)),
    }


def differing_inputs(model: MultimodalLM, bare: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[Difference]:
    """Where tokenizer, template, configs and ends of answers in use are others than the folder's."""
    own = model.llm.tokenizer
    for path, here, there in _unequal("", _tokenizer(own), _tokenizer(tokenizer)):
        yield Difference(f"tokenizer{path}", f"is {_short(here)}, in the folder {_short(there)}")
    if own.chat_template != tokenizer.chat_template:
        yield Difference("template", "is another chat template than the folder's")
    for name in ("config", "generation_config"):
        here, there = getattr(model.llm.model, name), getattr(bare, name)
        for word in differing_words(*(one.to_dict() if one is not None else {} for one in (here, there))):
            yield Difference(f"{name}.{word}", "is another than in the folder")
    if type(own) is not type(tokenizer):
        yield Difference("tokenizer", f"is a {type(own).__name__}, in the folder a {type(tokenizer).__name__}")


def differing_ends(model: MultimodalLM, bare: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[Difference]:
    """Tokens that end an answer here and not of the bare model, or the other way."""
    here = Generator(model).end_ids
    try:
        there = {*Prompter(tokenizer, []).end_ids}
    except MmllmError:  # a folder without a template of its own: that the run has one is named already
        return
    ends = None if bare.generation_config is None else bare.generation_config.eos_token_id
    there |= set() if ends is None else {ends} if isinstance(ends, int) else {*ends}
    if here != there:
        yield Difference("ends of answers", f"are tokens {sorted(here)}, of the bare model {sorted(there)}")


def differing_prompts(
    model: MultimodalLM, tokenizer: Any, talks: Mapping[str, Sequence[Turn]], encoded: Sequence[Encoded]
) -> Iterator[Difference]:
    """Conversations by name that are read as other ids than the folder's own template and tokenizer give."""
    for ours in encoded:
        found = list(_rendered(tokenizer, talks[ours.name]))
        if list(ours.ids) not in found:
            theirs = f"the {len(found[0])} of the folder's" if found else "any that its template gives"
            yield Difference("prompts", f"{ours.name} is read as {len(ours.ids)} ids that are not {theirs}")
            return


def _rendered(tokenizer: Any, talk: Sequence[Turn]) -> Iterator[list[int]]:
    """Ids that the folder's template gives: of messages as texts, or in parts, as those of models with media want."""
    forms = [talk, [(role, [{"type": "text", "text": text}]) for role, text in talk]]
    for form in forms:
        said = [{"role": role, "content": content} for role, content in form]
        try:
            ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=False)
        # whatever a template's own code raises at a form that it does not know
        except Exception:
            continue
        yield list(ids)


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    words = vocabulary(tokenizer) if tokenizer.is_fast else {"vocab": tokenizer.get_vocab()}
    return {**words, "special": tokenizer.special_tokens_map}


def _generation(config: GenerationConfig | None) -> dict[str, Any]:
    found = {} if config is None else config.to_dict()
    return {word: value for word, value in found.items() if word not in ("transformers_version", "_from_model_config")}


def _unequal(path: str, here: Any, there: Any) -> Iterator[tuple[str, Any, Any]]:
    """The first leaf in which two JSON values differ; one for each key of the top."""
    if type(here) is type(there) and isinstance(here, Mapping):
        for key in dict.fromkeys([*here, *there]):
            found = list(_unequal(f"{path}.{key}", here.get(key), there.get(key)))
            yield from found if not path else found[:1]
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for number, pair in enumerate(zip(here, there, strict=True)):
            if pair[0] != pair[1]:
                yield from _unequal(f"{path}[{number}]", *pair)
                return
    elif here != there:
        yield path, here, there


def _short(value: Any) -> str:
    if isinstance(value, list | Mapping):
        return f"{len(value)} entries"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
