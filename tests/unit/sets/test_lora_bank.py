"""The tables that LoRAs of many sets lie in: what they add, whose rows they leave alone, and what they hold."""

from __future__ import annotations

import random

import torch

from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.hooks import Handle
from mmllm.sets.lora_bank import FEW, LoraBank, Rows, low_rank
from tests.support.parts import randomise, tiny_llm


def drawn(rank: int, seed: int, alpha: float = 4.0) -> LoraConnector:
    """A LoRA that was attached once, so that it has weights."""
    llm = tiny_llm("llama")
    connector = LoraConnector(llm_dim=llm.dim, rank=rank, alpha=alpha)
    made: Handle = connector.attach(llm)
    made.remove()
    torch.manual_seed(seed)
    randomise(connector)
    return connector.requires_grad_(False)


def bank_of(*connectors: LoraConnector) -> LoraBank:
    """A bank with these in it."""
    linears = tiny_llm("llama").linears("all-linear")
    bank = LoraBank(LoraBank.kind_of(connectors[0], linears), next(connectors[0].parameters()))
    for one in connectors:
        bank.add(one)
    return bank


def held(bank: LoraBank) -> int:
    """Numbers in all tables."""
    return sum(table.numel() for table in (*bank.a.values(), *bank.b.values()))


@torch.no_grad()
def test_each_row_gets_its_own_update_and_others_stay_bit_for_bit() -> None:
    one, two, three = drawn(1, 1), drawn(3, 2), drawn(5, 3, alpha=1.0)
    bank = bank_of(one, two, three)
    many = 2 * FEW
    rows = [Rows(two, 1, 3), Rows(one, 3, 4), Rows(three, 5, 5 + many), Rows(three, 6 + many, 7 + many)]
    for name, key in bank.names.items():
        x, before = torch.randn(9 + many, bank.a[name].shape[1]), torch.randn(9 + many, bank.b[name].shape[1])
        after = before.clone()
        bank.update(name, bank.plan(rows, x.device), x, after)
        expected = before.clone()
        for row in rows:
            expected[row.start : row.end] = low_rank(row.connector, key)(
                x[row.start : row.end], before[row.start : row.end]
            )
        assert torch.allclose(after, expected, atol=1e-5)
        planned = {place for row in rows for place in range(row.start, row.end)}
        others = [place for place in range(len(x)) if place not in planned]
        assert torch.equal(after[others], before[others])


@torch.no_grad()
def test_nothing_is_held_twice_and_places_are_used_again() -> None:
    connectors = [drawn(rank, rank) for rank in (2, 4, 2, 3, 5)]
    weights = {one: [weight.clone() for weight in one.parameters()] for one in connectors}
    n_own = {one: sum(weight.numel() for weight in one.parameters()) for one in connectors}
    bank = bank_of(*connectors)
    assert held(bank) == sum(n_own.values())
    first = next(iter(bank.names))
    tables = bank.a[first].untyped_storage().data_ptr()
    assert all(low_rank(one, bank.names[first]).a.weight.untyped_storage().data_ptr() == tables for one in connectors)
    bank.remove(connectors[0])
    again = drawn(2, 9)
    bank.add(again)  # in the place of the one that left
    assert held(bank) == sum(n_own.values())
    for one in connectors[1:4]:
        bank.remove(one)
    assert held(bank) == n_own[connectors[4]] + sum(weight.numel() for weight in again.parameters())
    for one in connectors:
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), weights[one], strict=True))


@torch.no_grad()
def test_places_never_overlap_and_none_is_lost_over_a_random_trace() -> None:
    chance = random.Random(0)
    idle, bank = [drawn(1 + number % 5, number) for number in range(12)], bank_of(drawn(1, 99))
    weights = {one: next(one.parameters()).clone() for one in idle}
    for _ in range(60):
        inside = [one for one in bank.members if one in weights]
        if idle and (not inside or chance.random() < 0.5):
            bank.add(idle.pop(chance.randrange(len(idle))))
        else:
            idle.append(chance.choice(inside))
            bank.remove(idle[-1])
        total = len(next(iter(bank.a.values())))
        taken = sorted([*bank.members.values(), *bank._free], key=lambda place: place.start)
        assert [place.start for place in taken] == [0, *(place.stop for place in taken[:-1])]
        assert taken[-1].stop == total and sum(one.config.r for one in bank.members) >= 0.75 * total
        assert all(torch.equal(next(one.parameters()), weight) for one, weight in weights.items())
