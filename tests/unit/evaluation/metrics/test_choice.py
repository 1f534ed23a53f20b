"""The option that an answer takes: an order of evidence, only what was offered, nothing guessed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmllm.evaluation.metrics.choice import letter, taken

READ = {
    # the whole answer
    "B": "B",
    "b": "B",
    " (b)\n": "B",
    "**B**": "B",
    "B.": "B",
    "[B]": "B",
    "B\u3002": "B",
    "\uff08B\uff09": "B",
    "A": "A",
    # the last of what names the answer
    "The answer is B": "B",
    "The best answer is: (B) a dog": "B",
    "The correct answer is B because it is blue.": "B",
    "The answer is A because it is blue.": "A",
    "Answer: B.": "B",
    "Answer: **B**": "B",
    "**Answer:** B": "B",
    "answer = b": "B",
    "option b": "B",
    "I would take option B.": "B",
    "\\boxed{B}": "B",
    "Hence \\boxed{\\text{B}}.": "B",
    "<answer>B</answer>": "B",
    "B is correct": "B",
    "(A) is wrong, (B) is right": "B",
    "option B is wrong; it is A": "A",
    "I would rule out (A). So B.": "B",
    "First I took the answer A. No: the answer is B.": "B",
    "Answer: B\nExplanation: (A) is wrong": "B",
    "allele (H) is dominant. The answer is A.": "A",
    "<think>(A) is wrong, the answer is C</think>B": "B",
    # what the answer begins with
    "B) on the left": "B",
    "B: on the left": "B",
    "(B) on the left": "B",
    "(B) because (B) fits": "B",
    "B on the left": "B",
    "B, blue": "B",
    "B.blue": "B",
    "**B.** blue": "B",
    "b. blue": "B",
    "b) blue": "B",
    "B\n\nExplanation: it is blue": "B",
    "A. dog": "A",
    # in brackets
    "It is (B).": "B",
}
UNREAD = (
    "A cat is on the mat",
    "I see a dog",
    "The answer is a dog",
    "The answer is C or D",
    "A or B",
    "A, B",
    "Answer is not A but B",
    "It is not (A).",
    "vitamin (C)",
    "B is wrong",
    "CAT",
    "cat and dog",
    "11. B",
    "C++ is faster",
    "B's bag",
    "<think>the answer is B",
    "",
    ".",
    "(",
)


@pytest.mark.parametrize(("said", "wanted"), [*READ.items(), *((said, None) for said in UNREAD)])
def test_a_letter_is_read_in_the_order_of_evidence_and_never_guessed(said: str, wanted: str | None) -> None:
    assert letter(said) == wanted


def test_only_offered_letters_count() -> None:
    assert letter("Answer: Z", "ABCD") is None and letter("Z", "ABCD") is None
    # what names no option stands in the way of none
    assert letter("option Z is not there. The answer is B.", "ABCD") == "B"
    assert letter("(F) B", "ABCD") is None


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Red car.", 2),
        ("The answer is red car.", 2),
        ("It is the dog (B).", 1),
        ("a cat", 0),
        ("A cat", 0),
        ("B", 1),
        ("I would say the second one", None),
        ("dog and red car", None),
        ("a hat (B)", None),
        ("!", None),
    ],
)
def test_the_text_of_an_option_is_read_behind_its_letter(said: str, wanted: int | None) -> None:
    assert taken(said, ["a cat", "dog", "red car", "blue car"]) == wanted


def test_of_options_with_one_text_the_first_is_taken_and_empty_ones_never() -> None:
    assert taken("dog", ["cat", "dog", "Dog."]) == 1
    assert taken("", ["", "."]) is None and taken("...", ["", "."]) is None


def test_real_outputs_are_read_as_their_authors_read_them() -> None:
    """LLaVA-13B's published 4,241 answers to ScienceQA: solutions at length that end in "The answer is B."."""
    root = os.environ.get("MMLLM_TEST_DATA")
    if not root:
        pytest.skip("MMLLM_TEST_DATA is not set")
    file = json.loads((Path(root) / "eval_oracles" / "scienceqa" / "test_sqa_llava_13b_v0.json").read_text())
    other = {key: (letter(file["outputs"][key], "ABCDE"), "ABCDE"[number]) for key, number in file["results"].items()}
    assert len(other) == 4_241
    # that one says D, and their reader took another option at random: the question has no D
    assert {key: pair for key, pair in other.items() if pair[0] != pair[1]} == {"3247": ("D", "B")}
