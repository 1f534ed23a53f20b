"""The bases of every connector: what learns, one idea per class; a part's kind is the base it derives from.

:class:`Projector` between an encoder and the LLM's input, :class:`LLMAdapter` inside the LLM, :class:`DeepFusion`
inside the LLM with an encoder's features, :class:`EncoderAdapter` inside an encoder. A class that is two things derives
from two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmllm.connectors.stitching import Stitch
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import AdaptableEncoder, LLMHookPoints
from mmllm.types import Grid, QuestionReader


class Connector(nn.Module):
    """Base of everything that learns: all that the trainer and checkpoints need to know of it."""

    zero_init: bool = False
    """Inside the LLM or an encoder: whether untrained weights leave what it gives bit-identical."""
    reads_user_turn: bool = False
    """Whether it needs ``ctx.user_turn``."""
    goes_on: bool = True
    """Inside the LLM: whether it works where conversations are read in pieces beside others, over stored keys and
    values. What it does at a position may depend on that position, on what the LLM made of those before it and on items
    of its conversation, but not on how much of the text is in the same pass. Else answers are read the slower way,
    whole prompts in rows of their own, and nothing is kept for the next question."""
    reads_later_items: bool = False
    """Inside the LLM: whether a position reads items of its conversation that start after it."""
    causal_only: bool = False
    """Inside the LLM: whether it needs every position to see nothing behind it, so that it cannot work beside
    ``attends: bidirectional`` and ``llm.attention: prefix``: it keeps of a position what later ones must not change, or
    has an attention of its own that knows no other order."""
    positionwise: bool = False
    """Inside the LLM: whether what it changes at a position depends on nothing but what is there and what the context
    says of that position, and ``ctx.notes`` stay empty: the last block may then run at label positions only."""
    learns_without_items: bool = False
    """With ``from``: whether it also learns from conversations that show none of its items."""
    has_dropout: bool = False
    """Inside the LLM: whether it draws masks while it trains. They are drawn for all positions of a row."""
    shares_prefix: bool = False
    """Whether conversations that begin alike may share their beginning with it (``stages.X.share_prefix``): what it
    does at a position rests on that position, on the items of its conversation and on what the LLM attends to there,
    never on other text of the conversation or on how many tokens there are."""
    has_metrics: bool = False
    """Whether :meth:`metrics` gives something; known beforehand, so that ranks agree on exchanging it."""

    def __init__(self, *, llm_dim: int, dim: int = 0) -> None:
        """``dim``: width of the features it receives (encoder width x layers), 0 for none; ``llm_dim``: the LLM's."""
        super().__init__()
        self.dim = dim
        self.llm_dim = llm_dim
        self.key = ""
        """Its key in the recipe; also the placeholder whose items it reads, where it reads some."""
        self.when: tuple[str, ...] | None = None
        """Placeholders: inside the LLM, work only in conversations with media of one of them. None: always."""

    def bind(self, key: str, when: tuple[str, ...] | None = None) -> Self:
        """Tell it where the recipe puts it, before it is attached."""
        self.key, self.when = key, when
        return self

    def active(self, ctx: ForwardContext) -> Tensor | None:
        """bool[R, S, 1], where this pass of the LLM is to be changed; None: everywhere."""
        return ctx.active(self.when)

    def select(self, ctx: ForwardContext, changed: Tensor, output: Tensor) -> Tensor:
        """``changed`` where active, else ``output`` bit for bit: float[R, S, D] or float[R * S, D]."""
        active = self.active(ctx)
        if active is None:
            return changed
        # GPT-2's Conv1D and some MLPs see rows [R * S, D] instead of [R, S, D]
        return torch.where(active if output.dim() == 3 else active.flatten(0, 1), changed, output)

    def skip_if_zero(self) -> None:
        """Mark updates that are frozen and zero, so that the forward pass skips them.

        To be called after loading weights or changing ``requires_grad``, else an update that moved would be skipped.
        """
        return None

    def extra_loss(self, ctx: ForwardContext) -> Tensor | None:
        """Scalar that is added to the loss of the pass ``ctx`` (load balance and the like); default: none."""
        return None

    def metrics(self, ctx: ForwardContext) -> Mapping[str, Any] | None:
        """Return what log and evaluation show of the pass ``ctx``: nested mappings and lists whose leaves add up over
        passes and ranks (numbers, or tensors on the LLM's device); default: none."""
        return None

    def summary(self, total: Mapping[str, Any]) -> Mapping[str, Any]:
        """Short form of :meth:`metrics`, summed over passes and ranks, for a line of ``metrics.jsonl``; empty: nothing
        to show. Default: all of it."""
        return total

    def headline(self, summary: Mapping[str, Any]) -> str:
        """A few words of a :meth:`summary` for the log; default: none."""
        return ""


class Projector(Connector):
    """Encoder features -> tokens of the LLM, in raster order of ``out_grid``.

    One that takes a single encoder has it in its signatures: ``out_grid(self, grid)``, ``forward(self, features)``.
    """

    shares_prefix = True  # it sees items alone; one that reads text is told apart by `reads_text`
    accepts_padding: bool = False
    """Whether ``forward`` takes items of different grids at once: float[N, most tokens, llm_dim], each item's own
    tokens first. Else it is called once for each grid, without padding."""
    reads_text: bool = False
    """Whether ``forward`` also gets ``ctx``, for its ``text_embeds``."""
    questions: QuestionReader | None = None
    """Reads the text of the message that shows an item; ``Features.extras`` of its first encoder then hold it, and the
    text is a part of the item: items are the same where both are."""
    takes_class_tokens: bool = False
    """Whether tokens that are no patch may stand in front of those that are (``keep: all``), grid (..., 1, n): it needs
    no map."""

    def __init__(self, *, llm_dim: int, dim: int = 0) -> None:
        """See :class:`Connector`."""
        super().__init__(llm_dim=llm_dim, dim=dim)
        self.stitch: Stitch | None = None
        """Puts its tokens of a picture's tiles together, where the recipe says so; ``out_grid`` is before it."""

    # with `*Any, **Any` mypy lets subclasses narrow the arguments
    def out_grid(self, *grids: Any, **words: Any) -> Grid:
        """Grid of the tokens that one item gets, given its grid in each encoder; known before any forward.

        Their number is its product. (rows, cols) | (time, rows, cols) | (time,) | (nodes,).
        """
        raise NotImplementedError

    def n_tokens(self, *grids: Sequence[int]) -> int:
        """Places that one item takes in the LLM's sequence."""
        return prod(self.out_grid(*grids))

    def forward(self, *features: Any, **words: Any) -> Tensor:
        """:class:`Features` of N items, from each of its encoders -> float[N, prod(out_grid), llm_dim]."""
        raise NotImplementedError


class SeveralEncoders:
    """Mark of a connector whose ``forward`` takes the features of several encoders (``from: [a, b]``)."""


class LLMAdapter(Connector):
    """Works inside the LLM, in every pass or where ``when`` says."""

    attaches_to_parts: bool = False
    """Whether ``attach`` needs no weights of the LLM but by ``copied`` and ``copy_block``, so that it also works
    where each rank holds its part of them alone (ZeRO-3); else every rank loads the whole LLM first."""
    whole_before_attached: bool = False
    """Whether it has all its weights before ``attach``, so that another connector may use the same ones."""
    goes_on: bool = False

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the weights, once, and hook them into this instance of the LLM (never its class).

        Every hook gets the :class:`ForwardContext` of its pass. The handle takes it out again, bit for bit.
        """
        raise NotImplementedError


class DeepFusion(LLMAdapter):
    """Layers inside the LLM that read an encoder's features.

    Where it gives tokens at the LLM's input as well, it overrides ``out_grid`` and ``forward``.
    """

    accepts_padding: bool = False
    joins_sizes: bool = False
    """Whether :meth:`joined` takes items of unlike size, so that one batch may hold them."""
    reads_text: bool = False
    questions: QuestionReader | None = None
    takes_class_tokens: bool = False

    def out_grid(self, *grids: Any, **words: Any) -> Grid:
        """Grid of the tokens that one item gets at the LLM's input; default: none."""
        return (0,)

    def n_tokens(self, *grids: Sequence[int]) -> int:
        """Places that one item takes in the LLM's sequence."""
        return prod(self.out_grid(*grids))

    def remember(self, *features: Any, **words: Any) -> Any:
        """Return what its layers read of N items; it goes into ``ctx.media`` and comes back in each decoding step."""
        raise NotImplementedError

    def forward(self, *features: Any, **words: Any) -> tuple[Tensor, Any]:
        """(tokens float[N, prod(out_grid), llm_dim], what :meth:`remember` gives) of N items.

        One call for both: it is the module's call by which DeepSpeed's ZeRO-3 gathers its weights.
        """
        # dtype and device of the empty tokens are those of what learns
        weight = next(self.parameters())
        return weight.new_zeros(len(features[0].mask), 0, self.llm_dim), self.remember(*features, **words)

    def joined(self, parts: Sequence[Any]) -> Any:
        """What ``remember`` gives of several items, from what it gave of each of them alone, in order.

        Needed where it ``goes_on``. Default: tensors one after the other along their first axis, in tuples one by one.
        """
        first = parts[0]
        if isinstance(first, tuple):
            return tuple(self.joined(same) for same in zip(*parts, strict=True))
        return first if len(parts) == 1 else torch.cat(list(parts))

    def remembered(self, ctx: ForwardContext) -> Any:
        """Return what ``remember`` gave of the items of these conversations; None: there are none."""
        return ctx.media.get(self.key)


class EncoderAdapter(Connector):
    """Works inside the blocks of frozen encoders, which stay as they are."""

    shares_prefix = True

    def attach(self, encoder: AdaptableEncoder, key: str) -> Handle:
        """Make the weights, once, and hook them into the blocks of the encoder ``key``.

        Every hook gets the :class:`EncoderContext` of its pass. Called once for each encoder that ``adapts`` names.
        """
        raise NotImplementedError
