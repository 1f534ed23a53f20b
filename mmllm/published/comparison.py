"""An imported model beside transformers' own: the same ids, pixels, tokens, logits and answer, or where they part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from mmllm.types import Sample
from mmllm.vlms.quiet import quiet

LIMIT = 1e-4
"""Largest difference of tokens and logits, as a share of their spread, in float32."""
NEW = 8
"""Tokens of the answers that are compared."""
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


@torch.inference_mode()
def compare(source: Source, ours: MultimodalLM) -> Iterator[Stage]:
    """Compare stage by stage, on conversations about media and on one without; stops at the first difference.

    ``ours``: the imported model in float32.
    """
    theirs = _their_model(source)
    try:
        yield from _compared(source, theirs.eval(), ours)
    finally:
        del theirs


def _compared(source: Source, theirs: Any, ours: MultimodalLM) -> Iterator[Stage]:
    every = [MEDIA[key](source, ours) for key in ours.inputs]
    for media in every:
        for shown in media.shown():
            for stage in _about(media, theirs, shown):
                yield stage
                if not stage.equal:
                    return
    yield from _text_alone(every[0], theirs)


def _about(media: Media, theirs: Any, shown: Shown) -> Iterator[Stage]:
    """A conversation about items."""
    name, ours = shown.name, media.ours
    given = media.given(shown.theirs)
    sample = media.sample(shown.ours)
    encoded = _encoded(sample, ours)
    yield _ids(given["input_ids"][0].tolist(), encoded, media.token, f"ids ({name})")
    seen = [_exactly(f"{what} ({name})", there, here) for what, there, here in media.inputs(given, encoded)]
    for what in dict.fromkeys(stage.name for stage in seen):  # of several encoders, the one that differs most
        yield max((stage for stage in seen if stage.name == what), key=lambda stage: stage.difference)
    batch = collate([encoded], ours.inputs, ours.llm.positions)
    with media.listening(theirs, given) as features:
        logits = theirs(**given).logits[0]
    yield _share(f"tokens ({name})", features[0], media.tokens(batch))
    yield _share(f"logits ({name})", logits, ours.logits(batch))
    if media.answers(given):
        yield _answer(media.source, theirs, ours, given, sample, name)


def _text_alone(media: Media, theirs: Any) -> Iterator[Stage]:
    given, ours = media.given(()), media.ours
    encoded = _encoded(media.sample(()), ours)
    stage = _ids(given["input_ids"][0].tolist(), encoded, -1, "ids (text)")
    yield stage
    if stage.equal:
        batch = collate([encoded], ours.inputs, ours.llm.positions)
        yield _share("logits (text)", media.of_text(theirs, given), ours.logits(batch))


def _their_model(source: Source) -> Any:
    kind = getattr(transformers, source.config.architectures[0], None) if source.config.architectures else None
    kind = kind or transformers.AutoModelForMultimodalLM
    with quiet():
        return kind.from_pretrained(source.path, dtype=torch.float32, use_safetensors=True)


def _encoded(sample: Sample, ours: MultimodalLM) -> Encoded:
    prompter = Prompter(ours.llm.tokenizer, ours.places, ours.reads_user_turn, prefix=ours.llm.prefix)
    return encode(sample, prompter, ours.inputs, ours.llm.context, train=False)


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
