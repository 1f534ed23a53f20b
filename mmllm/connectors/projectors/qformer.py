"""The ``qformer`` connector: BLIP-2's learned queries read a picture, InstructBLIP's the question about it as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, InstructBlipQFormerConfig, InstructBlipQFormerModel

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import activation_of
from mmllm.errors import MmllmError
from mmllm.processors.question import IDS, TokenizedQuestion
from mmllm.processors.tokenizer import ModelTokenizer
from mmllm.types import Features, Grid


class QFormerConnector(Projector):
    """The Q-Former of BLIP-2 (Li et al. 2023, arXiv 2301.12597), transformers' own, then a linear map to the LLM.

    ``queries`` learned vectors, of ``width``, pass a LayerNorm and ``depth`` blocks with the norm behind each part, as
    BERT has them: self-attention, in every ``every``-th block (the first is one) cross-attention to the features, and
    an MLP of ``mlp_width`` (four times the width). ``heads`` divide the width. Features should be normed: ``layers:
    [final]``, with ``keep: all`` BLIP-2's own. ``eps``, ``activation`` (as transformers calls it) and ``dropout`` are
    those of published weights.

    With a ``tokenizer``, a folder or hub id (``subfolder`` of it), it is InstructBLIP's (Dai et al. 2023, arXiv
    2305.06500): queries attend to the text of the message that shows the item too, in ids of that tokenizer, BERT's
    for published weights. ``words`` is the length of the table of words (default: the tokenizer's), ``positions`` of
    that of positions: a longer message is refused, not cut. Only a part of the conversation is read: the message in
    which the item's place stands, without what comes later, so answers never reach the tokens that they are learned by.
    """

    accepts_padding = True
    takes_class_tokens = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        queries: int = 32,
        depth: int = 12,
        heads: int = 12,
        width: int = 768,
        mlp_width: int | None = None,
        every: int = 2,
        activation: str = "gelu",
        eps: float = 1e-12,
        dropout: float = 0.0,
        tokenizer: str | None = None,
        subfolder: str = "",
        words: int | None = None,
        positions: int = 512,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if tokenizer is None and (subfolder or words is not None):
            raise MmllmError("connector qformer: subfolder and words are of a tokenizer, and none is given.")
        if positions < 1:
            raise MmllmError(f"connector qformer positions: {positions} must be at least 1.")
        shape = shape_of("qformer", dim, queries, depth, heads, width, mlp_width, every, activation, eps, dropout)
        shape["max_position_embeddings"] = positions
        self.n_queries = queries  # under ZeRO-3 a weight has no shape outside of a forward
        self.qformer: nn.Module
        if tokenizer is None:
            self.qformer = Blip2QFormerModel(Blip2QFormerConfig(**shape))
        else:
            known = ModelTokenizer(tokenizer, subfolder=subfolder)
            config = InstructBlipQFormerConfig(**shape, vocab_size=_table(known, words))
            self.qformer = _with_text(InstructBlipQFormerModel(config))
            self.questions = TokenizedQuestion(known, positions)
            self.shares_prefix = False  # what its tokens show rests on the text behind them
        # not zeros, as transformers starts them: equal queries would stay equal
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.output = nn.Linear(width, llm_dim)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """One row of queries, whatever the grid: they are in no order of space or time."""
        return (1, self.n_queries)

    def forward(self, features: Features) -> Tensor:
        """Read features float[N, T, dim]: float[N, queries, llm_dim]; tokens that the mask excludes are not read.

        With a tokenizer ``extras["question"]`` int64[N, L] is read as well, -1 behind a shorter text.
        """
        x = features.concatenated()
        given: dict[str, Any] = {
            "query_embeds": self.queries.to(x.dtype).expand(len(x), -1, -1),
            "encoder_hidden_states": x,
            "encoder_attention_mask": features.mask,
        }
        if self.questions is not None:
            if IDS not in features.extras:
                raise MmllmError(
                    "connector qformer reads the text of the message beside an item, and was given the item alone; ask "
                    "for its tokens in a conversation."
                )
            ids = features.extras[IDS]
            real = torch.cat([ids.new_ones(len(ids), self.n_queries, dtype=torch.bool), ids >= 0], dim=1)
            given |= {"input_ids": ids.clamp(min=0), "attention_mask": real}
        states: Tensor = self.qformer(**given).last_hidden_state
        return self.output(states[:, : self.n_queries])


def shape_of(
    name: str,
    dim: int,
    queries: int,
    depth: int,
    heads: int,
    width: int,
    mlp_width: int | None,
    every: int,
    activation: str,
    eps: float,
    dropout: float,
) -> dict[str, Any]:
    """Words of transformers' configuration of a Q-Former over features of width ``dim``; MmllmError for wrong ones.

    ``name`` of the connector, for errors; the others are its arguments.
    """
    for word, value in {"queries": queries, "depth": depth, "every": every}.items():
        if value < 1:
            raise MmllmError(f"connector {name} {word}: {value} must be at least 1.")
    if heads < 1 or width < 1 or width % heads:
        raise MmllmError(f"connector {name}: heads ({heads}) must divide the width ({width}).")
    activation_of(activation)
    return {
        "encoder_hidden_size": dim, "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
        "intermediate_size": 4 * width if mlp_width is None else mlp_width, "cross_attention_frequency": every,
        "hidden_act": activation, "layer_norm_eps": eps, "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout, "pad_token_id": None,
    }  # fmt: skip


def _table(tokenizer: ModelTokenizer, words: int | None) -> int:
    """Length of the table of words; MmllmError where the tokenizer cannot be loaded or has more."""
    try:
        known = len(tokenizer.loaded)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise MmllmError(f"connector qformer tokenizer: {tokenizer.model!r} cannot be loaded ({reason}).") from error
    if words is not None and words < known:
        raise MmllmError(f"connector qformer words: {words} are fewer than the {known} of its tokenizer.")
    return known if words is None else words


def _with_text(model: InstructBlipQFormerModel) -> InstructBlipQFormerModel:
    """The model without the text's MLP in its last block: of that block only the queries are read."""
    last = model.encoder.layer[-1]
    last.intermediate, last.output = nn.Identity(), _Unread()
    return model


class _Unread(nn.Module):
    """In place of the text's second layer and norm, where nothing reads the text any more."""

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        """``before`` float[N, L, width] as it is."""
        return before
