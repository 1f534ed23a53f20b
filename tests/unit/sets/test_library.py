"""Sets of run folders: loaded when asked for, let go, replaced, refused; and who is told what meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm.checkpoints.load import load_run
from mmllm.checkpoints.store import LEARNED
from mmllm.errors import CheckpointError, MmllmError
from mmllm.generation.answers import Request
from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.generation.sampling import Sampling
from mmllm.model.trainable import trainable_state
from mmllm.sets import loading
from mmllm.sets.engine import SetGoneError, SetsEngine
from mmllm.sets.frozen_parts import FrozenParts
from mmllm.sets.library import SetBrokenError, SetBusyError, SetLibrary
from mmllm.sets.loading import load_set
from mmllm.sets.offers import WITHDRAWN, Offers, may_learn_from, withdraw
from mmllm.types import Message, Sample
from tests.support.sets import NEW, Runs

QUESTION = Sample("question", (Message("user", "How many are there?"),))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Three sets, of which one is a group's."""
    made = Runs(tmp_path_factory.mktemp("runs"))
    for seed, (name, group) in enumerate((("one", None), ("two", None), ("ward", "ward_a"))):
        made.write(name, seed, rank=2 + seed, group=group)
    return made


def expected(run: Path) -> list[int]:
    """Tokens that a run served by itself answers."""
    generator = Generator(load_run(run, "cpu")[1])
    request = generator.submit(generator.encode(QUESTION), Sampling(NEW))
    while not request.done:
        generator.engine.step()
    return request.tokens


def library(runs: Runs, n_bytes: int = 2**20, **words: int) -> SetLibrary:
    """A library over the folder."""
    return SetLibrary(Offers(runs.sets), Sizes(), n_bytes, **words)


def submit(sets: SetLibrary, name: str) -> Request:
    """A request of a set that the engine has, and has not begun."""
    offer = sets.offers.find(name)
    assert offer is not None
    with sets.lease(offer) as held:
        return held.generator.submit(held.generator.encode(QUESTION), Sampling(NEW))


def finish(sets: SetLibrary, *requests: Request) -> list[list[int]]:
    """Their tokens."""
    while not all(request.done for request in requests):
        sets.engine.step()
    return [request.tokens for request in requests]


def test_sets_share_the_frozen_parts_and_answer_as_alone(runs: Runs) -> None:
    sets = library(runs)
    requests = [submit(sets, name) for name in ("one", "two", "ward")]
    assert finish(sets, *requests) == [expected(runs.sets / name) for name in ("one", "two", "ward")]
    models = [learned.model for learned in sets.engine.sets]
    assert len({id(model.llm) for model in models}) == 1
    assert len({id(model.encoders["image"]) for model in models}) == 1
    assert sets.loads == 3 and [one.n_tensors for one in sets.engine.sets] == [60, 60, 60]


def test_several_sets_are_asked_from_several_threads(runs: Runs) -> None:
    """Their tokenizers are one, and so is what transformers keeps of the chat template."""
    sets = library(runs)
    for name in ("one", "two"):
        finish(sets, submit(sets, name))
    every = [held.generator for name in ("one", "two") if (held := sets.held(name)) is not None]
    expected = every[0].encode(QUESTION).ids
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: every[number % 2].encode(QUESTION).ids, range(200)))
    assert all(ids == expected for ids in found)


def test_least_recently_used_goes_out_and_pinned_and_asked_ones_stay(runs: Runs) -> None:
    every = library(runs)
    finish(every, *(submit(every, name) for name in ("one", "two", "ward")))
    room = every.used - 1
    offers = {name: offer for name in ("one", "two", "ward") if (offer := every.offers.find(name)) is not None}
    sets = library(runs, room)
    finish(sets, submit(sets, "one"))
    finish(sets, submit(sets, "two"))
    with sets.lease(offers["one"]):
        finish(sets, submit(sets, "ward"))  # in the place of `two`: `one` was used before it, but is in use
        assert [learned.name for learned in sets.engine.sets] == ["one", "ward"]
        with sets.lease(offers["ward"]), pytest.raises(SetBusyError, match="no room"), sets.lease(offers["two"]):
            pass
    finish(sets, submit(sets, "two"))
    assert [learned.name for learned in sets.engine.sets] == ["ward", "two"] and sets.used <= room
    pinned = library(runs, room)
    pinned.pin(pinned.offers.give(runs.sets / "one"))
    for name in ("two", "ward", "two"):
        finish(pinned, submit(pinned, name))
    assert [learned.name for learned in pinned.engine.sets] == ["one", "two"]


def test_a_set_written_anew_under_its_name_meets_nothing_of_the_old_one(runs: Runs) -> None:
    sets = library(runs)
    old_run = runs.write("changing", 11)
    old = expected(old_run)
    # the old one is in flight while the new one is loaded and asked the same
    in_flight = submit(sets, "changing")
    sets.engine.step()
    new = expected(runs.write("changing", 12))
    assert new != old
    fresh = submit(sets, "changing")
    assert finish(sets, in_flight, fresh) == [old, new]
    assert finish(sets, submit(sets, "changing")) == [new]
    assert submit(sets, "changing").cached_tokens == 0 and len(sets.engine.sets) == 1


def test_a_broken_set_fails_its_own_requests_alone(runs: Runs) -> None:
    run = runs.write("broken", 5)
    file = next(run.rglob(LEARNED))
    file.write_bytes(file.read_bytes()[:-8])
    sets = library(runs)
    good = submit(sets, "one")
    offer = sets.offers.find("broken")
    assert offer is not None
    for _ in range(2):
        with pytest.raises(SetBrokenError), sets.lease(offer):
            pass
    assert finish(sets, good, submit(sets, "two")) == [expected(runs.sets / name) for name in ("one", "two")]
    runs.write("broken", 5)
    assert finish(sets, submit(sets, "broken")) == [expected(runs.sets / "broken")]


def test_requests_of_one_set_that_wait_are_bounded(runs: Runs) -> None:
    sets = library(runs, waiting=2)
    waiting = [submit(sets, "one"), submit(sets, "one")]
    offer = sets.offers.find("one")
    assert offer is not None
    with pytest.raises(SetBusyError, match="2 requests of one wait"), sets.lease(offer):
        pass
    finish(sets, *waiting, submit(sets, "two"))
    finish(sets, submit(sets, "one"))


def test_a_set_that_changes_nothing_is_refused(runs: Runs) -> None:
    from mmllm.generation.model import Model
    from mmllm.model.build import build
    from mmllm.recipe.load import load_recipe

    recipe = load_recipe(runs.folder / "one.yaml")
    Model(build(recipe, "cpu"), recipe).save_pretrained(runs.folder / "untrained")
    engine = SetsEngine(Sizes())
    with pytest.raises(CheckpointError, match="changes nothing"):
        load_set(runs.folder / "untrained", "untrained", engine, FrozenParts())
    assert not engine.sets


def test_every_tensor_lands_once_and_one_that_does_not_is_an_error(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SetsEngine(Sizes())
    made = load_set(runs.sets / "one", "one", engine, FrozenParts()).learned
    from mmllm.checkpoints.store import read_tensors

    file = read_tensors(next((runs.sets / "one").rglob(LEARNED)))
    own = trainable_state(made.model)
    assert own.keys() == file.keys() and all(torch.equal(own[name], tensor) for name, tensor in file.items())
    assert made.n_tensors == len(file) and made.n_bytes == sum(tensor.nbytes for tensor in file.values())
    from mmllm.sets import lora_bank

    plain = lora_bank.LoraBank._move

    def spoiled(
        self: lora_bank.LoraBank, connector: object, place: slice, a: dict[str, torch.Tensor], b: object
    ) -> None:
        plain(self, connector, place, a, b)  # type: ignore[arg-type]
        for table in a.values():
            table[place] += 1

    monkeypatch.setattr(lora_bank.LoraBank, "_move", spoiled)
    with pytest.raises(CheckpointError, match="is not what its checkpoint holds"):
        load_set(runs.sets / "two", "two", engine, FrozenParts())


def test_bytes_that_change_after_they_were_verified_are_refused(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plain = runs.write("swapped", 21), loading.open_checkpoint

    def swapping(*words: Any) -> Any:
        opened = plain(*words)
        file = opened[2].path / LEARNED
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
        return opened

    monkeypatch.setattr(loading, "open_checkpoint", swapping)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        load_set(run, "swapped", SetsEngine(Sizes()), FrozenParts())


@contextmanager
def record(runs: Runs) -> Iterator[Path]:
    """The folder's record, which is gone afterwards."""
    file = runs.sets / WITHDRAWN
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def test_a_withdrawn_group_is_out_of_service_at_once_with_a_record(runs: Runs) -> None:
    sets = library(runs)
    assert may_learn_from(frozenset({"ward_a"}), ["ward_a", "b"]) and not may_learn_from(frozenset({"ward_a"}), ["b"])
    in_flight, other = submit(sets, "ward"), submit(sets, "one")
    sets.engine.step()
    with record(runs) as file:
        assert withdraw(runs.sets, "ward_a", "consent taken back") == ["ward"]
        assert sets.offers.find("ward") is None
        assert sets.check_offers() == ["ward"]
        assert isinstance(in_flight.error, SetGoneError) and [one.name for one in sets.engine.sets] == ["one"]
        finish(sets, other)
        line = json.loads(file.read_text())
        assert line["group"] == "ward_a" and list(line["sets"]) == ["ward"] and line["reason"] == "consent taken back"
        with pytest.raises(MmllmError, match="offers no set"):
            withdraw(runs.sets, "ward_a")
        file.write_text("not a record\n")
        # who has no group is not concerned; of all others nothing is known
        assert sets.offers.find("ward") is None and sets.offers.find("one") is not None


def test_a_run_that_began_with_a_groups_run_is_that_groups_too(runs: Runs, tmp_path: Path) -> None:
    import yaml

    run = runs.write("later", 3)
    words = yaml.safe_load((run / "recipe.yaml").read_text())
    words["start"] = {"path": str(runs.sets / "ward"), "stage": None, "prefix": "", "rename": {}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(words, sort_keys=False))
    offer = Offers(runs.sets).find("later")
    assert offer is not None and offer.groups == {"ward_a"}
    assert Offers(runs.sets).find("../sets/one") is None
