"""What encoders share that see one item as several pictures: frames of a clip, tiles of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm import registry
from mmllm.encoders.image.vit_base import ImageEncoder
from mmllm.errors import MmllmError
from mmllm.registry import EncoderPart
from mmllm.types import Features


def side_by_side(
    seen: Features,
    counts: Tensor,
    sizes: list[int],
    grid: tuple[int, int],
    extras: Mapping[str, Tensor] = MappingProxyType({}),
) -> Features:
    """Features of single pictures -> those of items, ``counts`` int64[N] (``sizes``) of them each.

    Layers float[N, most pictures * rows * cols, D], zeros behind an item's own; grids (pictures, rows, cols).
    """
    rows, cols = grid
    tokens = [count * rows * cols for count in sizes]
    layers = {
        index: pad_sequence(list(layer.flatten(0, 1).split(tokens)), batch_first=True)
        for index, layer in seen.layers.items()
    }
    mask = torch.arange(max(tokens), device=seen.mask.device) < counts[:, None] * (rows * cols)
    grids = tuple((count, rows, cols) for count in sizes)
    return Features(layers, mask, max(grids), grids if len(set(grids)) > 1 else None, dict(extras))


def image_encoder(part: EncoderPart, name: str = "frames") -> ImageEncoder:
    """The image encoder that a mapping of ``type`` and arguments names; MmllmError where it names none.

    ``name``: of the encoder that it is in, for errors.
    """
    if "type" not in part:
        raise MmllmError(f'{name}: image needs a "type", such as hf_vision or open_clip.')
    args = {word: value for word, value in part.items() if word != "type"}
    try:
        kind = registry.load("encoders", str(part["type"]))
        known = registry.parameters("encoders", str(part["type"]))
    except registry.UnknownName as error:
        raise MmllmError(f"{name}: image: {error}") from error
    if not issubclass(kind, ImageEncoder):
        raise MmllmError(f'{name}: image: "{part["type"]}" is no encoder of images.')
    for word in args:
        if word not in known:
            raise MmllmError(f'{name}: image: unknown argument "{word}" of {part["type"]}; known: {", ".join(known)}.')
    lacking = [word for word, parameter in known.items() if parameter.required and word not in args]
    if lacking:
        raise MmllmError(f'{name}: image: {part["type"]} needs the argument "{lacking[0]}"; known: {", ".join(known)}.')
    return kind(**args)
