"""The conformer adapter: bands, class tokens and padding stay apart; its statistics are those of real tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.encoder_adapters.conformer_adapter import ConformerAdapterConnector, ConformerModule
from mmllm.connectors.layers.batch_norm import RealBatchNorm
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from tests.support.parts import randomise

D = 8


def module(norm: str = "batch") -> ConformerModule:
    """All weights drawn."""
    torch.manual_seed(0)
    made = ConformerModule(D, 3, 5, norm, 0.0).eval()
    randomise(made, buffers=True)
    return made


def tokens(rows: int, count: int) -> Tensor:
    return torch.randn(rows, count, D, generator=torch.Generator().manual_seed(1))


def test_it_is_the_convolution_module_written_out() -> None:
    """One line of time without class tokens: the layers of PETL_AST's wav2vec2 code, one after the other."""
    made, x = module(), tokens(2, 9)
    gate = nn.functional.glu(made.first(made.before(x)), dim=-1)
    mixed = torch.zeros_like(gate)
    for t in range(9):
        for k in range(5):
            if 0 <= t + k - 2 < 9:
                mixed[:, t] += made.conv.weight[:, 0, k] * gate[:, t + k - 2]
    norm = made.norm
    assert isinstance(norm, RealBatchNorm) and made.conv.bias is not None
    mixed = (mixed + made.conv.bias - norm.mean) / (norm.var + 1e-5).sqrt() * norm.weight + norm.bias
    expected = made.last(nn.functional.silu(mixed))
    torch.testing.assert_close(made(x, TokenLayout((1, 1), (9,), 0), 2), expected, rtol=1e-4, atol=1e-5)


def test_bands_and_class_tokens_stay_apart() -> None:
    made, x, layout = module(), tokens(1, 2 + 8), TokenLayout((1,), (2, 4), 2)
    changed = x.clone()
    changed[:, 2 + 3] = x[:, 0]  # the last time of the first band
    same = (made(x, layout, 1) == made(changed, layout, 1)).all(-1)[0]
    assert same.tolist() == [True, True, True, False, False, False, True, True, True, True]


def test_padding_changes_nothing() -> None:
    made, x = module(), tokens(2, 6)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    layout = TokenLayout((1, 1), (6,), 0, mask)
    other = x.clone()
    other[0, 4:] = 100.0
    assert torch.equal(made(x, layout, 2)[0, :4], made(other, layout, 2)[0, :4])
    alone = made(x[:1, :4], TokenLayout((1,), (4,), 0), 1)
    torch.testing.assert_close(made(x, layout, 2)[:1, :4], alone)


def test_the_norm_is_torchs_over_real_tokens() -> None:
    """Outputs in both modes and running statistics, beside nn.BatchNorm1d that gets the real tokens only."""
    ours, theirs = RealBatchNorm(4), nn.BatchNorm1d(4)
    real = torch.tensor([[True, True, False], [True, True, True]])
    for seed in range(3):
        x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)) * 3 + 1
        torch.testing.assert_close(ours(x, real)[real], theirs(x[real]))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.var, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, real)[real], theirs(x[real]))


def test_frozen_or_without_a_real_token_it_keeps_its_statistics() -> None:
    norm, x = RealBatchNorm(4), torch.randn(2, 3, 4)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert {"mean", "var"} <= before.keys()
    out = norm(x, torch.zeros(2, 3, dtype=torch.bool))
    out.sum().backward()
    norm.requires_grad_(False)
    frozen = norm.train()(x, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(frozen, norm.eval()(x, torch.ones(2, 3, dtype=torch.bool)))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_blank_items_are_not_counted() -> None:
    made, x, layout = module(), tokens(2, 6), TokenLayout((1, 1), (6,), 0)
    norm = made.train().norm
    assert isinstance(norm, RealBatchNorm)
    before = norm.mean.clone()
    made(x, layout, 0)
    assert torch.equal(norm.mean, before)
    made(x, layout, 1)
    assert not torch.equal(norm.mean, before)


def test_what_it_refuses() -> None:
    with pytest.raises(MmllmError, match="kernel 4 odd"):
        ConformerAdapterConnector(llm_dim=8, kernel=4)
    with pytest.raises(MmllmError, match="norm 'group' is unknown; known: batch, layer"):
        ConformerAdapterConnector(llm_dim=8, norm="group")  # type: ignore[arg-type]
