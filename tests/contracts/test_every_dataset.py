"""What holds for every registered source, seen through its ``tiny()``: a new source is tested by being listed."""

from __future__ import annotations

import pickle
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from mmllm import registry
from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError
from mmllm.types import Sample


@pytest.fixture(params=sorted(registry.table("sources")))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """Every source of the table, opened on its own tiny dataset."""
    opened: Dataset = registry.load("sources", request.param).tiny(tmp_path)
    return opened


def test_samples_are_complete(source: Dataset) -> None:
    assert isinstance(source, Dataset) and len(source) > 0 and source.name
    samples = [source[i] for i in range(len(source))]
    assert len({sample.name for sample in samples}) == len(samples)
    for sample in samples:
        assert isinstance(sample, Sample) and sample.name.startswith(source.name)
        assert sample.messages[-1].role == "assistant" and sample.messages[-1].text
        text = "".join(message.text for message in sample.messages)
        for key, items in sample.media.items():
            assert text.count(f"<{key}>") == len(items) > 0
            for item in items:
                if key != "image":
                    assert Path(item).is_file() or Path(str(item).rpartition("#")[0]).is_file()
                    continue
                with Image.open(item) as image:
                    image.load()


def test_reading_again_gives_the_same(source: Dataset) -> None:
    assert [source[i] for i in range(len(source))] == [source[i] for i in range(len(source))]
    for index in (-1, len(source)):
        with pytest.raises(IndexError):
            source[index]


def test_threads_and_processes_may_share_it(source: Dataset) -> None:
    expected = [source[i] for i in range(len(source))]
    found: list[list[Sample]] = []
    threads = [Thread(target=lambda: found.append([source[i] for i in range(len(source))])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copied = pickle.loads(pickle.dumps(source))
    assert [*found, [copied[i] for i in range(len(source))]] == [expected] * 5


@pytest.mark.parametrize("name", sorted(registry.table("sources")))
def test_a_missing_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(MmllmError, match="there is no") as error:
        registry.load("sources", name)(path=str(missing))
    assert str(missing) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(registry.table("sources")))
def test_it_is_documented(name: str) -> None:
    assert registry.summary("sources", name)
    assert "path" in registry.parameters("sources", name)
