"""Laws that hold for each benchmark in the registry: right answers score 1, nothing scores 0, missing files say so."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmllm import registry
from mmllm.errors import MmllmError
from mmllm.evaluation.predictions import blinded

NAMES = sorted(registry.table("benchmarks"))


@pytest.fixture(params=NAMES)
def benchmark(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return registry.load("benchmarks", request.param).tiny(tmp_path / "data")


def file_of(item: Path) -> Path:
    """The file of an item, which may end in a node or a segment of it."""
    return item if item.is_file() else Path(str(item).rpartition("#")[0])


def right_answer(reference: Any) -> str:
    """What a perfect model says: the most frequent answer, or the box in hundredths."""
    if isinstance(reference[0], float):
        return "[" + ",".join(f"{100 * number:.0f}" for number in reference) + "]"
    return Counter(reference).most_common(1)[0][0]


def test_the_class_bears_its_registered_name(benchmark: Any) -> None:
    assert registry.load("benchmarks", benchmark.name) is type(benchmark)
    assert benchmark.metric
    assert benchmark.fetch.endswith((".", ").")) and len(benchmark.fetch) > 40


def test_questions_are_complete(benchmark: Any) -> None:
    assert len(benchmark) >= 2
    questions = [benchmark[index] for index in range(len(benchmark))]
    assert len({question.sample.name for question in questions}) == len(questions)
    for question in questions:
        (message,) = question.sample.messages
        assert message.role == "user"
        assert question.text in message.text
        assert question.sample.media
        for key, items in question.sample.media.items():
            assert message.text.count(f"<{key}>") == len(items) >= 1
            assert all(file_of(item).is_file() for item in items)
        assert question.sample.name.startswith(f"{benchmark.name}:")


def test_right_answers_score_one_and_nothing_scores_zero(benchmark: Any) -> None:
    for index in range(len(benchmark)):
        reference = benchmark[index].reference
        right = right_answer(reference)
        assert benchmark.parsed(right)
        assert benchmark.score(right, reference) == 1.0
        assert benchmark.score(f" {right}\n", reference) == 1.0
        for nothing in ("", "  \n"):
            assert not benchmark.parsed(nothing)
            assert benchmark.score(nothing, reference) == 0.0
        assert benchmark.score("quite something else", reference) == 0.0


def test_files_are_there_and_are_all_that_is_read(benchmark: Any) -> None:
    assert benchmark.files
    assert all(path.is_file() for path in benchmark.files)


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_say_what_to_fetch_and_where_to_put_it(name: str, tmp_path: Path) -> None:
    kind = registry.load("benchmarks", name)
    with pytest.raises(MmllmError) as caught:
        kind(path=str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert kind.fetch in str(caught.value)


def test_each_official_file_is_required(benchmark: Any) -> None:
    if benchmark.name in ("modelnet", "fsdd"):
        pytest.skip("its objects are whatever files its folders hold; its own test says what it requires")
    folder = next(parent for parent in benchmark.files[0].parents if parent.name == "data")
    for file in benchmark.files:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(MmllmError, match=file.name):
            type(benchmark)(path=str(folder))
        for damage in (b'[{"half":', b"{}", b"[]", b'[{"a": 1}]', b'{"data": [], "questions": [1], "annotations": 3}'):
            file.write_bytes(damage)
            with pytest.raises(MmllmError):
                type(benchmark)(path=str(folder))
        file.write_bytes(content)
    assert len(type(benchmark)(path=str(folder))) == len(benchmark)


def test_a_missing_item_stops_with_its_name(benchmark: Any) -> None:
    file = file_of(next(iter(benchmark[0].sample.media.values()))[0])
    file.unlink()
    with pytest.raises(MmllmError, match=file.name):
        benchmark[0]


def test_the_prompt_is_a_field(benchmark: Any) -> None:
    folder = next(parent for parent in benchmark.files[0].parents if parent.name == "data")
    media = " ".join(f"<{key}>" * len(items) for key, items in benchmark[0].sample.media.items())
    other = type(benchmark)(path=str(folder), prompt=f"Look: {media} {{question}} {{now}}")
    question = other[0]
    assert question.sample.messages[0].text == f"Look: {media} {question.text} {{now}}"
    with pytest.raises(MmllmError, match="question"):
        type(benchmark)(path=str(folder), prompt="What?")
    with pytest.raises(MmllmError, match=re.escape(media.split(">")[0])):
        type(benchmark)(path=str(folder), prompt="{question}")[0]


def test_blind_takes_the_media_and_their_places_away(benchmark: Any) -> None:
    question = benchmark[0]
    blind = blinded(question)
    assert not blind.sample.media
    text = question.sample.messages[0].text
    for key in question.sample.media:
        text = text.replace(f"<{key}>\n", "").replace(f"<{key}>", "")
        assert f"<{key}>" not in blind.sample.messages[0].text
    assert blind.sample.messages[0].text == text and question.text in text
