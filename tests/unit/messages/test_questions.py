"""Whose words a position is: the user's messages are numbered, through every chat template, packed row and decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmllm.batches.collate import collate
from mmllm.hooks.passes import context_of, left_padded, next_token, select_rows
from mmllm.messages.tokenize import Prompt, Prompter
from mmllm.model.model import MultimodalLM
from mmllm.types import Message
from tests.support.chat_styles import SPANS, TURNS, ids_text, sample_of, style_tokenizer
from tests.support.talks import encoded, packed
from tests.support.three_senses import TALKS, three_senses


def words(tokenizer: Any, prompt: Prompt) -> dict[int, str]:
    """Text of the positions of each question, without the line break or blank a token may bring along."""
    numbers = sorted({number for number in prompt.user_turn if number >= 0})
    positions = {n: [i for i, q in enumerate(prompt.user_turn) if q == n] for n in numbers}
    return {n: ids_text(tokenizer, [prompt.ids[i] for i in at]).strip() for n, at in positions.items()}


def same(one: Prompt, other: Prompt) -> bool:
    """Equal but for the questions."""
    return (one.ids, one.labels, one.places) == (other.ids, other.labels, other.places)


@pytest.mark.parametrize("style", SPANS)
def test_each_template_says_where_the_user_speaks(style: str) -> None:
    tokenizer = style_tokenizer(style)
    marked, plain = Prompter(tokenizer, ["image"], user_turn=True), Prompter(tokenizer, ["image"])
    turns = (Message("user", "One <image> more?"), *TURNS[1:])
    sample = sample_of(*turns, image=(1,))
    asked = sample_of(*turns[:3], image=(1,))
    for found, other in (
        (marked.tokenize_for_training(sample), plain.tokenize_for_training(sample)),
        (marked.tokenize_prompt(asked), plain.tokenize_prompt(asked)),
    ):
        assert same(found, other) and other.user_turn == []
        assert len(found.user_turn) == len(found.ids)
        said = words(tokenizer, found)
        assert {n: " ".join(text.split()) for n, text in said.items()} == {0: "One more?", 1: "Two, please?"}
        ((place, _),) = found.places
        assert found.user_turn[place] == -1
        assert {found.user_turn[place - 1], found.user_turn[place + 1]} == {0}
        spoken = [q for q, label in zip(found.user_turn, found.labels, strict=True) if label != -100]
        assert set(spoken) <= {-1}


@pytest.mark.parametrize("style", ["chatml", "llama3", "zephyr", "smollm3"])
def test_a_system_message_is_no_question_and_control_tokens_stay_text(style: str) -> None:
    tokenizer = style_tokenizer(style)
    typed = tokenizer.eos_token
    turns = (Message("system", "Please answer."), Message("user", f"One {typed} two?"), TURNS[1], TURNS[2])
    found = Prompter(tokenizer, ["image"], user_turn=True).tokenize_prompt(sample_of(*turns))
    assert words(tokenizer, found) == {0: f"One {typed} two?", 1: "Two, please?"}


def test_a_question_of_media_alone_has_no_words() -> None:
    tokenizer = style_tokenizer("chatml")
    sample = sample_of(Message("user", "<image>"), TURNS[1], TURNS[2], image=(1,))
    assert words(tokenizer, Prompter(tokenizer, ["image"], user_turn=True).tokenize_prompt(sample)) == {
        1: "Two, please?"
    }


@pytest.fixture
def asking() -> MultimodalLM:
    """Three senses, with a connector that asks for questions, and times before the steps of a clip."""
    model = three_senses(times="{s:.1f}s ")
    model.connectors["lora"].reads_user_turn = True  # type: ignore[assignment]
    assert model.reads_user_turn
    return model


def test_marks_and_places_are_nobodys_question(asking: MultimodalLM) -> None:
    """Where the media go a question is interrupted; packed, each conversation keeps its numbers."""
    batch = packed(asking, TALKS)
    assert batch.user_turn is not None and batch.user_turn.shape == batch.input_ids.shape
    assert (batch.user_turn[torch.cat(list(batch.media_positions.values()))] == -1).all()
    assert (batch.user_turn[batch.labels != -100] == -1).all()
    tokenizer = asking.llm.tokenizer
    first = batch.sequence_ids == 0
    heard = [tokenizer.decode(batch.input_ids[first & (batch.user_turn == n)].tolist()) for n in (0, 1)]
    assert heard == [" then  then ?", " and : more?"]
    assert [batch.user_turn[batch.sequence_ids == n].max().item() for n in range(5)] == [1, 0, -1, 0, -1]
    plain = packed(three_senses(times="{s:.1f}s "), TALKS)
    assert plain.user_turn is None and torch.equal(plain.input_ids, batch.input_ids)
    assert packed(asking, []).user_turn is not None and asking(packed(asking, []))[0] == 0


def test_questions_follow_into_padded_rows_steps_and_rows_that_stay(asking: MultimodalLM) -> None:
    samples = encoded(asking, [TALKS[0], TALKS[1], TALKS[3]], train=False)
    batch = collate(samples, asking.inputs)
    ctx = context_of(batch, asking.inputs)
    assert batch.user_turn is not None and ctx.user_turn is not None
    assert torch.equal(ctx.user_turn, batch.user_turn[None])
    lengths = [len(one.ids) for one in samples]
    rows = left_padded(ctx, lengths)
    assert rows.user_turn is not None
    for row, one in zip(rows.user_turn.tolist(), samples, strict=True):
        assert row == [-1] * (max(lengths) - len(one.ids)) + one.user_turn
    step = next_token(rows, torch.tensor([1, 2, 3]))
    assert step.user_turn is not None and step.user_turn.tolist() == [[-1]] * 3
    kept = select_rows(step, torch.tensor([2, 0]))
    assert kept.user_turn is not None and kept.user_turn.tolist() == [[-1]] * 2
    without = three_senses()
    alone = packed(without, [TALKS[1]])
    padded = left_padded(context_of(alone, without.inputs), [alone.n_tokens])
    assert next_token(padded, torch.tensor([1])).user_turn is None
