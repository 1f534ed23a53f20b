"""The language model of a run by itself: its LoRA as peft keeps it (``peft``), or put into its weights (``llm``)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.llm_adapters.peft.export import export
from mmllm.errors import MmllmError
from mmllm.exporting.merging import loras, merge
from mmllm.exporting.places import nameless
from mmllm.exporting.weights import release
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.comparison import LIMIT, NEW, Stage
from mmllm.published.media.base import TALK, Turn, talked
from mmllm.recipe.models import Recipe
from mmllm.types import Message, Sample
from mmllm.vlms.families import family_of
from mmllm.vlms.headed_decoder import HeadedDecoder
from mmllm.vlms.quiet import quiet


def write_llm(recipe: Recipe, model: MultimodalLM, folder: Path) -> Iterator[Stage]:
    """A folder that ``AutoModelForCausalLM`` loads, compared with the run on a conversation without media."""
    check_text(model, "llm")
    expected = _answered(model)
    merge(model, "llm")
    _save(model, folder)
    release(model)
    yield from _compared(model, folder, AutoModelForCausalLM, expected)


def write_peft(recipe: Recipe, model: MultimodalLM, folder: Path) -> Iterator[Stage]:
    """A folder that ``AutoPeftModelForCausalLM`` loads: the LoRA beside the name of the LLM that it was trained on.

    Raises:
        MmllmError: there is no LoRA or more than one, or the LLM is no folder or name of a causal LM.
    """
    check_text(model, "peft")
    found = loras(model, "peft")
    if recipe.llm.file is not None or str(recipe.llm.path).endswith(".gguf"):
        raise MmllmError("--to peft names the LLM that the LoRA belongs to, which is a GGUF file here; use --to llm")
    if family_of(AutoConfig.from_pretrained(recipe.llm.path)) is not None:
        raise MmllmError(
            f"--to peft names the LLM that the LoRA belongs to, and {recipe.llm.path} is a published multimodal model, "
            "which AutoModelForCausalLM does not open; --to llm writes its text model with the LoRA in it, --to hf the "
            "whole"
        )
    if len(found) != 1:
        raise MmllmError(
            f"--to peft writes one LoRA, and this run has {', '.join(found) or 'none'}; --to llm puts all into the "
            "weights of the LLM"
        )
    (connector,) = found.values()
    export(connector, folder)
    path = folder / "adapter_config.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    here = Path(recipe.llm.path)
    words["base_model_name_or_path"] = str(here.resolve()) if here.exists() else recipe.llm.path
    path.write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")
    model.llm.tokenizer.save_pretrained(folder)
    expected = _answered(model)
    release(model)
    yield from _compared(model, folder, AutoPeftModelForCausalLM, expected)


def check_text(model: MultimodalLM, form: str) -> None:
    """MmllmError where no causal LM of transformers reads texts as the run's LLM does."""
    if model.llm.prefix:
        raise MmllmError(
            f"--to {form}: the run's LLM reads prompts in both directions (llm.attention: prefix), a causal LM does "
            "not; --to hf writes the whole model where it is one of transformers"
        )
    if isinstance(model.llm.model, HeadedDecoder):
        kind = model.llm.model.config.get_text_config().model_type
        raise MmllmError(
            f"--to {form}: transformers has no causal LM of the kind {kind}, only the whole model; use --to hf"
        )


def _save(model: MultimodalLM, folder: Path) -> None:
    nameless(model.llm.model.config)
    with quiet():
        model.llm.model.save_pretrained(folder)
    model.llm.tokenizer.save_pretrained(folder)


def _talk(model: MultimodalLM) -> tuple[Turn, ...]:
    return talked(TALK, () if model.recipe is None else model.recipe.llm.new_tokens)


def _encoded(model: MultimodalLM) -> Any:
    sample = Sample("comparison", tuple(Message(role, text) for role, text in _talk(model)), {})
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)
    return sample, encode(sample, prompter, model.inputs, model.llm.context, train=False)


@torch.inference_mode()
def _answered(model: MultimodalLM) -> tuple[list[int], torch.Tensor, str]:
    """Ids of a conversation without media, the run's logits float[S, V] and its answer."""
    sample, encoded = _encoded(model)
    logits = model.logits(collate([encoded], model.inputs, model.llm.positions))
    (answer,) = Generator(model).generate([sample], NEW, ())
    return list(encoded.ids), logits, answer.text


@torch.inference_mode()
def _compared(
    model: MultimodalLM, folder: Path, kind: Any, expected: tuple[list[int], torch.Tensor, str]
) -> Iterator[Stage]:
    ids, logits, answer = expected
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    in_parts = any(place.token is not None for place in model.places)  # as a run hands its template messages
    talk = [
        {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text} for role, text in _talk(model)
    ]
    found = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
    detail = "" if found == ids else f"{len(ids)} in the run, {len(found)} there"
    yield Stage("ids (text)", float(found != ids), 0, detail)
    with quiet(), warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for a property that it calls deprecated
        warnings.simplefilter("ignore", FutureWarning)
        theirs = kind.from_pretrained(folder, dtype=torch.float32).eval()
    given = torch.tensor([ids])
    there = theirs(input_ids=given).logits[0]
    spread = float(logits.max() - logits.min()) or 1.0
    yield Stage("logits (text)", float((there - logits).abs().max()) / spread, LIMIT)
    said = theirs.generate(input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False)[
        0, len(ids) :
    ]
    text = tokenizer.decode(said, skip_special_tokens=True)
    same = text.rstrip("\ufffd").strip() == answer.strip()
    yield Stage("answer (text)", float(not same), 0, "" if same else f"{answer!r} in the run, {text!r} there")
