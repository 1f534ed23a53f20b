"""The contract every connector between an encoder and the LLM keeps: walked through ``tiny()`` of the registry."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mmllm import registry
from mmllm.connectors.base import Connector
from mmllm.types import Features, Pass

DIM = 16
LLM = SimpleNamespace(dim=16)


def outside(name: str) -> bool:
    """True between encoder and LLM; connectors that work inside the LLM have their own tests."""
    methods, parameters = registry.methods("connectors", name), registry.parameters("connectors", name)
    return "dim" in parameters and not {"attach", "adapt"} & methods


NAMES = [name for name in sorted(registry.table("connectors")) if outside(name)]


@pytest.fixture(params=NAMES)
def connector(request: pytest.FixtureRequest) -> Connector:
    torch.manual_seed(0)
    return registry.load("connectors", request.param).tiny(DIM, LLM)


def features(connector: Connector, n: int = 3) -> Features:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.Size(connector.tiny_grid).numel()
    layers = {-2: torch.randn(n, tokens, DIM, generator=generator)}
    facts = type(connector).tiny_facts(n)
    return Features(layers, torch.ones(n, tokens, dtype=torch.bool), connector.tiny_grid, None, facts)


def said(connector: Connector, given: Features) -> torch.Tensor:
    """What it gives in training, and what it adds to the loss, weighed to one number.

    Each item is in a conversation of its own: two words of the user, two of the assistant.
    """
    n = len(given.mask)
    owners, ids = torch.arange(n), torch.arange(n).repeat_interleave(4)[None]
    spoken = torch.tensor([False, False, True, True]).repeat(n)[None]
    connector.source = "it"
    by_key = {"it": owners}
    present, items = {"it": owners >= 0}, {"it": ids}
    asked = torch.where(spoken, -1, 0)
    places = {"it": owners[:0]}
    connector.route(Pass(ids, ids >= 0, present, items, by_key, places, ("",) * n, spoken, asked))
    text = torch.randn(4 * n, LLM.dim, generator=torch.Generator().manual_seed(3)) if connector.reads_text else None
    out = connector.train()(given, text)
    total = (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum()
    extra = connector.extra_loss()
    return total if extra is None else total + extra


def test_the_walk_covers_the_connectors_between_encoder_and_llm() -> None:
    assert set(NAMES) >= {"mlp", "pool", "pixel_shuffle", "resampler", "c_abstractor", "identity"}


def test_tokens_are_known_before_the_forward(connector: Connector) -> None:
    given = features(connector)
    out = connector(given)
    assert out.shape == (3, connector.tokens(given.grid), LLM.dim)
    assert out.isfinite().all()


def test_items_do_not_influence_each_other(connector: Connector) -> None:
    given = features(connector)
    together = connector(given)
    for n in range(3):
        alone = connector(given.only(torch.tensor([n]), given.grid))
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient(connector: Connector) -> None:
    if not list(connector.parameters()):
        pytest.skip("nothing to learn in it")
    said(connector, features(connector)).backward()
    without = [n for n, p in connector.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert without == []


def test_gradients_reach_the_features(connector: Connector) -> None:
    given = features(connector)
    given.layers[-2].requires_grad_(True)
    weights = torch.randn(3, connector.tokens(connector.tiny_grid), LLM.dim, generator=torch.Generator().manual_seed(2))
    (connector(given) * weights).sum().backward()
    assert (given.layers[-2].grad.abs().sum(-1) > 0).all()


def test_train_and_eval_give_the_same(connector: Connector) -> None:
    assert torch.equal(connector.train()(features(connector)), connector.eval()(features(connector)))


def test_bfloat16_in_bfloat16_out(connector: Connector) -> None:
    given = features(connector)
    half = replace(given, layers={-2: given.layers[-2].bfloat16()})
    assert connector.bfloat16()(half).dtype == torch.bfloat16


def test_nothing_happens_inside_the_llm_and_no_loss_is_added(connector: Connector) -> None:
    connector(features(connector))
    assert connector.attach(LLM) is None
    assert connector.extra_loss() is None
