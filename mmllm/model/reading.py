"""Conversations being answered: many at once, each read in pieces over its own stored keys and values.

``generation`` decides what is read in which pass; here a pass is run. Models whose parts cannot work so say why
(:func:`obstacles`), and are read by ``MultimodalLM.prefill`` and ``decode`` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from mmllm.connectors.base import DeepFusion, LLMAdapter
from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import context_of
from mmllm.hooks.pieces import Piece, Prompt, context_of_pieces, media_context
from mmllm.llms.stored_keys import KeyValues, StoredKeys
from mmllm.model.inputs import Item
from mmllm.model.merge import compare_counts
from mmllm.model.project import project
from mmllm.types import Batch

if TYPE_CHECKING:
    from mmllm.model.model import MultimodalLM

__all__ = ["Conversation", "KeyValues", "Reader", "Shown", "obstacles"]


@dataclass(frozen=True)
class Shown:
    """One item as the LLM is shown it."""

    tokens: torch.Tensor
    """float[T, D] in the LLM's input."""
    remembered: Any
    """What its connector keeps of it for layers inside the LLM; None: nothing."""

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.tokens, *_tensors(self.remembered)))


@dataclass(eq=False)
class Conversation:
    """One conversation on its way: its prompt, what was answered, and what was read of both."""

    prompt: Prompt
    tokens: dict[str, torch.Tensor]
    """Placeholder -> float[M, D], what fills its places, in order."""
    media: dict[str, Any]
    """Connector key -> what it keeps of the items."""
    stored: KeyValues
    reader: Reader
    """Who began it: the reader of the model whose connectors it is answered with."""
    said: list[int] = field(default_factory=list)
    """Tokens of the answer so far."""

    @property
    def unread(self) -> int:
        """Tokens known but not read yet."""
        return self.prompt.length + len(self.said) - self.stored.length

    def readable(self, most: int) -> int:
        """How many positions may be read next, ``most`` if it can be: a bidirectional stretch is read in one piece, so
        fewer where one would be cut, and more where one begins here and is longer."""
        start = self.stored.length
        end = start + min(most, self.unread)
        for one in self.prompt.ctx.bidirectional:
            if one.start < end < one.end:
                end = one.start if one.start > start else one.end
        return end - start

    def piece(self, length: int) -> Piece:
        """The next ``length`` positions."""
        start = self.stored.length
        behind = start - self.prompt.length
        return Piece(self.prompt, start, length, self.said[behind] if behind >= 0 else None)


class Reader:
    """Runs passes of one model over pieces of conversations."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        self._joined: tuple[list[Conversation], dict[str, Any]] = ([], {})
        """What connectors keep of all items of the last pass: the same conversations mostly go on in the next."""

    def is_cached(self, key: str) -> bool:
        """Whether an item of ``key`` is shown alike whatever the text around it says."""
        return not self.model.inputs[key].connector.reads_text

    def is_adapted(self, key: str) -> bool:
        """Whether a connector works inside an encoder of ``key``."""
        return any(encoder.adapters for encoder in self.model.inputs[key].encoders.values())

    def reads_again(self, key: str) -> bool:
        """Whether layers inside the LLM read items of ``key`` at every later position."""
        return isinstance(self.model.inputs[key].connector, DeepFusion)

    @torch.inference_mode()
    def show(self, key: str, items: Sequence[Item], dataset_names: Sequence[str]) -> list[Shown]:
        """Encode and project items of one placeholder, each of a conversation of its data key."""
        model, entry = self.model, self.model.inputs[key]
        here = entry.collate(items)
        inputs = _moved(here, model.llm.device)
        ctx = media_context(model.inputs, key, dataset_names, model.llm.device)
        features = model.encode(key, inputs, ctx, here)
        if not isinstance(entry.connector, DeepFusion):
            tokens, counts = project(entry.connector, features, ctx)
            return [Shown(part.clone(), None) for part in tokens.split(counts)]
        found = []
        for number in range(len(items)):  # alone: what it remembers of each can then be kept apart
            own = media_context(model.inputs, key, dataset_names[number : number + 1], model.llm.device)
            place = torch.tensor([number])
            alone = [one.only(place, one.item_grids()[number]) for one in features]
            tokens, _ = project(entry.connector, alone, own)
            found.append(Shown(tokens, own.media.get(key)))
        return found

    @torch.inference_mode()
    def begin(self, batch: Batch, shown: Mapping[str, Sequence[Shown | None]], stored: KeyValues) -> Conversation:
        """A conversation from a batch that holds it alone; what is in ``stored`` was read of it before.

        ``shown``: of each placeholder's items; None where all places of one were read before.

        Raises:
            SampleError: an item has another number of places than tokens; it names the sample.
        """
        ctx = context_of(batch, self.model.inputs)
        conversation = Conversation(Prompt(ctx), {}, {}, stored, self)
        for key in batch.media:
            places = batch.media_positions[key]
            if key not in shown:
                tokens, counts = self._with_text(key, batch, ctx, conversation.media)
            else:
                found = torch.bincount(batch.media_ids[places], minlength=len(shown[key])).tolist()
                parts = zip(shown[key], found, strict=True)
                counts = [n if one is None else len(one.tokens) for one, n in parts]
                tokens = self._tokens(shown[key], counts)
                kept = [one.remembered for one in shown[key] if one is not None and one.remembered is not None]
                if kept:
                    conversation.media[key] = self._fusion(key).joined(kept)
            compare_counts(places, counts, batch, key)
            conversation.tokens[key] = tokens
        return conversation

    def _tokens(self, shown: Sequence[Shown | None], counts: Sequence[int]) -> torch.Tensor:
        llm = self.model.llm
        none = torch.zeros(0, llm.dim, dtype=llm.dtype, device=llm.device)
        # zeros stand where nothing is read again
        parts = zip(shown, counts, strict=True)
        return torch.cat([none, *(none.new_zeros(n, llm.dim) if one is None else one.tokens for one, n in parts)])

    def _with_text(
        self, key: str, batch: Batch, ctx: ForwardContext, media: dict[str, Any]
    ) -> tuple[torch.Tensor, list[int]]:
        """Tokens of all items of a connector that reads the text, and how many each has."""
        with_text = replace(ctx, text_embeds=self.model.llm.embed(batch.input_ids, ctx), media=media)
        return self.model.project(key, batch.media[key], with_text, batch.host.media[key])

    @torch.inference_mode()
    def read(self, parts: Sequence[tuple[Conversation, int]]) -> tuple[ForwardContext, torch.Tensor]:
        """One pass over so many more positions of each; its context, and logits float[n, V] of those read to their end.

        Whoever fails leaves all of them as they were.
        """
        pieces = [one.piece(length) for one, length in parts]
        conversations = [one for one, _ in parts]
        ctx = self.context(conversations, pieces)
        llm = self.model.llm
        embeds = self._with_media(llm.embed(ctx.input_ids[0], ctx), ctx, conversations, pieces)
        lengths = [piece.length for piece in pieces]
        keys = StoredKeys.of([one.stored for one in conversations], lengths, ctx.bidirectional)
        assert ctx.cu_seqlens is not None
        ends = [n for n, (one, length) in enumerate(parts) if one.unread == length]
        last = ctx.cu_seqlens[1:].long()[ends] - 1
        if self._positionwise(conversations) and len(ends) < len(ctx.input_ids[0]):
            # some position has to be asked for, also where no prompt ends
            asked = last if ends else ctx.cu_seqlens[-1:].long() - 1
            hidden = llm.read(embeds, replace(ctx, wanted=asked), keys)
        else:
            hidden = llm.read(embeds, ctx, keys)[last]
        logits = llm.logits(hidden, ctx, last) if ends else hidden.new_zeros(0, llm.vocab_size)
        for one, length in parts:
            one.stored.length += length
        return ctx, logits

    def context(self, conversations: list[Conversation], pieces: Sequence[Piece]) -> ForwardContext:
        """Context of the pass over these pieces of conversations."""
        return replace(context_of_pieces(pieces), media=self._media(conversations))

    def _with_media(
        self, embeds: torch.Tensor, ctx: ForwardContext, conversations: list[Conversation], pieces: Sequence[Piece]
    ) -> torch.Tensor:
        """The row's embeddings float[S, D] with the tokens of its items at their places."""
        for key, places in ctx.media_positions.items():
            if len(places):
                cuts = [(one, *piece.inside(key)) for one, piece in zip(conversations, pieces, strict=True)]
                tokens = torch.cat([one.tokens[key][begin:end] for one, begin, end in cuts if end > begin])
                embeds = embeds.index_copy(0, places, tokens.to(embeds.dtype))
        return embeds

    def _positionwise(self, conversations: list[Conversation]) -> bool:
        """Whether the last block may run at chosen positions of the pass."""
        return self.model.positionwise

    def _media(self, conversations: list[Conversation]) -> dict[str, Any]:
        """Connector key -> what it keeps of the items of all conversations."""
        before, joined = self._joined
        if len(before) != len(conversations) or any(a is not b for a, b in zip(before, conversations, strict=True)):
            joined = {}
            for key in self.model.inputs:
                parts = [one.media[key] for one in conversations if key in one.media]
                if parts:
                    joined[key] = self._fusion(key).joined(parts)
            self._joined = (conversations, joined)
        return dict(joined)

    def forget(self) -> None:
        """Let go of what was joined for the last pass."""
        self._joined = ([], {})

    def _fusion(self, key: str) -> DeepFusion:
        connector = self.model.inputs[key].connector
        assert isinstance(connector, DeepFusion)
        return connector


def obstacles(model: MultimodalLM) -> list[str]:
    """Why this model's prompts cannot be read in pieces; nothing where they can."""
    found = [
        f"connectors.{key} ({type(one).__name__}) reads whole prompts"
        for key, one in model.connectors.items()
        if isinstance(one, LLMAdapter) and not one.goes_on
    ]
    if not found and not model.llm.goes_on:
        found.append(f"the LLM ({type(model.llm.model).__name__}) keeps more of a position than keys and values")
    return found


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = vars(value).values() if is_dataclass(value) else value if isinstance(value, tuple | list) else ()
    return [tensor for one in parts for tensor in _tensors(one)]


def _moved(inputs: Item, device: torch.device) -> Item:
    return {name: {word: value.to(device) for word, value in one.items()} for name, one in inputs.items()}
