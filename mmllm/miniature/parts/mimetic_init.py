"""The miniature LM before training: a Qwen2 whose first layer begins with heads that look 1, 2, 3 and 4 tokens back.

Lookup (key to value) is what forms late in small models, and this project trains for minutes, so the circuit is given
as a start: shift heads write what stood before into slots, and some later heads begin by matching a slot with another.
In the spirit of mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828). All of it is trained on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from mmllm.miniature.parts.tokenizer import CONTEXT
from mmllm.miniature.world.words import every_word

ROPE_THETA = 1.0e6
STEEP = 60.0
"""Score by which a shift head prefers its offset, before the division by the root of the head's width."""
SLOW_FROM = 5
"""RoPE pairs from this one on turn so slowly that words can be matched over a whole description."""
MATCH, WRITE, COPY = 2.2, 0.03, 0.15


def new_model(
    tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int, inner: int, seed: int
) -> Qwen2ForCausalLM:
    """A Qwen2 with structured first weights; a word and the same word after a space start from nearly one embedding."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        attention_dropout=0.0,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("eager")  # three times faster than SDPA's backward on CPUs in bfloat16
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for word in every_word():
            (bare,), (spaced,) = tokenizer.encode(word), tokenizer.encode(" " + word)
            table[spaced] = 0.9 * table[bare] + 0.4 * table[spaced]
        _structure(model, width, heads)
    return model


def _slow_rows(side: int) -> list[int]:
    """The rows of a head (of width side) that RoPE turns slowly; its pairs are (i, i + side / 2)."""
    return [i + half for half in (0, side // 2) for i in range(SLOW_FROM, side // 2)]


def _structure(model: Qwen2ForCausalLM, width: int, heads: int) -> None:
    """Divides the width into a part that words are read from, a slot for each shift head, and a rest."""
    side = width // heads
    slow = _slow_rows(side)
    basis = nn.init.orthogonal_(torch.empty(width, width))
    parts = basis[: len(slow) * (heads + 1)].split(len(slow))
    read, slots, rest = parts[0], parts[1:], basis[len(slow) * (heads + 1) :]
    table = model.get_input_embeddings().weight
    taken = torch.cat(slots)
    table -= 0.8 * table @ taken.T @ taken
    for block in model.model.layers:  # branches begin nearly silent, or their noise would drown the words
        block.mlp.down_proj.weight *= 0.05
        block.self_attn.o_proj.weight *= 0.05
    first = model.model.layers[0].self_attn
    for head, slot in enumerate(slots):
        rows = slice(head * side, (head + 1) * side)
        first.q_proj.weight[rows] *= 0.02
        first.k_proj.weight[rows] *= 0.02
        first.q_proj.bias[rows], first.k_proj.bias[rows] = _shift(side, offset=head + 1)
        first.v_proj.weight[head * side : head * side + len(slow)] = read
        first.o_proj.weight[:, head * side : head * side + len(slow)] = WRITE * slot.T
    copied = torch.cat((read, rest))[:side]
    # (query reads, key reads): None is the token itself, n the slot of n + 1 tokens back.
    pairs = ((None, 0), (2, 0), (2, None), (3, 1))
    for layer in model.model.layers[1:3]:
        attention = layer.self_attn
        for head, (query, key) in enumerate(pairs[:heads]):
            start = head * side
            for projection, slot in ((attention.q_proj, query), (attention.k_proj, key)):
                projection.weight[start : start + side] *= 0.1
                projection.weight[[start + row for row in slow]] = MATCH * (read if slot is None else slots[slot])
            attention.v_proj.weight[start : start + len(copied)] = copied
            attention.o_proj.weight[:, start : start + len(copied)] = COPY * copied.T


def _shift(side: int, offset: int) -> tuple[Tensor, Tensor]:
    """Query and key biases float[side] whose product under RoPE is largest `offset` tokens back."""
    half = side // 2
    speeds = ROPE_THETA ** (-torch.arange(half) / half)
    size = math.sqrt(STEEP / 3) * (torch.arange(half) < 4)
    query = torch.cat((size, torch.zeros(half)))
    key = torch.cat((size * torch.cos(offset * speeds), size * torch.sin(offset * speeds)))
    return query, key
