"""`mmllm certify`: states which parts of a run change text without media, and on what that rests.

A certificate is JSON. It rests on digests of everything frozen, on the structure of the assembled model, walked whole,
and on logits that are compared bit for bit; anyone who has the run and the language model can make it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmllm.certificates import equality
from mmllm.certificates.attached import Attached, hooks_of, rule
from mmllm.certificates.bare import file_digests, load_bare
from mmllm.certificates.changes import (
    CHANGED,
    NOT_SHOWN,
    UNCHANGED,
    Change,
    hooks_that_change,
    parts_that_differ,
    verdict,
    verdict_of,
    with_words,
)
from mmllm.certificates.conversations import FIXED, drawn, encoded_media, encoded_texts
from mmllm.certificates.environment import machine, versions
from mmllm.certificates.frozen import computed, tensor_digests
from mmllm.certificates.passes import watched
from mmllm.certificates.signing import signed
from mmllm.certificates.watching import Watch
from mmllm.certificates.words import differing_ends, differing_prompts, json_digest, word_digests
from mmllm.checkpoints.load import Trust, last_checkpoint, load_run
from mmllm.connectors.base import Connector, LLMAdapter
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import frozen_parts
from mmllm.recipe.load import digest
from mmllm.recipe.models import Recipe

FORMAT = 1
"""Of the JSON; a reader of another one says so."""
TEXTS = 8
"""Drawn texts beside the fixed ones."""


def certify(
    run: Path, *, texts: int = TEXTS, seed: int = 0, trust: Trust | None = None, device: str | None = None
) -> dict[str, Any]:
    """The certificate of a run's last checkpoint.

    Args:
        run: its folder.
        texts: how many are drawn beside the fixed ones.
        seed: they are drawn from, and media to stand beside them.
        trust: as ``load_run`` has it.
        device: as ``load_run`` has it.

    Raises:
        MmllmError: the run cannot be opened, or its language model not loaded once more.
    """
    recipe, model = load_run(run, device, None, (), trust)
    bare, tokenizer, loaded_by = load_bare(recipe.llm, model.llm.dtype, model.llm.device)
    found = certify_model(recipe, model, bare, tokenizer, texts=texts, seed=seed)
    checkpoint, _ = last_checkpoint(run, recipe)
    if checkpoint is not None:
        found["run"] |= {"stage": checkpoint.manifest.stage, "step": checkpoint.manifest.step}
    found["llm"] |= {"files": file_digests(str(recipe.llm.path)), "loaded_by": loaded_by}
    return signed(found)


def certify_model(
    recipe: Recipe,
    model: MultimodalLM,
    bare: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: int = TEXTS,
    seed: int = 0,
) -> dict[str, Any]:
    """What is found of a model beside its bare language model, which is then used up; not signed yet."""
    llm = model.llm
    here, there = tensor_digests(llm.model), tensor_digests(bare)
    hooks = hooks_of(model)
    watch = watched(model, seed) if hooks else Watch(llm)
    changes = [*parts_that_differ(recipe, model, bare, tokenizer), *hooks_that_change(model, hooks, watch)]
    words = word_digests(llm.tokenizer, llm.model.generation_config)
    of_folder = word_digests(tokenizer, bare.generation_config)
    logits, numbers = compare_logits(recipe, model, bare, tokenizer, texts, seed, changes)
    return {
        "format": FORMAT,
        "run": {"name": recipe.name, "recipe": digest(recipe)},
        "llm": {"class": type(llm.model).__name__, "dtype": str(llm.dtype).removeprefix("torch.")},
        "text": {"verdict": verdict(changes), "changes": [asdict(one) for one in changes]},
        "frozen": {
            part: _digests(llm.model if part == "llm" else model.get_submodule(part)) for part in frozen_parts(model)
        },
        "inputs": words,
        "equal_to_folder": {
            "weights": here == there,
            **{name: value == words[name] for name, value in of_folder.items()},
        },
        "connectors": _connectors(model, hooks, watch),
        "hooks": [_hook(model, one, watch) for one in hooks],
        "logits": logits,
        "versions": versions(),
        "machine": {
            **machine(llm.device),
            "llm": _named(str(recipe.llm.path)),
            "computed": {name: here[name] for name in sorted(computed(llm.model)) if name in here},
            "logits": numbers,
        },
    }


def _named(place: str) -> str:
    """A model's name on the hub, or of its folder: a certificate goes where the folder's place is nobody's business."""
    return Path(place).name if Path(place).exists() else place


def compare_logits(
    recipe: Recipe,
    model: MultimodalLM,
    bare: Any,
    tokenizer: Any,
    n: int,
    seed: int,
    changes: list[Change],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was asked and whether it was equal, and how far it was not; what differs is added to ``changes``.

    ``bare`` is wrapped for it, and is the model's own no more.
    """
    talks = [*FIXED, *drawn(tokenizer, n, seed)]
    texts, media = encoded_texts(model, talks), encoded_media(model, seed)
    named = {f"text {number}": talk for number, talk in enumerate(talks)}
    changes += with_words(recipe, differing_prompts(model, tokenizer, named, texts))
    own = [equality.own_logits(bare, one.ids) for one in texts]
    changes += with_words(recipe, differing_ends(model, bare, tokenizer))
    # whether it is the folder's was asked before; passes are compared on the same ids, with the run's template
    tokenizer.chat_template = model.llm.tokenizer.chat_template
    # its passes were held to its own forward where the model in use was loaded, and are compared again below
    other = CausalLM(bare, tokenizer, model.llm.context, float("inf"), model.llm.prefix)
    beside = equality.beside(model, other)
    compared = list(equality.compare(model, beside, texts, media, own))
    wrong = [one.way for one in compared if not one.holds]
    if wrong:
        what = f"differ from the bare model's in {len(wrong)} of {len(compared)} ways of asking, the first: {wrong[0]}"
        changes.append(Change("logits", what, "follows from the parts above" if changes else ""))
    found = {
        "seed": seed,
        "fixed": len(FIXED),
        "drawn": n,
        "asked": json_digest([list(one.ids) for one in texts]),
        "ways": [
            {"way": one.way, "texts": one.texts, "positions": one.positions, "holds": one.holds} for one in compared
        ],
    }
    return found, {one.way: {"bits": one.equal, "largest": one.largest, "first": one.first} for one in compared}


def _digests(module: nn.Module) -> dict[str, Any]:
    """Digest of each tensor that a file holds, and one of all of them."""
    aside = computed(module)
    each = {name: value for name, value in tensor_digests(module).items() if name not in aside}
    return {"sha256": json_digest(each), "tensors": each}


def _hook(model: MultimodalLM, hook: Attached, watch: Watch) -> dict[str, Any]:
    """One hook in the certificate."""
    connector = None if hook.owner is None else model.connectors[hook.owner]
    return {
        "place": hook.place,
        "function": hook.function,
        "part": f"connectors.{hook.owner}" if hook.owner else ("llm" if hook.known else ""),
        "rule": rule(connector) if isinstance(connector, Connector) else "",
        "text": verdict_of(hook, watch),
        "found": watch.changes.get(hook.place, "") or watch.failed,
    }


def _connectors(model: MultimodalLM, hooks: Sequence[Attached], watch: Watch) -> dict[str, Any]:
    """Each connector with its rule and what that means for texts."""
    found = {}
    for key, one in model.connectors.items():
        assert isinstance(one, Connector)
        own = [hook for hook in hooks if hook.owner == key]
        verdicts = {verdict_of(hook, watch) for hook in own}
        found[key] = {
            "type": type(one).__name__,
            "rule": rule(one) if isinstance(one, LLMAdapter) else "outside the LLM, at places of its items",
            "hooks": len(own),
            "text": next((name for name in (CHANGED, NOT_SHOWN) if name in verdicts), UNCHANGED),
        }
    return found
