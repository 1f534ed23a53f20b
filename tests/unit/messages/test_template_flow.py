"""Templates whose writing hangs on roles alone are rendered once per sequence of roles; what is no such template."""

from __future__ import annotations

import random

import pytest

from mmllm.errors import SampleError
from mmllm.messages.template_flow import writes_by_roles_alone
from mmllm.messages.tokenize import Prompt, Prompter
from mmllm.types import Message, Sample
from tests.support.chat_styles import SPANS, sample_of, style_tokenizer

LOOP = "{%% for m in messages %%}%s{%% endfor %%}"


@pytest.mark.parametrize(
    "body",
    [
        "{% if '/no_think' in m.content %}x{% endif %}{{ m.content }}",
        "{% if m['content'] %}x{% endif %}",
        "{% set text = m.content %}{% if text.startswith('a') %}x{% endif %}",
        "{% set ns = namespace(seen='') %}{% set ns.seen = m.content %}{% if ns.seen == 'a' %}x{% endif %}",
        "{{ m.content }}{{ m.content | length }}",
        "{{ m.content | upper }}",
        "{{ m.content.split('</think>')[-1] }}",
        "{{ m.content[1:] }}",
        "{{ m }}",
        "{{ 'x' if m.content == 'a' else 'y' }}",
        "{% for key in m %}{{ m[key] | length }}{% endfor %}",
        "{% if loop.previtem and loop.previtem.content == 'a' %}x{% endif %}",
        "{% if loop.changed(m.content) %}x{% endif %}",
        "{% for c in m.content %}{{ c }}-{% endfor %}",
        "{% if (messages | last).content == 'a' %}x{% endif %}",
        "{% set last = messages[-1] %}{% if last.content == 'a' %}x{% endif %}",
        "{% macro say(t) %}{{ t | length }}{% endmacro %}{{ say(m.content) }}",
        "{% filter length %}{{ m.content }}{% endfilter %}",
        "{% set text %}{{ m.content }}{% endset %}{% if text == 'a' %}x{% endif %}",
    ],
)
def test_a_template_that_looks_at_texts_is_not_taken_for_one_that_does_not(body: str) -> None:
    assert not writes_by_roles_alone(LOOP % body)


def test_texts_written_whole_and_trimmed_are() -> None:
    body = (
        "{% set text = '<' + m['role'] + '>' + m.content | trim %}{% if loop.first and m.tool_calls is not defined %}"
        "{% set text = bos_token + text %}{% endif %}{{ text }}"
        "{% if not loop.last %}{{ m.content.strip() ~ eos }}{% endif %}"
    )
    assert writes_by_roles_alone(LOOP % body)
    assert sum(writes_by_roles_alone(str(style_tokenizer(style).chat_template)) for style in SPANS) >= 8


@pytest.mark.parametrize("style", SPANS)
def test_prompts_are_those_of_rendering_each_conversation(style: str) -> None:
    tokenizer = style_tokenizer(style)
    quick, slow = Prompter(tokenizer, ["image"], user_turn=True), Prompter(tokenizer, ["image"], user_turn=True)
    slow._template.by_roles = False
    draw = random.Random(style)
    pieces = ["Hello", " ", "\n", "é", "<image>", "a</s>", "<|im_end|>", "<end_of_turn>", "0\ufffd"]
    for _ in range(25):
        roles = ["user", "assistant"] * draw.randint(1, 3)
        turns = [
            Message(role, "".join(draw.choices(pieces, k=draw.randint(0, 4))) + "x"[: role != "user"]) for role in roles
        ]
        turns = [turn if turn.text.strip() else Message(turn.role, "so") for turn in turns]
        n = sum(turn.text.count("<image>") for turn in turns if turn.role == "user")
        sample = sample_of(*turns, image=tuple(range(n)))
        assert _outcome(quick, sample) == _outcome(slow, sample)


def _outcome(prompter: Prompter, sample: Sample) -> Prompt | str:
    """The prompt, or the sentence of why there is none."""
    try:
        return prompter.tokenize_for_training(sample)
    except SampleError as error:
        return str(error)
