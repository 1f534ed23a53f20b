"""The ``tiles`` encoder: an image encoder of the registry on tiles of a picture and on all of it."""

from __future__ import annotations

from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.several import image_encoder, side_by_side
from mmllm.hooks import TokenLayout
from mmllm.processors.tiles import TilesProcessor
from mmllm.registry import EncoderPart
from mmllm.types import Features


class TilesEncoder(Encoder):
    """Each picture cut into tiles of the image encoder's size, all of them seen by ``image: {type: ..., ...}``.

    The grid is (tiles, rows, cols); behind the tiles, row by row, stands a view of all of the picture, and a picture of
    one tile is that view alone. How many follows from the picture's size before anything is read. ``rule``:

    - ``closest_ratio`` (InternVL, Chen et al. 2024, arXiv 2404.16821): of ``least`` to ``most`` tiles the shape nearest
      to the picture's, which is squashed to it.
    - ``longest_side`` (Idefics3, Laurencon et al. 2024, arXiv 2408.12637): the longer side is brought to ``longest``
      pixels, and what that gives is cut.

    With ``fit: own`` in the image encoder the folder's own image processor cuts, under these settings; else the picture
    is squashed to the tiles' canvas (bicubic) and each tile prepared as a picture of its own. ``layers`` are arguments
    of the image encoder. Text between tiles is the connector's word ``tiles``.
    """

    processor: TilesProcessor
    gives_final = True

    def __init__(
        self,
        *,
        image: EncoderPart,
        rule: str = "closest_ratio",
        least: int = 1,
        most: int = 12,
        longest: int | None = None,
    ) -> None:
        inner = image_encoder(image, "tiles")
        # the image encoder's layers: a recipe names them there
        super().__init__(layers=inner.layers)
        self.image = inner
        # adapters in its blocks hang on this encoder: they are told of pictures, its passes need gradients for them
        inner.adapters, inner.scope = self.adapters, self.scope
        self.dim = inner.dim
        self.processor = TilesProcessor(inner.processor, rule=rule, least=least, most=most, longest=longest)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the image encoder."""
        return self.image.n_blocks

    def forward(self, **inputs: Tensor) -> Features:
        """Collated pictures -> layers float[N, most n * rows * cols, D]."""
        counts: list[int] = inputs["counts"].tolist()
        grid = self.image.processor.fixed_grid()
        with self.laid_out(TokenLayout(tuple(counts), grid, self.image.prefix)):
            seen = self.image.features(inputs["pixels"], self.layers)
        return side_by_side(seen, inputs["counts"], counts, grid)

    def hook_points(self) -> BlockHooks:
        """The image encoder's blocks; their rows are the tiles of all pictures."""
        return self.image.hook_points()
