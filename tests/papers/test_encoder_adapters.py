"""AdaptFormer, VL-Adapter, mixture of adapters and fusion: their formulas, what encoders share, which blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.base import EncoderAdapter
from mmllm.connectors.encoder_adapters.adaptformer import AdaptformerConnector
from mmllm.connectors.encoder_adapters.audio_adapter_fusion import AudioAdapterFusionConnector, TaskAdapter
from mmllm.connectors.encoder_adapters.block_adapter import layout_of
from mmllm.connectors.encoder_adapters.mixture_of_adapters import MixtureOfAdaptersConnector
from mmllm.connectors.encoder_adapters.vl_adapter import VlAdapterConnector
from mmllm.connectors.layers.bottleneck import Bottleneck
from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError, SampleError
from mmllm.hooks import EncoderContext
from tests.support.adapted import encoder, inputs_of
from tests.support.fake_encoders import Bands, Whispered
from tests.support.parts import randomise

NAME = "open_clip"
TASKS = {"digits": ["fsdd"], "sounds": ["clips", "more"]}


def look(frozen: Encoder | None = None, dataset_names: tuple[str, ...] | None = None) -> Tensor:
    """Features of three items."""
    frozen = encoder(NAME) if frozen is None else frozen
    with frozen.scope.open(EncoderContext(dataset_names=dataset_names)):
        return frozen(**inputs_of(NAME)).concatenated()


def in_block(connector: EncoderAdapter) -> tuple[Tensor, Tensor, Tensor]:
    """(stream before the MLP, what the MLP reads, what the block gives more than without) of the last block."""
    frozen, seen = encoder(NAME), []
    look_in = frozen.hook_points().add_after_mlp(2, lambda _, x, read: (seen.append((x, read)), torch.zeros_like(x))[1])
    bare = look()
    handle = connector.attach(frozen, "e0")
    randomise(connector, buffers=True)
    more = look() - bare
    handle.remove()
    look_in.remove()
    return seen[0][0][:, 1:], seen[0][1][:, 1:], more


@pytest.mark.parametrize("reads", ["stream", "normed"])
def test_adaptformer_beside_the_mlp(reads: str) -> None:
    made = AdaptformerConnector(llm_dim=8, width=4, scale=0.3, reads=reads, blocks=[2]).eval()  # type: ignore[arg-type]
    stream, normed, more = in_block(made)
    layer = made.layers["e0-2"]
    assert isinstance(layer, Bottleneck)
    expected = 0.3 * layer.up(layer.down(stream if reads == "stream" else normed).relu())
    torch.testing.assert_close(more, expected, rtol=1e-4, atol=1e-5)


def test_mixture_is_the_weighted_sum_and_one_expert_is_a_plain_adapter() -> None:
    made = MixtureOfAdaptersConnector(llm_dim=8, experts=2, own=1, width=4, blocks=[2]).eval()
    _, normed, more = in_block(made)
    experts = [made.experts[name] for name in ("2-0", "2-1", "e0-2-0")]
    shares = made.gates["e0-2"](normed)
    assert torch.allclose(shares.sum(-1), torch.ones(()))
    expected = sum(shares[..., n : n + 1] * expert(normed) for n, expert in enumerate(experts))
    torch.testing.assert_close(more, expected, rtol=1e-4, atol=1e-5)
    one = MixtureOfAdaptersConnector(llm_dim=8, experts=1, own=0, width=4, activation="relu", blocks=[2]).eval()
    plain = AdaptformerConnector(llm_dim=8, width=4, scale=1.0, reads="normed", blocks=[2]).eval()
    torch.testing.assert_close(in_block(one)[2], in_block(plain)[2])
    assert not list(one.gates.parameters())


def test_what_the_encoders_of_a_vl_adapter_share() -> None:
    """(places, down, up) of two encoders with one block each: weights once or twice."""
    one, two = Bands(), Whispered()
    sizes = {}
    for share in ("all", "down", "up", "none"):
        made = VlAdapterConnector(llm_dim=8, reduction=4, share=share, blocks=[2])  # type: ignore[arg-type]
        handles = [made.attach(one, "one"), made.attach(two, "two")]
        sizes[share] = (len(made.downs), len(made.ups))
        for handle in handles:
            handle.remove()
    assert sizes == {"all": (2, 2), "down": (2, 4), "up": (4, 2), "none": (4, 4)}


@pytest.mark.parametrize("kind", ["vl", "mixture"])
def test_encoders_of_different_widths_cannot_share(kind: str) -> None:
    wide = Whispered()
    wide.dim = 24  # what its hook points then say
    made: EncoderAdapter = VlAdapterConnector(llm_dim=8) if kind == "vl" else MixtureOfAdaptersConnector(llm_dim=8)
    made.attach(Bands(), "a")
    with pytest.raises(MmllmError, match='encoder "b" is 24 wide and those before it 16'):
        made.attach(wide, "b")


def fusion(**words: object) -> AudioAdapterFusionConnector:
    """In the last block of a fresh encoder, drawn."""
    torch.manual_seed(0)
    made = AudioAdapterFusionConnector(llm_dim=8, tasks=TASKS, width=4, blocks=[2], **words)  # type: ignore[arg-type]
    return made


def mixed_of(
    made: AudioAdapterFusionConnector, dataset_names: tuple[str, ...] | None = None
) -> tuple[list[Tensor], Tensor]:
    """(what each task's adapter alone adds, what the connector adds) with drawn weights."""
    frozen = encoder(NAME)
    bare = look()
    handle = made.attach(frozen, "e0")
    randomise(made, buffers=True)
    frozen.adapters[:] = [made]
    try:
        with torch.no_grad():
            more = look(dataset_names=dataset_names) - bare
    finally:  # the encoder is shared with other tests
        handle.remove()
        frozen.adapters[:] = []
    with torch.no_grad():
        layers = [nn.ModuleDict(dict(made.adapters[task].named_children()))["e0-2"] for task in TASKS]
        return [layer(bare) for layer in layers if isinstance(layer, TaskAdapter)], more


def test_fusion_mixes_without_knowing_the_task() -> None:
    alone, more = mixed_of(fusion(alpha="uniform").eval())
    torch.testing.assert_close(more, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-5)
    made = fusion(alpha="learned").eval()
    alone, more = mixed_of(made)
    shares = made.alpha["e0-2"](alone[0])[0, 0].detach()
    assert float(shares.sum()) == pytest.approx(1) and shares[0] != shares[1]
    torch.testing.assert_close(more, shares[0] * alone[0] + shares[1] * alone[1], rtol=1e-4, atol=1e-5)
    made = fusion(alpha="attention").eval()
    alone, more = mixed_of(made)
    shares = made.alpha["e0-2"](look())
    expected = shares[..., :1] * alone[0] + shares[..., 1:] * alone[1]
    torch.testing.assert_close(more, expected, rtol=1e-4, atol=1e-5)
    alone, more = mixed_of(fusion(only="sounds").eval())
    torch.testing.assert_close(more, alone[1], rtol=1e-4, atol=1e-5)


def test_while_adapters_learn_each_item_uses_its_tasks_own() -> None:
    alone, more = mixed_of(fusion().train(), ("more", "fsdd", "clips"))
    torch.testing.assert_close(more[0], alone[1][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(more[1], alone[0][1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(more[2], alone[1][2], rtol=1e-4, atol=1e-5)
    with pytest.raises(SampleError, match='no task names the data entry "other"; its tasks name fsdd, clips, more'):
        mixed_of(fusion().train(), ("fsdd", "other", "clips"))


@pytest.mark.parametrize(
    ("blocks", "layers", "expected"),
    [("all", (-1,), [0, 1, 2]), ("top half", (-1,), [1, 2]), ("all", (-2,), [0, 1]), ([1, 0], (0, 2), [1, 0])],
)
def test_which_blocks(blocks: str | list[int], layers: tuple[int, ...], expected: list[int]) -> None:
    """Blocks behind the last layer that is read would never learn."""
    frozen = Whispered()
    frozen.layers = layers
    made = AdaptformerConnector(llm_dim=8, width=4, blocks=blocks)
    made.attach(frozen, "audio").remove()
    assert list(made.layers) == [f"audio-{block}" for block in expected]


@pytest.mark.parametrize("blocks", [[3], [0, 0], [], [-1]])
def test_blocks_that_are_not_there(blocks: list[int]) -> None:
    with pytest.raises(MmllmError, match='different numbers from 0 to 2, the blocks of encoder "audio"'):
        AdaptformerConnector(llm_dim=8, blocks=blocks).attach(Whispered(), "audio")
    with pytest.raises(MmllmError, match='blocks "bottom" is unknown; known: all, top half, or a list'):
        AdaptformerConnector(llm_dim=8, blocks="bottom")


def test_an_encoder_that_says_nothing_of_its_rows() -> None:
    with pytest.raises(MmllmError, match="ted_adapter: its encoder does not say what its rows are"):
        layout_of(EncoderContext(), "ted_adapter")
