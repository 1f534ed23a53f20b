"""A conversation as the LLM alone can read it: the text of each item (a transcript, a caption) in the item's place.

``loader`` makes it of each sample where a stage has ``distill``; :mod:`mmllm.model.distillation` compares answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmllm.batches.sample import Encoded, MediaInput, PlannedSample, load_media, plan
from mmllm.errors import SampleError
from mmllm.messages import placeholders
from mmllm.types import IGNORE_INDEX, Message, Sample


def in_words(sample: Sample) -> Sample:
    """The sample without media, the text of each item where its placeholder was.

    Raises:
        SampleError: an item without a text.
    """
    for key, items in sample.media.items():
        found = len(sample.texts.get(key, ()))
        if found != len(items):
            raise SampleError(
                f"{sample.name}: distill needs the text of each <{key}>, and {found or 'none'} of {len(items)} has "
                "one; name the rows' field of it in the data entry, texts: {" + f"{key}: FIELD" + "}"
            )
    left = {key: list(texts) for key, texts in sample.texts.items()}
    messages = []
    for message in sample.messages:
        parts = [
            left[text[1:-1]].pop(0) if is_place else text
            for text, is_place in placeholders.pieces(message, sample.media.keys())
        ]
        text = "".join(parts)
        if message.role != "assistant":  # the item's own words, or an escaped one, may spell a placeholder
            text = placeholders.escape(text, sample.media.keys())
        messages.append(Message(message.role, text))
    return replace(sample, messages=tuple(messages), media={}, texts={})


def teacher_of(planned: PlannedSample, inputs: Mapping[str, MediaInput], context: int) -> Encoded:
    """The conversation in words, ready to be packed; its labels are those of ``planned``, in their order.

    Raises:
        SampleError: an item without a text, over the context, or a tokenizer that writes the answer otherwise there.
    """
    taught = plan(in_words(planned.sample), planned.prompter, inputs, context, train=True)
    if _labels(taught) != _labels(planned):
        raise SampleError(f"{planned.name}: distill: its answer has other tokens behind the text than behind the media")
    return load_media(taught, inputs)


def _labels(planned: PlannedSample) -> list[int]:
    return [label for label in planned.prompt.labels[1:] if label != IGNORE_INDEX]
