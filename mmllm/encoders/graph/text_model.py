"""The frozen text model that makes states of a graph's nodes; called in the forward of ``text_graph``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.encoders.blocks import list_name
from mmllm.encoders.pretrained import load_model, load_tokenizer
from mmllm.encoders.recording import recorded
from mmllm.errors import MmllmError
from mmllm.processors.graph import PAD, NodeTexts
from mmllm.processors.tokenizer import ModelTokenizer
from mmllm.types import Layer
from mmllm.vlms.weightless import weightless

SEEN = 16
"""Numbers of each weight by which a changed one is noticed."""


class TextModel(nn.Module):
    """A frozen transformer over texts: a causal LM without its head, or a text encoder."""

    def __init__(self, path: str, pool: str, max_tokens: int, cut: bool) -> None:
        super().__init__()
        if pool not in ("last", "mean"):
            raise MmllmError(f"pool: {pool!r} is unknown; known: last (of a causal LM), mean (over the tokens).")
        if max_tokens < 1:
            raise MmllmError(f"max_tokens: {max_tokens} must be at least 1.")
        self.model, tokenizer = _load(path)
        self.pool = pool
        self.texts = NodeTexts(ModelTokenizer(path, tokenizer), max_tokens, cut)
        """Tokenizer of the nodes' texts, on the CPU."""
        config = self.model.config.get_text_config()
        self.dim, self.n_blocks = int(config.hidden_size), int(config.num_hidden_layers)
        self.blocks_name = list_name(self.model, self.n_blocks)
        # laid out without numbers it is nobody's: no states that were made before are looked for
        self.digest = "" if weightless() else _digest(self.model, tokenizer, [pool, max_tokens, cut])
        """sha256 of weights in float32 and settings, taken before anything casts or shards them."""
        self._first = {name: value.detach().flatten()[:SEEN].clone() for name, value in self.named_parameters()}

    def learned(self) -> bool:
        """Whether its weights learn, or are no longer those it was loaded with: then ``digest`` is not theirs."""
        for name, value in self.named_parameters():
            if value.requires_grad:
                return True
            first = self._first[name].to(value.dtype)
            # under ZeRO-3 (`ds_id`) a rank sees only its shard
            if not hasattr(value, "ds_id") and not torch.equal(value.detach().flatten()[:SEEN].cpu(), first):
                return True
        return False

    def forward(self, ids: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
        """``ids`` int64[n, L] -> float[n, D] for each layer of 0..n_blocks or ``final`` (see ``Encoder``).

        An empty text has zeros.
        """
        real = ids != PAD
        if not ids.shape[1]:
            ids, real = ids.new_zeros(len(ids), 1), real.new_zeros(len(ids), 1)
        # an empty text still needs one visible token, or attention has nothing to read; its state is zeroed below
        seen = real | (torch.arange(ids.shape[1], device=ids.device) == 0)
        states = self._hidden(ids.clamp(min=0), seen, layers)
        if self.pool == "last":
            last = real.sum(dim=1).sub(1).clamp(min=0)
            states = [state[torch.arange(len(ids), device=ids.device), last] for state in states]
        else:
            weight = real.to(states[0].dtype) / real.sum(dim=1, keepdim=True).clamp(min=1)
            states = [torch.einsum("nld,nl->nd", state, weight) for state in states]
        return [state * real.any(dim=1, keepdim=True) for state in states]

    def _hidden(self, ids: Tensor, seen: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
        """What enters the first block and leaves the others, and the model's own last state: float[n, L, D] each."""
        blocks = self.model.get_submodule(self.blocks_name)
        assert isinstance(blocks, nn.ModuleList)

        def run() -> Tensor:
            last: Tensor = self.model(input_ids=ids, attention_mask=seen.long()).last_hidden_state
            return last

        return recorded(blocks, layers, run)


def _load(path: str) -> tuple[Any, Any]:
    """Model without head in float32, every weight filled, safetensors only; and its tokenizer."""
    _, model, report = load_model(path, "a text model")
    tokenizer = load_tokenizer(path, "a text model")
    pooler = {key for key in report["missing_keys"] if key.startswith("pooler.")}
    lacking = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])} - pooler)
    if lacking:
        raise MmllmError(f'the weights of "{path}" do not fill the model: {", ".join(lacking[:5])}.')
    if pooler:
        model.pooler = None  # the blocks' states do not pass through it, and random weights would change the digest
    return model, tokenizer


def _digest(model: nn.Module, tokenizer: Any, settings: Sequence[Any]) -> str:
    total = hashlib.sha256(json.dumps([list(settings), sorted(tokenizer.get_vocab().items())]).encode())
    for name, value in sorted(model.state_dict().items()):
        total.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        # as bytes, since NumPy has no bfloat16
        total.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
