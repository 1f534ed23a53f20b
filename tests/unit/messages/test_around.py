"""Text of the LLM around items: tokenised with what stands beside it, as processors do, and never learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mmllm.messages.tokenize import Prompter
from mmllm.testing.tiny.llms import tiny_tokenizer
from mmllm.types import IGNORE_INDEX, Message, Place, Sample

PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for part in m['content'] %}{{ '<pic>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer() -> Any:
    """Line breaks that meet are one token; ``<pic>`` begins a picture."""
    made = tiny_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<pic>", "</pic>"]})
    made.add_tokens(["\n\n", "\n\n\n"])
    return made


@pytest.mark.parametrize("own", [True, False])
def test_line_breaks_that_meet_are_one_token(own: bool) -> None:
    made = tokenizer()
    if own:
        made.chat_template = PARTS
    place = Place("image", "<pic>" if own else None, around=("\n\n<pic>", "</pic>\n\n"))
    question = "<image>What <pic> is it?\n<image>And this?"
    sample = Sample("s", (Message("user", question), Message("assistant", "A cat.")), {"image": (1, 2)})
    prompter = Prompter(made, [place], user_turn=True)
    prompt = prompter.tokenize_for_training(sample)
    names = made.convert_ids_to_tokens(prompt.ids)
    for position, key in prompt.places:
        assert key == "image"
        names[position] = "PLACE"
        around = names[position - 2 : position + 3]
        assert around == ["\n\n\n", "<pic>", "PLACE", "</pic>", "\n\n"]
        assert {prompt.labels[n] for n in range(position - 2, position + 3)} == {IGNORE_INDEX}
        assert {prompt.user_turn[n] for n in range(position - 2, position + 3)} == {-1}
    assert len(prompt.places) == 2
    # one that was typed is text: its characters
    assert names.count("<pic>") == 2
    learned = [token for token in prompt.labels if token != IGNORE_INDEX]
    assert made.decode(learned).startswith("A cat.<|im_end|>")
    asked = prompter.tokenize_prompt(replace(sample, messages=sample.messages[:1]))
    assert prompt.ids[: len(asked.ids)] == asked.ids
    assert Prompter(made, [place], prefix=True).tokenize_for_training(sample).prefix == len(asked.ids)
