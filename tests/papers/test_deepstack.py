"""DeepStack inside the LLM and the Dense Connector before it: both read more of the encoder for the same few tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.deep_fusion.deepstack import DeepstackConnector
from mmllm.connectors.projectors.dense_connector import DenseConnector
from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny.models import copied_vision
from mmllm.types import Batch, Features
from tests.support.assemblies import Row, assembly_of, batch_of
from tests.support.forward import logits

ROWS = (Row(1, (3, "image", 2, "image", 4)), Row(2, (6,)), Row(3, ("image", 5)))
PLACES = [*range(3, 7), *range(9, 13), *range(23, 27)]
"""Of three items with four tokens each; the rows have 17, 6 and 9 positions."""
DIM, LLM = 6, 10


def stacked(family: str = "llama", **words: Any) -> MultimodalLM:
    """A tiny LLM with stacks; where they come from the encoder's layers, it gives three of them."""
    encoder = copied_vision()
    encoder.layers = (1, 2, -1) if words.get("stacks") == "layers" else (-2,)
    return assembly_of(DeepstackConnector, family, encoder, **words)


def states_of(model: MultimodalLM, batch: Batch) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Block -> what entered it and what left it, float[S, D]."""
    entered: dict[int, Tensor] = {}
    left: dict[int, Tensor] = {}
    for index, block in enumerate(model.llm.blocks):
        block.register_forward_pre_hook(lambda _, args, i=index: entered.__setitem__(i, args[0][0]))
        block.register_forward_hook(lambda _, args, out, i=index: left.__setitem__(i, out[0]))
    logits(model, batch)
    return entered, left


def mlp(x: Tensor, layers: nn.Sequential) -> Tensor:
    """W2 GELU(W1 x + b1) + b2."""
    x = x @ layers[0].weight.T + layers[0].bias
    return x * 0.5 * (1 + torch.erf(x / 2**0.5)) @ layers[2].weight.T + layers[2].bias


def averaged(maps: Tensor, factor: int) -> Tensor:
    """float[N, rows, cols, D] -> float[N, tokens, D], block by block in raster order."""
    rows, cols = maps.shape[1] // factor, maps.shape[2] // factor
    blocks = [
        maps[:, r * factor : (r + 1) * factor, c * factor : (c + 1) * factor].mean((1, 2))
        for r in range(rows)
        for c in range(cols)
    ]
    return torch.stack(blocks, 1)


@torch.no_grad()
def test_dilated_stacks_are_added_before_their_blocks() -> None:
    """Stack i * 2 + j is patches (2r + i, 2c + j) through the input's MLP; nothing else changes."""
    model = stacked(start=0)
    batch = batch_of(model, ROWS)
    maps = model.encoders["image"](**batch.media["image"]["image"]).concatenated().reshape(3, 4, 4, -1)
    entered, left = states_of(model, batch)
    layers = model.connectors["image"].mlp
    text = model.embed(batch)[0].text_embeds.index_copy(
        0, torch.tensor(PLACES), mlp(averaged(maps, 2), layers).flatten(0, 1)
    )
    before = {0: text, 1: left[0], 2: left[1], 3: left[2]}
    for block in range(4):
        i, j = divmod(block, 2)
        picked = [maps[:, 2 * r + i, 2 * c + j] for r in range(2) for c in range(2)]
        expected = before[block].clone()
        expected[PLACES] += mlp(torch.stack(picked, 1), layers).flatten(0, 1)
        torch.testing.assert_close(entered[block], expected, atol=1e-5, rtol=1e-5)
        others = [position for position in range(batch.n_tokens) if position not in PLACES]
        assert torch.equal(entered[block][others], before[block][others])


@torch.no_grad()
def test_stacks_of_encoder_layers_have_mlps_of_their_own() -> None:
    """The last layer listed is the input; the others are added before blocks 1 and 3 here."""
    model = stacked(stacks="layers", layers=3, interval=2)
    batch = batch_of(model, ROWS)
    features = model.encoders["image"](**batch.media["image"]["image"])
    maps = {index: layer.reshape(3, 4, 4, -1) for index, layer in features.layers.items()}
    entered, left = states_of(model, batch)
    connector = model.connectors["image"]
    tokens = mlp(averaged(maps[-1], 2), connector.mlp).flatten(0, 1)
    torch.testing.assert_close(entered[0][PLACES], tokens, atol=1e-5, rtol=1e-5)
    for block, index, merger in zip((1, 3), (1, 2), connector.mergers, strict=True):
        expected = left[block - 1].clone()
        expected[PLACES] += mlp(averaged(maps[index], 2), merger).flatten(0, 1)
        torch.testing.assert_close(entered[block], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(entered[2], left[1])


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_text_only_conversations_stay_bit_identical(family: str) -> None:
    """OPT's hidden states are wider than its embeddings: a learned map brings the stacks to them."""
    model = stacked(family, start=0)
    assert isinstance(model.connectors["image"].bridge, nn.Linear) == (family == "opt")
    batch = batch_of(model, ROWS)
    changed = logits(model, batch)
    handle = model.handles["image"]
    assert handle is not None
    handle.remove()
    bare = logits(model, batch)
    same = [bool(torch.equal(one, other)) for one, other in zip(changed, bare, strict=True)]
    assert same == [True] * 3 + [False] * 14 + [True] * 6 + [False] * 9


@torch.no_grad()
def test_stacks_are_added_in_the_prompts_pass_only() -> None:
    """Decoding steps find no places: what enters a block there is what left the one before."""
    model = stacked(start=0)
    state = model.prefill(batch_of(model, ROWS))
    entered: dict[int, Tensor] = {}
    left: dict[int, Tensor] = {}
    for index, block in enumerate(model.llm.blocks):
        block.register_forward_pre_hook(lambda _, args, i=index: entered.__setitem__(i, args[0]))
        block.register_forward_hook(lambda _, args, out, i=index: left.__setitem__(i, out))
    model.decode(state, torch.tensor([5, 6, 7]))
    assert entered[0].shape[:2] == (3, 1)
    assert all(torch.equal(entered[block], left[block - 1]) for block in (1, 2, 3))


def some(n_layers: int, grid: tuple[int, ...] = (4, 4)) -> Features:
    """Random features of two items with this many layers of width ``DIM``."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.Size(grid).numel()
    layers = {index: torch.randn(2, tokens, DIM, generator=generator) for index in range(n_layers)}
    return Features(layers, torch.ones(2, tokens, dtype=torch.bool), grid)


def test_dci_is_the_last_layer_beside_the_means_of_runs_of_layers() -> None:
    """CLIP-L/24 in the paper: hs[23], mean hs[0:12], mean hs[12:24] on the width."""
    given = some(24)
    connector = DenseConnector(dim=24 * DIM, llm_dim=LLM, layers=24)
    hs = list(given.layers.values())
    first, second = sum(hs[:12]) / 12, sum(hs[12:24]) / 12
    expected = mlp(torch.cat([hs[23], first, second], -1), connector.mlp)
    torch.testing.assert_close(connector(given), expected, atol=1e-5, rtol=1e-5)
    assert connector.out_grid(given.grid) == (4, 4)


def test_sci_is_the_layers_side_by_side_the_last_first() -> None:
    given = some(3)
    connector = DenseConnector(dim=3 * DIM, llm_dim=LLM, layers=3, mode="sci")
    hs = list(given.layers.values())
    expected = mlp(torch.cat([hs[2], hs[0], hs[1]], -1), connector.mlp)
    torch.testing.assert_close(connector(given), expected, atol=1e-5, rtol=1e-5)
    assert connector.out_grid(given.grid) == (4, 4)


def test_sti_is_the_last_layers_tokens_then_the_others_averaged_along_the_raster() -> None:
    given = some(3)
    connector = DenseConnector(dim=3 * DIM, llm_dim=LLM, layers=3, mode="sti")
    hs = list(given.layers.values())
    pooled = [torch.stack([layer[:, :8].mean(1), layer[:, 8:].mean(1)], 1) for layer in hs[:2]]
    expected = mlp(torch.cat([hs[2], *pooled], 1), connector.mlp)
    torch.testing.assert_close(connector(given), expected, atol=1e-5, rtol=1e-5)
    assert connector.n_tokens(given.grid) == expected.shape[1] == 16 + 2 * 2
    assert connector.n_tokens((24, 24)) == 720


def test_norm_makes_each_layers_size_irrelevant() -> None:
    """Each layer is normed for itself: scaled by 1000 or shifted, it gives the same."""
    given = some(2)
    scaled = Features({0: 1000 * given.layers[0] + 3, 1: given.layers[1]}, given.mask, given.grid)
    dense = DenseConnector(dim=2 * DIM, llm_dim=LLM, layers=2, norm=True)
    stacks = DeepstackConnector(dim=2 * DIM, llm_dim=LLM, norm=True)
    torch.testing.assert_close(dense(scaled), dense(given), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(stacks(scaled), stacks(given), atol=1e-3, rtol=1e-3)
    dense.norm = stacks.norm = False
    assert not torch.allclose(dense(scaled), dense(given), atol=0.1)
    assert not torch.allclose(stacks(scaled)[0], stacks(given)[0], atol=0.1)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: DeepstackConnector(dim=6, llm_dim=6, factor=3).out_grid((4, 4)), "factor: 3 must divide the"),
        (lambda: DeepstackConnector(dim=6, llm_dim=6).out_grid((16,)), "needs a grid of rows and columns"),
        (lambda: DeepstackConnector(dim=6, llm_dim=6, factor=0), "factor: 0 must be at least 1"),
        (lambda: DeepstackConnector(dim=6, llm_dim=6, start=-1), "start: -1 must be at least 0"),
        (lambda: DeepstackConnector(dim=6, llm_dim=6, interval=0), "interval: 0 must be at least 1"),
        (lambda: DeepstackConnector(dim=6, llm_dim=6, stacks="rows"), "stacks: 'rows' is unknown; known: grid, layers"),  # type: ignore[arg-type]
        (lambda: DeepstackConnector(dim=6, llm_dim=6, stacks="layers"), "layers: 1 must be how many the encoder's own"),
        (
            lambda: DeepstackConnector(dim=6, llm_dim=6).attach(SimpleNamespace(n_blocks=4, dim=6, hidden_dim=6)),
            "4 stacks from block 1 on, 1 apart, end before block 4, but the LLM has 0..3",
        ),
        (
            lambda: DeepstackConnector(dim=2 * DIM, llm_dim=6, stacks="layers", layers=2)(some(3)),
            r"deepstack layers: 2, but the encoder gives 3 \(\[0, 1, 2\]\)",
        ),
        (lambda: DenseConnector(dim=7, llm_dim=6, layers=3), "layers: 3 layers cannot make up a width of 7"),
        (lambda: DenseConnector(dim=9, llm_dim=6, layers=3), "groups: 3 layers do not make 2 equal runs"),
        (lambda: DenseConnector(dim=6, llm_dim=6, layers=1, mode="sci"), "sci needs at least 2 encoder layers, not 1"),
        (lambda: DenseConnector(dim=6, llm_dim=6, layers=2, mode="dct"), "mode: 'dct' is unknown"),  # type: ignore[arg-type]
        (lambda: DenseConnector(dim=6, llm_dim=6, layers=2, mode="sti", pool=0), "pool: 0 must be at least 1"),
        (lambda: DenseConnector(dim=6, llm_dim=6, layers=2, mode="sti").out_grid((27, 27)), "pool: 8 must divide the"),
        (lambda: DenseConnector(dim=3 * DIM, llm_dim=6, layers=3, groups=1)(some(2)), "3, but the encoder gives 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(build: Any, sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        build()
