"""Packing and the loader: balanced bins, no pad positions, the same plan on every rank, bad samples, restarts."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch

from mmllm.batches.loader import Loader, StepBatches
from mmllm.batches.mixture import Mixture
from mmllm.batches.packing import deal, split
from mmllm.batches.sample import PlannedSample, encode
from mmllm.errors import MmllmError, SampleError
from mmllm.messages.tokenize import Prompter
from mmllm.types import Batch, Message, Sample
from tests.support.parts import tiny_tokenizer
from tests.support.readers import Counting

WORDS = "one two three red green blue square circle shapes there is a digit left of the sign".split()


class Numbers:
    """A source of ``size`` conversations of very different lengths; every third has an image of 4 or 9 places."""

    def __init__(
        self, size: int, broken: frozenset[int] = frozenset(), unreadable: frozenset[int] = frozenset()
    ) -> None:
        self.size, self.broken, self.unreadable = size, broken, unreadable

    def __len__(self) -> int:
        """Its size."""
        return self.size

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``; those of ``broken`` fail here, those of ``unreadable`` when their image is read."""
        if index in self.broken:
            raise SampleError(f"n:{index}: broken line")
        draw = random.Random(index)
        text, answer = (" ".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(2))
        pictured = index % 3 == 0 or index in self.unreadable
        image = (-1 if index in self.unreadable else draw.choice([4, 9]),) if pictured else ()
        messages = (Message("user", "<image>" * len(image) + text), Message("assistant", answer))
        return Sample(f"n:{index}", messages, {"image": image} if image else {})


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    """For one encoder, image."""
    return Prompter(tiny_tokenizer(), ["image"])


def _loader(prompter: Prompter, source: Numbers, fixed: int | None = None, **changes: Any) -> Loader:
    length = {key: changes.pop(key) for key in ("steps", "epochs") if key in changes} or {"epochs": 1}
    mixture = Mixture({"n": source}, {"n": 1.0}, 5, batch=changes.pop("batch", 12), **length)
    changes = {"max_bad": 1.0, **changes}
    return Loader(mixture, {"n": source}, prompter, {"image": Counting(fixed)}, changes.pop("context", 512), **changes)


def _ranks(
    prompter: Prompter,
    source: Numbers,
    world: int,
    around: Callable[[Callable[[], list[StepBatches]]], list[StepBatches]] = lambda steps: steps(),
    **changes: Any,
) -> tuple[list[Loader], list[list[StepBatches]]]:
    """Loaders and all steps of ``world`` ranks, which run as threads and exchange values as ranks do: pickled."""
    barrier, values = Barrier(world), [b""] * world

    def run(rank: int) -> tuple[Loader, list[StepBatches]]:
        def all_gather(value: Any) -> list[Any]:
            if world == 1:
                return [value]
            values[rank] = pickle.dumps(value)
            barrier.wait(timeout=30)
            gathered = [pickle.loads(one) for one in values]
            barrier.wait(timeout=30)
            return gathered

        loader = _loader(prompter, source, rank=rank, world=world, all_gather=all_gather, **changes)
        return loader, around(lambda: list(loader))

    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(run, range(world)))
    return [loader for loader, _ in found], [steps for _, steps in found]


def _facts(batch: Batch) -> tuple[Any, ...]:
    return batch.names, batch.input_ids.tolist(), batch.labels.tolist(), batch.media_ids.tolist()


def _step_facts(step: StepBatches) -> tuple[Any, ...]:
    return step.step, [_facts(batch) for batch in step.micro], step.n_labels_global, [str(error) for error in step.bad]


def test_bins_hold_every_sample_once_and_are_balanced() -> None:
    draw = random.Random(0)
    for _ in range(200):
        lengths = [draw.randint(1, 300) for _ in range(draw.randint(0, 60))]
        n_bins = draw.randint(1, 9)
        bins = split(lengths, n_bins)
        assert sorted(i for members in bins for i in members) == list(range(len(lengths)))
        assert bins == split(list(lengths), n_bins) and len(bins) == n_bins
        loads = [sum(lengths[i] for i in members) for members in bins]
        assert loads == sorted(loads, reverse=True)
        best = max(-(-sum(lengths) // n_bins), max(lengths, default=0))
        assert max(loads) <= max(lengths, default=0) + sum(lengths) / n_bins
        if len(lengths) >= 5 * n_bins:
            assert max(loads) <= 4 / 3 * best


def test_neighbouring_bins_go_to_the_ranks_of_one_micro_step() -> None:
    bins = [[i] for i in range(6)]
    assert [deal(bins, rank, 2) for rank in range(2)] == [[[0], [2], [4]], [[1], [3], [5]]]


@pytest.mark.parametrize("fixed", [6, None], ids=["fixed grid", "varying grid"])
def test_all_positions_are_real_and_every_sample_is_there_once(prompter: Prompter, fixed: int | None) -> None:
    source = Numbers(48)
    loader = _loader(prompter, source, fixed, n_micro=3)
    alone = {source[i].name: encode(source[i], prompter, loader.inputs, 512, train=True) for i in range(48)}
    steps = list(loader)
    batches = [batch for step in steps for batch in step.micro]
    assert sorted(name for batch in batches for name in batch.names) == sorted(alone)
    for batch in batches:
        assert batch.n_tokens == sum(len(alone[name].ids) for name in batch.names), "pad positions"
        for i, name in enumerate(batch.names):
            start, end = batch.cu_seqlens[i : i + 2].tolist()
            assert batch.input_ids[start:end].tolist() == alone[name].ids
            assert batch.labels[start:end].tolist() == alone[name].labels
    for step in steps:
        assert step.n_labels_global == sum(batch.n_labels for batch in step.micro) > 0
        loads = [batch.n_tokens for batch in step.micro]
        assert len(loads) == 3 and min(loads) > 0.6 * max(loads)


@pytest.mark.parametrize("fixed", [6, None], ids=["fixed grid", "varying grid"])
@pytest.mark.parametrize(("world", "n_micro"), [(2, 1), (2, 3), (3, 2)])
def test_ranks_agree_and_share_the_step(prompter: Prompter, fixed: int | None, world: int, n_micro: int) -> None:
    source = Numbers(45, broken=frozenset({7, 30}), unreadable=frozenset({3, 11, 29}))
    one = list(_loader(prompter, source, fixed, n_micro=1))
    _, parts = _ranks(prompter, source, world, n_micro=n_micro, fixed=fixed)
    assert {len(steps) for steps in parts} == {len(one)}
    for k, alone in enumerate(one):
        ranks = [steps[k] for steps in parts]
        assert {step.n_labels_global for step in ranks} == {alone.n_labels_global}
        assert len({tuple(map(str, step.bad)) for step in ranks}) == 1
        assert sorted(map(str, ranks[0].bad)) == sorted(map(str, alone.bad))
        names = [name for step in ranks for batch in step.micro for name in batch.names]
        assert sorted(names) == sorted(name for batch in alone.micro for name in batch.names)
        assert sum(batch.n_labels for step in ranks for batch in step.micro) == alone.n_labels_global
    assert sum(len(step.bad) for step in one) == 5


def test_only_the_own_media_are_read_where_the_grid_is_fixed(prompter: Prompter) -> None:
    loaders, ranks = _ranks(prompter, Numbers(48), 4, fixed=6, batch=48)
    for loader, (step,) in zip(loaders, ranks, strict=True):
        reader = loader.inputs["image"]
        assert isinstance(reader, Counting)
        assert (
            reader.n_read
            == sum(len(batch.media["image"]["eye"]["value"]) if "image" in batch.media else 0 for batch in step.micro)
            < 16
        )


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("most", [1, 4])
def test_a_sample_is_planned_by_one_rank(
    prompter: Prompter, workers: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    plain = Loader._plan

    def counted(self: Loader, name: str, index: int) -> PlannedSample:
        planned.append(f"{self.rank}: {index}")
        return plain(self, name, index)

    monkeypatch.setattr(Loader, "_plan", counted)
    _, ranks = _ranks(prompter, Numbers(40, broken=frozenset({9})), 3, batch=8, workers=workers, most=most)
    assert sorted(int(one.split(": ")[1]) for one in planned) == list(range(40))
    shares = [sum(one.startswith(f"{rank}:") for one in planned) for rank in range(3)]
    assert max(shares) - min(shares) <= 5, "a rank plans every third of each step"
    _, inline = _ranks(prompter, Numbers(40, broken=frozenset({9})), 3, batch=8, most=most)
    assert [[_step_facts(one) for one in steps] for steps in ranks] == [
        [_step_facts(one) for one in steps] for steps in inline
    ]


def test_what_one_rank_cannot_plan_stops_all(prompter: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Loader._plan

    def refused(self: Loader, name: str, index: int) -> PlannedSample:
        if index == 17:
            raise MmllmError("the template cannot say this")
        return plain(self, name, index)

    monkeypatch.setattr(Loader, "_plan", refused)
    heard: list[str] = []

    def caught(steps: Callable[[], list[StepBatches]]) -> list[StepBatches]:
        with pytest.raises(MmllmError, match="the template cannot say this") as found:
            steps()
        heard.append(str(found.value))
        return []

    _ranks(prompter, Numbers(24), 2, around=caught)
    assert len(heard) == 2


def test_fewer_samples_than_bins_leave_an_empty_batch(prompter: Prompter) -> None:
    (step,) = _loader(prompter, Numbers(2), batch=4, n_micro=3)
    assert sorted(len(batch.names) for batch in step.micro) == [0, 1, 1]
    assert [batch.n_tokens for batch in step.micro if not batch.names] == [0]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_starts_change_nothing(prompter: Prompter, workers: int) -> None:
    source = Numbers(70, broken=frozenset({7}), unreadable=frozenset({11}))
    expected = [_step_facts(step) for step in _loader(prompter, source, n_micro=2, epochs=1.5)]
    ahead = _loader(prompter, source, n_micro=2, epochs=1.5, workers=workers)
    assert [_step_facts(step) for step in ahead] == expected
    for start in (0, 1, 4, len(expected) - 1, len(expected)):
        assert [_step_facts(step) for step in ahead.steps(start)] == expected[start:]


def test_batches_are_pinned_where_a_gpu_waits(prompter: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of a batch, its items' included; pinning itself needs a GPU."""
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.data_ptr())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    plain = list(_loader(prompter, Numbers(24)))
    assert not pinned
    found = list(_loader(prompter, Numbers(24), pin=True))
    assert [_step_facts(step) for step in found] == [_step_facts(step) for step in plain]
    batch = found[0].micro[0]
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(pinned) >= len(tensors) + sum(map(len, batch.media["image"].values()))
    assert all(one.data_ptr() not in pinned for one in tensors), "what is handed out is the pinned copy"
    assert torch.equal(batch.to("cpu").input_ids, batch.input_ids)


def test_leaving_early_does_not_wait_for_the_rest(prompter: Prompter) -> None:
    loader = _loader(prompter, Numbers(400), batch=4, workers=2)
    steps = loader.steps()
    next(steps)
    steps.close()
    assert loader.seen == 4, "only steps that were handed out count"


def test_state_carries_the_error_budget_over_a_restart(prompter: Prompter) -> None:
    source = Numbers(60, broken=frozenset(range(0, 60, 5)))
    whole = _loader(prompter, source)
    list(whole)
    first, second = _loader(prompter, source), _loader(prompter, source)
    steps = first.steps()
    for _ in range(3):
        next(steps)
    second.restore(first.state())
    list(second.steps(3))
    assert second.state() == whole.state() and whole.n_bad == 12 and whole.seen == 60


def test_too_many_bad_samples_stop_the_run_with_the_list(prompter: Prompter) -> None:
    source = Numbers(400, broken=frozenset(range(0, 400, 10)))
    loader = _loader(prompter, source, max_bad=0.01, batch=20)
    with pytest.raises(MmllmError) as error:
        list(loader)
    text = str(error.value)
    assert loader.seen == 100, "judged as soon as 100 samples were seen"
    assert text.startswith(f"{loader.n_bad} of 100 samples are bad, over the stage's max_bad of 0.01")
    assert text.count("broken line") == min(20, loader.n_bad)


def test_the_list_is_short_and_counts_the_rest(prompter: Prompter) -> None:
    with pytest.raises(MmllmError, match="and 80 more") as error:
        list(_loader(prompter, Numbers(100, broken=frozenset(range(100))), max_bad=0.5, batch=50))
    assert str(error.value).count("broken line") == 20


def test_a_small_stage_is_judged_at_its_end(prompter: Prompter) -> None:
    source = Numbers(30, unreadable=frozenset({4}))
    loader = _loader(prompter, source, max_bad=0.01, fixed=6)
    with pytest.raises(MmllmError, match=r"1 of 30 samples are bad.*\n.*item -1 is no picture"):
        list(loader)
    assert loader.seen == 30
    allowed = list(_loader(prompter, source, max_bad=0.04, fixed=6))
    assert [str(error) for step in allowed for error in step.bad] == ["n:4: image 1: item -1 is no picture"]


def test_a_sample_over_the_context_is_bad_not_cut(prompter: Prompter) -> None:
    source = Numbers(40)
    loader = _loader(prompter, source, context=60)
    kept = [batch for step in loader for batch in step.micro]
    assert 0 < loader.n_bad < 40 and all("over the context of 60" in sentence for sentence in loader.bad)
    assert sum(len(batch.names) for batch in kept) == 40 - loader.n_bad
    assert max(int(torch.diff(batch.cu_seqlens).max()) for batch in kept) <= 60


@pytest.mark.parametrize("world", [1, 2])
def test_a_token_budget_decides_the_number_of_micro_batches(prompter: Prompter, world: int) -> None:
    """As many forwards as the tokens need, equally many and equally full on every rank; every sample once."""
    source = Numbers(48)
    longest = max(len(encode(source[i], prompter, {"image": Counting(None)}, 512, train=True).ids) for i in range(48))
    _, ranks = _ranks(prompter, source, world, budget=longest + 40, batch=24)
    names = []
    for together in zip(*ranks, strict=True):
        assert len({len(step.micro) for step in together}) == 1
        loads = [batch.n_tokens for step in together for batch in step.micro]
        assert max(loads) <= longest + 40
        fewest = -(-sum(loads) // (longest + 40))
        assert len(loads) <= fewest + 2 * world, "more forwards than the budget makes necessary"
        assert min(loads) > 0.5 * max(loads)
        names += [name for step in together for batch in step.micro for name in batch.names]
    assert sorted(names) == sorted(source[i].name for i in range(48))


def test_a_sample_over_the_token_budget_is_bad_not_cut(prompter: Prompter) -> None:
    loader = _loader(prompter, Numbers(24), budget=30)
    kept = [name for step in loader for batch in step.micro for name in batch.names]
    assert 0 < loader.n_bad and len(kept) == 24 - loader.n_bad
    assert all("over the stage's tokens of 30 for one forward; nothing is cut" in line for line in loader.bad)
