"""One cross-attention block: grouped heads with normed queries and keys, a gated MLP, a tanh gate on each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.connectors.deep_fusion.cross_attention_layers.reads import Read
from mmllm.connectors.layers.basics import activation_of


class CrossAttentionBlock(nn.Module):
    """Block x += tanh(a) XAttn(RMS x, z), then x += tanh(b) MLP(RMS x), a = b = 0 at first; no biases, no positions."""

    def __init__(
        self,
        *,
        dim: int,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        mlp_width: int,
        activation: str,
        eps: float,
    ) -> None:
        """Draw the weights.

        Args:
            dim: D, of the stream.
            width: W, of the states that are read.
            heads: of queries.
            kv_heads: of keys and values; query head h reads head h // (heads // kv_heads).
            head_dim: d, of each.
            mlp_width: inner width of the MLP.
            activation: of the MLP's gate, by transformers' name.
            eps: of the norms.
        """
        super().__init__()
        self.kv_heads = kv_heads
        self.attention_norm = nn.RMSNorm(dim, eps=eps)
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.value = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, dim, bias=False)
        self.query_norm = nn.RMSNorm(head_dim, eps=eps)
        self.key_norm = nn.RMSNorm(head_dim, eps=eps)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.mlp_norm = nn.RMSNorm(dim, eps=eps)
        self.gate = nn.Linear(dim, mlp_width, bias=False)
        self.up = nn.Linear(dim, mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, dim, bias=False)
        self.activation = activation_of(activation)
        self.mlp_gate = nn.Parameter(torch.zeros(1))

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states float[N, T, W]: float[N, T, kv_heads, d] each."""
        shape = (self.kv_heads, -1)
        return self.key_norm(self.key(states).unflatten(-1, shape)), self.value(states).unflatten(-1, shape)

    def forward(self, rows: Tensor, reads: Sequence[Read], tokens: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The stream at the positions of ``reads``, float[n, D] one read after the other, in the weights' dtype.

        ``tokens``: keys and values, float[K, kv_heads, d], that each of them reads.
        """
        # in the weights' own dtype: in that of the LLM, perhaps bfloat16, the first small updates would be rounded away
        wide = rows.to(self.query.weight.dtype)
        query = self.query_norm(self.query(self.attention_norm(wide)).unflatten(-1, (-1, tokens[0][0].shape[-1])))
        parts = zip(query.split([one.n for one in reads]), tokens, strict=True)
        found = torch.cat([self._read(part, key, value) for part, (key, value) in parts])
        wide = wide + torch.tanh(self.attention_gate) * self.output(found)
        normed = self.mlp_norm(wide)
        changed = self.down(self.activation(self.gate(normed)) * self.up(normed))
        if any(one.blind for one in reads):
            sees = [torch.full((one.n, 1), not one.blind, device=wide.device) for one in reads]
            changed = changed * torch.cat(sees)
        return wide + torch.tanh(self.mlp_gate) * changed

    def _read(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of float[n, heads, d] over all of float[K, kv_heads, d]: float[n, heads * d]."""
        n = len(query)
        # every query sees every key, so heads that share keys go along the axis of positions: keys are read once for
        # all, and no kernel has to know of grouped heads
        grouped = query.unflatten(1, (self.kv_heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)
        found = F.scaled_dot_product_attention(grouped[None], key.transpose(0, 1)[None], value.transpose(0, 1)[None])
        return found[0].unflatten(1, (-1, n)).permute(2, 0, 1, 3).flatten(1)
