"""The base of every connector: what learns. Between an encoder and the LLM's input, or (``attach``) inside the LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmllm.errors import MmllmError
from mmllm.types import Features, Pass


class Handle(Protocol):
    """What ``attach`` returns: takes the connector out of the LLM again, bit for bit."""

    def remove(self) -> None:
        """Restore the LLM as it was before ``attach``."""
        ...


class Attached:
    """The hooks of one connector in one LLM."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self.handles = handles

    def remove(self) -> None:
        """Take all hooks out of the LLM; its logits are what they were."""
        for handle in self.handles:
            handle.remove()


class Connector(nn.Module):
    """Maps features to tokens of the LLM, all in raster order.

    ``dim`` is the width it receives (encoder width x number of layers), ``llm_dim`` the LLM's. A connector that works
    inside the LLM takes no ``dim``, gives no tokens and overrides ``attach``.
    """

    dim: int
    llm_dim: int
    identity_at_start: bool = False
    """Inside the LLM or an encoder: whether untrained weights leave what it gives bit-identical."""
    ragged: bool = False
    """Whether ``forward`` takes items of different grids at once: float[N, most tokens, llm_dim], each item's own
    tokens first. Else it is asked once for each grid, without padding."""
    reads_text: bool = False
    """Whether ``forward`` gets the text; ``flow`` says whose it is (``sequence_ids``, ``spoken``, ``owners``)."""
    tiny_grid: tuple[int, ...] = (4, 4)
    """Grid of the features that the one made by ``tiny`` takes."""
    reads_questions: bool = False
    """Whether it needs ``flow.questions``."""

    def __init__(self, *, llm_dim: int, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.llm_dim = llm_dim
        self.when: tuple[str, ...] | None = None
        """Encoder keys: inside the LLM, work only in conversations with media of one of them. None: always."""
        self.source: str | None = None
        """Encoder key whose features ``forward`` gets; None for those that get none."""
        self.flow: Pass | None = None
        """Facts of the LLM's next pass, the same until its backward pass is over."""
        self.active: Tensor | None = None
        """bool[R, S, 1] where the next pass of the LLM is to be changed. None: everywhere."""
        self.memory: tuple[Tensor, ...] | None = None
        """What ``forward`` keeps of the items of this batch for its layers inside the LLM; None: there are none."""
        self.times: str | None = None
        """Text before the tokens of each of the ``steps``: ``{s:.1f}`` is its time in seconds, ``{n}`` its number."""
        self.inside: tuple[str, ...] = ()
        """Encoder keys: the encoders in whose blocks it works, see ``adapt``."""

    def route(self, flow: Pass, memory: tuple[Tensor, ...] | None = None) -> None:
        """Take the facts of the next pass of the LLM, and of its recomputation in the backward pass.

        ``memory``: what an earlier pass over the same conversations kept of their items (cached decoding).
        """
        self.flow, self.memory = flow, memory
        if self.when is None:
            return
        chosen = torch.stack([flow.present[key] for key in self.when]).any(dim=0)
        self.active = chosen[flow.sequence_ids][..., None]

    def choose(self, changed: Tensor, output: Tensor) -> Tensor:
        """``changed`` where active, else ``output`` bit for bit: float[R, S, D] or float[R * S, D]."""
        if self.active is None:
            return changed
        # GPT-2's Conv1D and some MLPs see rows [R * S, D] instead of [R, S, D]
        active = self.active if output.dim() == 3 else self.active.flatten(0, 1)
        return torch.where(active, changed, output)

    def rest(self) -> None:
        """Hook for what may be skipped while it is frozen; called when weights were loaded or (un)frozen."""
        return None

    def report(self) -> dict[str, Any] | None:
        """What log and evaluation should show of the passes since the last call (JSON values); default: none."""
        return None

    def tokens(self, grid: Sequence[int]) -> int:
        """Places that one item of this grid takes in the LLM's sequence, known before any forward; 0 inside the LLM."""
        return 0

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """Features of N items -> float[N, tokens(grid), llm_dim]; ``text`` float[S, llm_dim] where ``reads_text``.

        ``text`` are the embeddings of the packed row before any media are spliced in.
        """
        raise NotImplementedError(f"{type(self).__name__} works inside the LLM")

    def attach(self, llm: Any) -> Handle | None:
        """Put what works inside the LLM into this instance (never its class); default: nothing."""
        return None

    def adapt(self, encoders: Mapping[str, Any]) -> Handle | None:
        """Put what works inside these encoders (key -> encoder) into their blocks, through ``encoder.inside()``."""
        raise MmllmError(f"{type(self).__name__} does not work inside an encoder; remove `inside`.")

    def steps(self, grid: Sequence[int]) -> int:
        """Parts of equal size, one after the other in time, that the tokens of one item fall into."""
        return 1

    def extra_loss(self) -> Tensor | None:
        """A scalar added to the loss of the last forward (load balance and the like); default: none."""
        return None

    @classmethod
    def tiny_facts(cls, n: int) -> dict[str, Tensor]:
        """``Features.facts`` of n items of ``tiny_grid`` for tests; default: none."""
        return {}

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> Connector:
        """A small one for tests: features of width ``dim`` on ``tiny_grid``, an LLM of width ``llm.dim``."""
        return cls(dim=dim, llm_dim=llm.dim)


def module_key(name: str) -> str:
    """Key in a ``ModuleDict`` for a layer of the LLM: a module's name may hold no dot."""
    return name.replace(".", "-")


def in_out_features(linear: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; GPT-2's Conv1D holds its weight transposed."""
    if isinstance(linear, Conv1D):
        return int(linear.nx), int(linear.nf)
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features


def is_noop(*tensors: Any) -> bool:
    """Whether an update that is zero where these are may be skipped: all frozen, and zero, as before its own stage."""
    # under ZeRO-3 (`ds_id`) a rank sees only its shard
    return not any(one.requires_grad or hasattr(one, "ds_id") or bool(one.any()) for one in tensors)


def mlp(
    dim: int, llm_dim: int, depth: int, activation: type[nn.Module] = nn.GELU, width: int | None = None
) -> nn.Sequential:
    """``depth`` linear layers with an activation between, the inner ones ``width`` wide (None: as the LLM)."""
    if depth < 1:
        raise MmllmError(f"depth: {depth} must be at least 1 (number of linear layers).")
    if width is not None and width < 1:
        raise MmllmError(f"width: {width} must be at least 1 (channels between the linear layers).")
    sizes = [dim, *[llm_dim if width is None else width] * (depth - 1), llm_dim]
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for one, other in pairwise(sizes[1:]):
        layers += [activation(), nn.Linear(one, other)]
    return nn.Sequential(*layers)


def as_maps(grid: Sequence[int], name: str) -> tuple[int, int, int]:
    """(maps, rows, cols) of a grid (..., rows, cols): time or tiles in front are maps of their own."""
    if len(grid) < 2:
        raise MmllmError(f"connector {name} needs a grid of rows and columns; this encoder gives {tuple(grid)}.")
    return prod(grid[:-2]), grid[-2], grid[-1]


def pair(values: Sequence[int], what: str) -> tuple[int, int]:
    """(rows, cols) of a recipe's ``[rows, cols]``, both at least 1."""
    if len(values) != 2 or min(values) < 1:
        raise MmllmError(f"{what}: {list(values)} must be [rows, cols], both at least 1.")
    return values[0], values[1]
