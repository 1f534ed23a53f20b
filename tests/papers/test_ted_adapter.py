"""TED-Adapter against its formulas written out frame by frame; what it sees of time, and that clips never mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmllm.connectors.encoder_adapters.ted_adapter import Branch, TedAdapterConnector, TedLayer, before
from mmllm.errors import MmllmError
from mmllm.hooks import TokenLayout
from tests.support.parts import randomise

ROWS, GRID, PREFIX, D = (3, 1, 4), (2, 3), 2, 8
LAYOUT = TokenLayout(ROWS, GRID, PREFIX)


def layer(enhancement: bool = True, difference: bool = True) -> TedLayer:
    """One place, all weights drawn."""
    torch.manual_seed(0)
    made = TedLayer(D, 4, enhancement, difference)
    randomise(made, buffers=True)
    return made


def frames(seed: int = 1) -> Tensor:
    """float[8, 2 + 6, D]: clips of 3, 1 and 4 frames."""
    return torch.randn(sum(ROWS), PREFIX + 6, D, generator=torch.Generator().manual_seed(seed))


def branch(made: TedLayer, name: str) -> Branch:
    found = made.branches[name]
    assert isinstance(found, Branch)
    return found


def written_out(made: TedLayer, clip: Tensor) -> Tensor:
    """What both branches add to one clip float[T, 2 + 6, D], by loops."""
    time, space = branch(made, "enhancement"), branch(made, "difference")
    inner, added = time.down(clip), torch.zeros_like(clip)
    for t in range(len(clip)):
        mixed = time.conv.bias.expand_as(inner[t])  # type: ignore[union-attr]
        for offset in (-1, 0, 1):
            if 0 <= t + offset < len(clip):
                mixed = mixed + time.conv.weight[:, 0, offset + 1] * inner[t + offset]
        added[t] = time.up(mixed)
        change = space.down((clip[t] - clip[max(0, t - 1)])[PREFIX:]).view(*GRID, -1)
        moved = functional.conv2d(
            change.permute(2, 0, 1)[None], space.conv.weight, space.conv.bias, padding=1, groups=4
        )[0].permute(1, 2, 0)
        added[t, PREFIX:] = added[t, PREFIX:] + space.up(moved.reshape(6, -1))
    return added


def test_clips_of_different_lengths_give_what_is_written_out() -> None:
    made, x = layer(), frames()
    expected = torch.cat([written_out(made, clip) for clip in x.split(ROWS)])
    torch.testing.assert_close(made(x, LAYOUT), expected, rtol=1e-5, atol=1e-5)


def test_equal_clips_give_what_is_written_out() -> None:
    made, x = layer(), frames()
    expected = torch.cat([written_out(made, clip) for clip in x.split(4)])
    torch.testing.assert_close(made(x, TokenLayout((4, 4), GRID, PREFIX)), expected, rtol=1e-5, atol=1e-5)


def test_clips_never_mix() -> None:
    made, x = layer(), frames()
    other = torch.cat([x[:3], frames(2)[3:]])
    assert torch.equal(made(x, LAYOUT)[:3], made(other, LAYOUT)[:3])


@pytest.mark.parametrize("kind", ["enhancement", "difference"])
def test_order_counts_and_stillness_does_not(kind: str) -> None:
    """A clip backwards is no clip backwards of the result; frames all alike have no change to see."""
    made, x = layer(kind == "enhancement", kind == "difference"), frames()[4:]
    layout = TokenLayout((4,), GRID, PREFIX)
    assert not torch.allclose(made(x, layout).flip(0), made(x.flip(0), layout), atol=1e-3)
    still = made(x[:1].expand(4, -1, -1), layout)
    if kind == "difference":
        assert torch.equal(still, still[:1].expand_as(still))
        assert torch.equal(made(x, layout)[:, :PREFIX], torch.zeros(4, PREFIX, D))
    torch.testing.assert_close(still[1], still[2])


def test_the_frame_before() -> None:
    assert before(ROWS).tolist() == [0, 0, 1, 3, 4, 4, 5, 6]


def test_what_it_refuses() -> None:
    with pytest.raises(MmllmError, match=r"difference needs frames of rows x cols, this encoder's are \(6,\)"):
        layer()(frames(), TokenLayout(ROWS, (6,), PREFIX))
    with pytest.raises(MmllmError, match="enhancement or difference must be true"):
        TedAdapterConnector(llm_dim=8, enhancement=False, difference=False)
    with pytest.raises(MmllmError, match="places 'heads' is unknown; known: both, attention, mlp"):
        TedAdapterConnector(llm_dim=8, places="heads")  # type: ignore[arg-type]
