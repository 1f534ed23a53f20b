"""Llama 3.2 Vision's cross-attention blocks: their equations, which items a position reads, what stays untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.deep_fusion.cross_attention_layers.cross_attention_layers import CrossAttentionLayersConnector
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.testing.pieces import difference
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import Message, Sample
from tests.support.assemblies import Row, assembly_of, batch_of
from tests.support.forward import logits
from tests.support.parts import tiny_llm

ROWS = (
    Row(1, (3, "image", 2, "image", 4)),
    Row(2, (6,)),
    Row(3, ("image", 5)),
    Row(4, (1, "image", "image", 3)),
    Row(5, (2, "image", 1, "image", 2)),
)
ITEMS = [
    *([[]] * 3 + [[0]] * 2 + [[1]] * 4),
    *[[]] * 6,
    *[[2]] * 5,
    *([[]] + [[3, 4]] * 3),
    *([[]] * 2 + [[5]] + [[5, 6]] * 2),  # one token between them: they stand together
]
"""Items that each position reads."""
OWN = [[0, 1]] * 9 + [[]] * 6 + [[2]] * 5 + [[3, 4]] * 4 + [[5, 6]] * 5
"""Items of its conversation."""


def with_blocks(family: str = "llama", shaken: bool = True, **words: Any) -> MultimodalLM:
    """A tiny LLM with blocks before its blocks 1 and 3; every weight random and the gates open, or as they start."""
    return assembly_of(CrossAttentionLayersConnector, family, shaken=shaken, **{"every": 2, "mlp_width": 24, **words})


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    """RMSNorm."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.weight


def block(x: Tensor, z: Tensor, layer: Any, blind: bool) -> Tensor:
    """One position float[D] that reads z float[K, D]; 4 heads of width 8, of which pairs share keys and values."""
    q = rms((rms(x, layer.attention_norm) @ layer.query.weight.T).view(4, 8), layer.query_norm)
    k = rms((z @ layer.key.weight.T).view(-1, 2, 8), layer.key_norm)
    v = (z @ layer.value.weight.T).view(-1, 2, 8)
    heads = [(q[h] @ k[:, h // 2].T / 8**0.5).softmax(-1) @ v[:, h // 2] for h in range(4)]
    x = x + torch.tanh(layer.attention_gate) * (torch.cat(heads) @ layer.output.weight.T)
    y = rms(x, layer.mlp_norm)
    gate = y @ layer.gate.weight.T
    read = (gate * gate.sigmoid() * (y @ layer.up.weight.T)) @ layer.down.weight.T
    return x if blind else x + torch.tanh(layer.mlp_gate) * read


@pytest.mark.parametrize("ahead", [False, True])
@torch.no_grad()
def test_the_equations(ahead: bool) -> None:
    """What enters blocks 1 and 3, from what left the blocks before, position by position in plain torch."""
    model = with_blocks(reads_ahead=ahead)
    batch = batch_of(model, ROWS)
    left: dict[int, Tensor] = {}
    entered: dict[int, Tensor] = {}
    for index, one in enumerate(model.llm.blocks):
        one.register_forward_hook(lambda _, args, out, i=index: left.__setitem__(i, out[0]))
        one.register_forward_pre_hook(lambda _, args, i=index: entered.__setitem__(i, args[0][0]))
    logits(model, batch)
    connector: Any = model.connectors["image"]
    features = model.encoders["image"](**batch.media["image"]["image"]).concatenated()
    z = features @ connector.projector.weight.T + connector.projector.bias
    assert torch.equal(entered[2], left[1])
    for number, index in enumerate((1, 3)):
        for x, items, own, found in zip(left[index - 1], ITEMS, OWN, entered[index], strict=True):
            if items:
                expected = block(x, z[items].flatten(0, 1), connector.layers[number], False)
            elif own and ahead:
                expected = block(x, z[own].flatten(0, 1), connector.layers[number], True)
            else:
                assert torch.equal(found, x)
                continue
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("ahead", "family"), [(False, "llama"), (True, "llama"), (False, "gpt2"), (False, "opt")])
def test_what_sees_no_item_stays_bit_identical(ahead: bool, family: str) -> None:
    """Conversations without items; and text in front of one, where it does not read ahead."""
    model = with_blocks(family, reads_ahead=ahead)
    batch = batch_of(model, ROWS)
    changed = logits(model, batch)
    model.handles["image"].remove()
    bare = logits(model, batch)
    same = [bool(torch.equal(one, other)) for one, other in zip(changed, bare, strict=True)]
    assert same == [not (own if ahead else items) for items, own in zip(ITEMS, OWN, strict=True)]


def test_untrained_they_are_an_exact_identity_and_take_no_places() -> None:
    model = with_blocks(shaken=False, reads_ahead=True)
    batch = batch_of(model, ROWS)
    assert model.inputs["image"].n_tokens() == 0 and batch.n_tokens == len(ITEMS)
    start = logits(model, batch)
    model.handles["image"].remove()
    assert torch.equal(start, logits(model, batch))


def test_blocks_stand_where_they_are_put() -> None:
    """Two in a row before the first block, one behind the last: in the order of their numbers."""
    model = with_blocks(before=[0, 0, 4])
    connector: Any = model.connectors["image"]
    order: list[str] = []
    for number, one in enumerate(connector.layers):
        one.register_forward_hook(lambda *_, n=number: order.append(f"cross {n}"))
    for number, one in enumerate(model.llm.blocks):
        one.register_forward_hook(lambda *_, n=number: order.append(f"block {n}"))
    logits(model, batch_of(model, ROWS))
    # of the last block the hook in front of this test's is the connector's own
    assert order == ["cross 0", "cross 1", "block 0", "block 1", "block 2", "cross 2", "block 3"]
    assert not connector.positionwise and with_blocks().connectors["image"].positionwise


@pytest.mark.parametrize("words", [{"reads_ahead": True}, {"before": [0, 4]}])
def test_read_in_pieces_beside_others(words: dict[str, Any]) -> None:
    assert difference(with_blocks(**words), ROWS) < 5e-5


@pytest.mark.parametrize("ahead", [False, True])
@torch.no_grad()
def test_items_of_unlike_length(ahead: bool) -> None:
    """Pictures of one tile and of three views: packed, padded, in pieces and alone they are answered alike."""
    model = assembly_of(
        CrossAttentionLayersConnector, encoder=tiny_encoders.tiles(), shaken=True, every=2, mlp_width=24,
        reads_ahead=ahead,
    )  # fmt: skip
    wide, square = Image.effect_noise((40, 20), 90).convert("RGB"), Image.effect_noise((20, 20), 90).convert("RGB")
    asked = (
        ("Look: <image>, then <image>?", (square, wide)),
        ("No picture.", ()),
        ("<image><image> Two.", (wide, square)),
    )
    samples = [
        Sample(str(n), (Message("user", text),), {"image": shown} if shown else {})
        for n, (text, shown) in enumerate(asked)
    ]
    prompter = Prompter(model.llm.tokenizer, model.places)
    encoded = [encode(one, prompter, model.inputs, 256, train=False) for one in samples]
    batch = collate(encoded, model.inputs)
    packed = model.logits(batch).split([len(one.ids) for one in encoded])
    for one, found in zip(encoded, packed, strict=True):
        torch.testing.assert_close(found, model.logits(collate([one], model.inputs)), atol=2e-5, rtol=1e-4)
    ends = torch.stack([found[-1] for found in packed])
    torch.testing.assert_close(model.prefill(batch).logits, ends, atol=2e-5, rtol=1e-4)
    together = [one.text for one in Generator(model).generate(samples, 6, ())]
    assert together == [Generator(model).generate([one], 6, ())[0].text for one in samples]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"every": 0}, "every: 0 must be at least 1"),
        ({"every": 5}, "every: 5 leaves no block; this LLM has 4 blocks"),
        ({"before": [3, 1]}, r"before: \[3, 1\] must be rising numbers"),
        ({"before": []}, r"before: \[\] must be rising numbers"),
        ({"before": [1, 5]}, r"before: \[1, 5\]: this LLM has 4 blocks, so places are 0 to 4"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads: 3 must divide heads, which are 4"),
    ],
)
def test_bad_values_are_one_sentence(words: dict[str, Any], sentence: str) -> None:
    llm = tiny_llm()
    with pytest.raises(MmllmError, match=sentence):
        CrossAttentionLayersConnector(dim=16, llm_dim=llm.dim, **words).attach(llm)
