"""New tokens: what a model with larger tables gives, to the old ones nothing else than before; and who refuses them."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmllm.errors import MmllmError
from mmllm.hooks.passes import text_context
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.loss import nll_at
from mmllm.recipe.token_texts import token_texts
from mmllm.testing.tiny.llms import FAMILIES, VOCAB, tiny_llm, tiny_model, tiny_tokenizer

TEXTS = [f"<loc{number}>" for number in range(30)]
"""More than the rows that lie idle behind the tiny tokenizer's last token."""
TIED = ("qwen3", "gemma2", "gemma3", "gpt2", "opt", "smollm3")


def phi() -> PreTrainedModel:
    """A head with biases."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = transformers.PhiForCausalLM(transformers.PhiConfig(vocab_size=VOCAB, pad_token_id=0, **sizes))
    nn.init.normal_(model.lm_head.bias)
    return model.eval()


def enlarged(model: PreTrainedModel, llm: CausalLM) -> PreTrainedModel:
    """A copy of the model whose own tables hold the new rows."""
    assert llm.tokens is not None
    large = copy.deepcopy(model)
    large.resize_token_embeddings(llm.vocab_size, mean_resizing=False)
    new = slice(llm.tokens.first, llm.tokens.first + llm.tokens.n)
    head = large.get_output_embeddings()
    with torch.no_grad():
        large.get_input_embeddings().weight[new] = llm.tokens.embed.weight
        head.weight[new] = llm.tokens.head.weight
        if llm.tokens.head.bias is not None:
            head.bias[new] = llm.tokens.head.bias
    return large.requires_grad_(True)


def texts(llm: CausalLM) -> Tensor:
    """Ids of old and new tokens, int64[24]."""
    assert llm.tokens is not None
    ids = torch.arange(24) * 7 % 360
    ids[::3] = llm.tokens.first + torch.arange(8) * 4 % llm.tokens.n
    return ids


@pytest.mark.parametrize("family", [*FAMILIES, "phi"])
def test_logits_and_gradients_are_those_of_a_model_with_larger_tables(family: str) -> None:
    plain = phi() if family == "phi" else tiny_model(family)
    llm = CausalLM(copy.deepcopy(plain), tiny_tokenizer(), tolerance=float("inf"))
    old = llm.vocab_size
    llm.add_tokens(TEXTS, seed=1)
    assert llm.tokens is not None and llm.tokens.first < old < llm.vocab_size == llm.tokens.first + len(TEXTS)
    assert llm.tokens.tied == (family in TIED) == (llm.tokens.head is llm.tokens.embed)
    ids = texts(llm)
    ctx = text_context(ids, torch.tensor([0, len(ids)], dtype=torch.int32))
    large = enlarged(plain, llm)
    expected = large(ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0]
    llm.tokens.requires_grad_(True)
    states = llm(llm.embed(ids, ctx), ctx)
    found = llm.logits(states, ctx)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    labels = ids.clone()
    labels[0] = -100
    torch.nn.functional.cross_entropy(expected[:-1], ids[1:], reduction="sum").backward()
    # four label positions at once, so that the rows' gradients are added over chunks
    assert llm.head_is_frozen
    nll_at(llm, states[:-1], labels, torch.arange(len(ids) - 1), ctx, chunk=4).backward()
    new = slice(llm.tokens.first, llm.vocab_size)
    pairs = [(llm.tokens.embed.weight, large.get_input_embeddings().weight)]
    pairs += [] if llm.tokens.tied else [(llm.tokens.head.weight, large.get_output_embeddings().weight)]
    pairs += [(llm.tokens.head.bias, large.get_output_embeddings().bias)] if family == "phi" else []
    for own, table in pairs:
        torch.testing.assert_close(own.grad, table.grad[new], atol=1e-4, rtol=1e-4)
    assert all(parameter.grad is None for parameter in llm.model.parameters())


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@torch.no_grad()
def test_old_tokens_keep_their_logits_to_the_bit(family: str) -> None:
    before, after = tiny_llm(family), tiny_llm(family)
    after.add_tokens(TEXTS)
    assert after.tokens is not None
    ids = torch.arange(12) * 7 % 360
    ctx = text_context(ids, torch.tensor([0, 5, 12], dtype=torch.int32))
    one, other = (llm.logits(llm(llm.embed(ids, ctx), ctx), ctx) for llm in (before, after))
    assert torch.equal(one[:, : after.tokens.first], other[:, : after.tokens.first])
    assert torch.equal(before.embed(ids, ctx), after.embed(ids, ctx))


def test_rows_begin_near_their_pieces_by_the_seed_and_the_text_alone() -> None:
    made = []
    for words, seed in ((TEXTS, 1), (TEXTS, 1), (TEXTS[:3], 1), (TEXTS, 2)):
        llm = tiny_llm()
        llm.add_tokens(words, seed)
        assert llm.tokens is not None
        made.append(llm.tokens.embed.weight[:3])
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2]) and not torch.equal(made[0], made[3])
    pieces = tiny_tokenizer().encode("<loc2>")
    mean = tiny_model().get_input_embeddings().weight[pieces].mean(dim=0)
    assert 0 < (made[0][2] - mean).norm() < 0.05 * mean.norm()
    # the same pieces in another order
    llm = tiny_llm()
    llm.add_tokens(["<12>", "<21>"])
    assert llm.tokens is not None and not torch.equal(llm.tokens.embed.weight[0], llm.tokens.embed.weight[1])


def test_new_tokens_are_text_that_is_found_learned_and_shown() -> None:
    llm = tiny_llm()
    llm.add_tokens(["<loc1>", "<loc2>"])
    ids = llm.tokenizer.encode("It is at <loc1>, see")
    assert llm.tokenizer.convert_tokens_to_ids("<loc1>") in ids
    assert llm.tokenizer.decode(ids, skip_special_tokens=True) == "It is at <loc1>, see"


@pytest.mark.parametrize("text", ["<|im_end|>", "Ġred", " red", "x"])
def test_a_token_that_is_there_already_is_refused(text: str) -> None:
    llm = tiny_llm()
    with pytest.raises(MmllmError, match=r"llm.tokens: .* is a token of the tokenizer already; leave it out"):
        llm.add_tokens(["<loc1>", text])


def test_ranges_are_written_out() -> None:
    assert token_texts(["<{8..11}>", "a{08..10}", "{1..0}-{0..1}"]) == (
        *("<8>", "<9>", "<10>", "<11>"),
        *("a08", "a09", "a10"),
        *("1-0", "1-1", "0-0", "0-1"),
    )


@pytest.mark.parametrize(("written", "sentence"), [(["a", "{1..2}", "2"], '"2" stands twice'), ([" "], "blanks")])
def test_blank_and_repeated_tokens_are_refused(written: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        token_texts(written)


@torch.no_grad()
def test_rows_are_read_in_the_dtype_of_the_llm() -> None:
    llm = tiny_llm()
    llm.add_tokens(TEXTS)
    assert llm.tokens is not None
    llm.model.to(torch.bfloat16)
    ids = texts(llm)
    ctx = text_context(ids, torch.tensor([0, len(ids)], dtype=torch.int32))
    found = llm.logits(llm(llm.embed(ids, ctx), ctx), ctx)
    assert found.dtype == torch.bfloat16 and llm.tokens.embed.weight.dtype == torch.float32
