"""The last block at chosen positions only: the states are those of the whole row, in every family that can."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmllm.connectors.base import LLMAdapter
from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import text_context
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.loss import head_places
from tests.support.assemblies import Row, batch_of, tiny_assembly
from tests.support.parts import FAMILIES, tiny_llm

LENGTHS = (9, 4, 9)
WANTED = [2, 5, 6, 10, 21]
"""With gaps, at an end, and nothing of a middle part of the row."""


def row_of(llm: CausalLM) -> tuple[torch.Tensor, ForwardContext]:
    """Embeddings that learn, float[22, D], and the context of their row."""
    ids = torch.arange(sum(LENGTHS)) * 5 % llm.vocab_size
    bounds = torch.tensor([0, 9, 13, 22], dtype=torch.int32)
    ctx = text_context(ids, bounds)
    return llm.embed(ids, ctx).detach().requires_grad_(), ctx


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recompute", [False, True])
def test_chosen_states_and_their_gradients_are_those_of_the_whole_row(family: str, recompute: bool) -> None:
    llm = tiny_llm(family)
    # GPT-2 gives its states the shape of its input: there the whole row is run
    assert llm.prunes == (family != "gpt2")
    llm.gradient_checkpointing(recompute)
    embeds, ctx = row_of(llm)
    wanted = torch.tensor(WANTED)
    seen: list[int] = []
    last = llm.parts(llm.n_blocks - 1).mlp_first
    handle = last.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[-2]))
    some = llm(embeds, replace(ctx, wanted=wanted))
    handle.remove()
    assert seen == ([len(WANTED)] if llm.prunes else [sum(LENGTHS)])
    whole = llm(embeds, ctx)[wanted]
    torch.testing.assert_close(some, whole, atol=2e-5, rtol=1e-4)
    weights = torch.linspace(-1, 1, some.numel()).view_as(some)
    found, expected = (torch.autograd.grad((one * weights).sum(), embeds)[0] for one in (some, whole))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-3)


def test_training_runs_the_last_block_at_label_positions() -> None:
    model = tiny_assembly()
    batch = batch_of(model, (Row(1, (4, "image", 3)), Row(2, (9,))))
    seen: list[int] = []
    last = model.llm.parts(model.llm.n_blocks - 1).mlp_first
    last.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[-2]))
    nll, _, _ = model(batch)
    assert seen == [len(head_places(batch.labels))] == [batch.n_labels]
    model.llm.prunes = False
    whole, _, _ = model(batch)
    assert seen[1] == batch.n_tokens
    torch.testing.assert_close(nll, whole)


def test_a_connector_that_looks_around_keeps_the_whole_row() -> None:
    """What is not known to work position by position sees all of them."""
    model = tiny_assembly()
    batch = batch_of(model, (Row(2, (9,)),))

    class Watching(LLMAdapter):
        """Hooks nothing in; that it is there is enough."""

    model.connectors["watching"] = Watching(llm_dim=model.llm.dim)
    seen: list[int] = []
    last = model.llm.parts(model.llm.n_blocks - 1).mlp_first
    last.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[-2]))
    model(batch)
    assert seen == [batch.n_tokens]
