"""The interactive visual adapter: its equations, whose message decides, causality, clips of different lengths."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.deep_fusion.iva.iva import IvaConnector
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.model.model import MultimodalLM
from mmllm.types import IGNORE_INDEX, Batch, Features, Sample
from tests.support.clips import DIM, PATCHES, clip, clip_assembly, clip_talk
from tests.support.equations import norm
from tests.support.forward import logits
from tests.support.parts import tiny_llm
from tests.support.talks import packed

SMALL: dict[str, Any] = {
    "heads": 2, "head_dim": 4, "width": 12, "every": 2, "top_k": 2, "selector_width": 8,
}  # fmt: skip
TALKS = (
    clip_talk("What is on the sign? <video>", "A red square", clips=[clip(5, 1)]),
    clip_talk("How many shapes?", "two"),
    clip_talk(
        "<video> Is it red?", "yes", "and here <video> now?", "green", "so what", "both", clips=[clip(3, 2), clip(2, 3)]
    ),
)


def iva(family: str = "llama", shaken: bool = True, **words: Any) -> MultimodalLM:
    return clip_assembly(IvaConnector, family, shaken, **{**SMALL, **words})


def heads(x: Tensor, n: int = 2) -> list[Tensor]:
    return list(x.chunk(n, -1))


def time_waves(n: int, width: int) -> Tensor:
    rows = [
        [(math.cos if i % 2 else math.sin)(t / 10000 ** ((i - i % 2) / width)) for i in range(width)] for t in range(n)
    ]
    return torch.tensor(rows)


def tokens_of(frames: Tensor, c: nn.Module) -> Tensor:
    """One clip float[F, P, D] -> its tokens float[F, llm], frame by frame."""
    f = norm(frames, c.norm)
    s = (f @ c.weigh.weight[0]).softmax(-1)
    x = torch.stack([sum(s[t, i] * f[t, i] for i in range(PATCHES)) for t in range(len(f))])
    x = x @ c.input.weight.T + c.input.bias + time_waves(len(f), 12)
    for block in c.time:
        y = norm(x, block.norm)
        q = y @ block.attention.query.weight.T
        k, v = (y @ block.attention.key_value.weight.T).chunk(2, -1)
        read = []
        for t in range(len(f)):
            per_head = [
                (a[t] @ b[: t + 1].T / math.sqrt(6)).softmax(-1) @ w[: t + 1]
                for a, b, w in zip(heads(q), heads(k), heads(v), strict=True)
            ]
            read.append(torch.cat(per_head) @ block.attention.output.weight.T)
        x = x + torch.stack(read)
        y = norm(x, block.feed[0]) @ block.feed[1].weight.T
        x = x + (y * 0.5 * (1 + torch.erf(y / 2**0.5))) @ block.feed[3].weight.T
    return norm(x, c.output_norm) @ c.output.weight.T + c.output.bias


def changed(x: Tensor, batch: Batch, clips: list[Tensor], c: nn.Module, layer: nn.Module, score: str) -> Tensor:
    """What enters a block: every position by itself, from float[S, D] that left the block before."""
    rows = []
    for j in range(len(x)):
        talk_of = int(batch.sequence_ids[j])
        mine = [i for i in range(len(x)) if int(batch.sequence_ids[i]) == talk_of]
        asked = [int(batch.user_turn[i]) for i in mine if i <= j and batch.user_turn[i] >= 0]
        starts = zip(batch.item_sequence["video"].tolist(), batch.item_starts["video"].tolist(), clips, strict=True)
        shown = [norm(frames, c.norm) for owner, start, frames in starts if owner == talk_of and start <= j]
        if not asked or not shown:
            rows.append(x[j])
            continue
        frames = torch.cat(shown)
        u = torch.stack([x[i] for i in mine if int(batch.user_turn[i]) == max(asked)]).mean(0)
        wanted = layer.selector.query.weight @ u
        products = frames @ layer.selector.key.weight.T @ wanted / math.sqrt(8)
        r = products.max(-1).values if score == "best" else products.mean(-1)
        p = r.softmax(0)
        best = p.argsort(descending=True)[:2]
        q = norm(x[j], layer.interactor.norm) @ layer.interactor.query.weight.T
        o = torch.zeros_like(q)
        for t in best:
            kv = frames[t] @ layer.interactor.value.weight.T
            read = [(a @ b.T / 2).softmax(-1) @ b for a, b in zip(heads(q), heads(kv), strict=True)]
            o = o + p[t] / p[best].sum() * torch.cat(read)
        rows.append(x[j] + torch.tanh(layer.interactor.gate) * (layer.interactor.output.weight @ o))
    return torch.stack(rows)


@pytest.mark.parametrize("score", ["best", "mean"])
@torch.no_grad()
def test_the_equations(score: str) -> None:
    """Tokens, and what enters blocks 1 and 3, stated position by position."""
    model = iva(score=score)
    batch = packed(model, TALKS)
    left: dict[int, Tensor] = {}
    entered: dict[int, Tensor] = {}
    for index, block in enumerate(model.llm.blocks):
        block.register_forward_hook(lambda _, args, out, i=index: left.__setitem__(i, out[0]))
        block.register_forward_pre_hook(lambda _, args, i=index: entered.__setitem__(i, args[0][0]))
    logits(model, batch)
    connector = model.connectors["video"]
    clips = [clip(5, 1), clip(3, 2), clip(2, 3)]
    assert torch.equal(entered[2], left[1])
    assert (
        batch.media_positions["video"].tolist()
        == (entered[0] - model.embed(batch)[0].text_embeds).any(-1).nonzero()[:, 0].tolist()
    )
    expected = torch.cat([tokens_of(frames, connector) for frames in clips])
    torch.testing.assert_close(entered[0][batch.media_positions["video"]], expected, atol=1e-5, rtol=1e-5)
    for index in (1, 3):
        found = changed(left[index - 1], batch, clips, connector, connector.layers[str(index)], score)
        torch.testing.assert_close(entered[index], found, atol=1e-5, rtol=1e-5)
        moved = (entered[index] != left[index - 1]).any(-1)
        assert not moved[batch.sequence_ids == 1].any() and moved[batch.sequence_ids == 2].any()


def test_gates_start_closed() -> None:
    """Untrained, the layers inside the LLM change no bit; an open gate does."""
    model = iva(shaken=False)
    batch = packed(model, TALKS)
    start = logits(model, batch)
    handle = model.handles["video"]
    assert handle is not None
    with torch.no_grad():
        model.connectors["video"].layers["1"].interactor.gate.fill_(0.5)
    assert not torch.equal(logits(model, batch), start)
    handle.remove()
    assert torch.equal(logits(model, batch), start)


@torch.no_grad()
def test_only_the_message_of_its_turn_decides() -> None:
    """Another answer leaves the choice alone; another question changes it, and what follows that question alone."""
    model = iva()
    clips = [clip(6, 4)]

    def chosen(*messages: str) -> Tensor:
        ctx, _ = model.hidden(packed(model, [clip_talk(*messages, clips=clips)]))
        found = model.connectors["video"].chosen(ctx)
        assert found is not None
        return found

    first = chosen("<video> What is on the sign?", "red")
    torch.testing.assert_close(chosen("<video> What is on the sign?", "the cat sat"), first, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(chosen("<video> How many digits?", "red"), first, atol=1e-2)
    torch.testing.assert_close(first.sum((1, 2)), torch.ones(2))
    assert ((first > 0).sum((1, 2)) == 2).all()


def test_nothing_later_than_its_message_reaches_a_position() -> None:
    """A later turn with a clip of its own changes no earlier logit, nor do a clip's later frames its earlier tokens."""
    model = iva()
    one = clip_talk("<video> Is it red?", "yes", clips=[clip(3, 2)])
    more = clip_talk("<video> Is it red?", "yes", "<video> And now?", "no", clips=[clip(3, 2), clip(4, 5)])
    alone, longer = (packed(model, [sample]) for sample in (one, more))
    n = alone.n_tokens - 2  # the template's last newline differs in nothing, but stay clear of the end
    torch.testing.assert_close(logits(model, longer)[:n], logits(model, alone)[:n], atol=2e-5, rtol=1e-4)
    connector = model.connectors["video"]
    long, short = clip(5, 6), clip(5, 6)[:3]
    feature = [
        Features({-2: c.flatten(0, 1)[None]}, torch.ones(1, len(c) * 4).bool(), (len(c), 2, 2)) for c in (long, short)
    ]
    with torch.no_grad():
        torch.testing.assert_close(connector(feature[0])[0][:, :3], connector(feature[1])[0])


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_clips_of_different_lengths_do_not_disturb_each_other(family: str) -> None:
    """Conversations packed together equal themselves alone, though their clips are padded to one length."""
    model = iva(family)
    batch = packed(model, TALKS)
    together = logits(model, batch).split(batch.cu_seqlens.diff().tolist())
    for sample, rows in zip(TALKS, together, strict=True):
        torch.testing.assert_close(logits(model, packed(model, [sample])), rows, atol=2e-5, rtol=1e-4)


def asked(sample: Sample) -> Sample:
    """Without its last answer."""
    return Sample(sample.name, sample.messages[:-1], sample.media)


@pytest.mark.parametrize("select", ["question", "uniform"])
def test_answers_in_a_batch_are_those_one_by_one(select: str) -> None:
    """Rows finish at different times, clips differ in length, two decodings take turns."""
    model = iva(select=select)
    samples = [asked(sample) for sample in TALKS]
    generator = Generator(model)
    alone = [generator.generate([sample], 8)[0].text for sample in samples]
    assert [answer.text for answer in generator.generate(samples, 8)] == alone
    first, second, again = (
        model.prefill(packed(model, [sample], train=False)) for sample in (samples[0], samples[2], samples[0])
    )
    seen = []
    for _ in range(3):
        first, second = (model.decode(state, state.logits.argmax(-1)) for state in (first, second))
        seen.append(first.logits)
    for logit in seen:
        again = model.decode(again, again.logits.argmax(-1))
        torch.testing.assert_close(again.logits, logit)


def test_a_cached_step_is_steered_by_what_the_prompt_chose() -> None:
    """Wiping what was kept changes the next logits, so the step reads it and nothing else."""
    model = iva()
    batch, five = packed(model, [asked(TALKS[0])], train=False), torch.tensor([5])
    steered = model.decode(model.prefill(batch), five).logits
    wiped = model.prefill(batch)
    kept = model.connectors["video"].chosen(wiped.ctx)
    assert kept is not None and (kept.sum((1, 2)) - 1).abs().max() < 1e-5
    with torch.inference_mode():
        kept.zero_()
    assert not torch.allclose(model.decode(wiped, five).logits, steered, atol=1e-3)


def test_the_selector_learns_from_the_answer() -> None:
    """Its weights get a gradient through the renormalised scores of the frames it chose."""
    model = iva()
    model.connectors.requires_grad_(True)
    nll, _, _ = model(packed(model, TALKS))
    nll.backward()
    grads = {name: p.grad for name, p in model.connectors.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.abs().sum() > 0] == []


@torch.no_grad()
def test_uniform_frames_are_spread_and_weigh_the_same() -> None:
    model = iva(select="uniform", top_k=3)
    ctx, _ = model.hidden(packed(model, [clip_talk("<video> Is it red?", "yes", clips=[clip(9, 1)])]))
    chosen = model.connectors["video"].chosen(ctx)
    assert chosen is not None and chosen[0, 0].nonzero()[:, 0].tolist() == [1, 4, 7]
    assert torch.allclose(chosen[0, 0, [1, 4, 7]], torch.tensor(1 / 3))
    assert not [name for name, _ in model.connectors.named_parameters() if "selector" in name]


def test_a_batch_without_questions_is_refused() -> None:
    model = iva()
    batch = replace(packed(model, TALKS), user_turn=None)
    with pytest.raises(MmllmError, match="where the user's messages are"):
        logits(model, batch)
    assert (packed(model, TALKS).labels != IGNORE_INDEX).any()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"top_k": 1}, "top_k: 1 must be at least 2"),
        ({"every": 9}, r"every: 9 must name at least one of the LLM's blocks 0\.\.3"),
        ({"blocks": [1, 4]}, r"blocks: \[1, 4\] must name"),
        ({"blocks": [1, 1]}, "none twice"),
        ({"heads": 5}, "heads: 5 must divide the width of 12"),
        ({"score": "worst"}, "'worst' is unknown; known: best, mean"),
        ({"select": "all"}, "known: question, uniform"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words: dict[str, Any], says: str) -> None:
    with pytest.raises(MmllmError, match=says):
        IvaConnector(dim=DIM, llm_dim=32, **{**SMALL, **words}).attach(tiny_llm())
