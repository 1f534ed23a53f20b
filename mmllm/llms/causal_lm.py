"""The frozen language model: one wrapper for any Hugging Face causal LM, between the merged embeddings and the loss.

It adds nothing to the model but an attention that keeps packed conversations apart, and checks at construction that
packed, padded and cached passes give the logits of the model's own forward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from mmllm import hooks
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Scope
from mmllm.hooks.shards import full_shape, is_split
from mmllm.llms.attention import ATTENTION, Extend, register
from mmllm.llms.attention_weights import AttentionWeights
from mmllm.llms.gated_mlp import keep_less
from mmllm.llms.head import head_of
from mmllm.llms.hook_points import HookedLM
from mmllm.llms.last_block import at_wanted
from mmllm.llms.load import load_llm
from mmllm.llms.new_tokens import NewTokens, seeds_of
from mmllm.llms.packing import Packing
from mmllm.llms.padded_stretches import PaddedStretches
from mmllm.llms.partitioned import gathering
from mmllm.llms.quantisation import TOLERANCE
from mmllm.llms.self_check import check_logits, gives_chosen, reference_logits
from mmllm.llms.short_convolutions import hybrid_cache, kept_apart, short_convolutions
from mmllm.llms.stored_check import position_bytes
from mmllm.llms.stored_keys import StoredKeys
from mmllm.llms.temperature import take_over
from mmllm.messages.answers import beginnings
from mmllm.messages.new_tokens import add_tokens
from mmllm.vlms.text_model import chunk_of, scheme_of
from mmllm.vlms.weightless import weightless


class CausalLM(HookedLM):
    """Any ``AutoModelForCausalLM``, frozen and in eval mode for good (dropout off, also while connectors train)."""

    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        context: int | None = None,
        tolerance: float | None = None,
        prefix: bool = False,
    ) -> None:
        """Take over ``model``; ``context`` is the longest conversation in tokens (default: what the model allows).

        ``tolerance``: how far its passes may differ from its own forward, as a share of the largest logit (default: by
        its dtype; infinite: they are not compared). ``prefix``: it reads what precedes its first answer in both
        directions.

        Raises:
            MmllmError: the tokenizer has more tokens than the model, ``context`` is longer than the model's positions,
                or the model is of a kind whose packed or cached passes differ from its own forward.
        """
        super().__init__()
        register()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer, self.prefix = tokenizer, prefix
        self.decoder_name = next(name for name, module in model.named_modules() if module is model.get_decoder())
        config = model.config.get_text_config()
        self.vocab_size, self.dim = map(int, full_shape(model.get_input_embeddings().weight))
        self.positions = scheme_of(model)
        """How positions are counted where conversations have media; text alone may do with one axis."""
        self.n_blocks = int(config.num_hidden_layers)
        _ = self.blocks  # a sentence now where there are none, before anything is computed
        self.context = self._checked_context(context, config)
        if len(tokenizer) > self.vocab_size:
            raise MmllmError(
                f"{config.model_type}: the tokenizer has {len(tokenizer)} tokens, the model {self.vocab_size} "
                "embeddings; use the tokenizer that belongs to the model"
            )
        self._checkpointing: list[hooks.Handle] = []
        self.scope: Scope[ForwardContext] = Scope()
        self._extensions: dict[int, list[Extend]] = {}
        self._n_copies = 0
        self._logit_changes: list[hooks.ChangeOutput] = []
        self._head_changes: list[hooks.ChangeOutput] = []
        # in a tuple, so that it is not a submodule: all it holds is already in `model`
        self._head = (head_of(model, self.decoder),)
        # before the attention is replaced: the model's own logits are what the passes below are held to
        with gathering(model):
            reference = None if weightless() or tolerance == math.inf else reference_logits(model)
        model.set_attn_implementation(ATTENTION)
        # private in transformers (read in 5.23), but the only place that says which attention a model really runs
        if model.config.get_text_config()._attn_implementation != ATTENTION:
            raise MmllmError(
                f"{type(model).__name__} cannot be used: its attention cannot be replaced, so conversations packed "
                "into one row would see each other; choose an LLM that transformers runs through its AttentionInterface"
            )
        self.tokens: NewTokens | None = None
        """Rows of tokens that the model's own tables do not have."""
        convolutions = short_convolutions(self.blocks)
        for one in convolutions:
            kept_apart(one)
        self._hybrid = bool(convolutions)
        for part in (part for block in self.blocks for part in block.children()):
            take_over(part)
        self.prunes = True
        """Whether the last block may run at chosen positions only; off in families that need all of them there."""
        with gathering(model):
            if reference is not None:
                check_logits(self, reference, tolerance)
            for mlp in (part for block in self.blocks for part in block.children()):
                # recomputed blocks keep nothing of themselves anyway
                keep_less(mlp, lambda: not self._checkpointing)
            at_wanted(self.blocks[-1], self.scope)
            if reference is not None:
                self.prunes = gives_chosen(self)

    @classmethod
    def load(
        cls,
        path: str,
        dtype: str = "auto",
        context: int | None = None,
        *,
        file: str | None = None,
        template: str | None = None,
        partition: Mapping[str, Any] | None = None,
        quantize: str | None = None,
        device: torch.device | str | None = None,
        prefix: bool = False,
    ) -> Self:
        """Read model and tokenizer from a folder, the Hugging Face hub, a GGUF file or a published VLM.

        Safetensors and GGUF only, no remote code. ``file``: which GGUF of a folder; ``prefix``: as above; the other
        words: see ``load_llm``.

        Raises:
            MmllmError: nothing there, not a causal LM, or weights missing in the files.
        """
        model, tokenizer = load_llm(
            path, dtype, file=file, template=template, partition=partition, quantize=quantize, device=device
        )
        return cls(model, tokenizer, context, None if quantize is None else TOLERANCE.get(quantize), prefix)

    def add_tokens(self, texts: Sequence[str], seed: int = 0) -> None:
        """Give tokenizer and model new tokens, once; their rows are drawn from ``seed`` and may learn alone.

        Raises:
            MmllmError: the tokenizer has one of them already, or cannot be given any.
        """
        if not texts:
            return
        pieces = [self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        first = add_tokens(self.tokenizer, texts)
        self.tokens = NewTokens(self.model, first, pieces, seeds_of(texts, seed))
        self.vocab_size = max(self.vocab_size, first + len(texts))
        self._head = (head_of(self.model, self.decoder, self.tokens.headed),)

    @staticmethod
    def _checked_context(context: int | None, config: Any) -> int:
        """``context``, or all positions that the model has or attends to in one chunk."""
        known = config.max_position_embeddings if hasattr(config, "max_position_embeddings") else None
        chunk = chunk_of(config)
        if chunk is not None and (context or known or 0) > chunk:
            if context is not None:
                raise MmllmError(
                    f"llm.context: {context} tokens, but {config.model_type} here attends in chunks of {chunk}, whose "
                    "borders no attention here knows; give at most as many"
                )
            return chunk
        if context is None:
            # the recipe's default, where a family names no number of positions
            return int(known or 2048)
        if known is not None and context > known:
            raise MmllmError(f"llm.context: {context} tokens, but {config.model_type} here has {known} positions")
        return context

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a frozen LLM has no dropout."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Device of the embeddings."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type that the blocks compute in."""
        return self.model.get_input_embeddings().weight.dtype

    def embed(self, ids: torch.Tensor, ctx: ForwardContext) -> torch.Tensor:
        """float[..., D]: what the model feeds its first block for ``ids`` int64[...] (Gemma's scale included)."""
        with self.scope.open(ctx):
            table = self.model.get_input_embeddings()
            return table(ids) if self.tokens is None else self.tokens.embedded(ids, table)

    def forward(
        self, embeds: torch.Tensor, ctx: ForwardContext, weights: AttentionWeights | None = None
    ) -> torch.Tensor:
        """Final hidden states of one packed row, after the last norm, before the LM head.

        ``embeds`` float[S, D]; returns float[S, D_hidden], or float[M, D_hidden] at the M positions ``ctx.wanted``, for
        which the last block then runs alone. Each conversation attends to itself only, causally but for the stretches
        ``ctx.bidirectional``. ``weights`` takes what some positions of a row of one conversation attend to.
        """
        assert ctx.cu_seqlens is not None
        here = None if ctx.host is None else ctx.host.cu_seqlens
        packing = Packing.of(ctx.cu_seqlens, ctx.segments, here, ctx.bidirectional)
        watched = {} if weights is None else {"weights": weights}
        return self._row(embeds, ctx, packing=packing, **watched)

    @torch.inference_mode()
    def attended(self, embeds: torch.Tensor, ctx: ForwardContext, positions: torch.Tensor) -> torch.Tensor:
        """Where ``positions`` int64[M] of a row of one conversation look: float32[M, S], mean over layers and heads.

        ValueError where no layer attends.
        """
        weights = AttentionWeights(positions)
        self.forward(embeds, ctx, weights)
        return weights.mean

    def read(self, embeds: torch.Tensor, ctx: ForwardContext, stored: StoredKeys) -> torch.Tensor:
        """Final hidden states float[S, D_hidden] of a row whose conversations go on from what is ``stored`` of them.

        ``embeds`` float[S, D] of the new positions; their keys and values are stored. With ``ctx.wanted`` float[M,
        D_hidden], as in ``forward``; these are last positions of conversations.
        """
        return self._row(embeds, ctx, stored=stored)

    def _row(self, embeds: torch.Tensor, ctx: ForwardContext, **attends: Any) -> torch.Tensor:
        if ctx.wanted is not None and not self._prunes_now():
            return self._row(embeds, replace(ctx, wanted=None, wanted_here=None), **attends)[ctx.wanted]
        self._check_attention()
        with self.scope.open(ctx):
            output = self.decoder(
                inputs_embeds=embeds.unsqueeze(0),
                position_ids=_positions(ctx),
                # transformers takes a 4-D mask as ready and builds none; the attention reads `attends` instead of it
                attention_mask=embeds.new_ones(1, 1, 1, 1),
                use_cache=False,
                extensions=self._extensions if self.scope.enabled else {},
                scope=self.scope,
                **attends,
            )
        return output.last_hidden_state.squeeze(0)

    def _prunes_now(self) -> bool:
        # leaving a block at its attention, as the pruned one is, would leave ZeRO-3's gathered weights behind:
        # DeepSpeed gives them back in hooks that run after a module's forward. It marks what it partitions with `ds_id`
        return self.prunes and not any(is_split(weight) for weight in self.blocks[-1].parameters())

    def logits(self, hidden: torch.Tensor, ctx: ForwardContext, positions: torch.Tensor | None = None) -> torch.Tensor:
        """float[M, V] from ``hidden`` float[M, D_hidden], with all the model does after its blocks.

        ``positions`` int64[M]: where in the packed row these states are, for connectors that work at the head; None in
        decoding, where they are the last of each row.
        """
        ctx = ctx.at_head(positions)
        with self.scope.open(ctx):
            logits = self.plain_logits(hidden)
            for change in self._logit_changes:
                logits = change(ctx, hidden, logits)
        return logits

    @property
    def head_is_frozen(self) -> bool:
        """Whether nothing but ``new_rows`` learns in what gives the logits, so that their gradient may be taken in the
        forward pass."""
        weights = list(self.model.get_output_embeddings().parameters())
        # `ds_id`: with ZeRO-3 DeepSpeed has to see the backward pass of a module to gather its weights
        learns = any(weight.requires_grad or is_split(weight) for weight in weights)
        if self.tokens is not None and self.tokens.split:
            return False
        return not learns and not self._logit_changes and not self._head_changes

    @property
    def new_rows(self) -> tuple[nn.Parameter, ...]:
        """What learns beside a frozen head: rows of new tokens."""
        return () if self.tokens is None else self.tokens.learning_head

    def beginnings(self, answers: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the chat template has in front of every answer, and the first id of each of these answers."""
        return beginnings(self.tokenizer, answers)

    def plain_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return ``logits`` without what connectors change after them (``after_logits``)."""
        return self._head[0](inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits.squeeze(0)

    @cached_property
    def position_bytes(self) -> int:
        """Bytes of a position's keys and values; 0 where :meth:`read` does not give this model's own states."""
        return position_bytes(self)

    @property
    def goes_on(self) -> bool:
        """Whether :meth:`read` gives this model's own states: all that it keeps of a position are keys and values."""
        return self.position_bytes > 0

    def new_cache(self) -> DynamicCache:
        """An empty cache that grows by any number of layers."""
        if self._hybrid:
            return hybrid_cache(self.model.config)
        # not from the config: that would fix its number of layers, and copied blocks come on top
        return DynamicCache()

    def decode(
        self, embeds: torch.Tensor, ctx: ForwardContext, mask: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits float[B, V] of the last position of a left-padded batch; ``cache`` grows by S.

        ``embeds`` float[B, S, D] new tokens, ``mask`` bool[B, S_total] True at real tokens of all that was fed so far
        and now.
        """
        self._check_attention()
        with self.scope.open(ctx):
            output = self.decoder(
                inputs_embeds=embeds,
                attention_mask=mask,
                # pads have -1, which a table of learned positions could not look up
                position_ids=_positions(ctx).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                extensions=self._extensions,
                scope=self.scope,
                stretches=PaddedStretches.of(ctx.bidirectional, ctx.attention_mask),
            )
        return self.logits(output.last_hidden_state[:, -1], ctx)

    def _check_attention(self) -> None:
        """Refuse to run where somebody gave the shared config another attention.

        ``LlavaConfig(text_config=llm.model.config)`` resets it, and packed conversations would then see each other.
        """
        found = self.model.config.get_text_config()._attn_implementation
        if found != ATTENTION:
            raise MmllmError(
                f"the LLM's config was changed after loading: its attention is {found!r} instead of {ATTENTION!r}, so "
                "packed conversations would see each other; build other models from a copy of llm.model.config"
            )

    def gradient_checkpointing(self, enable: bool) -> None:
        """Recompute each block in the backward pass (non-reentrant), or stop doing so."""
        for handle in self._checkpointing:
            handle.remove()
        self._checkpointing = [hooks.checkpointed(block, self.scope) for block in self.blocks] if enable else []


def _positions(ctx: ForwardContext) -> torch.Tensor:
    """int64[R, S], or int64[P, R, S] for a model with several position axes."""
    return ctx.position_ids[0] if len(ctx.position_ids) == 1 else ctx.position_ids
