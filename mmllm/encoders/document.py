"""Long text as a modality: a small frozen language model reads a document, apart from the LLM that is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmllm.encoders.base import Encoder
from mmllm.encoders.blocks import EncoderBlock, list_name
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.pretrained import load_model, load_tokenizer
from mmllm.encoders.recording import recorded
from mmllm.errors import MmllmError
from mmllm.hooks import EncoderContext, Handle, TokenLayout
from mmllm.processors.document import MAX_BYTES, DocumentProcessor
from mmllm.processors.tokenizer import ModelTokenizer
from mmllm.types import Features, Layer

Tail = Callable[[EncoderContext], Tensor]
"""context -> float[n, embed_dim]."""


class DocumentEncoder(Encoder):
    """Any decoder or encoder of transformers with its own tokenizer: a document of L tokens has the grid (L,).

    An item is a file (``Path``) or ``bytes`` in UTF-8, or a ``str``, which is the text itself. More than ``max_tokens``
    tokens are an error: nothing is cut. ``blocks`` keeps only the first so many blocks. Documents of a batch are padded
    behind their end and masked, so that a longer neighbour changes nothing.

    A connector that works inside (``text_memory``; ``receive``) may append tokens of its own behind each document; what
    the blocks make of them is ``Features.extras["memory"]``, float[N, appended, D * layers].
    """

    processor: DocumentProcessor

    gives_final = True
    host_inputs = ("lengths",)

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int | Literal["final"]] = (-1,),
        max_tokens: int = 1024,
        blocks: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(layers=layers)
        self.model, tokenizer = load_text_model(model)
        self.dim = int(self.model.config.hidden_size)
        self._blocks_name = list_name(self.model, self.model.config.num_hidden_layers)
        _keep_first(self._list, blocks)
        self.processor = DocumentProcessor(ModelTokenizer(model, tokenizer), max_tokens=max_tokens, max_bytes=max_bytes)
        self._tail: Tail | None = None
        self._appended = 0
        self.resolve(self.n_blocks)
        self._fits(0)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks that are used."""
        return len(self._list)

    @property
    def _list(self) -> nn.ModuleList:
        """The model's list of transformer blocks (a view: the model holds it)."""
        blocks = self.model.get_submodule(self._blocks_name)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def embed_dim(self) -> int:
        """Width of the tokens that enter the model; OPT's differs from ``dim``."""
        return int(self.model.get_input_embeddings().embedding_dim)

    def receive(self, tail: Tail, n: int) -> Handle:
        """Append ``tail(ctx)`` float[n, embed_dim] behind each document in every pass from now on.

        Raises:
            MmllmError: another connector does so already, or the model has too few positions.
        """
        if self._tail is not None:
            raise MmllmError("two connectors would append tokens behind one encoder's documents; keep one of them.")
        self._fits(n)
        self._tail, self._appended = tail, n

        def undo() -> None:
            self._tail, self._appended = None, 0

        return Handle(undo)

    def hook_points(self) -> BlockHooks:
        """The blocks that are used."""
        return BlockHooks(self._list, self.dim, self.scope)

    def forward(self, **inputs: Tensor) -> Features:
        """``ids`` int64[N, L], ``lengths`` int64[N] -> layers of float[N, L, D], each document's own tokens first."""
        device = next(self.parameters()).device
        ids, lengths = inputs["ids"].to(device), inputs["lengths"].to(device, non_blocking=True)
        longest, n_more = ids.shape[1], self._appended
        wanted = self.resolve(self.n_blocks)
        seen = torch.arange(longest + n_more, device=device) < (lengths + n_more)[:, None]
        layout = TokenLayout((1,) * len(ids), (longest + n_more,), 0, seen)
        # right behind each document's own end, where shorter ones have padding
        places = lengths[:, None] + torch.arange(n_more, device=device)
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout) as ctx:
            tokens = self.model.get_input_embeddings()(ids)
            if self._tail is not None:
                tokens = appended(tokens, self._tail(ctx).to(tokens.dtype), places)
            states = self._states(tokens, seen, wanted)
        mask = torch.arange(longest, device=device) < lengths[:, None]
        layers = {layer: state[:, :longest] for layer, state in zip(self.layers, states, strict=True)}
        rows = torch.arange(len(ids), device=device)[:, None]
        extras = {"memory": torch.cat([state[rows, places] for state in states], dim=-1)} if n_more else {}
        sizes = tuple((length,) for length in inputs["lengths"].tolist())
        return Features(layers, mask, (longest,), sizes if len(set(sizes)) > 1 else None, extras)

    def _states(self, tokens: Tensor, seen: Tensor, wanted: Sequence[Layer]) -> list[Tensor]:
        """Return what enters the first block and leaves the others, and the model's own last state."""

        def run() -> Tensor:
            last: Tensor = self.model(inputs_embeds=tokens, attention_mask=seen.long()).last_hidden_state
            return last

        return recorded(self._list, wanted, run)

    def _fits(self, n_more: int) -> None:
        """MmllmError where documents of ``max_tokens`` and ``n_more`` tokens have no positions in the model."""
        config = self.model.config.to_dict()
        known = config.get("max_position_embeddings")
        most = self.processor.max_tokens
        if known is not None and most + n_more > known:
            raise MmllmError(
                f"document: max_tokens {most} and {n_more} tokens behind them are more than the {known} "
                f"positions of this {config['model_type']}; lower max_tokens."
            )


def appended(tokens: Tensor, tail: Tensor, places: Tensor) -> Tensor:
    """``tail`` float[n, D] at ``places`` int64[N, n] of rows float[N, L, D] that grow by n."""
    grown = nn.functional.pad(tokens, (0, 0, 0, len(tail)))
    index = places[..., None].expand(-1, -1, tokens.shape[-1])
    return grown.scatter(1, index, tail.expand(len(tokens), -1, -1))


def load_text_model(model: str) -> tuple[Any, Any]:
    """(model without its head, tokenizer) in float32, safetensors only; MmllmError where that cannot be."""
    config, loaded, info = load_model(model, "a text model")
    tokenizer = load_tokenizer(model, "a text model")
    if config.is_encoder_decoder:
        raise MmllmError(f'"{model}" is an encoder and a decoder; the document encoder takes one of them alone.')
    lost = [name for name in sorted(map(str, info["missing_keys"])) if "pooler." not in name]
    lost = lost or info["mismatched_keys"]
    if lost:
        raise MmllmError(f'the weights of "{model}" do not fill the model: {", ".join(lost[:5])}.')
    return loaded, tokenizer


def _keep_first(blocks: nn.ModuleList, keep: int | None) -> None:
    """Take all but the first ``keep`` blocks out of a model's list; MmllmError where connectors could not read them."""
    EncoderBlock.of(blocks[0])
    if keep is None:
        return
    if not 0 < keep <= len(blocks):
        raise MmllmError(f"document: blocks {keep} must be 1 to {len(blocks)}, the blocks of this model.")
    del blocks[keep:]
