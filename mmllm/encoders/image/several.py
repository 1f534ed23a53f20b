"""What encoders share that see one item as several pictures: frames of a clip, tiles of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmllm import registry
from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.vit_base import ImageEncoder
from mmllm.encoders.masks import real_tokens
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from mmllm.registry import EncoderPart
from mmllm.types import Features


class PicturesEncoder(Encoder):
    """Base of encoders that see an item as several pictures, each by an image encoder of the registry."""

    gives_final = True

    def __init__(self, image: ImageEncoder) -> None:
        """``image``: the encoder; its layers are this one's, as a recipe names them there."""
        super().__init__(layers=image.layers)
        self.image = image
        # adapters in its blocks hang on this encoder: they are told of items, and its passes need gradients for them
        image.adapters, image.scope = self.adapters, self.scope
        self.dim = image.dim

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the image encoder."""
        return self.image.n_blocks

    def hook_points(self) -> BlockHooks:
        """The image encoder's blocks; their rows are the pictures of all items."""
        return self.image.hook_points()

    def seen(self, pixels: Tensor, sizes: list[int]) -> Features:
        """Features of each picture, float[sum of sizes, rows * cols, D]; ``sizes``: pictures of each item."""
        layout = TokenLayout(tuple(sizes), self.image.processor.fixed_patches, self.image.prefix)
        with self.laid_out(layout):
            return self.image.features(pixels, self.layers)


def side_by_side(
    seen: Features,
    counts: list[int],
    grid: tuple[int, int],
    extras: Mapping[str, Tensor] = MappingProxyType({}),
) -> Features:
    """Features of single pictures -> those of N items, ``counts`` of them each.

    Layers float[N, most pictures * rows * cols, D], zeros behind an item's own; grids (pictures, rows, cols).
    """
    rows, cols = grid
    tokens = [count * rows * cols for count in counts]
    layers = {
        index: pad_sequence(list(layer.flatten(0, 1).split(tokens)), batch_first=True)
        for index, layer in seen.layers.items()
    }
    mask = real_tokens(tokens, seen.mask.device)
    grids = tuple((count, rows, cols) for count in counts)
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
        raise MmllmError(f'{name}: image: "{part["type"]}" is no encoder of images of one size.')
    for word in args:
        if word not in known:
            raise MmllmError(f'{name}: image: unknown argument "{word}" of {part["type"]}; known: {", ".join(known)}.')
    lacking = [word for word, parameter in known.items() if parameter.required and word not in args]
    if lacking:
        raise MmllmError(f'{name}: image: {part["type"]} needs the argument "{lacking[0]}"; known: {", ".join(known)}.')
    return kind(**args)
