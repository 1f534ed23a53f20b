"""``window_qformer``: SALMONN's windows over two encoders and Granite Speech's, against what both models' code does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechEncoderProjector

from mmllm.connectors.projectors.window_qformer import WindowQFormerConnector
from mmllm.errors import MmllmError
from mmllm.testing import check_projector
from mmllm.testing.tiny.weights import randomise
from mmllm.types import Features

LLM, WIDTH = 10, 8


def heard(width: int, *times: int) -> Features:
    """Sounds of these lengths."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(len(times), max(times), width, generator=generator)
    mask = torch.arange(max(times)) < torch.tensor(times)[:, None]
    return Features({-1: x}, mask, (max(times),), tuple((time,) for time in times))


def made(**words: Any) -> WindowQFormerConnector:
    torch.manual_seed(0)
    args = {"dim": 10, "llm_dim": LLM, "window": 4, "heads": 2, "width": WIDTH, **words}
    connector = WindowQFormerConnector(**args)
    randomise(connector)
    return connector.eval()


def salmonn(connector: WindowQFormerConnector, whisper: Tensor, beats: Tensor) -> Tensor:
    """Its own steps for one sound: float[T, 6] and float[T', 4] -> float[windows, LLM]."""
    speech, audio = connector.norms[0](whisper[None]), connector.norms[1](beats[None])
    more = speech.shape[1] - audio.shape[1]
    audio, speech = functional.pad(audio, (0, 0, 0, max(0, more))), functional.pad(speech, (0, 0, 0, max(0, -more)))
    both = torch.cat([speech, audio], dim=-1).transpose(1, 2).unsqueeze(2)
    cut = functional.unfold(both, kernel_size=(1, 4), dilation=1, padding=0, stride=(1, 4))
    windows = cut.view(1, both.shape[1], 4, -1).permute(0, 3, 2, 1).reshape(-1, 4, both.shape[1])
    queries = connector.queries.expand(len(windows), -1, -1)
    states = connector.qformer(
        query_embeds=queries,
        encoder_hidden_states=windows,
        encoder_attention_mask=torch.ones(windows.shape[:2], dtype=torch.long),
    ).last_hidden_state
    return connector.output(states)[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("times", [((11, 9),), ((9, 14),), ((11, 9), (9, 14), (4, 4))])
def test_it_is_salmonns(times: tuple[tuple[int, int], ...]) -> None:
    """The shorter encoder is followed by zeros, which are read; a rest of less than a window is not."""
    connector = made(widths=[6, 4], rest="drop")
    whisper, beats = (heard(width, *(pair[k] for pair in times)) for k, width in enumerate((6, 4)))
    found = connector(whisper, beats)
    for number, (first, second) in enumerate(times):
        expected = salmonn(connector, whisper.layers[-1][number, :first], beats.layers[-1][number, :second])
        assert connector.out_grid((first,), (second,)) == (len(expected), 1, 1)
        torch.testing.assert_close(found[number, : len(expected)], expected, atol=1e-5, rtol=1e-5)
    layer = connector.qformer.encoder.layer
    assert len(layer) == 2 and all(one.has_cross_attention for one in layer)


@torch.no_grad()
@pytest.mark.parametrize("time", [1, 4, 9, 12])
def test_it_is_granite_speechs(time: int) -> None:
    """transformers' own projector on the same weights: a last window is filled with zeros, which are read."""
    connector = made(queries=2, depth=3, every=2, norm=False, rest="zeros")
    own = t.Blip2QFormerConfig(
        hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2, intermediate_size=4 * WIDTH,
        encoder_hidden_size=10, cross_attention_frequency=2,
    )  # fmt: skip
    config = t.GraniteSpeechConfig(
        text_config=t.GraniteConfig(hidden_size=LLM), projector_config=own, window_size=4, downsample_rate=2
    )
    theirs = GraniteSpeechEncoderProjector(config).eval()
    theirs.qformer.load_state_dict(connector.qformer.state_dict())
    theirs.linear.load_state_dict(connector.output.state_dict())
    theirs.query.copy_(connector.queries[None])
    given = heard(10, time)
    torch.testing.assert_close(connector(given), theirs(given.layers[-1]), atol=1e-6, rtol=1e-6)


def test_thirty_seconds_of_whisper_are_88_tokens() -> None:
    connector = made(window=17, rest="drop")
    assert connector.n_tokens((1500,)) == 88 and connector.n_tokens((16,)) == 1


@pytest.mark.parametrize("rest", ["own", "zeros"])
@torch.no_grad()
def test_items_of_all_lengths_are_as_alone(rest: Any) -> None:
    connector, given = made(rest=rest), heard(10, 9, 1, 4, 6)
    together = connector(given)
    for number, grid in enumerate(given.item_grids()):
        alone = connector(given.only(torch.tensor([number]), grid))[0]
        torch.testing.assert_close(together[number, : len(alone)], alone, atol=1e-5, rtol=1e-5)
        assert not together[number, len(alone) :].any()


def test_the_contract_holds_for_two_encoders() -> None:
    def maker(dim: int, llm_dim: int) -> WindowQFormerConnector:
        return WindowQFormerConnector(
            dim=dim, llm_dim=llm_dim, window=3, queries=2, heads=2, width=8, widths=[dim // 2, dim // 2]
        )

    check_projector(maker, grids=[(7,), (5,)])


def test_what_it_refuses() -> None:
    with pytest.raises(MmllmError, match=r"widths: \[6, 5\] are not the 10 of its encoders'"):
        made(widths=[6, 5])
    with pytest.raises(MmllmError, match="rest: 'cut' is unknown; known: own, zeros, drop"):
        made(rest="cut")
    with pytest.raises(MmllmError, match=r"are of 1 encoders, and it has 2"):
        made().out_grid((4,), (4,))
    with pytest.raises(MmllmError, match=r"grids \[4, 2\] and \[4\] differ in more than their length"):
        made(widths=[6, 4]).out_grid((4, 2), (4,))
    assert isinstance(made(norm=False).norms[0], nn.Identity)
