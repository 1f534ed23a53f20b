"""Llama's equations in plain torch for one conversation, with places to change them: what conformance tests compare to.

Nothing here comes from ``mmllm`` or ``transformers``; weights are handed in by their names in a decoder layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tests.support.equations import rotated

HEADS, KV_HEADS, WIDTH = 4, 2, 8
"""Of ``tests.support.parts``' tiny Llama."""
Weights = Mapping[str, Tensor]
Change = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """No change."""
    return x


def weights_of(state: Weights, prefix: str) -> dict[str, Tensor]:
    """Those of one layer, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """x / root mean square * weight."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def attention(a: Tensor, w: Weights, values: Change = same) -> Tensor:
    """Causal grouped-query attention of float[S, D]; ``values`` changes float[S, kv heads, d]."""
    q = rotated((a @ w["self_attn.q_proj.weight"].T).view(-1, HEADS, WIDTH))
    k = rotated((a @ w["self_attn.k_proj.weight"].T).view(-1, KV_HEADS, WIDTH))
    v = values((a @ w["self_attn.v_proj.weight"].T).view(-1, KV_HEADS, WIDTH))
    causal = torch.ones(len(a), len(a)).tril() > 0
    heads = []
    for head in range(HEADS):
        group = head // (HEADS // KV_HEADS)
        scores = (q[:, head] @ k[:, group].T / WIDTH**0.5).masked_fill(~causal, -torch.inf)
        heads.append(scores.softmax(dim=-1) @ v[:, group])
    return torch.cat(heads, dim=-1) @ w["self_attn.o_proj.weight"].T


def layer(
    h: Tensor, w: Weights, before_attention: Change = same, values: Callable[..., Tensor] | None = None,
    before_mlp: Change = same,
) -> Tensor:  # fmt: skip
    """One decoder layer, float[S, D] -> float[S, D]; ``values(a, v)`` gets the attention's input too."""
    a = before_attention(rms(h, w["input_layernorm.weight"]))
    h = h + attention(a, w, (lambda v: v) if values is None else lambda v: values(a, v))
    x = before_mlp(rms(h, w["post_attention_layernorm.weight"]))
    gate, up = x @ w["mlp.gate_proj.weight"].T, x @ w["mlp.up_proj.weight"].T
    return h + (gate * torch.sigmoid(gate) * up) @ w["mlp.down_proj.weight"].T
