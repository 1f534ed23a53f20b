"""LLMs with short convolutions (LFM2): conversations of a packed row do not see each other, whatever way it is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as t

from mmllm.errors import MmllmError
from mmllm.llms.causal_lm import CausalLM
from mmllm.types import Segment
from tests.support.forward import decoded, text_context, text_hidden
from tests.support.parts import tiny_tokenizer

LENGTHS = (9, 1, 2, 17, 9)
KINDS = {
    "last attends": ["conv", "full_attention", "conv", "full_attention"],
    "last is short": ["full_attention", "conv"],
}


def own(kinds: list[str], **words: Any) -> Any:
    """transformers' own model."""
    torch.manual_seed(0)
    config = t.Lfm2Config(
        hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, vocab_size=384,
        num_hidden_layers=len(kinds), layer_types=kinds, max_position_embeddings=256, **words,
    )  # fmt: skip
    model = t.Lfm2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def llm(kinds: list[str], **words: Any) -> CausalLM:
    return CausalLM(own(kinds, **words), tiny_tokenizer())


def conversations() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 380, (n,), generator=generator) for n in LENGTHS]


def alone(model: Any, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model.model(input_ids=ids[None]).last_hidden_state[0]
    return found


def packed(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    bounds = torch.tensor([0, *map(len, rows)]).cumsum(0).to(torch.int32)
    return torch.cat(rows), torch.cat([torch.arange(len(row)) for row in rows]), bounds


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("reach", [1, 3, 5])
@torch.no_grad()
def test_a_packed_row_is_each_conversation_alone(kinds: str, reach: int) -> None:
    made, model, rows = llm(KINDS[kinds], conv_L_cache=reach), own(KINDS[kinds], conv_L_cache=reach), conversations()
    ids, positions, bounds = packed(rows)
    expected = torch.cat([alone(model, row) for row in rows])
    torch.testing.assert_close(text_hidden(made, ids, positions, bounds), expected, atol=1e-5, rtol=1e-5)
    ctx = text_context(ids, positions, bounds)
    chosen = torch.tensor([3, 9, 20])
    if made.prunes:
        some = made(made.embed(ids, ctx), replace(ctx, wanted=chosen))
        torch.testing.assert_close(some, expected[chosen], atol=1e-5, rtol=1e-5)
    assert made.prunes == (kinds == "last attends")
    assert made.goes_on, "conversations may be read in pieces"


@torch.no_grad()
def test_a_shared_beginning_is_that_of_each_continuation() -> None:
    made, model = llm(KINDS["last attends"]), own(KINDS["last attends"])
    begin, one, two = (torch.tensor(ids) for ids in ([5, 6, 7, 8], [9, 10], [11]))
    ids = torch.cat([begin, one, two])
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 4])
    segments = (Segment(0, 4), Segment(4, 6, (0, 4)), Segment(6, 7, (0, 4)))
    ctx = replace(text_context(ids, positions, torch.tensor([0, 7], dtype=torch.int32)), segments=segments)
    found = made(made.embed(ids, ctx), ctx)
    torch.testing.assert_close(found[:6], alone(model, torch.cat([begin, one])), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[6:], alone(model, torch.cat([begin, two]))[4:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padded_rows_and_single_tokens() -> None:
    made, model = llm(KINDS["last attends"]), own(KINDS["last attends"])
    rows = [row for row in conversations() if len(row) > 8]
    longest = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows])
    positions = mask.cumsum(-1) - 1
    cache, first = made.new_cache(), longest - 4
    decoded(made, ids[:, :first], mask[:, :first], positions[:, :first], cache)
    for step in range(first, longest):
        logits = decoded(made, ids[:, step : step + 1], mask[:, : step + 1], positions[:, step : step + 1], cache)
    expected = torch.stack([model(input_ids=row[None]).logits[0, -1] for row in rows])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_alone() -> None:
    made, model, rows = llm(KINDS["last attends"]), own(KINDS["last attends"]), conversations()
    ids, positions, bounds = packed(rows)
    ctx = text_context(ids, positions, bounds)
    embeds = made.embed(ids, ctx).detach().requires_grad_()
    weights = torch.randn(len(ids), 32, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((made(embeds, ctx) * weights).sum(), embeds)
    each = []
    for row, weight in zip(rows, weights.split(LENGTHS), strict=True):
        own_embeds = model.model.embed_tokens(row).detach().requires_grad_()
        out = model.model(inputs_embeds=own_embeds[None]).last_hidden_state[0]
        each.append(torch.autograd.grad((out * weight).sum(), own_embeds)[0])
    torch.testing.assert_close(found, torch.cat(each), atol=1e-4, rtol=1e-4)


def test_what_needs_attention_says_which_blocks_have_it() -> None:
    made = llm(KINDS["last attends"])
    assert (made.head_dim, made.kv_heads) == (8, 2)
    made.after_attention(0, lambda ctx, x, output: output).remove()
    for asked in (made.value_projection, made.copy_block, lambda n: made.extend_attention(n, lambda *_: _[2])):
        with pytest.raises(MmllmError, match=r"layer 2: .* a Lfm2ShortConv in place of .* that attend are 1, 3"):
            asked(2)


def test_biases_are_refused() -> None:
    with pytest.raises(MmllmError, match="conv_bias: true cannot be used"):
        llm(KINDS["last attends"], conv_bias=True)
