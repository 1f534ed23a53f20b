"""A run as vLLM serves it: the LLM's weights by its own names, and what makes tokens of pictures in a folder beside.

vLLM finds the class for it by the plugin ``mmllm.interop.vllm`` and takes the LLM for the rest: paged cache, batching,
its API. What is written is opened again without vLLM and compared: ids, a picture's tokens, logits, answers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.base import Projector
from mmllm.errors import MmllmError
from mmllm.exporting.llava import MARK, PARTS
from mmllm.exporting.merging import loras, merge
from mmllm.exporting.places import nameless
from mmllm.exporting.text import check_text
from mmllm.exporting.vllm.config import ARCHITECTURE, MmllmConfig
from mmllm.exporting.vllm.media import FOLDER, Media
from mmllm.exporting.weights import release
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.inputs import Input
from mmllm.model.model import MultimodalLM
from mmllm.published.comparison import LIMIT, NEW, Stage
from mmllm.published.media.base import TALK
from mmllm.published.media.pictures import picture
from mmllm.recipe.models import Recipe
from mmllm.types import SEQUENTIAL, Message, Sample
from mmllm.vlms.quiet import quiet

SIZES = ((333, 250), (120, 200))
"""Width and height of the pictures that are compared."""


def write(recipe: Recipe, model: MultimodalLM, folder: Path) -> Iterator[Stage]:
    """A folder that ``vllm serve`` takes where this package is installed beside vLLM.

    Raises:
        MmllmError: vLLM cannot hold the run; says what of it.
    """
    entry = _entry(recipe, model)
    check_text(model, "vllm")
    loras(model, "vllm")
    asked = [_asked(model, entry, size) for size in (None, *SIZES)]
    with quiet():
        Media.write(recipe, model, folder / FOLDER)
    merge(model, "vllm")
    _write_llm(model, entry, folder)
    release(model)
    yield from _compared(folder, asked)


def _entry(recipe: Recipe, model: MultimodalLM) -> Input:
    """The one way of pictures into the LLM; MmllmError where there is none, or the run needs more than that."""
    if len(model.inputs) != 1:
        known = ", ".join(model.inputs) or "none"
        raise _unfit(f"one kind of picture is shown to the LLM there, and this run's placeholders are {known}")
    (entry,) = model.inputs.values()
    where = f"connectors.{entry.key}"
    if entry.modality != "image":
        raise _unfit(f"pictures alone are shown to the LLM there, and {where} takes {entry.modality}")
    connector = entry.connector
    if not isinstance(connector, Projector):
        raise _unfit(f"{where} ({type(connector).__name__}) works inside the LLM, which is vLLM's own there")
    if model.llm.positions != SEQUENTIAL:
        raise _unfit("positions are counted on one axis there, and this run's LLM counts on three (M-RoPE)")
    if entry.text.bidirectional:
        raise _unfit(f"the LLM is causal everywhere there, and {where} has attends: bidirectional")
    if connector.reads_text or entry.questions is not None or model.reads_user_turn:
        raise _unfit(f"pictures are read apart from the text there, and {where} reads the question")
    if entry.minds_others:
        raise _unfit(f"each picture is read by itself there, and {where} reads it otherwise beside others")
    if any(entry.text.around) or entry.n_tokens() is None:
        raise _unfit(
            f"a picture takes the same number of tokens there whatever it shows, with no text around or between them, "
            f"and those of {where} do not"
        )
    if any(part.args.get("model") == recipe.llm.path for part in recipe.encoders.values()):
        raise _unfit(
            f"encoder and LLM are parts of one published model ({Path(recipe.llm.path).name}) here; --to hf writes it "
            "whole, and vLLM has classes of its own for most of them"
        )
    return entry


def _unfit(why: str) -> MmllmError:
    return MmllmError(f"--to vllm: {why}; keep the run (`mmllm serve` has the same API)")


@dataclass(frozen=True)
class _Asked:
    """A conversation, and what the run makes of it."""

    name: str
    picture: Any
    turns: list[dict[str, Any]]
    """As the template of a published model takes them: content is a list of parts."""
    ids: Tensor
    """int64[S]; -1 where the picture's tokens go."""
    tokens: Tensor | None
    """float[M, D] of the picture."""
    logits: Tensor
    """float[S, V]"""
    answer: str


@torch.inference_mode()
def _asked(model: MultimodalLM, entry: Input, size: tuple[int, int] | None) -> _Asked:
    """A conversation about a picture of this size, or without one."""
    shown = None if size is None else picture(*size)
    key = entry.key
    texts = [(role, text) for role, text in TALK]
    before = "" if shown is None else f"<{key}>\n"
    messages = tuple(Message(role, (before if n == 0 else "") + text) for n, (role, text) in enumerate(texts))
    sample = Sample("comparison", messages, {} if shown is None else {key: (shown,)})
    prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn)
    encoded = encode(sample, prompter, model.inputs, model.llm.context, train=False)
    batch = collate([encoded], model.inputs, model.llm.positions)
    ids = torch.tensor(encoded.ids)
    for span in encoded.spans:
        ids[span.start : span.start + span.length] = -1
    ctx, hidden = model.hidden(batch)
    tokens = None if shown is None else model.project(key, batch.media[key], ctx, batch.host.media[key])[0]
    logits = model.llm.logits(hidden, ctx, torch.arange(len(hidden)))
    (answer,) = Generator(model).generate([sample], NEW, ())
    parts: list[list[dict[str, Any]]] = [[{"type": "text", "text": text}] for _, text in texts]
    parts[0] = ([] if shown is None else [{"type": "image"}]) + parts[0]
    turns = [{"role": role, "content": content} for (role, _), content in zip(texts, parts, strict=True)]
    name = "text" if size is None else f"{size[0]} x {size[1]}"
    return _Asked(name, shown, turns, ids, tokens, logits, answer.text)


def _write_llm(model: MultimodalLM, entry: Input, folder: Path) -> None:
    """Weights, tokenizer with the picture's token, template of messages in parts, configuration."""
    llm = model.llm
    tokenizer = copy.deepcopy(llm.tokenizer)
    mark = entry.place.token or MARK
    if mark not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [mark]}, replace_extra_special_tokens=False)
    if entry.place.token is None:
        tokenizer.chat_template = PARTS.replace("MARK", mark) + tokenizer.chat_template
    ends = Prompter(llm.tokenizer, model.places).end_ids
    if llm.model.generation_config is not None:
        llm.model.generation_config.eos_token_id = list(ends)  # vLLM stops at these
    text = llm.model.config
    nameless(text)
    with quiet():
        llm.model.save_pretrained(folder)
    text.architectures = [type(llm.model).__name__]
    tokenizer.save_pretrained(folder)
    config = MmllmConfig(
        text_config=text.to_dict(),
        image_token_id=int(tokenizer.convert_tokens_to_ids(mark)),
        image_token=mark,
        tokens_per_image=entry.n_tokens() or 0,
        architectures=[ARCHITECTURE],
        dtype="float32",
    )
    config.save_pretrained(folder)


@torch.inference_mode()
def _compared(folder: Path, asked: list[_Asked]) -> Iterator[Stage]:
    AutoConfig.register(MmllmConfig.model_type, MmllmConfig, exist_ok=True)
    config = AutoConfig.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with quiet():
        llm = AutoModelForCausalLM.from_pretrained(folder, config=config.text_config, dtype=torch.float32).eval()
        media = Media.open(folder / FOLDER)
    for one in asked:
        text = tokenizer.apply_chat_template(one.turns, add_generation_prompt=True, tokenize=False)
        ids = torch.tensor(_expanded(tokenizer.encode(text, add_special_tokens=False), config))
        wanted = torch.where(one.ids < 0, config.image_token_id, one.ids)
        same = torch.equal(ids, wanted)
        yield Stage(
            f"ids ({one.name})", float(not same), 0, "" if same else f"{len(wanted)} in the run, {len(ids)} there"
        )
        embeds = llm.get_input_embeddings()(torch.where(one.ids < 0, 0, one.ids))
        if one.tokens is not None:
            found = media([media.read(one.picture)])[0]
            yield Stage(f"tokens ({one.name})", _difference(found, one.tokens), LIMIT)
            embeds[one.ids < 0] = found.to(embeds.dtype)
        logits = llm(inputs_embeds=embeds[None]).logits[0]
        yield Stage(f"logits ({one.name})", _difference(logits, one.logits), LIMIT)
        answer = _answer(llm, tokenizer, embeds)
        same = answer == one.answer.strip()
        detail = "" if same else f"{one.answer!r} in the run, {answer!r} there"
        yield Stage(f"answer ({one.name})", float(not same), 0, detail)


def _expanded(ids: list[int], config: MmllmConfig) -> list[int]:
    """The ids of a prompt with as many of the picture's as it has tokens."""
    times = {config.image_token_id: config.tokens_per_image}
    return [number for number in ids for _ in range(times.get(number, 1))]


def _answer(llm: Any, tokenizer: Any, embeds: Tensor) -> str:
    mask = torch.ones(1, len(embeds), dtype=torch.long)
    said = llm.generate(inputs_embeds=embeds[None], attention_mask=mask, max_new_tokens=NEW, do_sample=False)[0]
    return str(tokenizer.decode(said, skip_special_tokens=True)).rstrip("\ufffd").strip()


def _difference(there: Tensor, here: Tensor) -> float:
    """Largest difference as a share of the spread."""
    return float((there - here).abs().max()) / (float(here.max() - here.min()) or 1.0)
