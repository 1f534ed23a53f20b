"""Conversations that begin alike: which become trees, what a tree holds, and that they only move inside an epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmllm.batches.collate import collate
from mmllm.batches.loader import Loader
from mmllm.batches.mixture import Mixture
from mmllm.batches.sample import PlannedSample, load_media, plan
from mmllm.batches.together import Together, by_media
from mmllm.batches.trees import load_tree, single, trees
from mmllm.errors import MediaError, SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.types import IGNORE_INDEX, Message, Sample, Segment
from tests.support.parts import tiny_tokenizer
from tests.support.readers import Counting

INPUTS: dict[str, Any] = {"image": Counting(None)}


def talk(name: str, question: str, answer: str, *images: int) -> Sample:
    """A question about pictures of that many places each."""
    text = "<image>" * len(images) + question
    return Sample(name, (Message("user", text), Message("assistant", answer)), {"image": images} if images else {})


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(tiny_tokenizer(), ["image"])


def planned(prompter: Prompter, samples: list[Sample]) -> list[PlannedSample]:
    return [plan(sample, prompter, INPUTS, 512, train=True) for sample in samples]


SAMPLES = [
    talk("a", "what is there ?", "a red square", 4),
    talk("b", "red green blue", "three", 9),
    talk("c", "what is left of it ?", "a sign", 4),
    talk("d", "red green blue", "three"),
    talk("e", "what is there ?", "a digit is there", 4),
    Sample("f", (Message("user", "what is <image>"), Message("assistant", "a sign")), {"image": (4,)}),
]


def test_what_shows_the_same_media_and_begins_alike_is_a_tree(prompter: Prompter) -> None:
    plans = planned(prompter, SAMPLES)
    found = trees(plans, ["x"] * 6, most=8)
    assert [tree.members for tree in found] == [(0, 2, 4), (1,), (3,), (5,)]
    alone = [one.length for one in plans]
    prefix = found[0].shared + alone[0] - len(plans[0].prompt.ids)
    assert found[0].length == sum(alone[number] for number in (0, 2, 4)) - 2 * prefix
    # "what is" is common to the three, and no state of the prefix predicts a label
    shared = [one.prompt.ids[: found[0].shared] for one in plans if one.sample.name in "ace"]
    assert shared[0] == shared[1] == shared[2]
    assert plans[0].prompt.ids[found[0].shared] != plans[2].prompt.ids[found[0].shared]


def test_the_same_question_twice_shares_all_but_what_predicts_a_label(prompter: Prompter) -> None:
    plans = planned(prompter, [SAMPLES[0], SAMPLES[4]])
    (tree,) = trees(plans, ["x", "x"], most=8)
    first = next(place for place, label in enumerate(plans[0].prompt.labels) if label != IGNORE_INDEX)
    assert tree.shared == first - 1


def test_other_data_other_media_a_limit_and_a_budget_keep_them_apart(prompter: Prompter) -> None:
    plans = planned(prompter, SAMPLES)
    assert [tree.members for tree in trees(plans, list("xxyxxx"), most=8)] == [(0, 4), (1,), (2,), (3,), (5,)]
    assert [tree.members for tree in trees(plans, ["x"] * 6, most=2)] == [(0, 2), (1,), (3,), (4,), (5,)]
    whole = trees(plans, ["x"] * 6, most=8)[0].length
    parts = trees(plans, ["x"] * 6, most=8, budget=whole - 1)
    assert [tree.members for tree in parts] == [(0,), (1,), (2, 4), (3,), (5,)]
    assert all(tree.length < whole for tree in parts)


def test_a_tree_is_one_stretch_of_the_row_with_every_label_once(prompter: Prompter) -> None:
    plans = planned(prompter, SAMPLES)
    tree = trees(plans, ["x"] * 6, most=8)[0]
    alone = [load_media(plans[number], INPUTS, "x") for number in tree.members]
    encoded = load_tree(tree, dict(enumerate(plans)), INPUTS, "x")
    assert encoded.segments is not None and encoded.position_ids is not None
    begin = encoded.segments[0].end
    assert encoded.n_conversations == 3 and encoded.n_labels == sum(one.n_labels for one in alone)
    for one, stretch in zip(alone, encoded.segments[1:], strict=True):
        assert stretch.prefix == (0, begin)
        assert encoded.ids[:begin] + encoded.ids[stretch.start : stretch.end] == one.ids
        labels = encoded.labels[:begin] + encoded.labels[stretch.start : stretch.end]
        # the first token after a prefix is no label: nothing of its own conversation would predict it
        assert labels == one.labels and labels[begin] == IGNORE_INDEX
        positions = encoded.position_ids[0, stretch.start : stretch.end].tolist()
        assert positions == list(range(begin, len(one.ids)))
    batch = collate([load_tree(single(plans)[1], dict(enumerate(plans)), INPUTS), encoded], INPUTS)
    assert batch.segments is not None and batch.segments[0] == Segment(0, plans[1].length)
    assert batch.segments[1] == Segment(plans[1].length, plans[1].length + begin)
    assert batch.n_samples == 4 and len(batch.names) == 2
    assert len(batch.item_starts["image"]) == 2, "the picture of a tree is there once"


class Pictures:
    """Questions about pictures in a random order; picture ``index % 5``, every seventh sample without one."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.blocks = None

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Sample:
        if self.broken and index == 3:
            raise SampleError("p:3: broken line")
        return talk(f"p:{index}", f"what is {index}", "red", *(() if index % 7 == 0 else (4 + index % 5,)))


@pytest.mark.parametrize("reach", [None, 20])
def test_samples_move_inside_their_window_and_an_epoch_keeps_them_all(reach: int | None) -> None:
    source = Pictures(broken=True)
    plain = Mixture({"p": source}, {"p": 1.0}, 3, batch=8, epochs=2)
    together = Together(by_media({"p": source}), most=4, reach=reach)
    moved = Mixture({"p": source}, {"p": 1.0}, 3, batch=8, epochs=2, together=together)
    drawn, found = ([one for step in range(m.n_steps) for one in m.step(step)] for m in (plain, moved))
    for start in range(0, 120, reach or 60):
        window = slice(start, start + (reach or 60))
        assert sorted(found[window]) == sorted(drawn[window])
    assert found != drawn
    assert [moved.step(step) for step in reversed(range(moved.n_steps))][::-1] == [
        moved.step(step) for step in range(moved.n_steps)
    ], "a step depends on its number alone"

    def pairs(order: list[tuple[str, int]]) -> int:
        steps = [order[start : start + 8] for start in range(0, 120, 8)]
        counts = [Counter(i % 5 for _, i in step if i % 7 and i != 3) for step in steps]
        return sum(number - 1 for count in counts for number in count.values())

    assert pairs(found) > pairs(drawn)
    if reach is None:
        sizes = [len(list(group)) for group in _runs(found[:60])]
        assert max(sizes) <= 4 and sizes.count(4) >= 8


def _runs(order: list[tuple[str, int]]) -> list[list[int]]:
    """Neighbours about the same picture."""
    found: list[list[int]] = []
    for _, index in order:
        if found and index % 7 and found[-1][-1] % 7 and found[-1][-1] % 5 == index % 5 and len(found[-1]) < 4:
            found[-1].append(index)
        else:
            found.append([index])
    return found


class Torn(Counting):
    """A picture that cannot be read."""

    def read(self, media: Any) -> Any:
        raise MediaError("cannot be read")


def test_every_sample_of_a_tree_is_named_where_its_picture_cannot_be_read(prompter: Prompter) -> None:
    source = Pictures()
    together = Together(by_media({"p": source}), most=4)
    mixture = Mixture({"p": source}, {"p": 1.0}, 3, batch=8, epochs=1, together=together)
    loader = Loader(mixture, {"p": source}, prompter, {"image": Torn(None)}, 512, most=4, max_bad=1.0)
    steps = list(loader)
    pictured = sorted(f"p:{i}: image 1: cannot be read" for i in range(60) if i % 7)
    assert sorted(str(error) for step in steps for error in step.bad) == pictured
    kept = [batch for step in steps for batch in step.micro]
    assert sum(batch.n_labels for batch in kept) == sum(step.n_labels_global for step in steps)


def test_media_are_equal_by_what_the_file_names(tmp_path: Path) -> None:
    media: list[Any] = [(tmp_path / "1.png",), ([1],)]
    samples = [talk("a", "x", "y"), *(Sample("b", (), {"image": one}) for one in media)]
    about = by_media({"s": samples})  # type: ignore[dict-item]
    assert about("s", 0) is None, "text alone is about no media"
    assert about("s", 1) == ("s", (("image", tmp_path / "1.png"),))
    assert about("s", 2) is None, "an array has no equal"
