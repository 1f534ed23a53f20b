"""The ``mova`` connector: tokens of a base encoder read those of the experts that their item is routed to (MoVA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn
from transformers import AutoConfig, BertConfig, BertModel

from mmllm.connectors.base import Projector, SeveralEncoders
from mmllm.connectors.layers.basics import as_maps, mlp, pair
from mmllm.connectors.layers.resampled import resampled
from mmllm.connectors.projectors.mova.adapter import ExpertBlock, plane_angles
from mmllm.errors import MmllmError
from mmllm.processors.question import IDS, TokenizedQuestion
from mmllm.processors.routing import EXPERTS, RoutedQuestion
from mmllm.processors.tokenizer import ModelTokenizer
from mmllm.types import Features, Grid
from mmllm.vlms.quiet import lost, quiet


class MovaConnector(SeveralEncoders, Projector):
    """The MoV-Adapter of MoVA (Zong et al. 2024, arXiv 2404.13046), with routing written as text.

    The first encoder is the base, the others are ``experts``, whose names stand in their order. Which of them an item
    is for says a line of the message that shows it, ``experts: where what`` or ``experts: none``; without one all are
    open. The data holds it, or an LLM answers it first (:func:`~mmllm.processors.routing.routed`).

    x + positions, of one map ``source_grid`` [rows, cols], pass ``depth`` blocks in which they read the chosen experts
    (:class:`~mmllm.connectors.projectors.mova.adapter.ExpertBlock`), then (x' + x) / 2 a RegNet block, the mean to
    ``grid`` [rows, cols], another, and ``mlp_depth`` linear layers with GELU between. Experts' maps are brought to the
    base's (bilinear). ``heads`` divide the base's width by a multiple of 4.

    ``text`` is a BERT, folder or hub id, that learns with the connector: its first token's state of the message tells
    the experts' weights. Without one they follow from the picture alone. Nothing of a deselected expert enters; in
    answering its attention is left out, though its encoder has run.
    """

    shares_prefix = False  # what its tokens show rests on the text behind them

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        experts: Sequence[str],
        dims: Sequence[int] | None = None,
        source_grid: Sequence[int] = (48, 48),
        grid: Sequence[int] = (24, 24),
        depth: int = 3,
        heads: int = 16,
        mlp_depth: int = 2,
        text: str | None = None,
    ) -> None:
        """Set up.

        Args:
            dim: width of all layers of all encoders side by side.
            llm_dim: width of the LLM.
            experts: names of the encoders behind the first.
            dims: width of all layers of each encoder; None: all are as wide.
            source_grid: rows and columns of the base's patches.
            grid: rows and columns of tokens.
            depth: blocks of the adapter.
            heads: of its attention.
            mlp_depth: linear layers at the end.
            text: a BERT that reads the message; None: nothing does.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        dims = [dim // (len(experts) + 1)] * (len(experts) + 1) if dims is None else dims
        base, *reads = dims
        if not reads or len(reads) != len(experts):
            raise MmllmError(
                f"connector mova experts: {list(experts)} are {len(experts)} names, and behind the first encoder of "
                f"`from`, the base, stand {len(reads)}; name each of them, at least one."
            )
        for word, value in {"depth": depth, "heads": heads}.items():
            if value < 1:
                raise MmllmError(f"connector mova {word}: {value} must be at least 1.")
        if base % heads or base // heads % 4:
            raise MmllmError(
                f"connector mova heads: {heads} must divide the base's width of {base} by a multiple of 4: rows and "
                "columns turn half of a head's pairs each."
            )
        self.source_grid = pair(source_grid, "connector mova source_grid")
        self.grid = pair(grid, "connector mova grid")
        self.head_dim = base // heads
        self.text: BertModel | None = None
        reader = None
        if text is not None:
            self.text, reader = _bert(text)
        self.questions = RoutedQuestion(experts, reader)
        told = 0 if self.text is None else self.text.config.hidden_size
        self.positions = nn.Parameter(torch.zeros(self.source_grid[0] * self.source_grid[1], base))
        self.blocks = nn.ModuleList(ExpertBlock(base, reads, told, heads) for _ in range(depth))
        self.before, self.after = _regnet_block(base), _regnet_block(base)
        self.sample = nn.AdaptiveAvgPool2d(self.grid)
        self.mlp = mlp(base, llm_dim, mlp_depth)

    def out_grid(self, *grids: Sequence[int]) -> Grid:
        """``grid``, of each frame or tile in front.

        Raises:
            MmllmError: the base's map is not that which there are positions for, or frames or tiles differ.
        """
        for grid in grids:
            as_maps(grid, "mova")
        if tuple(grids[0][-2:]) != self.source_grid:
            raise MmllmError(
                f"connector mova has positions for a grid of {list(self.source_grid)}, but the base encoder gives "
                f"{grids[0][-2]} x {grids[0][-1]} patches; set source_grid: {list(grids[0][-2:])}."
            )
        if len({tuple(grid[:-2]) for grid in grids}) > 1:
            raise MmllmError(
                f"connector mova: its encoders' grids are {' and '.join(str(list(grid)) for grid in grids)}; give them "
                "the same frames or tiles."
            )
        return (*grids[0][:-2], *self.grid)

    def forward(self, *features: Features) -> Tensor:
        """Features float[N, T, D] of the base and of each expert -> float[N, n_tokens, llm_dim].

        ``extras["experts"]`` bool[N, E] of the base says which experts each item is for, ``extras["question"]``
        int64[N, L] holds the message, -1 behind a shorter one.
        """
        base, *experts = features
        tokens = self.n_tokens(*(one.grid for one in features))
        maps = tokens // (self.grid[0] * self.grid[1])
        chosen, text = self._told(base.extras, base.concatenated())
        chosen, text = (one.repeat_interleave(maps, dim=0) for one in (chosen, text))
        x, *reads = (
            resampled(one.concatenated(), one.grid, base.grid).unflatten(1, (maps, -1)).flatten(0, 1)
            for one in (base, *experts)
        )
        angles = plane_angles(*self.source_grid, self.head_dim, x.device)
        found = x + self.positions.to(x.dtype)
        for block in self.blocks:
            found = block(found, reads, text, chosen, angles)
        found = ((found + x) / 2).transpose(1, 2).unflatten(2, self.source_grid)
        found = self.after(self.sample(self.before(found)))
        return self.mlp(found.flatten(2).transpose(1, 2)).reshape(-1, tokens, self.llm_dim)

    def _told(self, extras: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        """Experts of each item bool[N, E], and the vector of its message float[N, W], W = 0 where nothing reads it."""
        if EXPERTS not in extras:
            raise MmllmError(
                "connector mova reads from the message beside an item which experts it is for, and was given the item "
                "alone; ask for its tokens in a conversation."
            )
        if self.text is None:
            return extras[EXPERTS], like.new_zeros(len(like), 0)
        ids = extras[IDS]
        states = self.text(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long()).last_hidden_state
        return extras[EXPERTS], states[:, 0].to(like.dtype)


def _bert(text: str) -> tuple[BertModel, TokenizedQuestion]:
    """A BERT without what nothing reads of it, and its reader; MmllmError where it cannot be loaded."""
    tokenizer = ModelTokenizer(text)
    words: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    try:
        tokenizer.loaded  # noqa: B018 - here, where it can be refused, not when the first message is read
        kind = AutoConfig.from_pretrained(text).model_type
        if kind != "bert":  # some others have tensors of the same names and another order of positions
            raise MmllmError(f"connector mova text: {text!r} is a {kind}; give a BERT.")
        config = BertConfig.from_pretrained(text, **words)
        if torch.empty(0).is_meta:  # laid out to be planned: there are no numbers to load into
            return BertModel(config, add_pooling_layer=False), TokenizedQuestion(
                tokenizer, config.max_position_embeddings
            )
        with quiet():
            model, info = BertModel.from_pretrained(
                text, config=config, add_pooling_layer=False, output_loading_info=True
            )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise MmllmError(f"connector mova text: {text!r} cannot be loaded ({reason}).") from error
    if lost(info):
        raise MmllmError(f"connector mova text: {text!r} is no BERT: it lacks {', '.join(lost(info)[:3])}.")
    return model, TokenizedQuestion(tokenizer, config.max_position_embeddings)


def _regnet_block(width: int) -> RegStage:
    """A RegNet block with squeeze-excitation, SiLU and layer norm over channels, that changes nothing at first."""
    stage = RegStage(1, width, width, stride=1, dilation=1, linear_out=True, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
    stage.b1.zero_init_last()
    return stage
