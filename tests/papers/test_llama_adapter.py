"""LLaMA-Adapter V1 and V2 against a plain statement of their equations; groups of weights by kind of conversation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmllm.connectors.deep_fusion.llama_adapter.llama_adapter import LlamaAdapterConnector
from mmllm.connectors.deep_fusion.llama_adapter.visual_prompts import VisualPrompts, divided
from mmllm.connectors.layers.prompt_attention import extra_attention
from mmllm.errors import MmllmError
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny.models import copied_vision
from mmllm.types import Batch, Features
from tests.support.assemblies import Row, batch_of
from tests.support.equations import affine, gelu, rotated
from tests.support.equations import norm as normed
from tests.support.forward import logits, text_logits
from tests.support.parts import tiny_llm, tiny_model

ROWS = [Row(1, (5, "image", 4)), Row(2, (7,)), Row(3, ("image", 3, "image", 6)), Row(4, (3, "image", 2))]
TUNED = ["bias", "scale", "norm"]
VIT = {"visual_width": 12, "visual_depth": 2, "visual_heads": 2}
FUSIONS: list[dict[str, Any]] = [
    {},
    {"fusion": "early", "visual_prompts": 4, "tuning": TUNED},
    {"fusion": "late", **VIT},
]


def adapted(
    features: bool = True, randomised: bool = True, when: tuple[str, ...] | None = None, **words: Any
) -> MultimodalLM:
    """A tiny Llama with the connector under ``image``, gates and all else away from their start."""
    llm, encoder = tiny_llm(), copied_vision()
    given = {"dim": encoder.dim} if features else {}
    connector = LlamaAdapterConnector(llm_dim=llm.dim, **{"prompts": 3, **given, **words})
    connector.when = when
    sources = {"image": "image"} if features else {}
    model = MultimodalLM(llm, {"image": encoder} if features else {}, {"image": connector}, sources).eval()
    if randomised:
        torch.manual_seed(1)
        for parameter in connector.parameters():
            parameter.data += torch.randn_like(parameter) * 0.3
    return model


# ---- the equations, in plain torch


@dataclass
class Plain:
    """A Llama of 4 blocks, 4 heads of 8, 2 key heads, with what the papers add: the tiny model's weights by name."""

    weights: dict[str, Tensor]
    prompts: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> P float[K, 32]."""
    gates: dict[int, Tensor] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    visual: list[tuple[int, Tensor]] = field(default_factory=list)
    """(first position that sees it, V float[cells, 32]) of each item."""
    visual_gates: dict[int, Tensor] = field(default_factory=dict)

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.weights[f"{name}.weight"].T + self.biases.get(name, torch.zeros(1))
        return y * self.scales.get(name, torch.ones(1))

    def norm(self, name: str, x: Tensor) -> Tensor:
        unit = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return unit * self.weights[f"{name}.weight"] * self.scales.get(name, torch.ones(1))

    def extra(self, block: str, query: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        """softmax(q k'ᵀ / √d) v' head by head, over the keys in ``seen`` bool[S, K]: float[4, S, 8]."""
        key = (states @ self.weights[f"{block}.self_attn.k_proj.weight"].T).view(-1, 2, 8)
        value = (states @ self.weights[f"{block}.self_attn.v_proj.weight"].T).view(-1, 2, 8)
        heads = []
        for head in range(4):
            scores = (query[head] @ key[:, head // 2].T) / 8**0.5
            exp = scores.exp() * seen
            heads.append((exp / exp.sum(-1, keepdim=True).clamp(min=1e-30)) @ value[:, head // 2])
        return torch.stack(heads)

    def attention(self, layer: int, x: Tensor) -> Tensor:
        block, length = f"model.layers.{layer}", len(x)
        query, key, value = (self.linear(f"{block}.self_attn.{n}_proj", x).view(length, -1, 8) for n in "qkv")
        query, key = rotated(query), rotated(key)
        heads = []
        for head in range(4):
            scores = (query[:, head] @ key[:, head // 2].T) / 8**0.5
            later = torch.ones(length, length).triu(1).bool()
            heads.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ value[:, head // 2])
        out, query = torch.stack(heads), query.transpose(0, 1)
        if layer in self.prompts:
            seen = torch.ones(length, len(self.prompts[layer]))
            out = out + self.gates[layer].tanh()[:, None, None] * self.extra(block, query, self.prompts[layer], seen)
        if layer in self.visual_gates and self.visual:
            states = torch.cat([vectors for _, vectors in self.visual])
            first = torch.cat([torch.full((len(vectors),), start) for start, vectors in self.visual])
            seen = (torch.arange(length)[:, None] >= first).float()
            out = out + self.visual_gates[layer].tanh()[:, None, None] * self.extra(block, query, states, seen)
        return self.linear(f"{block}.self_attn.o_proj", out.transpose(0, 1).flatten(1))

    def logits(self, ids: Tensor) -> Tensor:
        """int64[S] -> float[S, V]."""
        h = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(4):
            block = f"model.layers.{layer}"
            h = h + self.attention(layer, self.norm(f"{block}.input_layernorm", h))
            x = self.norm(f"{block}.post_attention_layernorm", h)
            inner = F.silu(self.linear(f"{block}.mlp.gate_proj", x)) * self.linear(f"{block}.mlp.up_proj", x)
            h = h + self.linear(f"{block}.mlp.down_proj", inner)
        return self.norm("model.norm", h) @ self.weights["lm_head.weight"].T


def plain(model: MultimodalLM) -> Plain:
    """The reference with the connector's weights mapped; ``visual`` is set by each test."""
    made = Plain({name: p.detach() for name, p in tiny_model().named_parameters()})
    for name, p in model.connectors["image"].named_parameters():
        group, _, rest = name.partition(".")
        part, _, kind = rest.rpartition(".")
        if group == "prompts":
            made.prompts[int(part)] = p.detach()
        elif group == "gates":
            made.gates[int(part)] = p.detach()
        elif group == "tuning":
            (made.scales if kind == "scale" else made.biases)[part.replace("-", ".")] = p.detach()
        elif part.startswith("gates."):
            made.visual_gates[int(part.removeprefix("gates."))] = p.detach()
    return made


def rows_of(batch: Batch) -> list[tuple[int, int]]:
    """(start, end) of the conversations."""
    bounds = batch.cu_seqlens.tolist()
    return list(pairwise(bounds))


def vectors(model: MultimodalLM, batch: Batch, cells: int) -> Tensor:
    """V float[N, cells, 32]: LN, Linear, GELU, Linear, LN of the means of square regions of 4 x 4 patches."""
    features = model.encoders["image"](**batch.media["image"]["image"]).concatenated()
    side = int(cells**0.5)
    blocks = features.view(len(features), side, 4 // side, side, 4 // side, -1).mean(dim=(2, 4)).flatten(1, 2)
    w = dict(model.connectors["image"].visual.project.named_parameters())  # type: ignore[union-attr,operator]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    x = norm(blocks, "0") @ w["1.0.weight"].T + w["1.0.bias"]
    x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    return norm(x @ w["1.2.weight"].T + w["1.2.bias"], "2")


@torch.no_grad()
def test_v1_equals_the_papers_equation() -> None:
    """Prompts in the last 3 of 4 layers, separate softmax, tanh gates away from zero; two packed conversations."""
    model = adapted(features=False, layers=3)
    reference = plain(model)
    assert sorted(reference.prompts) == [1, 2, 3] and all(g.abs().min() > 1e-3 for g in reference.gates.values())
    batch = batch_of(model, [Row(1, (9,)), Row(2, (6,))])
    found = logits(model, batch)
    for start, end in rows_of(batch):
        torch.testing.assert_close(found[start:end], reference.logits(batch.input_ids[start:end]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_v1_with_images_adds_one_vector_to_all_prompts() -> None:
    """Mean over a conversation's pictures; a conversation without any has the bare prompts."""
    model = adapted()
    batch = batch_of(model, ROWS)
    given, found = vectors(model, batch, 1).squeeze(1), logits(model, batch)
    for (start, end), items in zip(rows_of(batch), ([0], [], [1, 2], [3]), strict=True):
        reference = plain(model)
        added = given[items].mean(0) if items else torch.zeros(32)
        reference.prompts = {layer: states + added for layer, states in reference.prompts.items()}
        torch.testing.assert_close(found[start:end], reference.logits(batch.input_ids[start:end]), atol=1e-5, rtol=1e-5)


def queried(model: MultimodalLM, batch: Batch) -> Tensor:
    """V float[N, 3, 32] of the released V2: queries beside features through a ViT of two heads, in plain torch."""
    features = model.encoders["image"](**batch.media["image"]["image"]).concatenated()
    v: Any = model.connectors["image"].visual
    x = normed(affine(features, v.input), v.input_norm)
    x = torch.cat([v.queries.expand(len(x), -1, -1), x], dim=1)
    for block in v.blocks:
        q, k, value = affine(normed(x, block.norm1), block.attn.qkv).chunk(3, -1)
        halves = zip(q.chunk(2, -1), k.chunk(2, -1), value.chunk(2, -1), strict=True)
        read = [(a @ b.transpose(1, 2) / a.shape[-1] ** 0.5).softmax(-1) @ c for a, b, c in halves]
        x = x + affine(torch.cat(read, -1), block.attn.proj)
        x = x + affine(gelu(affine(normed(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)
    return normed(affine(x[:, :3], v.output), v.output_norm)


@torch.no_grad()
def test_late_fusion_is_the_released_v2s() -> None:
    """A vector of its own for each prompt, the same in the last 3 layers, mean over a conversation's pictures."""
    model = adapted(fusion="late", layers=3, tuning=["bias", "norm"], **VIT)
    batch = batch_of(model, ROWS)
    given, found = queried(model, batch), logits(model, batch)
    for (start, end), items in zip(rows_of(batch), ([0], [], [1, 2], [3]), strict=True):
        reference = plain(model)
        added = given[items].mean(0) if items else torch.zeros(3, 32)
        assert sorted(reference.prompts) == [1, 2, 3]
        reference.prompts = {layer: states + added for layer, states in reference.prompts.items()}
        torch.testing.assert_close(found[start:end], reference.logits(batch.input_ids[start:end]), atol=1e-5, rtol=1e-5)
    connector = model.connectors["image"]
    assert connector.takes_class_tokens and connector.reads_later_items


def test_what_late_fusion_refuses() -> None:
    with pytest.raises(MmllmError, match="need features"):
        adapted(features=False, fusion="late")
    with pytest.raises(MmllmError, match="visual_heads 5 must be at least 1, and the heads divide the width"):
        adapted(fusion="late", **{**VIT, "visual_heads": 5})


@torch.no_grad()
def test_v2_equals_the_papers_equations() -> None:
    """Visual prompts in the first layer only, from their item on; y = s (W x + b) on every linear layer; norms."""
    model = adapted(fusion="early", visual_prompts=4, tuning=TUNED)
    batch = batch_of(model, ROWS)
    given, found = vectors(model, batch, 4), logits(model, batch)
    owned = ([(5, 0)], [], [(0, 1), (3, 2)], [(3, 3)])
    for (start, end), items in zip(rows_of(batch), owned, strict=True):
        reference = plain(model)
        assert sorted(reference.prompts) == [1, 2, 3] and sorted(reference.visual_gates) == [0]
        assert len(reference.biases) == 4 * 7 and len(reference.scales) == 4 * 7 + 4 * 2 + 1
        reference.visual = [(at, given[item]) for at, item in items]
        torch.testing.assert_close(found[start:end], reference.logits(batch.input_ids[start:end]), atol=1e-5, rtol=1e-5)


# ---- start, groups, decoding


@pytest.mark.parametrize(
    "words", [{}, {"fusion": "early", "tuning": TUNED, "disjoint": True}, {"fusion": "late", **VIT}]
)
@torch.no_grad()
def test_zero_init_is_the_bare_llm_and_random_init_is_not(words: dict[str, Any]) -> None:
    batch = batch_of(adapted(), ROWS)
    bare = MultimodalLM(tiny_llm(), {"image": copied_vision()}, {}, {})
    llm = bare.llm
    expected = text_logits(llm, batch.input_ids, batch.position_ids[0], batch.cu_seqlens)
    assert torch.equal(logits(adapted(randomised=False, **words), batch), expected)
    random = adapted(randomised=False, init="random", **words)
    assert (logits(random, batch) - expected).abs().max() > 1e-2
    assert all(p.eq(1).all() for name, p in random.connectors["image"].named_parameters() if "gates" in name)


def gradients(disjoint: bool, rows: list[Row], **words: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and the gradient of each learned weight of one packed batch."""
    model = adapted(disjoint=disjoint, **words)
    trainable.set_trainable(model, {"connectors.image": 1e-3})
    model.train()
    nll, _, _ = model(batch_of(model, rows))
    nll.backward()
    found = {name: p.grad for name, p in model.connectors["image"].named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return float(nll.detach()), found  # type: ignore[return-value]


@pytest.mark.parametrize(
    "words", [{"fusion": "early", "visual_prompts": 4, "tuning": TUNED}, {}, {"fusion": "late", **VIT}]
)
def test_disjoint_groups_learn_from_their_kind_of_conversation_only(words: dict[str, Any]) -> None:
    """Equal losses; what pictures teach reaches ``visual`` alone, what text teaches all but ``visual``."""
    media, text = [ROWS[0], ROWS[2]], [ROWS[1], Row(5, (8,))]
    for rows in (media, text, media + text):
        assert gradients(True, rows, **words)[0] == gradients(False, rows, **words)[0]
    mixed, shared = (gradients(disjoint, media + text, **words)[1] for disjoint in (True, False))
    of_media, of_text = gradients(True, media, **words)[1], gradients(True, text, **words)[1]
    free_media, free_text = gradients(False, media, **words)[1], gradients(False, text, **words)[1]
    for name, gradient in mixed.items():
        visual = name.startswith("visual.")
        assert not (of_text if visual else of_media)[name].any()
        alone = free_media[name] if visual else free_text[name]
        assert alone.any(), name
        torch.testing.assert_close((of_media if visual else of_text)[name], alone, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(gradient, alone, atol=1e-6, rtol=1e-4)
        assert visual or not torch.allclose(gradient, shared[name], atol=1e-6, rtol=1e-4), name


@pytest.mark.parametrize(
    "words", [{}, {"fusion": "early", "visual_prompts": 4, "tuning": TUNED}, {"fusion": "late", **VIT}]
)
@torch.no_grad()
def test_cached_steps_equal_the_full_pass(words: dict[str, Any]) -> None:
    """Decoded token by token, also when a row is finished and the rest go on."""
    model = adapted(**words)
    rows = [ROWS[0], ROWS[2], ROWS[1]]
    state = model.prefill(batch_of(model, rows))
    full = logits(model, batch_of(model, rows))
    ends = batch_of(model, rows).cu_seqlens[1:] - 1
    torch.testing.assert_close(state.logits, full[ends], atol=1e-5, rtol=1e-5)
    state = model.select(state, torch.tensor([1, 2]))
    for _ in range(2):
        state = model.decode(state, torch.tensor([11, 12]))
    stepped = state.logits
    batch = batch_of(model, [Row(3, ("image", 3, "image", 8), 0), Row(2, (9,), 0)])
    first, second = batch_of(model, rows[1:2]).input_ids, batch_of(model, rows[2:]).input_ids
    batch = replace(batch, input_ids=torch.cat([first, torch.tensor([11, 11]), second, torch.tensor([12, 12])]))
    # the pictures of a row are drawn after the text before them: take those that were decoded
    batch.media["image"] = batch_of(model, rows[1:]).media["image"]
    torch.testing.assert_close(stepped, logits(model, batch)[batch.cu_seqlens[1:] - 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "words", [{}, {"fusion": "early", "visual_prompts": 4, "tuning": TUNED}, {"fusion": "late", **VIT}]
)
@torch.no_grad()
def test_when_leaves_text_conversations_as_they_were(words: dict[str, Any]) -> None:
    """Bit for bit, in a row packed with conversations that have pictures."""
    model = adapted(when=("image",), **words)
    batch = batch_of(model, ROWS)
    start, end = rows_of(batch)[1]
    changed = logits(model, batch)
    handle = model.handles["image"]
    assert handle is not None
    handle.remove()
    bare = logits(model, batch)
    assert torch.equal(changed[start:end], bare[start:end])
    assert (changed - bare).abs().amax(dim=1)[[6, end + 2]].min() > 1e-3


def test_a_training_batch_without_media_reaches_every_weight() -> None:
    """A stand-in picture takes part, masked away, so that no rank waits for another."""
    for words in ({}, {"fusion": "early", "tuning": TUNED}):
        _, found = gradients(False, [Row(2, (7,)), Row(5, (8,))], **words)
        assert all(torch.isfinite(gradient).all() for gradient in found.values())
        assert not any(gradient.any() for name, gradient in found.items() if name.startswith("visual."))
        assert all(gradient.any() for name, gradient in found.items() if not name.startswith("visual."))


# ---- parts


def test_extra_attention_with_nothing_seen_is_zero_and_has_finite_gradients() -> None:
    """And each query head reads its own key head; keys per row are those of the row."""
    torch.manual_seed(0)
    query = torch.randn(2, 4, 3, 8, requires_grad=True)
    key, value = (torch.randn(2, 5, 8, requires_grad=True) for _ in range(2))
    seen = torch.zeros(2, 3, 5, dtype=torch.bool)
    seen[1, 2, [0, 3]] = True
    out = extra_attention(query, key, value, 0.3, seen)
    assert out.shape == (2, 3, 4, 8) and not out[0].any() and not out[1, :2].any()
    for head in range(4):
        keys, values = key[head // 2, [0, 3]], value[head // 2, [0, 3]]
        expected = (query[1, head, 2] @ keys.T * 0.3).softmax(0) @ values
        torch.testing.assert_close(out[1, 2, head], expected)
    out.square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (query, key, value))  # type: ignore[arg-type]
    assert not query.grad[0].any() and not key.grad[:, [1, 2, 4]].any()  # type: ignore[index]
    own = extra_attention(query, torch.stack([key, key]), torch.stack([value, -value]), 0.3, None)
    torch.testing.assert_close(own[1], -extra_attention(query, key, value, 0.3, None)[1])


def test_cells_follow_the_grid_and_masked_features_do_not_count() -> None:
    assert [divided(*sizes) for sizes in ((20, 24, 24), (16, 8, 8), (7, 5, 5), (6, 1, 9), (8, 4, 2))] == [
        (4, 5), (4, 4), (1, 7), (1, 6), (4, 2),
    ]  # fmt: skip
    visual = VisualPrompts(4, 8, 4, 1, {})
    visual.project = nn.Identity()  # type: ignore[assignment]
    x, mask = torch.randn(1, 16, 4), torch.ones(1, 16, dtype=torch.bool)
    mask[0, [0, 1, 4, 10, 11, 14, 15]] = False
    mean, real = visual(Features({-1: x}, mask, (4, 4)))
    torch.testing.assert_close(mean[0, 0], x[0, 5])
    torch.testing.assert_close(mean[0, 1], x[0, [2, 3, 6, 7]].mean(0))
    assert real.tolist() == [[True, True, True, False]] and not mean[0, 3].any()


def test_impossible_values_are_refused() -> None:
    with pytest.raises(MmllmError, match="prompts: 0 must be at least 1"):
        adapted(features=False, prompts=0)
    with pytest.raises(MmllmError, match="layers 5 and early_layers 0 do not fit this LLM's 4 blocks"):
        adapted(features=False, layers=5)
    with pytest.raises(MmllmError, match=r"need features; say `from: <encoder>`"):
        adapted(features=False, disjoint=True)
    with pytest.raises(MmllmError, match="must be different words of bias, scale, norm"):
        adapted(features=False, tuning=["bias", "bias"])
    with pytest.raises(MmllmError, match="init: 'one' is unknown; known: zero, random"):
        adapted(features=False, init="one")
