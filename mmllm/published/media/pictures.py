"""Pictures that a comparison shows, and the pixels that the encoder sees of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from mmllm.batches.sample import Encoded
from mmllm.connectors.deep_fusion.cross_attention_layers.cross_attention_layers import CrossAttentionLayersConnector
from mmllm.processors.image import pixels_of
from mmllm.processors.native.processor import NativeProcessor
from mmllm.processors.native.tiles import NativeTilesProcessor
from mmllm.published.media.base import Media, Shown
from mmllm.types import Batch

SIZES = ((333, 250), (120, 200))
"""Width and height of the pictures that are looked at."""


def picture(width: int, height: int) -> Image.Image:
    """A picture with edges, colours and noise, always the same."""
    rng = numpy.random.default_rng(width * 1000 + height)
    y, x = numpy.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 127 + 100 * numpy.sin(x / 9) * numpy.cos(y / 7)]
    values = numpy.stack(planes, axis=-1) + rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype("uint8"))


class Pictures(Media):
    """One picture in a conversation."""

    key = "image"

    @property
    def token(self) -> int:
        """Id of a picture's token."""
        return int(self.source.config.image_token_id)

    def places(self, ids: Tensor) -> Tensor:
        """Those of its marks as well, which are learned vectors here (Ovis 2)."""
        config = self.source.config
        marks = config.visual_indicator_token_ids if config.model_type == "ovis2" else ()
        return torch.isin(ids, torch.tensor([self.token, *marks]))

    def shown(self) -> list[Shown]:
        """A picture of each of two shapes, and both where one is read otherwise beside another."""
        alone = [(picture(w, h),) for w, h in SIZES]
        found = [Shown(f"{w} x {h}", one, one) for (w, h), one in zip(SIZES, alone, strict=True)]
        if self.ours.inputs["image"].minds_others:
            both = tuple(image for one in alone for image in one)
            found.append(Shown("two pictures", both, both))
        return found

    def processed(self, text: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of a prompt and pictures."""
        words: dict[str, Any] = self.source.special_tokens(text)
        if items:
            # one is of one conversation anyway; of several only a list in the list says so
            words |= {"images": list(items) if len(items) == 1 else [list(items)], **self.source.words()}
        given = dict(self.source.processor(text=[text], return_tensors="pt", **words))
        # Llama 4's pixels are bfloat16, whatever its model is
        return {name: one.float() if one.is_floating_point() else one for name, one in given.items()}

    def inputs(self, given: dict[str, Tensor], encoded: Encoded) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Pixels of every tile, or patches where both have them."""
        items = encoded.media["image"]
        pixels = pixels_of(given)
        if "spatial_shapes" in given:  # patches, padded to the most of them
            pixels = pixels[given["pixel_attention_mask"].bool()]
        if "pictures" in items[0]["image"] and pixels.dim() > 3:
            masks = given["pixel_attention_mask"]
            yield "pixels", *self._unpadded(pixels[0], masks[0], [one["image"] for one in items])
            return
        yield "pixels", *self._seen(pixels, [one["image"] for one in items])
        if "high_res_pixel_values" in given:  # of DeepSeek-VL's second tower
            yield "pixels", *self._seen(given["high_res_pixel_values"], [one["high"] for one in items])

    @contextmanager
    def listening(self, theirs: Any, given: dict[str, Tensor]) -> Iterator[list[Tensor]]:
        """Tokens at the pictures' places, or what blocks of the LLM read of them in its stead."""
        if not self._inside:
            with super().listening(theirs, given) as features:
                yield features
            return
        features = []
        projector = theirs.get_submodule(f"model.{self.source.family.projector}")
        handle = projector.register_forward_hook(
            lambda _, __, output: features.append(output.reshape(-1, output.shape[-1]))
        )
        try:
            yield features
        finally:
            handle.remove()

    def tokens(self, batch: Batch) -> Tensor:
        """The same here."""
        if not self._inside:
            return super().tokens(batch)
        ctx, _ = self.ours.embed(batch)
        (features,) = self.ours.encode("image", batch.media["image"], ctx)
        connector = self.ours.inputs["image"].connector
        assert isinstance(connector, CrossAttentionLayersConnector)
        return connector.states(features).flatten(0, 1)

    def of_text(self, theirs: Any, given: dict[str, Tensor]) -> Tensor:
        """Logits of a text; by the text model alone, where the whole model reads none without a picture."""
        if self.source.family.conversations:
            return super().of_text(theirs, given)
        known = {name: value for name, value in given.items() if name in ("input_ids", "attention_mask")}
        logits: Tensor = theirs.language_model(**known).logits[0]
        return logits

    @property
    def _inside(self) -> bool:
        return self.source.family.cross_attention is not None

    def _unpadded(self, theirs: Tensor, masks: Tensor, items: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Pictures of unlike shape, padded to the largest there: float[pixels of all], without padding."""
        processor = self.ours.inputs["image"].processors["image"]
        assert isinstance(processor, NativeTilesProcessor)
        side = processor.patching.patch
        found = []
        for pixels, mask in zip(theirs, masks, strict=True):
            height, width = (int(line.sum()) // side * side for line in (mask[:, 0], mask[0]))
            found.append(pixels[:, :height, :width].flatten())
        own = [one.flatten() for item in items for one in processor.pixels(item)]
        return torch.cat(found), torch.cat(own)

    def _seen(self, theirs: Tensor, items: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """What an encoder sees, there and here: float[pictures, 3, H, W], or float[patches, D]."""
        if "patches" not in items[0]:
            pixels = [one["pixels"].reshape(-1, *one["pixels"].shape[-3:]) for one in items]
            return theirs.reshape(-1, *theirs.shape[-3:]), torch.cat(pixels)
        processor = self.ours.inputs["image"].processors["image"]
        assert isinstance(processor, NativeProcessor)
        if theirs.dim() > 3:
            (item,) = items
            # a rest that is no whole patch is read by no tower
            height, width = (size - size % processor.patching.patch for size in theirs.shape[-2:])
            own = processor.patching.pixels(item["patches"], processor.grid(item))
            return theirs.reshape(-1, *theirs.shape[-3:])[..., :height, :width], own[None]
        return theirs.reshape(-1, theirs.shape[-1]), torch.cat([one["patches"] for one in items])
