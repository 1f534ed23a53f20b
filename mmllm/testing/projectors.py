"""The contract of projectors: encoder features in, tokens of the LLM out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mmllm.connectors.base import Projector
from mmllm.testing.projector_rules import RULES
from mmllm.testing.projector_subject import Subject
from mmllm.testing.rules import check, named, require_kind
from mmllm.testing.tiny.record import none
from mmllm.types import Grid


def check_projector(
    maker: Callable[..., Projector],
    *,
    grids: Sequence[Grid] = ((4, 4),),
    layers: Sequence[int] = (-2,),
    extras: Callable[[int], dict[str, Tensor]] = none,
    width: int = 16,
    llm_width: int = 24,
    raster: bool = True,
) -> None:
    """Hold a projector to its contract: one line in a plugin's tests, ``check_projector(partial(Mine, factor=2))``.

    It must give ``float[N, prod(out_grid), llm_dim]``; keep items apart, also padded ones where ``accepts_padding``;
    give every weight a gradient and read every patch; be the same in train and eval mode; stay in bfloat16; add no loss
    to a pass that it took no part in; lay its tokens out in the raster order of ``out_grid``; and have time in
    ``out_grid`` where the tokens of two frames differ.

    Args:
        maker: called as ``maker(dim=..., llm_dim=...)``: the class itself, or a ``partial`` with small settings.
        grids: of an item in each encoder it takes features from; with (rows, cols) a clip of four such frames is tried
            too, unless ``out_grid`` refuses it with an MmllmError.
        layers: hidden layers of each encoder; the features are ``float[N, prod(grid), width]`` for each.
        extras: n -> ``Features.extras`` of n items, where it needs any: ``edges`` int64[n, 2, E] and the like.
        width: of one layer of one encoder; ``dim`` is the sum over layers and encoders.
        llm_width: of the LLM.
        raster: whether the order of tokens is checked; False for one that is local in other ways than by regions.

    Raises:
        AssertionError: it breaks a rule; the text says which, and how to mend it.
    """
    subject = Subject(maker, tuple(map(tuple, grids)), tuple(layers), extras, width, llm_width, raster)
    require_kind(subject.make(), Projector)
    check(named(subject.make()), RULES, subject)
