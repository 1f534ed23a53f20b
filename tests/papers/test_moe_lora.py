"""MoE-LoRA: the published forms against the equations, token by token; balance and supervision by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmllm.connectors.llm_adapters.moe_lora.experts import Experts
from mmllm.connectors.llm_adapters.moe_lora.moe_lora import MoeLoraConnector
from mmllm.connectors.llm_adapters.moe_lora.routing import ALLOCATIONS, Routing, experts_per_block
from mmllm.errors import MmllmError
from mmllm.model.loss import label_nll
from mmllm.model.metrics import plain
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from tests.support.assemblies import batch_of
from tests.support.experts import FORMS, LLAVA_MOLE, LORAMOE, METEORA, MOLA_BALANCED, with_moe
from tests.support.forward import logits
from tests.support.inside import ROWS
from tests.support.parts import tiny_llm


class Plain:
    """The equations, one token and one expert at a time, in place of a frozen layer's forward."""

    def __init__(self, moe: MoeLoraConnector, words: dict[str, Any]) -> None:
        self.weights = {name: p.detach() for name, p in moe.named_parameters()}
        self.words = {"top_k": 1, "renormalise": False, "temperature": 1.0, "router": "block", **words}
        self.logits: dict[str, list[Tensor]] = {}
        self.chosen: dict[str, list[list[int]]] = {}

    def mixture(self, router: str, token: Tensor) -> list[tuple[int, Tensor]]:
        """(expert, weight) of one token."""
        logits = self.weights[f"routers.{router}.linear.weight"] @ token
        if f"routers.{router}.linear.bias" in self.weights:
            logits = logits + self.weights[f"routers.{router}.linear.bias"]
        k, tau = self.words["top_k"], self.words["temperature"]
        best = sorted(range(len(logits)), key=lambda e: -float(logits[e]))[: k or None]
        self.logits.setdefault(router, []).append(logits)
        self.chosen.setdefault(router, []).append(best)
        if self.words["renormalise"]:
            return list(zip(best, torch.softmax(logits[best] / tau, dim=0), strict=True))
        return [(e, torch.softmax(logits / tau, dim=0)[e]) for e in best]

    def added(self, name: str, mixture: list[tuple[int, Tensor]], token: Tensor) -> Tensor:
        """What the experts of one layer add to its output for one token."""
        a, b = (self.weights[f"experts.{name.replace('.', '-')}.{which}"] for which in "ab")
        scale = self.words["alpha"] / self.words["rank"]
        return sum(weight * scale * (b[e].T @ (a[e] @ token)) for e, weight in mixture)  # type: ignore[return-value]

    def attach(self, llm: Any) -> list[Any]:
        """Compute each layer's output anew: float[1, S, out]."""
        hooks = []
        for block in range(llm.n_blocks):
            linears = llm.block_linears(block)
            decided: list[list[tuple[int, Tensor]]] = []

            def decide(_: Any, args: Any, block: int = block, decided: Any = decided) -> None:
                decided[:] = [self.mixture(str(block), token) for token in args[0][0]]

            if self.words["router"] == "block":
                hooks.append(llm.blocks[block].mlp.register_forward_pre_hook(decide))
            for name, base in {**linears["attention"], **linears["mlp"]}.items():

                def change(_: Any, args: Any, output: Tensor, name: str = name, decided: Any = decided) -> Tensor:
                    key, tokens = name.replace(".", "-"), args[0][0]
                    if f"attention.{key}.a.weight" in self.weights:
                        a, b = (self.weights[f"attention.{key}.{which}.weight"] for which in "ab")
                        return output + self.words["alpha"] / self.words["rank"] * (tokens @ a.T @ b.T)
                    if f"experts.{key}.a" not in self.weights:
                        return output
                    own = decided if self.words["router"] == "block" else [self.mixture(key, t) for t in tokens]
                    rows = [self.added(name, mixture, t) for mixture, t in zip(own, tokens, strict=True)]
                    return output + torch.stack(rows)

                hooks.append(base.register_forward_hook(change))
        return hooks


def plain_states(words: dict[str, Any]) -> tuple[MultimodalLM, MoeLoraConnector, Tensor, Plain, Tensor]:
    """MultimodalLM, connector, its logits; the plain statement after the same pass, and its logits."""
    model, moe = with_moe(words)
    batch = batch_of(model, ROWS)
    ours = logits(model, batch)
    handle = model.handles["moe"]
    assert handle is not None
    handle.remove()
    stated = Plain(moe, words)
    hooks = stated.attach(model.llm)
    theirs = logits(model, batch)
    for hook in hooks:
        hook.remove()
    assert not torch.allclose(logits(model, batch), ours, atol=1e-2)
    return model, moe, ours, stated, theirs


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_equals_the_papers_equations(form: str) -> None:
    _, _, ours, _, theirs = plain_states(FORMS[form])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def losses_of(words: dict[str, Any]) -> tuple[Tensor, Plain, Tensor, list[str]]:
    """Our extra loss of the rows; the plain statement; conversation of each position, sources of conversations."""
    model, moe = with_moe(words)
    set_trainable(model, {"connectors.moe": 1e-3})
    batch = batch_of(model, ROWS)
    _, extra, _ = model.train()(batch)
    with torch.no_grad():
        stated = plain_states(words)[3]
    own = moe.extra_loss(model.hidden(batch)[0])
    assert own is not None and torch.equal(own, extra)
    return extra, stated, batch.sequence_ids, batch.dataset_names


def test_llava_moles_balance_is_per_conversation_over_all_blocks() -> None:
    extra, stated, sequence_ids, _ = losses_of(LLAVA_MOLE)
    total = 0.0
    for row in range(len(ROWS)):
        where = (sequence_ids == row).nonzero().flatten().tolist()
        p = torch.stack([logits[s].softmax(-1) for logits in stated.logits.values() for s in where]).mean(0)
        sent = [chosen[s][0] for chosen in stated.chosen.values() for s in where]
        total += sum(float(p[e]) * sent.count(e) / len(sent) for e in range(3))
    assert extra.item() == pytest.approx(0.5 * total / len(ROWS), rel=1e-5)


def test_molas_balance_is_per_block_times_experts() -> None:
    extra, stated, _, _ = losses_of(MOLA_BALANCED)
    total = 0.0
    for block, n in enumerate(experts_per_block("inverted_triangle", 5, 4)):
        routers = [name for name in stated.logits if f"layers-{block}-" in name]
        assert len(routers) == 7
        p = torch.stack([token.softmax(-1) for name in routers for token in stated.logits[name]])
        sent = [pair for name in routers for pair in stated.chosen[name]]
        total += n * sum(float(p[:, e].mean()) * sum(e in pair for pair in sent) / len(sent) for e in range(n))
    assert extra.item() == pytest.approx(0.5 * total, rel=1e-5)


def test_molas_balance_is_the_switch_balance_over_top_k() -> None:
    """MoLA's code divides the tokens of an expert by all choices, which are top_k a token; ``switch`` by tokens."""
    theirs, switch = (losses_of({**MOLA_BALANCED, "balance": name})[0] for name in ("mola", "switch"))
    assert theirs == switch / 2 > 0


def test_loramoes_balance_parts_the_experts_by_the_kind_of_data() -> None:
    """Var(z) / mean(z)^2 over conversations and experts, z = (1 +- shift) q, q a conversation's mean; by router."""
    halves = {"captions": 0, "text": 1, "instruct": 1}
    words = {**LORAMOE, "experts": 4, "balance": "localized", "balance_weight": 0.5, "balance_shift": 0.2}
    extra, stated, sequence_ids, sources = losses_of({**words, "halves": halves})
    total = 0.0
    for tokens in stated.logits.values():
        z = []
        for row, source in enumerate(sources):
            where = (sequence_ids == row).nonzero().flatten().tolist()
            q = torch.stack([tokens[s].softmax(-1) for s in where]).mean(0)
            z += [float(q[e]) * (1.2 if e // 2 == halves[source] else 0.8) for e in range(4)]
        mean = sum(z) / len(z)
        total += sum((value - mean) ** 2 for value in z) / (len(z) - 1) / mean**2
    assert len(stated.logits) == 28 and len(set(sources)) > 1
    assert extra.item() == pytest.approx(0.5 * total, rel=1e-4)


def test_meteoras_gates_are_taught_the_task_of_their_data() -> None:
    extra, stated, sequence_ids, sources = losses_of(METEORA)
    task = {"captions": 0, "text": 2}
    values = [
        F.cross_entropy(token, torch.tensor(task[sources[row]]))
        for logits in stated.logits.values()
        for token, row in zip(logits, sequence_ids.tolist(), strict=True)
        if sources[row] in task
    ]
    assert extra.item() == pytest.approx(0.7 * float(torch.stack(values).mean()), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_task_teaches_the_router_and_recomputation_counts_once(form: str) -> None:
    """Gradient of the task's loss alone; usage and gradients are the same with gradient checkpointing."""
    model, moe = with_moe(FORMS[form])
    model.train()
    learning = dict(moe.named_parameters())
    set_trainable(model, {"connectors.moe": 1e-3})
    batch, found, reports = batch_of(model, ROWS), [], []
    for recompute in (False, True):
        model.llm.gradient_checkpointing(recompute)
        for parameter in learning.values():
            parameter.grad = None
        ctx, states = model.hidden(batch)
        nll = label_nll(model.llm, states, batch.labels, ctx)
        extra = moe.extra_loss(ctx)
        reports.append(plain(model.metrics(ctx)))
        if not recompute:
            gates = [p for name, p in learning.items() if name.startswith("routers")]
            for gradient in torch.autograd.grad(nll, gates, retain_graph=True):
                assert gradient.abs().sum() > 0
        (nll if extra is None else nll + extra).backward()
        reports.append(plain(model.metrics(ctx)))
        found.append({name: p.grad for name, p in learning.items()})
    assert reports[0] == reports[1] == reports[2] == reports[3] != {}
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_an_expert_without_tokens_has_zero_gradients() -> None:
    torch.manual_seed(0)
    layer = Experts(8, 12, 3, 4, 8, 0.0)
    torch.nn.init.normal_(layer.b)
    logits = torch.tensor([[9.0, 0.0, 1.0]] * 5 + [[0.0, 0.0, 9.0]] * 2, requires_grad=True)
    routing = Routing.of(logits, 1, False, 1.0)
    rest = (routing.weights, routing.chosen, routing.order, routing.inverse, routing.ends)
    layer(torch.randn(7, 8), *rest).square().sum().backward()
    assert layer.a.grad is not None and layer.b.grad is not None
    assert not layer.a.grad[1].any() and not layer.b.grad[1].any()
    assert layer.a.grad[0].any() and layer.a.grad[2].any()


@pytest.mark.parametrize("n_blocks", [4, 5, 6, 28, 32])
@pytest.mark.parametrize("mean", [3, 5])
def test_allocations_have_equal_totals(n_blocks: int, mean: int) -> None:
    for name in ALLOCATIONS:
        assert sum(experts_per_block(name, mean, n_blocks)) == mean * n_blocks
    assert experts_per_block("inverted_triangle", 5, 8) == [2, 2, 4, 4, 6, 6, 8, 8]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"rank": 0}, "rank 0"),
        ({"renormalise": True}, "every weight is 1"),
        ({"top_k": 5}, "top_k 5"),
        ({"top_k": 0, "balance_weight": 0.1}, "no load"),
        ({"balance": "even"}, "known: llava_mole, switch, mola, localized"),
        ({"balance": "localized", "top_k": 0}, "belong together"),
        ({"halves": {"a": 0}}, "belong together"),
        ({"balance": "localized", "top_k": 0, "halves": {"a": 2}}, "name 0 or 1"),
        ({"balance": "localized", "top_k": 0, "halves": {"a": 1}, "balance_shift": 2}, "balance_shift 2"),
        ({"balance": "localized", "top_k": 0, "halves": {"a": 1}, "balance_weight": 1, "experts": 3}, "two halves"),
        ({"experts": [2, 3]}, "lists 2 blocks"),
        ({"experts": "pyramid"}, "known: uniform"),
        ({"experts": "triangle", "experts_mean": 0.5}, "at least 1"),
        ({"experts": "triangle", "balance_weight": 0.1}, "use switch"),
        ({"targets": "all-linear"}, "router: linear"),
        ({"targets": ["q_pro"], "router": "linear"}, "q_pro"),
        ({"supervised": {"a": 4}, "supervision_weight": 1.0}, "experts 0 to 3"),
        ({"supervised": {"a": 1}}, "both or neither"),
    ],
)
def test_refusals(words: dict[str, Any], said: str) -> None:
    llm = tiny_llm()
    with pytest.raises(MmllmError, match=said):
        MoeLoraConnector(llm_dim=llm.dim, **words).attach(llm)


def test_data_without_a_task_is_refused_in_training() -> None:
    words = {**LORAMOE, "experts": 4, "balance": "localized", "balance_weight": 0.5, "halves": {"captions": 0}}
    model, _ = with_moe(words)
    with pytest.raises(MmllmError, match="no half for the data 'text'"):
        model.train()(batch_of(model, ROWS))
    model, _ = with_moe({**METEORA, "supervised": {"captions": 0}})
    with pytest.raises(MmllmError, match="no expert for the data 'text'"):
        model.train()(batch_of(model, ROWS))
