"""Every kind of pass that a model makes, without numbers: packed, at chosen positions, padded and decoding, in pieces.

Text alone and beside media; the hooks that run in them are watched (``watching``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded
from mmllm.certificates.conversations import FIXED, encoded_media, encoded_texts
from mmllm.certificates.unknown import Unknown
from mmllm.certificates.watching import Watch, watching
from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import context_of, left_padded, next_token
from mmllm.hooks.pieces import Piece, Prompt, context_of_pieces
from mmllm.llms.stored_keys import KeyValues, StoredKeys
from mmllm.model.model import MultimodalLM
from mmllm.model.reading import obstacles

Pass = tuple[str, ForwardContext, Tensor]
"""Kind, context with its numbers, and embeddings without any."""


@torch.no_grad()
def watched(model: MultimodalLM, seed: int) -> Watch:
    """Run all passes; what the hooks did."""
    watch = Watch(model.llm)
    texts, media = encoded_texts(model, FIXED[:2]), encoded_media(model, seed)
    layouts = {"text alone": texts}
    if media:
        # between texts: what is done to a whole row, or from a place on, is seen on either side
        layouts["beside media"] = [texts[0], *media, texts[1]]
    for name, row in layouts.items():
        # with numbers and before anything is watched: what encoders and projectors make of media is theirs
        batch = collate(row, model.inputs, model.llm.positions).to(model.llm.device)
        packed, embeds = model.embed(batch)
        with watching(watch):
            try:
                _run(model, watch, name, row, packed, embeds)
            # whatever a frozen model's code raises without numbers: what its hooks do is then not known
            except Exception as error:
                watch.failed = f"{watch.layout}: {str(error).strip().partition(chr(10))[0] or type(error).__name__}"
    return watch


def _run(
    model: MultimodalLM, watch: Watch, name: str, row: Sequence[Encoded], packed: ForwardContext, embeds: Tensor
) -> None:
    watch.layout = f"{name}, packed"
    _packed(model, packed, embeds)
    watch.layout = f"{name}, decoding"
    _decoding(model, packed, [len(one.ids) for one in row])
    # by text alone hooks are asked the same in pieces as in a row
    if any(one.spans for one in row) and not obstacles(model):
        watch.layout = f"{name}, in pieces"
        _in_pieces(model, row, packed)


def _packed(model: MultimodalLM, ctx: ForwardContext, embeds: Tensor) -> None:
    """One packed row, all of it and then at its last positions where the model may do that."""
    llm, hidden = model.llm, _hidden(ctx)
    llm.embed(hidden.input_ids[0], hidden)
    states = llm(Unknown.like(embeds), hidden)
    llm.logits(states, hidden, torch.arange(len(embeds), device=embeds.device))
    if model.positionwise:
        assert ctx.cu_seqlens is not None
        places = ctx.cu_seqlens[1:].long() - 1
        at = replace(_hidden(ctx), wanted=places, wanted_here=places.cpu())
        llm.logits(llm(Unknown.like(embeds), at), at, places)


def _decoding(model: MultimodalLM, packed: ForwardContext, lengths: Sequence[int]) -> None:
    """Padded rows, and one more token of each."""
    llm, cache = model.llm, model.llm.new_cache()
    ctx = left_padded(packed, lengths)
    mask = ctx.attention_mask
    for _ in range(2):
        hidden = _hidden(ctx)
        llm.decode(Unknown.like(llm.embed(hidden.input_ids, hidden)), hidden, mask, cache)
        ctx = next_token(ctx, ctx.input_ids.new_zeros(len(lengths)))
        mask = torch.cat([mask, mask.new_ones(len(lengths), 1)], dim=-1)


def _in_pieces(model: MultimodalLM, row: Sequence[Encoded], packed: ForwardContext) -> None:
    """Prompts over stored keys and values, and one more token of each."""
    llm = model.llm
    batches = [collate([one], model.inputs, llm.positions).to(llm.device) for one in row]
    prompts = [Prompt(context_of(batch, model.inputs)) for batch in batches]
    stored = [KeyValues(one.length + 1) for one in prompts]
    first = [Piece(one, 0, one.length) for one in prompts]
    for pieces in (first, [Piece(one, one.length, 1, 0) for one in prompts]):
        ctx = context_of_pieces(pieces)
        hidden = _hidden(replace(ctx, media=packed.media))
        keys = StoredKeys.of(stored, [one.length for one in pieces], ctx.bidirectional)
        states = llm.read(Unknown.like(llm.embed(hidden.input_ids[0], hidden)), hidden, keys)
        assert ctx.cu_seqlens is not None
        last = ctx.cu_seqlens[1:].long() - 1
        llm.logits(states[last], hidden, last)
        for kept, one in zip(stored, pieces, strict=True):
            kept.length += one.length


def _hidden(ctx: ForwardContext) -> ForwardContext:
    """The context without a number of the text or of media: where they are is still known."""
    host = ctx.host if ctx.host is None else replace(ctx.host, input_ids=Unknown.like(ctx.host.input_ids))
    return replace(
        ctx,
        input_ids=Unknown.like(ctx.input_ids),
        text_embeds=None if ctx.text_embeds is None else Unknown.like(ctx.text_embeds),
        media=tree_map_only(Tensor, lambda one: Unknown.like(one) if one.is_floating_point() else one, ctx.media),
        host=host,
        notes={},
    )
