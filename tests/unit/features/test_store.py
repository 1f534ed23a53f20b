"""Shards and the store: what is written comes back, what is torn or altered is named and never used."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmllm.errors import MmllmError
from mmllm.features import files, shards, store
from mmllm.features.record import Record
from mmllm.features.store import FeatureStore
from tests.support.training import die_at_fsync


def record(number: int, tokens: int = 3) -> Record:
    """A record with layers, extras of different shapes, and times."""
    made = torch.Generator().manual_seed(number)
    layers = {name: torch.randn(tokens, 4, generator=made).half() for name in ("-2", "final")}
    extras = {
        "edges": torch.randint(0, 9, (2, number % 3), generator=made),
        "target": torch.tensor(number),
        "real": torch.tensor([True] * tokens),
    }
    return Record(layers, (tokens,), extras, torch.arange(tokens, dtype=torch.float64) / 3)


def key(number: int) -> bytes:
    """32 bytes."""
    return number.to_bytes(32, "big")


def same(first: Record | None, second: Record) -> bool:
    """Whether two records hold the same values."""
    if first is None or first.grid != second.grid:
        return False
    pairs = [(part, getattr(second, name)) for name, part in (("layers", first.layers), ("extras", first.extras))]
    equal = all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)
    assert first.seconds is not None and second.seconds is not None
    return equal and torch.equal(first.seconds, second.seconds)


def filled(folder: Path, numbers: range) -> Path:
    """A shard with these records."""
    kept = FeatureStore(folder)
    for number in numbers:
        kept.add(key(number), record(number, 1 + number % 4))
    kept.commit()
    return folder / files.names(folder)[-1]


def test_what_is_kept_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Before it is written and after, in this store and a new one; items differ in size, extras are empty or scalar."""
    kept = FeatureStore(tmp_path)
    for number in range(5):
        kept.add(key(number), record(number, 1 + number % 4))
    kept.add(key(3), record(99))  # known already: the first one stays
    early = FeatureStore(tmp_path)
    for _ in range(2):
        assert len(kept) == 5 and kept.get(key(7)) is None
        assert all(same(kept.get(key(number)), record(number, 1 + number % 4)) for number in range(5))
        kept.commit()
    for other in (early, FeatureStore(tmp_path)):
        assert all(same(other.get(key(number)), record(number, 1 + number % 4)) for number in range(5))
        assert len(other) == 5
    assert same(kept.get(key(4)), record(4, 1)) and kept.has(key(4)) and not kept.has(key(7))
    assert kept.get(key(1)).layers["-2"].dtype == torch.float16  # type: ignore[union-attr]


def test_a_store_is_read_by_memory_map(tmp_path: Path) -> None:
    """Two reads of a record are the same memory."""
    kept = FeatureStore(filled(tmp_path, range(3)).parent)
    first, second = kept.get(key(1)), kept.get(key(1))
    assert first is not None and second is not None
    assert first.layers["-2"].data_ptr() == second.layers["-2"].data_ptr()


def test_every_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Anywhere in a shard: what is read is either what was written or nothing, and the file is named and gone."""
    content = filled(tmp_path / "whole", range(3)).read_bytes()
    lost = 0
    for place in range(0, len(content), 7):
        folder = tmp_path / "flipped"
        folder.mkdir(exist_ok=True)
        path = folder / f"{place}{files.SUFFIX}"
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            kept = FeatureStore(folder)
            found = [kept.get(key(number)) for number in range(3)]
        assert all(one is None or same(one, record(number, 1 + number % 4)) for number, one in enumerate(found))
        if None in found:
            lost += 1
            assert f"{path} is damaged" in caplog.text and not path.exists()
        path.unlink(missing_ok=True)
    assert lost > len(content) // 7 * 0.9  # the rest is padding of the header, and a key's bit: then nothing is asked


def test_a_torn_shard_is_dropped_and_its_items_are_written_anew(tmp_path: Path) -> None:
    path = filled(tmp_path, range(3))
    os.truncate(path, path.stat().st_size - 5)
    kept = FeatureStore(tmp_path)
    assert len(kept) == 0 and not path.exists()
    filled(tmp_path, range(3))
    assert len(FeatureStore(tmp_path)) == 3


def test_a_shard_that_cannot_be_read_now_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer, or another process that removed it: nothing whole is removed."""

    def silent(*_: object) -> None:
        raise OSError(24, "Too many open files")

    path = filled(tmp_path, range(3))
    with monkeypatch.context() as patched:
        patched.setattr(shards, "safe_open", silent)
        kept = FeatureStore(tmp_path)
    assert kept.get(key(0)) is None and "is passed over (it cannot be read: " in caplog.text and path.exists()
    kept = FeatureStore(tmp_path)
    path.unlink()
    assert kept.get(key(0)) is None and "it cannot be read: No such file" in caplog.text


def test_a_shard_that_changes_while_it_is_in_use_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path, range(3))
    kept = FeatureStore(tmp_path)
    assert kept.get(key(0)) is not None
    tensors = load_file(path)
    tensors["layer.-2"][0] += 1
    save_file(tensors, path)
    assert kept.get(key(0)) is None and kept.get(key(1)) is None
    assert "it was changed while it was in use" in caplog.text


def test_swapped_tensors_of_equal_size_are_noticed(tmp_path: Path) -> None:
    """The index knows which values are whose, not only that they are whole."""
    path = filled(tmp_path, range(3))
    with shards.safe_open(path, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
    tensors["layer.-2"], tensors["layer.final"] = tensors["layer.final"], tensors["layer.-2"]
    path.unlink()
    save_file(tensors, path, metadata)
    assert FeatureStore(tmp_path).get(key(0)) is None


def test_a_full_shard_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 3 * record(0).n_bytes)
    kept = FeatureStore(tmp_path)
    for number in range(7):
        kept.add(key(number), record(0))
    assert len(files.names(tmp_path)) == 2 and len(FeatureStore(tmp_path)) == 6


def test_two_stores_on_one_folder_see_what_the_other_writes(tmp_path: Path) -> None:
    first, second = FeatureStore(tmp_path), FeatureStore(tmp_path)
    for kept, number in ((first, 1), (second, 2), (first, 3), (second, 3)):
        kept.add(key(number), record(number))
        kept.commit()
    assert all(same(kept.get(key(number)), record(number)) for kept in (first, second) for number in (1, 2, 3))


def fill_and_die(folder: Path, numbers: range, at: int) -> None:
    """Fill a store, a shard for each record; be killed before the ``at``-th fsync."""
    die_at_fsync(at)
    kept = FeatureStore(folder)
    for number in numbers:
        kept.add(key(number), record(number))
        kept.commit()


def test_kills_and_two_processes_at_once(tmp_path: Path) -> None:
    """Two fill the same folder, one is killed in a write: all that is there is whole, the rest is filled afterwards."""
    context = multiprocessing.get_context("fork")
    runs = [
        context.Process(target=fill_and_die, args=(tmp_path, range(0, 20), 0)),
        context.Process(target=fill_and_die, args=(tmp_path, range(10, 30), 9)),
    ]
    with warnings.catch_warnings():  # Python's, where pytest-xdist has a thread of its own: nothing here waits for it
        warnings.simplefilter("ignore", DeprecationWarning)
        for run in runs:
            run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, -signal.SIGKILL]
    left = list(tmp_path.glob("*.tmp-*"))
    assert len(left) == 1
    kept = FeatureStore(tmp_path)
    assert all(same(kept.get(key(number)), record(number)) for number in range(20)) and kept.get(key(29)) is None
    assert left[0].exists()  # it may be of a process that is writing now
    os.utime(left[0], (0, 0))
    assert len(FeatureStore(tmp_path)) == len(kept) and not left[0].exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    kept = FeatureStore(tmp_path)
    kept.add(key(1), record(1))
    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(MmllmError, match=r"features cannot be kept in .* \(No space left on device\); .* make room"):
        kept.commit()
    assert list(tmp_path.iterdir()) == []
