"""Encoding, collating and mixing: lengths, places, labels, and the order of samples as a pure function of the step."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch

from mmllm.batches.collate import collate
from mmllm.batches.mixture import Mixture
from mmllm.batches.sample import encode, load_media, plan
from mmllm.errors import MmllmError, SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.types import IGNORE_INDEX, Message, Sample
from tests.support.parts import tiny_tokenizer
from tests.support.readers import Counting
from tests.support.talks import talk


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    """For two encoders, image and sound."""
    return Prompter(tiny_tokenizer(), ["image", "sound"])


def test_placeholders_become_as_many_places_as_their_item_takes(prompter: Prompter) -> None:
    readers = {"image": Counting(), "sound": Counting(fixed=3)}
    sample = talk("a", "<image> is <sound>", "A red", "<image>?", "a <image> square.", image=(5, 7), sound=(9,))
    encoded = encode(sample, prompter, readers, 256, train=True)
    prompt = prompter.tokenize_for_training(sample)
    assert [(span.length, span.key, span.item) for span in encoded.spans] == [
        (5, "image", 0),
        (3, "sound", 0),
        (7, "image", 1),
    ]
    covered = {i for span in encoded.spans for i in range(span.start, span.start + span.length)}
    placed = {position for position, _ in prompt.places}
    rest = [i for i in range(len(encoded.ids)) if i not in covered]
    assert [encoded.ids[i] for i in rest] == [token for i, token in enumerate(prompt.ids) if i not in placed]
    assert [encoded.labels[i] for i in rest] == [label for i, label in enumerate(prompt.labels) if i not in placed]
    assert all(encoded.ids[i] == 0 and encoded.labels[i] == IGNORE_INDEX for i in covered)
    assert [float(item["eye"]["value"]) for item in encoded.media["image"]] == [5, 7]
    assert encoded.n_labels == sum(label != IGNORE_INDEX for label in encoded.labels) > 0


def test_a_question_ends_on_the_generation_prompt(prompter: Prompter) -> None:
    encoded = encode(talk("a", "<image>?", image=(4,)), prompter, {"image": Counting(4)}, 256, train=False)
    text = tiny_tokenizer().decode(encoded.ids)
    assert text.endswith("<|im_start|>assistant\n") and encoded.n_labels == 0


def test_too_long_is_said_and_nothing_is_cut(prompter: Prompter) -> None:
    readers = {"image": Counting(16), "sound": Counting()}
    sample = talk("a", "<image><image>What?", "Red.", image=(1, 2))
    length = len(encode(sample, prompter, readers, 4096, train=True).ids)
    assert len(encode(sample, prompter, readers, length, train=True).ids) == length
    with pytest.raises(SampleError, match=f"a: {length} tokens \\(32 of them media\\) are over the context of"):
        encode(sample, prompter, readers, length - 1, train=True)
    with pytest.raises(SampleError, match=r"of them media\) are over the context"):
        encode(talk("a", "<sound>", "Red.", sound=(9999,)), prompter, readers, 4096, train=True)


def test_length_is_known_without_reading_where_the_grid_is_fixed(prompter: Prompter) -> None:
    fixed, varying = Counting(16), Counting()
    sample = talk("a", "<image>?", "Red.", image=(5,))
    planned = plan(sample, prompter, {"image": fixed}, 256, train=True)
    assert fixed.n_read == 0 and planned.length == len(load_media(planned, {"image": fixed}).ids)
    planned = plan(sample, prompter, {"image": varying}, 256, train=True)
    assert varying.n_read == 1 and planned.length == len(load_media(planned, {"image": varying}).ids)


def test_unreadable_media_name_sample_and_item(prompter: Prompter) -> None:
    with pytest.raises(SampleError, match="shop:3: image 2: item -1 is no picture"):
        sample = talk("shop:3", "<image><image>", "Red.", image=(1, -1))
        encode(sample, prompter, {"image": Counting(2)}, 256, train=True)


def test_an_assistant_that_opens_has_no_label_at_the_first_position(prompter: Prompter) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    opening = Sample("a", (Message("assistant", "Red square"),))
    encoded = encode(opening, Prompter(tokenizer, []), {}, 256, train=True)
    assert encoded.labels[0] == IGNORE_INDEX and encoded.labels[1:] == encoded.ids[1:]
    assert encoded.n_labels == len(encoded.ids) - 1


def test_collate_packs_end_to_end_and_keeps_books(prompter: Prompter) -> None:
    readers = {"image": Counting(), "sound": Counting(fixed=2)}
    samples = [
        talk("a", "<image>?", "Red.", image=(3,)),
        talk("b", "How many?", "Two."),
        talk("c", "<image> or <sound> <image>", "No.", image=(2, 4), sound=(8,)),
    ]
    encoded = [encode(sample, prompter, readers, 256, train=True) for sample in samples]
    batch = collate(encoded, readers)
    lengths = [len(one.ids) for one in encoded]
    assert batch.cu_seqlens.tolist() == [0, lengths[0], sum(lengths[:2]), sum(lengths)]
    assert batch.n_tokens == sum(lengths) and batch.n_labels == sum(one.n_labels for one in encoded)
    assert batch.position_ids[0].tolist() == [i for length in lengths for i in range(length)]
    assert batch.sequence_ids.tolist() == [i for i, length in enumerate(lengths) for _ in range(length)]
    assert batch.input_ids.tolist() == [token for one in encoded for token in one.ids]
    assert batch.labels.tolist() == [label for one in encoded for label in one.labels]
    assert batch.media["image"]["eye"]["value"].tolist() == [3, 2, 4] and batch.media["sound"]["eye"][
        "value"
    ].tolist() == [8]
    shown = Counter(batch.media_ids[batch.media_positions["image"]].tolist())
    assert shown == {0: 3, 1: 2, 2: 4}, "an item's places differ from its size"
    assert (batch.media_ids >= 0).sum() == 3 + 2 + 4 + 2
    for key in ("image", "sound"):
        assert batch.input_ids[batch.media_positions[key]].eq(0).all()
        assert batch.media_positions[key].tolist() == sorted(batch.media_positions[key].tolist())
    assert batch.names == ["a", "b", "c"]


def test_empty_and_text_only_batches(prompter: Prompter) -> None:
    empty = collate([], {})
    assert (empty.n_tokens, empty.n_labels, empty.cu_seqlens.tolist(), empty.names) == (0, 0, [0], [])
    assert empty.input_ids.dtype == torch.int64 and empty.sequence_ids.dtype == torch.int64
    readers = {"image": Counting(2)}
    text = collate([encode(talk("a", "Hi", "Ho"), prompter, readers, 256, train=True)], readers)
    assert text.media == {} and text.media_positions == {} and bool((text.media_ids == -1).all())


def _all(mixture: Mixture) -> list[tuple[str, int]]:
    return [drawn for k in range(mixture.n_steps) for drawn in mixture.step(k)]


def test_an_epoch_shows_every_sample_once_in_a_new_order_each_time() -> None:
    draw = random.Random(0)
    for trial in range(30):
        sources = {name: range(draw.randint(1, 40)) for name in "abc"[: draw.randint(1, 3)]}
        batch, epochs = draw.randint(1, 17), draw.randint(1, 3)
        mixture = Mixture(sources, dict.fromkeys(sources, 1.0), trial, batch=batch, epochs=epochs)
        drawn = _all(mixture)
        every = [(name, i) for name, source in sources.items() for i in range(len(source))]
        orders = [drawn[i : i + len(every)] for i in range(0, len(drawn), len(every))]
        assert len(orders) == epochs and all(sorted(order) == every for order in orders)
        if len(every) > 8:
            assert len({tuple(order) for order in orders}) == epochs and orders[0] != every
        assert [len(mixture.step(k)) for k in range(mixture.n_steps - 1)] == [batch] * (mixture.n_steps - 1)


def test_weights_multiply_sizes_and_use_samples_evenly() -> None:
    draw = random.Random(1)
    for trial in range(30):
        sources = {name: range(draw.randint(1, 30)) for name in "ab"}
        weights = {name: draw.choice([0.25, 0.5, 0.7, 1.0, 2.0, 3.3]) for name in sources}
        epochs = draw.choice([1, 2, 4])
        mixture = Mixture(sources, weights, trial, batch=7, epochs=epochs)
        uses = Counter(_all(mixture))
        for name, source in sources.items():
            counts = [uses[name, i] for i in range(len(source))]
            assert max(counts) - min(counts) <= 1
            assert sum(counts) == epochs * max(1, round(weights[name] * len(source)))


def test_a_step_depends_on_nothing_but_seed_and_number() -> None:
    sources, weights = {"a": range(50), "b": range(23)}, {"a": 1.0, "b": 0.5}
    first = Mixture(sources, weights, 3, batch=8, epochs=5)
    expected = [first.step(k) for k in range(first.n_steps)]
    order = list(range(first.n_steps))
    random.Random(2).shuffle(order)
    again = Mixture(sources, weights, 3, batch=8, steps=first.n_steps)
    assert {k: again.step(k)[: len(expected[k])] for k in order} == dict(enumerate(expected))
    assert [Mixture(sources, weights, 4, batch=8, epochs=5).step(k) for k in range(first.n_steps)] != expected


def test_adding_a_source_leaves_the_others_draw() -> None:
    def half(names: str, seed: int = 0) -> set[int]:
        mixture = Mixture(dict.fromkeys(names, range(40)), dict.fromkeys(names, 0.5), seed, batch=5, epochs=1)
        return {i for name, i in _all(mixture) if name == "a"}

    assert half("a") == half("ab") == half("ba") and len(half("a")) == 20
    assert half("a") != half("a", seed=1)


@pytest.mark.parametrize(("epochs", "n_samples", "n_steps"), [(1, 10, 3), (0.5, 5, 2), (2.35, 24, 6), (0.001, 1, 1)])
def test_fractional_epochs(epochs: float, n_samples: int, n_steps: int) -> None:
    mixture = Mixture({"a": range(10)}, {"a": 1.0}, 0, batch=4, epochs=epochs)
    assert (mixture.n_samples, mixture.n_steps, len(_all(mixture))) == (n_samples, n_steps, n_samples)
    with pytest.raises(IndexError):
        mixture.step(n_steps)


@pytest.mark.parametrize(
    ("sentence", "sources", "weights", "length"),
    [
        ("no source 'b'", {"a": range(3)}, {"b": 1.0}, {"epochs": 1}),
        ("'a' is empty", {"a": range(0)}, {"a": 1.0}, {"epochs": 1}),
        ("has the weight 0.0", {"a": range(3)}, {"a": 0.0}, {"epochs": 1}),
        ("has the weight nan", {"a": range(3)}, {"a": float("nan")}, {"epochs": 1}),
        ("either epochs or steps", {"a": range(3)}, {"a": 1.0}, {}),
        ("either epochs or steps", {"a": range(3)}, {"a": 1.0}, {"epochs": 1, "steps": 2}),
    ],
)
def test_impossible_mixtures(sentence: str, sources: Any, weights: dict[str, float], length: dict[str, Any]) -> None:
    with pytest.raises(MmllmError, match=sentence):
        Mixture(sources, weights, 0, batch=2, **length)
