"""The ``tiles`` encoder: an image encoder of the registry on tiles of a picture and on all of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmllm.encoders.image.several import PicturesEncoder, image_encoder, side_by_side
from mmllm.processors.tiles import TilesProcessor
from mmllm.registry import EncoderPart
from mmllm.types import Features


class TilesEncoder(PicturesEncoder):
    """Each picture cut into tiles of the image encoder's size, all of them seen by ``image: {type: ..., ...}``.

    The grid is (tiles, rows, cols); behind the tiles, row by row, stands a view of all of the picture, and a picture of
    one tile is that view alone. How many follows from the picture's size before anything is read; ``extras["cut"]`` is
    what :class:`~mmllm.processors.tiles.Cut` holds. ``rule``:

    - ``closest_ratio`` (InternVL, Chen et al. 2024, arXiv 2404.16821): of ``least`` to ``most`` tiles the shape nearest
      to the picture's, which is squashed to it.
    - ``longest_side`` (Idefics3, Laurencon et al. 2024, arXiv 2408.12637): the longer side is brought to ``longest``
      pixels, and what that gives is cut.
    - ``resolutions`` (LLaVA-NeXT; LLaVA-OneVision, Li et al. 2024, arXiv 2408.03326): of a list of [height, width] the
      one in which most of the picture is seen; it keeps its shape, and borders are black. The view of all of it stands
      in front, beside a single tile too.
    - ``partition`` (AdaptVision, Wang et al. 2024, arXiv 2408.16986): the longer side is brought to the next whole
      number of tiles, at most ``longest`` pixels, the other along with it and to the next again; the view of all of it
      in front, as before. The paper resizes by Lanczos.
    - ``covering`` (Ovis 2, Lu et al. 2024, arXiv 2405.20797): as few of at most ``most`` tiles as show over 90 % of the
      picture, which is squashed to them; the view of all of it in front, where there are several.
    - ``canvas`` (Llama 4, 2025): of all shapes of at most ``most`` tiles the one for which the picture is enlarged
      least, or else shrunk least; it keeps its shape, in the upper left corner, and the rest is black.
    - ``pan_and_scan`` (Gemma 3, Gemma Team 2025, arXiv 2503.19786): a picture whose longer side is ``ratio`` times the
      other or more is cut across into 2 to ``most`` crops, of which no side has less than ``shortest`` pixels; the
      view of all of it in front, where there are crops. Each crop is prepared as a picture of its own shape.

    With ``several: whole`` a picture is cut only where it is the one picture of its conversation; else it is prepared
    as the image encoder prepares pictures (``fit``; with ``own`` as the folder does several, LLaVA-OneVision).

    With ``fit: own`` in the image encoder the folder's own image processor cuts, under these settings; else the picture
    is brought to the tiles' canvas (bicubic) and each tile prepared as a picture of its own. ``layers`` are arguments
    of the image encoder. Text between tiles is the connector's word ``tiles``; ``stitch`` makes one map of them.
    """

    processor: TilesProcessor
    host_inputs = ("counts", "cut")

    def __init__(
        self,
        *,
        image: EncoderPart,
        rule: str = "closest_ratio",
        least: int = 1,
        most: int = 12,
        longest: int | None = None,
        resolutions: Sequence[Sequence[int]] | None = None,
        several: str = "cut",
        shortest: int | None = None,
        ratio: float | None = None,
    ) -> None:
        super().__init__(image_encoder(image, "tiles"))
        self.processor = TilesProcessor(
            self.image.processor,
            rule=rule,
            least=least,
            most=most,
            longest=longest,
            resolutions=resolutions,
            several=several,
            shortest=shortest,
            ratio=ratio,
        )
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """Collated pictures -> layers float[N, most n * rows * cols, D]."""
        counts: list[int] = inputs["counts"].tolist()
        seen = self.seen(inputs["pixels"], counts)
        return side_by_side(seen, counts, self.image.processor.fixed_grid(), {"cut": inputs["cut"]})
