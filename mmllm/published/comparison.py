"""An imported model beside transformers' own: the same ids, pixels, tokens, logits and answer, or where they part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
import transformers
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.media.base import Media, Shown
from mmllm.published.media.clips import Clips
from mmllm.published.media.pictures import Pictures
from mmllm.published.media.sounds import Sounds
from mmllm.published.source import Source
from mmllm.types import Batch
from mmllm.vlms.quiet import quiet

LIMIT = 1e-4
"""Largest difference of tokens and logits, as a share of their spread, in float32."""
NEW = 8
"""Tokens of the answers that are compared."""
TEXT = "text"
"""Name of the conversation without items."""
MEDIA: Mapping[str, type[Media]] = {"image": Pictures, "audio": Sounds, "video": Clips}
"""Modality -> what is shown of it."""


@dataclass(frozen=True)
class Stage:
    """One thing that was compared."""

    name: str
    difference: float
    """Largest difference: of pixels and spectrograms as they are, of tokens and logits as a share of their spread; 0 or
    1 where things are the same or not."""
    limit: float
    detail: str = ""

    @property
    def equal(self) -> bool:
        """Whether the two agree."""
        return self.difference <= self.limit


class Conversation:
    """A conversation as a run reads and answers it; each thing is computed when it is first asked for, and kept."""

    def __init__(self, media: Media, items: Sequence[Any]) -> None:
        self._media, self._ours = media, media.ours
        self.sample = media.sample(items)

    @cached_property
    def encoded(self) -> Encoded:
        """Its ids, and what the encoders see."""
        ours = self._ours
        prompter = Prompter(ours.llm.tokenizer, ours.places, ours.reads_user_turn, prefix=ours.llm.prefix)
        return encode(self.sample, prompter, ours.inputs, ours.llm.context, train=False)

    @property
    def _batch(self) -> Batch:
        return collate([self.encoded], self._ours.inputs, self._ours.llm.positions)

    @cached_property
    def tokens(self) -> Tensor:
        """Tokens float[M, D] of its items."""
        return self._media.tokens(self._batch)

    @cached_property
    def logits(self) -> Tensor:
        """Logits float[S, V]."""
        return self._ours.logits(self._batch)

    @cached_property
    def answer(self) -> str:
        """The greedy answer."""
        (found,) = Generator(self._ours).generate([self.sample], NEW, ())
        return found.text


@torch.inference_mode()
def record(source: Source, ours: MultimodalLM) -> dict[str, Conversation]:
    """All that :func:`compare` asks of a run, so that it can be asked once the run has no weights any more.

    ``source``: the published model, of which configuration and processor have to be there.
    """
    every = _media(source, ours)
    found = {TEXT: Conversation(every[0], ())}
    _ = found[TEXT].logits
    for media in every:
        for shown in media.shown():
            one = found[shown.name] = Conversation(media, shown.ours)
            _ = one.tokens, one.logits
            if media.answers(media.given(shown.theirs)):
                _ = one.answer
    return found


@torch.inference_mode()
def compare(
    source: Source, ours: MultimodalLM, recorded: Mapping[str, Conversation] = MappingProxyType({})
) -> Iterator[Stage]:
    """Compare stage by stage, on conversations about media and on one without; stops at the first difference.

    ``ours``: the imported model in float32. ``recorded``: what :func:`record` gave of it, where it has no weights now.
    """
    theirs = _their_model(source)
    try:
        yield from _compared(source, theirs.eval(), ours, recorded)
    finally:
        del theirs


def _media(source: Source, ours: MultimodalLM) -> list[Media]:
    """What is shown of each modality that the run reads."""
    return [MEDIA[entry.modality](source, ours) for entry in ours.inputs.values()]


def _compared(source: Source, theirs: Any, ours: MultimodalLM, recorded: Mapping[str, Conversation]) -> Iterator[Stage]:
    every = _media(source, ours)
    for media in every:
        for shown in media.shown():
            for stage in _about(media, theirs, shown, recorded.get(shown.name) or Conversation(media, shown.ours)):
                yield stage
                if not stage.equal:
                    return
    yield from _text_alone(every[0], theirs, recorded.get(TEXT) or Conversation(every[0], ()))


def _about(media: Media, theirs: Any, shown: Shown, ours: Conversation) -> Iterator[Stage]:
    """A conversation about items."""
    name = shown.name
    given = media.given(shown.theirs)
    ids = given["input_ids"][0]
    there = ids.masked_fill(media.places(ids), media.token).tolist()
    yield _ids(there, ours.encoded, media.token, f"ids ({name})")
    seen = [_exactly(f"{what} ({name})", there, here) for what, there, here in media.inputs(given, ours.encoded)]
    for what in dict.fromkeys(stage.name for stage in seen):  # of several encoders, the one that differs most
        yield max((stage for stage in seen if stage.name == what), key=lambda stage: stage.difference)
    with media.listening(theirs, given) as features:
        logits = theirs(**given).logits[0]
    yield _share(f"tokens ({name})", features[0], ours.tokens)
    yield _share(f"logits ({name})", logits, ours.logits)
    if media.answers(given):
        yield _answer(media.source, theirs, ours, given, name)


def _text_alone(media: Media, theirs: Any, ours: Conversation) -> Iterator[Stage]:
    given = media.given(())
    stage = _ids(given["input_ids"][0].tolist(), ours.encoded, -1, "ids (text)")
    yield stage
    if stage.equal:
        yield _share("logits (text)", media.of_text(theirs, given), ours.logits)


def _their_model(source: Source) -> Any:
    kind = getattr(transformers, source.config.architectures[0], None) if source.config.architectures else None
    kind = kind or transformers.AutoModelForMultimodalLM
    with quiet():
        return kind.from_pretrained(source.path, dtype=torch.float32, use_safetensors=True)


def _ids(theirs: list[int], ours: Encoded, token: int, name: str) -> Stage:
    """Whether a conversation has the same ids, an item's token at each of its places."""
    found = list(ours.ids)
    for span in ours.spans:
        found[span.start : span.start + span.length] = [token] * span.length
    if found == theirs:
        return Stage(name, 0, 0)
    place = next((n for n, (one, other) in enumerate(zip(found, theirs, strict=False)) if one != other), None)
    where = min(len(found), len(theirs)) if place is None else place
    shown = f"{len(theirs)} there, {len(found)} here; from position {where} on: {theirs[where : where + 4]} there, "
    return Stage(name, 1, 0, f"{shown}{found[where : where + 4]} here")


def _exactly(name: str, theirs: Tensor, ours: Tensor) -> Stage:
    """Largest difference of what the encoder sees."""
    if theirs.shape != ours.shape:
        return Stage(name, 1, 0, f"{list(theirs.shape)} there, {list(ours.shape)} here")
    return Stage(name, float((theirs - ours).abs().max()), 1e-6)


def _share(name: str, theirs: Tensor, ours: Tensor) -> Stage:
    """Largest difference as a share of the spread."""
    if theirs.shape != ours.shape:
        return Stage(name, 1, LIMIT, f"{list(theirs.shape)} there, {list(ours.shape)} here")
    if not theirs.numel():  # a sound too short for one token has none on both sides
        return Stage(name, 0, LIMIT)
    spread = float(theirs.max() - theirs.min()) or 1.0
    return Stage(name, float((theirs - ours).abs().max()) / spread, LIMIT)


def _answer(source: Source, theirs: Any, ours: Conversation, given: Any, name: str) -> Stage:
    ids = theirs.generate(**given, max_new_tokens=NEW, do_sample=False)[0, given["input_ids"].shape[1] :]
    text = source.tokenizer.decode(ids, skip_special_tokens=True)
    # ours never ends in the middle of a character
    same = ours.answer.strip() == text.rstrip("\ufffd").strip()
    return Stage(f"answer ({name})", 0 if same else 1, 0, "" if same else f"{text!r} there, {ours.answer!r} here")


def check(stages: list[Stage], where: str) -> None:
    """MmllmError that names the first stage at which the two differ."""
    for stage in stages:
        if not stage.equal:
            raise MmllmError(
                f"{where}: what was imported differs from transformers' own model first in its {differing(stage)}"
            )


def outcome(stage: Stage) -> str:
    """A stage as a line of the report that is printed."""
    by = f" (by {stage.difference:.2g})" if 0 < stage.difference < 1 else ""
    return f"{'equal' if stage.equal else 'differs'}: {stage.name}{by}"


def differing(stage: Stage) -> str:
    """A stage that is not equal, as words of a sentence."""
    return f"{stage.name}: {stage.detail or f'by {stage.difference:.3g} (at most {stage.limit:g})'}"
