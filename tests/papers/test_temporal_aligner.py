"""Tem-Adapter's aligners: the equations, nothing of the future in what foretells it, answers never in the tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.projectors.temporal_aligner.temporal_aligner import TemporalAlignerConnector
from mmllm.errors import MmllmError
from mmllm.hooks.passes import context_of
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.testing import check_projector
from mmllm.types import Batch, Features, Sample
from tests.support.clips import DIM, clip, clip_assembly, clip_talk
from tests.support.equations import affine, gelu, norm
from tests.support.forward import embedded
from tests.support.talks import packed

SMALL: dict[str, Any] = {"width": 12, "heads": 2, "semantic_width": 8}
TALKS = (
    clip_talk("Which came first? <video>", "the red square", clips=[clip(5, 1)]),
    clip_talk("How many shapes?", "two"),
    clip_talk("<video> Is it red? <video>", "yes it is", clips=[clip(3, 2), clip(1, 3)]),
)


def aligner(shaken: bool = True, **words: Any) -> MultimodalLM:
    return clip_assembly(TemporalAlignerConnector, "llama", shaken, **{**SMALL, **words})


def extra(model: MultimodalLM, batch: Batch) -> Tensor:
    """The extra loss of a training pass."""
    trainable.set_trainable(model, {"connectors.video": 1e-2})
    model.train()
    return model(batch)[1]


def waves(n: int, width: int) -> Tensor:
    rows = [
        [(math.cos if i % 2 else math.sin)(t / 10000 ** ((i - i % 2) / width)) for i in range(width)] for t in range(n)
    ]
    return torch.tensor(rows)


def attention(x: Tensor, z: Tensor, layer: nn.Module, open_to: list[int]) -> Tensor:
    """Row q of float[Q, W] reads the first ``open_to[q]`` rows of z, two heads."""
    q, (k, v) = affine(x, layer.query), affine(z, layer.key_value).chunk(2, -1)
    rows = []
    for row, n in zip(q, open_to, strict=True):
        halves = zip(row.chunk(2), k[:n].chunk(2, -1), v[:n].chunk(2, -1), strict=True)
        rows.append(torch.cat([(a @ b.T / math.sqrt(len(a))).softmax(-1) @ c for a, b, c in halves]))
    return affine(torch.stack(rows), layer.output)


def block(
    x: Tensor, layer: nn.Module, own: list[int], z: Tensor | None = None, other: list[int] | None = None
) -> Tensor:
    x = x + attention(norm(x, layer.norm), norm(x, layer.norm), layer.attention, own)
    if z is not None:
        assert other is not None
        x = x + attention(norm(x, layer.reading_norm), z, layer.reading, other)
    y = affine(norm(x, layer.feed[0]), layer.feed[1])
    return x + affine(y * 0.5 * (1 + torch.erf(y / 2**0.5)), layer.feed[3])


def placed(frames: Tensor, c: nn.Module) -> tuple[Tensor, Tensor]:
    """(v, W v + positions) of one clip float[F, P, D]."""
    v = norm(frames.mean(1))
    return v, affine(v, c.input) + waves(len(v), 12)


def error_of(frames: Tensor, words: Tensor, c: nn.Module, shifted: bool) -> list[Tensor]:
    """The squared errors of one clip, frame by frame, in plain torch: past-only memory, or as released."""
    v, x = placed(frames, c)
    n = len(v)
    past = list(range(1, n + 1))
    seen = past if shifted else [n] * n
    w = affine(norm(words, c.text.norm), c.text.input)
    s = c.semantic
    inner = affine(norm(w, s.word_norm), s.word_input) + waves(len(w), 8)
    f = affine(norm(x, s.frame_norm), s.frame_input)
    refined = []
    for t in seen:
        read = block(inner, s.block, [len(w)] * len(w), f, [t] * len(w))
        refined.append(w.mean(0) + s.gate * affine(read.mean(0), s.output))
    memory = norm(block(x, c.encoder[0], seen), c.norm) + torch.stack(refined)
    y = affine(norm(block(x, c.decoder[0], past, memory, seen), c.foretold[0]), c.foretold[1])
    pairs = zip(y[:-1], v[1:], strict=True) if shifted else zip(y, v, strict=True)
    return [(a - b).square().mean() for a, b in pairs]


def words_of(batch: Batch, model: MultimodalLM, number: int) -> Tensor:
    """Embeddings of what user and assistant say in a conversation."""
    text = model.embed(batch)[0].text_embeds
    said = (batch.user_turn >= 0) | (batch.labels >= 0)
    return text[said & (batch.sequence_ids == number)]


@pytest.mark.parametrize("foretell", ["next", "same"])
@torch.no_grad()
def test_the_equations(foretell: str) -> None:
    """Tokens, and the mean error over all frames of clips of different lengths, each beside its own words."""
    model = aligner(foretell=foretell, weight=0.5)
    c = model.connectors["video"]
    batch = packed(model, TALKS)
    clips = [(0, clip(5, 1)), (2, clip(3, 2)), (2, clip(1, 3))]
    errors = [e for n, f in clips for e in error_of(f, words_of(batch, model, n), c, foretell == "next")]
    assert len(errors) == (6 if foretell == "next" else 9)
    with torch.enable_grad():
        found = extra(model, batch)
    torch.testing.assert_close(found.detach(), 0.5 * torch.stack(errors).mean(), atol=1e-5, rtol=1e-5)
    embeds = embedded(model, batch)[batch.media_positions["video"]]
    rows = []
    for _, frames in clips:
        _, x = placed(frames, c)
        y = affine(norm(block(x, c.encoder[0], [len(x)] * len(x)), c.norm), c.mlp[0])
        rows.append(affine(y * 0.5 * (1 + torch.erf(y / 2**0.5)), c.mlp[2]))
    torch.testing.assert_close(embeds, torch.cat(rows), atol=1e-5, rtol=1e-5)


def post_norm(
    x: Tensor, c: nn.Module, own: list[int], z: Tensor | None = None, other: list[int] | None = None
) -> Tensor:
    """A block of the first transformer: x = LN(x + f(x)) for attention, reading and MLP with ReLU."""
    x = norm(x + attention(x, x, c.attention, own), c.norm)
    if z is not None:
        assert other is not None
        x = norm(x + attention(x, z, c.reading, other), c.reading_norm)
    return norm(x + affine(affine(x, c.wide).clamp(min=0), c.back), c.last_norm)


def released_errors(frames: Tensor, words: Tensor, c: nn.Module, shifted: bool) -> list[Tensor]:
    """The squared errors of one clip by the layers of the released code."""
    v = frames.mean(1)
    n = len(v)
    x = affine(v, c.input)
    read, x = x, x + waves(n, 12)
    past = list(range(1, n + 1))
    seen = past if shifted else [n] * n
    a = affine(norm(words, c.text.norm), c.text.input).mean(0)
    s = c.semantic
    f = norm(affine(norm(read, s.frames[0]), s.frames[1]), s.frames[2])
    y = affine(norm(a[None], s.text[0]), s.text[1])
    y = y + affine(affine(norm(y, s.own[0]), s.own[1]), s.own[2])
    refined = []
    for t in seen:
        z = y + attention(norm(y, s.reading_norm), f, s.reading, [t])
        z = z + affine(gelu(affine(norm(z, s.feed[0]), s.feed[1])), s.feed[3])
        refined.append(a + s.gate * affine(norm(z[0], s.output[0]), s.output[1]))
    memory = post_norm(x, c.encoder[0], seen) + torch.stack(refined)
    guess = affine(post_norm(x, c.decoder[0], past, memory, seen), c.foretold)
    pairs = zip(guess[:-1], v[1:], strict=True) if shifted else zip(guess, v, strict=True)
    return [(a - b).square().mean() for a, b in pairs]


@pytest.mark.parametrize("foretell", ["next", "same"])
@torch.no_grad()
def test_the_released_layers(foretell: str) -> None:
    """Tokens and the mean error by the equations of the authors' code, each text beside its own clip."""
    model = aligner(form="released", mlp_width=20, foretell=foretell)
    c = model.connectors["video"]
    batch = packed(model, TALKS)
    clips = [(0, clip(5, 1)), (2, clip(3, 2)), (2, clip(1, 3))]
    errors = [e for n, f in clips for e in released_errors(f, words_of(batch, model, n), c, foretell == "next")]
    with torch.enable_grad():
        found = extra(model, batch)
    torch.testing.assert_close(found.detach(), torch.stack(errors).mean(), atol=1e-5, rtol=1e-5)
    embeds = embedded(model, batch)[batch.media_positions["video"]]
    rows = []
    for _, frames in clips:
        x = affine(frames.mean(1), c.input) + waves(len(frames), 12)
        rows.append(affine(gelu(affine(post_norm(x, c.encoder[0], [len(x)] * len(x)), c.mlp[0])), c.mlp[2]))
    torch.testing.assert_close(embeds, torch.cat(rows), atol=1e-5, rtol=1e-5)


def test_the_released_form_adds_nothing_to_an_encoder_of_its_own_width() -> None:
    """With the authors' widths (CLIP's 512 channels, 16 heads) it has the 7,820,672 weights of their two modules.

    But for queries and keys, 128 x 128 each, of an attention over one vector.
    """
    connector = TemporalAlignerConnector(dim=512, llm_dim=32, form="released")
    weights = {name: p.numel() for name, p in connector.named_parameters()}
    ours = sum(n for name, n in weights.items() if name.split(".")[0] not in ("mlp", "text"))
    assert ours == 7_820_672 - 2 * 128 * 128
    assert connector.encoder[0].wide.bias.abs().sum() == 0 and connector.semantic.text[1].weight.std() < 0.021


def test_the_contract_holds_for_the_released_form() -> None:
    def maker(dim: int, llm_dim: int) -> TemporalAlignerConnector:
        return TemporalAlignerConnector(dim=dim, llm_dim=llm_dim, form="released", mlp_width=12, **SMALL)

    check_projector(maker, grids=[(3, 2, 2)])


def foretold(c: nn.Module, frames: Tensor) -> Tensor:
    """What each frame of one clip foretells."""
    _, x = placed(frames, c)
    words = torch.randn(1, 3, c.llm_dim, generator=torch.Generator().manual_seed(1))
    return c.foretell_frames(x[None], torch.ones(1, len(x)).bool(), words, torch.ones(1, 3).bool())[0]


@torch.no_grad()
def test_nothing_of_the_future_is_in_what_foretells_it() -> None:
    """Frames from t + 1 on may be anything: what frames 0..t foretell stays; as released it does not."""
    frames, other = clip(6, 1), clip(6, 1)
    other[4:] = clip(2, 9)
    shifted = aligner().connectors["video"]
    one, two = foretold(shifted, frames), foretold(shifted, other)
    torch.testing.assert_close(one[:4], two[:4])
    assert not torch.allclose(one[4:], two[4:], atol=1e-2)
    released = aligner(foretell="same").connectors["video"]
    assert not torch.allclose(foretold(released, frames)[:4], foretold(released, other)[:4], atol=1e-2)


def test_answers_change_the_extra_loss_and_never_the_tokens() -> None:
    model = aligner()
    one, two = (
        packed(model, [clip_talk("Which came first? <video>", said, clips=[clip(5, 1)])]) for said in ("red", "two")
    )
    assert extra(model, one) != extra(model, two)
    tokens = []
    for batch in (one, two):
        ctx, embeds = model.embed(batch)
        tokens.append(embeds[batch.media_positions["video"]])
        assert model.connectors["video"].extra_loss(ctx) is not None
    assert torch.equal(*tokens)
    model.eval()
    ctx, embeds = model.embed(one)
    assert torch.equal(embeds[one.media_positions["video"]], tokens[0])
    assert model.connectors["video"].extra_loss(ctx) is None


def test_each_text_reads_its_own_clip() -> None:
    """A pair's share of the loss does not depend on whose clips and words stand beside it."""
    model = aligner()
    one, other = TALKS[0], clip_talk("<video> How many?", "three shapes", clips=[clip(4, 7)])

    def error(*samples: Sample) -> float:
        return extra(model, packed(model, samples)).item()

    both = (4 * error(one) + 3 * error(other)) / 7  # as many errors as each clip has next frames
    assert error(one, other) == pytest.approx(both, rel=1e-5)
    assert error(one) != pytest.approx(error(other), rel=1e-3)


def test_the_loss_is_of_its_own_pass_and_only_while_it_learns() -> None:
    model = aligner()
    batch = packed(model, TALKS)
    assert extra(model, batch) > 0
    connector = model.connectors["video"]
    first, second = (model.embed(packed(model, [sample]))[0] for sample in (TALKS[0], TALKS[2]))
    assert connector.extra_loss(first) != connector.extra_loss(second)  # two passes may be open at once
    assert connector.extra_loss(context_of(batch, model.inputs)) is None
    trainable.set_trainable(model, {})
    model.train()
    assert model(batch)[1] == 0
    assert extra(model, packed(model, [TALKS[1]])) == 0
    assert [name for name, p in connector.named_parameters() if p.requires_grad] != []


def test_without_clips_every_weight_takes_part_with_zero() -> None:
    """A rank whose batch has no clip, and one whose clips have no next frame, wait for nobody."""
    for sample in (TALKS[1], clip_talk("<video> Is it red?", "yes", clips=[clip(1, 3)])):
        model = aligner()
        nll, added = assembly_loss(model, [sample])
        (nll + added).backward()
        learned = model.connectors["video"].named_parameters()
        assert added == 0
        assert [name for name, p in learned if p.grad is None or not p.grad.isfinite().all()] == []


def assembly_loss(model: MultimodalLM, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Loss and extra loss in training."""
    trainable.set_trainable(model, {"connectors.video": 1e-2})
    model.train()
    nll, added, _ = model(packed(model, samples))
    return nll, added


def test_switches() -> None:
    """Without foretelling there is no decoder and no loss; the semantic part starts as nearly nothing."""
    bare = aligner(foretell="nothing")
    assert extra(bare, packed(bare, TALKS)) == 0
    names = {name.split(".")[0] for name, _ in bare.connectors["video"].named_parameters()}
    assert names == {"input", "encoder", "norm", "mlp"}
    refined, plain = aligner(shaken=False), aligner(shaken=False, semantic=False)
    plain.connectors["video"].load_state_dict(
        {k: v for k, v in refined.connectors["video"].state_dict().items() if not k.startswith("semantic")}
    )
    one, two = (extra(a, packed(a, TALKS)).item() for a in (refined, plain))
    assert one != two and one == pytest.approx(two, rel=1e-3)


def test_learning_to_foretell_works() -> None:
    """On clips whose frames follow from the last one, the error falls far below that of the mean frame."""
    torch.manual_seed(0)
    model = aligner(shaken=False, width=32)
    turn = torch.linalg.qr(torch.randn(DIM, DIM))[0]
    frames = [torch.randn(1, DIM)]
    for _ in range(7):
        frames.append(frames[-1] @ turn)
    patches = torch.stack(frames).expand(8, 4, DIM).contiguous()
    batch = packed(model, [clip_talk("<video> What?", "red", clips=[patches])])
    trainable.set_trainable(model, {"connectors.video": 1e-2})
    optimizer = torch.optim.Adam(model.connectors.parameters(), lr=1e-2)
    model.train()
    first = None
    for _ in range(30):
        optimizer.zero_grad()
        error = model(batch)[1]
        first = error.item() if first is None else first
        error.backward()
        optimizer.step()
    assert error.item() < 0.2 * first


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"foretell": "past"}, "known: next, same, nothing"),
        ({"form": "theirs"}, "known: own, released"),
        ({"mlp_width": 0}, "mlp_width: 0 must be at least 1"),
        ({"weight": 0.0}, "weight 0.0 must be above 0"),
        ({"heads": 5}, "heads: 5 must divide the width of 12"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words: dict[str, Any], says: str) -> None:
    with pytest.raises(MmllmError, match=says):
        TemporalAlignerConnector(dim=DIM, llm_dim=32, **{**SMALL, **words})


def test_grids() -> None:
    connector = TemporalAlignerConnector(dim=DIM, llm_dim=32, **SMALL)
    for grid, steps in (((5, 2, 3), 5), ((2, 3), 1), ((7,), 7)):
        given = Features({-2: torch.randn(2, math.prod(grid), DIM)}, torch.ones(2, math.prod(grid)).bool(), grid)
        assert connector(given).shape == (2, steps, 32) and connector.out_grid(grid) == (steps, 1, 1)
