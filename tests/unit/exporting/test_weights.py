"""Weights that another model takes over are not copied, and a model that is released holds none any more."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmllm.exporting.weights import hand_over, in_float32, release, with_rows


def test_what_is_handed_over_stays_where_it_is_and_the_rest_is_given_back() -> None:
    run, there = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2, device="meta"), nn.BatchNorm1d(2))
    shared = copy.copy(run)  # as a head beside the model has it: the same parameters
    place = run.weight.data_ptr()
    hand_over(there, {"0.weight": run.weight, "1.running_mean": torch.ones(2)})
    release(run)
    assert there[0].weight.data_ptr() == place and there[0].weight.shape == (2, 3)
    assert not there[0].weight.is_meta and there[0].bias.is_meta
    assert there[1].running_mean.tolist() == [1, 1] and "running_mean" in dict(there[1].named_buffers())
    assert shared.weight.untyped_storage().nbytes() == run.bias.untyped_storage().nbytes() == 0
    with pytest.raises(AttributeError, match="scale"):
        hand_over(there, {"0.scale": torch.ones(2)})


def test_tied_tables_stay_tied_in_float32() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(4, 2), "head": nn.Linear(2, 4), "norm": nn.LayerNorm(2)}).bfloat16()
    model["head"].weight = model["embed"].weight
    in_float32(model, but=["norm.weight"])
    assert model["head"].weight is model["embed"].weight and model["head"].weight.dtype == torch.float32
    assert model["norm"].bias.dtype == torch.float32 and model["norm"].weight.dtype == torch.bfloat16


def test_further_rows_of_a_table_are_its_mean() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert with_rows(table, 2) is table
    assert with_rows(table, 4)[2:].tolist() == [[2, 4], [2, 4]]
