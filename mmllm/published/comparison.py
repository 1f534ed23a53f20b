"""An imported model beside transformers' own: the same ids, pixels, tokens, logits and answer, or where they part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import transformers
from PIL import Image
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.source import Source
from mmllm.types import Message, Sample
from mmllm.vlms.quiet import quiet

LIMIT = 1e-4
"""Largest difference of tokens and logits, as a share of their spread, in float32."""
NEW = 8
"""Tokens of the answers that are compared."""
SIZES = ((333, 250), (120, 200))
"""Width and height of the pictures that are looked at."""
TALK = (("user", "What is on it?"), ("assistant", "A test."), ("user", "And what else, in a few words?"))


@dataclass(frozen=True)
class Stage:
    """One thing that was compared."""

    name: str
    difference: float
    """Largest difference: of pixels as they are, of tokens and logits as a share of their spread; 0 or 1 where things
    are the same or not."""
    limit: float
    detail: str = ""

    @property
    def equal(self) -> bool:
        """Whether the two agree."""
        return self.difference <= self.limit


def picture(width: int, height: int) -> Image.Image:
    """A picture with edges, colours and noise, always the same."""
    rng = numpy.random.default_rng(width * 1000 + height)
    y, x = numpy.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 127 + 100 * numpy.sin(x / 9) * numpy.cos(y / 7)]
    values = numpy.stack(planes, axis=-1) + rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype("uint8"))


@torch.inference_mode()
def compare(source: Source, ours: MultimodalLM) -> Iterator[Stage]:
    """Compare stage by stage, on conversations about a picture and on one without; stops at the first difference.

    ``ours``: the imported model in float32.
    """
    theirs = _their_model(source)
    try:
        yield from _compared(source, theirs.eval(), ours)
    finally:
        del theirs


def _compared(source: Source, theirs: Any, ours: MultimodalLM) -> Iterator[Stage]:
    for width, height in SIZES:
        stages = _about_pictures(source, theirs, ours, [picture(width, height)], f"{width} x {height}")
        for stage in stages:
            yield stage
            if not stage.equal:
                return
    if ours.inputs["image"].minds_others:
        both = [picture(width, height) for width, height in SIZES]
        for stage in _about_pictures(source, theirs, ours, both, "two pictures"):
            yield stage
            if not stage.equal:
                return
    yield from _text_alone(source, theirs, ours)


def _about_pictures(
    source: Source, theirs: Any, ours: MultimodalLM, images: list[Image.Image], name: str
) -> Iterator[Stage]:
    given = _their_inputs(source, TALK, images)
    sample = _sample(TALK, images)
    prompter = Prompter(ours.llm.tokenizer, ours.places, ours.reads_user_turn)
    encoded = encode(sample, prompter, ours.inputs, ours.llm.context, train=False)
    yield _ids(given["input_ids"][0].tolist(), encoded, source.config.image_token_id, f"ids ({name})")
    inner = [one["image"]["pixels"].reshape(-1, *given["pixel_values"].shape[-3:]) for one in encoded.media["image"]]
    yield _pixels(f"pixels ({name})", given["pixel_values"].flatten(0, -4), torch.cat(inner))
    batch = collate([encoded], ours.inputs)
    features, logits = _their_tokens(source, theirs, given, ours)
    ctx, _ = ours.embed(batch)
    tokens = ours.project("image", batch.media["image"], ctx)[0]
    yield _share(f"tokens ({name})", features, tokens)
    yield _share(f"logits ({name})", logits, ours.logits(batch))
    yield _answer(source, theirs, ours, given, sample, name)


def _their_tokens(source: Source, theirs: Any, given: dict[str, Tensor], ours: MultimodalLM) -> tuple[Tensor, Tensor]:
    """Tokens float[M, D] that a picture is to the LLM, and logits float[S, V]."""
    found: list[Tensor] = []
    if ours.inputs["image"].stitch is None:
        projector = theirs.get_submodule(f"model.{source.family.projector}")
        handle = projector.register_forward_hook(lambda _, __, output: found.append(output))
    else:  # what the projector gives is put together afterwards
        places = given["input_ids"] == source.config.image_token_id
        handle = theirs.get_decoder().register_forward_pre_hook(
            lambda _, __, words: found.append(words["inputs_embeds"][places]), with_kwargs=True
        )
    try:
        logits = theirs(**given).logits[0]
    finally:
        handle.remove()
    return found[0].reshape(-1, found[0].shape[-1]), logits


def _text_alone(source: Source, theirs: Any, ours: MultimodalLM) -> Iterator[Stage]:
    given = _their_inputs(source, TALK, [])
    sample = _sample(TALK, [])
    prompter = Prompter(ours.llm.tokenizer, ours.places, ours.reads_user_turn)
    encoded = encode(sample, prompter, ours.inputs, ours.llm.context, train=False)
    stage = _ids(given["input_ids"][0].tolist(), encoded, -1, "ids (text)")
    yield stage
    if stage.equal:
        yield _share("logits (text)", theirs(**given).logits[0], ours.logits(collate([encoded], ours.inputs)))


def _their_model(source: Source) -> Any:
    kind = getattr(transformers, source.config.architectures[0], None) if source.config.architectures else None
    kind = kind or transformers.AutoModelForImageTextToText
    with quiet():
        return kind.from_pretrained(source.path, dtype=torch.float32, use_safetensors=True)


def _their_inputs(source: Source, talk: Any, images: list[Image.Image]) -> dict[str, Tensor]:
    """What transformers' own processor makes of a conversation; the first turn shows ``images``."""
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in talk]
    messages[0]["content"] = [{"type": "image"}] * len(images) + messages[0]["content"]
    text = source.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    bos = source.tokenizer.bos_token
    words: dict[str, Any] = {"add_special_tokens": not (bos and text.startswith(bos))}
    if images:  # one is of one conversation anyway; of several only a list in the list says so
        words |= {"images": images if len(images) == 1 else [images], **source.whole()}
    return dict(source.processor(text=[text], return_tensors="pt", **words))


def _sample(talk: Any, images: list[Image.Image]) -> Sample:
    messages = [Message(role, text) for role, text in talk]
    if images:
        messages[0] = Message("user", f"{'<image>' * len(images)}\n{talk[0][1]}")
    return Sample("comparison", tuple(messages), {"image": tuple(images)} if images else {})


def _ids(theirs: list[int], ours: Encoded, token: int, name: str) -> Stage:
    """Whether a conversation has the same ids, a picture's token at each of its places."""
    found = list(ours.ids)
    for span in ours.spans:
        found[span.start : span.start + span.length] = [token] * span.length
    if found == theirs:
        return Stage(name, 0, 0)
    place = next((n for n, (one, other) in enumerate(zip(found, theirs, strict=False)) if one != other), None)
    where = min(len(found), len(theirs)) if place is None else place
    shown = f"{len(theirs)} there, {len(found)} here; from position {where} on: {theirs[where : where + 4]} there, "
    return Stage(name, 1, 0, f"{shown}{found[where : where + 4]} here")


def _pixels(name: str, theirs: Tensor, ours: Tensor) -> Stage:
    """Largest difference of the pictures that the encoder sees."""
    if theirs.shape != ours.shape:
        return Stage(name, 1, 0, f"{list(theirs.shape)} there, {list(ours.shape)} here")
    return Stage(name, float((theirs - ours).abs().max()), 1e-6)


def _share(name: str, theirs: Tensor, ours: Tensor) -> Stage:
    """Largest difference as a share of the spread."""
    if theirs.shape != ours.shape:
        return Stage(name, 1, LIMIT, f"{list(theirs.shape)} there, {list(ours.shape)} here")
    spread = float(theirs.max() - theirs.min()) or 1.0
    return Stage(name, float((theirs - ours).abs().max()) / spread, LIMIT)


def _answer(source: Source, theirs: Any, ours: MultimodalLM, given: Any, sample: Sample, name: str) -> Stage:
    ids = theirs.generate(**given, max_new_tokens=NEW, do_sample=False)[0, given["input_ids"].shape[1] :]
    text = source.tokenizer.decode(ids, skip_special_tokens=True)
    (found,) = Generator(ours).generate([sample], NEW, ())
    # ours never ends in the middle of a character
    same = found.text.strip() == text.rstrip("\ufffd").strip()
    return Stage(f"answer ({name})", 0 if same else 1, 0, "" if same else f"{text!r} there, {found.text!r} here")


def check(stages: list[Stage], where: str) -> None:
    """MmllmError that names the first stage at which the two differ."""
    for stage in stages:
        if not stage.equal:
            detail = stage.detail or f"by {stage.difference:.3g} (at most {stage.limit:g})"
            raise MmllmError(
                f"{where}: what was imported differs from transformers' own model first in its {stage.name}: {detail}"
            )
