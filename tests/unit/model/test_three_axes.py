"""An LLM with three position axes (Qwen-VL's M-RoPE) keeps what always holds: packed, cached, padded, shared, reused.

The clips last longer than their rows and columns, so text behind them has positions below theirs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode, plan
from mmllm.batches.trees import load_tree, trees
from mmllm.checkpoints.load import check_inputs
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.generation.generator import Generator
from mmllm.generation.padded import Padded
from mmllm.llms.causal_lm import CausalLM
from mmllm.messages.tokenize import Prompter
from mmllm.model import trainable
from mmllm.model.input_digests import input_digests
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.llms import tiny_tokenizer
from mmllm.testing.tiny.published.folder import LLM
from mmllm.types import IGNORE_INDEX, Message, PositionScheme, Sample
from mmllm.vlms.headed_decoder import HeadedDecoder
from tests.support.serving import file_bytes

KINDS = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")


@cache
def seeing(kind: str = "Qwen2_5_VL", per_second: float | None = 25.0) -> MultimodalLM:
    """A tiny decoder of ``kind`` that sees pictures as 4 x 2 and clips as a place for each frame."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    torch.manual_seed(0)
    decoder = HeadedDecoder(getattr(t, f"{kind}TextConfig")(**LLM, head_dim=8, rope_parameters=rope))
    decoder.positions = replace(decoder.positions, per_second=per_second)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    llm = CausalLM(decoder, tiny_tokenizer())
    encoders = {"image": tiny_encoders.hf_vision(), "video": tiny_encoders.frames()}
    dim = encoders["image"].dim
    connectors = {
        "image": PoolConnector(dim=dim, llm_dim=llm.dim, stride=[1, 2]),
        "video": PoolConnector(dim=dim, llm_dim=llm.dim, stride=[4, 4]),
    }
    return MultimodalLM(llm, encoders, connectors, {"image": "image", "video": "video"}).requires_grad_(False).eval()


def samples(answer: str | None = None) -> list[Sample]:
    """Text alone, a picture and a clip between text, two pictures, a clip in a second turn."""
    (red, turned, navy), (long, short, _) = tiny_encoders.pictures(), tiny_encoders.clips()
    said = () if answer is None else (Message("assistant", answer),)
    turns = (Message("user", "What is on <image>?"), Message("assistant", "A cat."))
    return [
        Sample("text", (Message("user", "What is on the sign?"), *said)),
        Sample("both", (Message("user", "<image> red <video> How many shapes are there?"), *said),
               {"image": (red,), "video": (long,)}),
        Sample("two", (Message("user", "<image> <image> blue?"), *said), {"image": (turned, navy)}),
        Sample("turns", (*turns, Message("user", "And <video>"), *said), {"image": (navy,), "video": (short,)}),
    ]  # fmt: skip


def encoded(model: MultimodalLM, answer: str | None = None) -> list[Encoded]:
    prompter = Prompter(model.llm.tokenizer, model.places)
    return [encode(one, prompter, model.inputs, 512, train=answer is not None) for one in samples(answer)]


def test_times_of_clips_lie_above_the_text_behind_them() -> None:
    model = seeing()
    assert model.llm.positions == PositionScheme("mrope", 25.0) and seeing("Qwen2VL", None).llm.positions.axes == 3
    both = encoded(model)[1]
    image, video = both.spans
    assert (image.grid, video.grid) == ((4, 2), (3, 1, 1)) and video.interval == pytest.approx(0.2)
    found = collate([both], model.inputs, model.llm.positions).position_ids
    s = image.start + 4 + video.start - (image.start + 8)
    assert found[:, video.start : video.start + 3].tolist() == [[s, s + 5, s + 10], [s, s, s], [s, s, s]]
    assert found[:, video.start + 3].tolist() == [s + 1] * 3


def test_batches_with_positions_of_another_scheme_are_refused() -> None:
    model = seeing()
    with pytest.raises(ValueError, match="positions on 1 axes, but the LLM counts on 3"):
        model.embed(collate(encoded(model)[1:2], model.inputs))
    # of text alone they are the same
    text = encoded(model)[:1]
    one, three = (collate(text, model.inputs, *scheme) for scheme in ((), (model.llm.positions,)))
    assert torch.equal(model.logits(one), model.logits(three))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_packed_row_gives_the_states_of_the_decoder_alone(kind: str) -> None:
    """Of transformers' own attention and mask, for each conversation by itself."""
    model = seeing(kind, None)
    rows = encoded(model)
    batch = collate(rows, model.inputs, model.llm.positions)
    ctx, embeds = model.embed(batch)
    found = model.llm(embeds, ctx).split([len(row.ids) for row in rows])
    own = type(model.llm.decoder)(model.llm.model.config).eval()
    own.load_state_dict(model.llm.decoder.state_dict())
    own.set_attn_implementation("eager")
    try:
        for row, states, inputs in zip(rows, found, embeds.split([len(row.ids) for row in rows]), strict=True):
            places = collate([row], model.inputs, model.llm.positions).position_ids[:, None]
            alone = own(inputs_embeds=inputs[None], position_ids=places).last_hidden_state[0]
            torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-4)
            if row.spans:
                line = torch.arange(len(row.ids))[None]
                plain = own(inputs_embeds=inputs[None], position_ids=line).last_hidden_state[0]
                assert (plain - alone).abs().max() > 1e-2, "positions on three axes matter"
    finally:
        model.llm.model.set_attn_implementation("mmllm_packed")


def test_packed_training_equals_conversations_one_by_one() -> None:
    model = seeing()
    trainable.set_trainable(model, {"connectors.image": 1.0, "connectors.video": 1.0})

    def learned(batches: list[Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        total = torch.stack([model(batch)[0] for batch in batches]).sum()
        total.backward()
        return total.detach(), [p.grad.clone() for p in model.connectors.parameters() if p.grad is not None]

    rows = encoded(model, "three shapes")
    scheme = model.llm.positions
    loss, gradients = learned([collate(rows, model.inputs, scheme)])
    other, alone = learned([collate([row], model.inputs, scheme) for row in rows])
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=0)
    for one, two in zip(gradients, alone, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    model.requires_grad_(False)


@torch.no_grad()
def test_conversations_that_share_their_beginning_are_each_alone() -> None:
    model = seeing()
    media = {"image": (file_bytes(tiny_encoders.pictures()[0]),), "video": (tiny_encoders.clips()[0],)}
    asked = [
        Sample(word, (Message("user", f"<image> red <video> Is it {word}?"), Message("assistant", word)), media)
        for word in ("green", "blue", "a circle")
    ]
    prompter = Prompter(model.llm.tokenizer, model.places)
    plans = [plan(one, prompter, model.inputs, 512, train=True) for one in asked]
    (tree,) = trees(plans, ["x"] * 3, most=8)
    scheme = model.llm.positions
    shared = model(collate([load_tree(tree, plans, model.inputs, "x", scheme)], model.inputs, scheme))[0]
    alone = [model(collate([encode(one, prompter, model.inputs, 512, True)], model.inputs, scheme))[0] for one in asked]
    assert tree.members == (0, 1, 2)
    torch.testing.assert_close(shared, torch.stack(alone).sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_answers_are_those_of_the_uncached_forward_in_every_way(kind: str) -> None:
    """In pieces over stored keys, in left-padded batches, alone and together, again with what was read before."""
    model = seeing(kind)
    expected = [uncached(model, row) for row in encoded(model)]
    generator = Generator(model)
    together = generator.generate(samples(), 8)
    assert [(one.text, one.n_tokens) for one in together] == expected
    assert [generator.generate([one], 8)[0].text for one in samples()] == [text for text, _ in expected]
    longer = [replace(one, messages=(*one.messages, Message("assistant", "Yes."), Message("user", "Sure?")))
              for one in samples()]  # fmt: skip
    again = generator.generate(longer, 8)
    fresh = Generator(model)
    fresh.engine.reuse = False
    assert [one.text for one in again] == [one.text for one in fresh.generate(longer, 8)]
    padded = Generator(model)
    padded.engine._made = Padded(model)
    assert [(one.text, one.n_tokens) for one in padded.generate(samples(), 8)] == expected


@torch.no_grad()
def uncached(model: MultimodalLM, row: Encoded) -> tuple[str, int]:
    """Greedy answer of whole passes, and its tokens."""
    ends = Generator(model).end_ids
    chosen: list[int] = []
    while len(chosen) < 8 and not (chosen and chosen[-1] in ends):
        grown = replace(row, ids=row.ids + chosen, labels=[IGNORE_INDEX] * (len(row.ids) + len(chosen)))
        chosen.append(int(model.logits(collate([grown], model.inputs, model.llm.positions))[-1].argmax()))
    return model.llm.tokenizer.decode(chosen, skip_special_tokens=True).rstrip("\ufffd"), len(chosen)


def test_how_positions_are_counted_goes_into_checkpoints() -> None:
    found = [input_digests(seeing("Qwen2VL", per_second)).get("positions") for per_second in (None, 25.0)]
    assert None not in found and found[0] != found[1]
    # a run that was trained when all LLMs counted one after the other says nothing of it
    for told, other in (({"tokenizer": "a"}, True), ({"tokenizer": "a", "positions": "b"}, False), ({}, False)):
        checkpoint: Any = SimpleNamespace(path="run", manifest=SimpleNamespace(inputs=told))
        assert check_inputs(checkpoint, {"tokenizer": "a", "positions": "b"}, True) == (["positions"] if other else [])
