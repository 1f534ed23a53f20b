"""Flamingo's gated cross-attention: its equations, the last item only, text-only conversations untouched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.deep_fusion.gated_cross_attention import GatedCrossAttentionConnector
from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM
from mmllm.testing import check_deep_fusion
from tests.support.assemblies import Row, assembly_of, batch_of
from tests.support.equations import gelu, norm
from tests.support.forward import logits
from tests.support.parts import FAMILIES, tiny_llm

ROWS = (Row(1, (3, "image", 2, "image", 4)), Row(2, (6,)), Row(3, ("image", 5)))
LAST = [-1] * 3 + [0] * 2 + [1] * 4 + [-1] * 6 + [2] * 5
"""Item each position attends."""
SHOWN = [True] * 9 + [False] * 6 + [True] * 5


def with_gates(family: str = "llama", every: int = 2, shaken: bool = True, **more: int) -> MultimodalLM:
    """A tiny LLM with gated layers before blocks 1 and 3; every weight random and the gates open, or as they start."""
    words = {"every": every, "latents": 3, "depth": 1, "heads": 2, "head_dim": 4, **more}
    return assembly_of(GatedCrossAttentionConnector, family, shaken=shaken, **words)


def feed(x: Tensor, layers: nn.Sequential) -> Tensor:
    """LN, up, GELU, down; no biases."""
    return gelu(norm(x, layers[0]) @ layers[1].weight.T) @ layers[3].weight.T


def resampled(x: Tensor, resampler: nn.Module) -> Tensor:
    """Latents of one item, float[T, D] -> float[K, W]: z += Attn(LN z, [LN x; LN z]); z += FF(z); LN."""
    z = resampler.latents
    for attention, feeding in zip(resampler.attention, resampler.feed, strict=True):
        queries, media = norm(z, attention.norm_latents), norm(x, attention.norm_features)
        pairs = torch.cat([media, queries]) @ attention.key_value.weight.T
        q = (queries @ attention.query.weight.T).unflatten(-1, (2, 4))
        k, v = (half.unflatten(-1, (2, 4)) for half in pairs.chunk(2, -1))
        heads = [(q[:, h] @ k[:, h].T / 2).softmax(-1) @ v[:, h] for h in range(2)]
        z = z + torch.cat(heads, -1) @ attention.output.weight.T
        z = z + feed(z, feeding)
    return norm(z, resampler.norm)


def gated(x: Tensor, z: Tensor | None, layer: nn.Module) -> Tensor:
    """One position float[D]: x += tanh(a) XAttn(LN x, z), x += tanh(b) FF(x); XAttn is 0 without an item."""
    read = torch.zeros_like(x)
    if z is not None:
        q = (norm(x, layer.norm) @ layer.query.weight.T).reshape(2, 4)
        k, v = ((z @ half.T).unflatten(-1, (2, 4)) for half in layer.key_value.weight.chunk(2))
        heads = [(q[h] @ k[:, h].T / 2).softmax(-1) @ v[:, h] for h in range(2)]
        read = torch.cat(heads) @ layer.output.weight.T
    x = x + torch.tanh(layer.attention_gate) * read
    return x + torch.tanh(layer.feed_gate) * feed(x, layer.feed)


@pytest.mark.parametrize("more", [{}, {"items": 2, "frames": 1}], ids=["plain", "items and frames"])
@torch.no_grad()
def test_the_equations(more: dict[str, int]) -> None:
    """What enters blocks 1 and 3, from what left the blocks before, position by position in plain torch."""
    model = with_gates(**more)
    batch = batch_of(model, ROWS)
    left: dict[int, Tensor] = {}
    entered: dict[int, Tensor] = {}
    for index, block in enumerate(model.llm.blocks):
        block.register_forward_hook(lambda _, args, out, i=index: left.__setitem__(i, out[0]))
        block.register_forward_pre_hook(lambda _, args, i=index: entered.__setitem__(i, args[0][0]))
    logits(model, batch)
    connector = model.connectors["image"]
    features = model.encoders["image"](**batch.media["image"]["image"]).concatenated()
    if more:  # the second picture of the first conversation is its item 1
        features = features + connector.resampler.frames[0] + connector.items[[0, 1, 0]][:, None]
    items = [resampled(item, connector.resampler) for item in features]
    assert torch.equal(entered[2], left[1])
    for index in (1, 3):
        rows = []
        for x, item, shown in zip(left[index - 1], LAST, SHOWN, strict=True):
            z = items[item] if item >= 0 else None
            rows.append(gated(x, z, connector.layers[str(index)]) if shown else x)
        torch.testing.assert_close(entered[index], torch.stack(rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_text_only_conversations_stay_bit_identical(family: str) -> None:
    """In a mixed row the FF too leaves them alone; in the others it also works before the first item."""
    model = with_gates(family)
    batch = batch_of(model, ROWS)
    changed = logits(model, batch)
    handle = model.handles["image"]
    assert handle is not None
    handle.remove()
    bare = logits(model, batch)
    assert [bool(torch.equal(one, other)) for one, other in zip(changed, bare, strict=True)] == [not s for s in SHOWN]


def test_only_the_last_item_is_read() -> None:
    """With closed FF gates, another first picture moves its own two positions and what attends to them, no earlier."""
    model = with_gates(every=4)  # one gated layer, before the last block
    batch = batch_of(model, ROWS)
    seen: list[Tensor] = []
    model.llm.blocks[3].register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    logits(model, batch)
    batch.media["image"]["image"]["pixels"][0] += 1.0
    logits(model, batch)
    moved = (seen[0] != seen[1]).any(-1).tolist()
    assert moved == [item == 0 for item in LAST]


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_it_is_an_exact_identity(family: str) -> None:
    """With pictures in the row, closed gates leave the bare LLM's logits bit for bit."""
    model = with_gates(family, shaken=False)
    batch = batch_of(model, ROWS)
    start = logits(model, batch)
    handle = model.handles["image"]
    assert handle is not None
    handle.remove()
    assert torch.equal(start, logits(model, batch))


def test_items_take_no_places() -> None:
    model = with_gates()
    assert model.inputs["image"].n_tokens() == 0
    assert batch_of(model, ROWS).n_tokens == len(LAST)


@pytest.mark.parametrize(("every", "blocks"), [(1, "0123"), (2, "13"), (3, "2"), (4, "3")])
def test_layers_stand_before_every_nth_block_in_openflamingos_order(every: int, blocks: str) -> None:
    assert "".join(with_gates(every=every).connectors["image"].layers) == blocks


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"every": 0}, "every: 0 must be at least 1"),
        ({"every": 5}, "every: 5 leaves no layer in an LLM of 4 blocks"),
        ({"latents": 0}, "latents: 0 must be at least 1"),
    ],
)
def test_bad_values_are_one_sentence(words: dict[str, int], sentence: str) -> None:
    llm = tiny_llm()
    with pytest.raises(MmllmError, match=sentence):
        GatedCrossAttentionConnector(dim=16, llm_dim=llm.dim, **words).attach(llm)


@torch.no_grad()
def test_numbered_items_are_read_whole_and_counted() -> None:
    """Which item of its conversation it is must not depend on the batch; one too many is an error."""
    model = with_gates(items=2)
    connector = model.connectors["image"]
    assert not connector.goes_on and not connector.shares_prefix and connector.reads_text
    together = logits(model, batch_of(model, ROWS))
    torch.testing.assert_close(together[-5:], logits(model, batch_of(model, ROWS[2:])), atol=1e-5, rtol=1e-5)
    with pytest.raises(MmllmError, match="shows 3 items of 'image', but there are vectors for 2"):
        model.embed(batch_of(model, [Row(1, (2, "image", 1, "image", 1, "image", 3))]))
    with pytest.raises(MmllmError, match="items: -1 must be at least 0"):
        with_gates(items=-1)


def test_the_contract_holds_with_numbered_items() -> None:
    def maker(dim: int, llm_dim: int) -> GatedCrossAttentionConnector:
        return GatedCrossAttentionConnector(
            dim=dim, llm_dim=llm_dim, every=2, latents=3, depth=1, heads=2, head_dim=4, frames=1, items=8
        )

    check_deep_fusion(maker)
