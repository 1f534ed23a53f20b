"""Plans a stage: lays the model out, runs its fullest micro-batch without numbers, and looks for what fits a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from mmllm.errors import RecipeError
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import PartRow, set_trainable
from mmllm.planning.layout import laid_out
from mmllm.planning.memory import Held, Sizes, held
from mmllm.planning.step import StepCost, step_cost
from mmllm.planning.workload import Workload, fullest, items, workload
from mmllm.recipe.models import Recipe, Stage
from mmllm.training.deepspeed_config import micro_batches

SPARE = 0.9
"""Share of a GPU's memory that may be planned: the rest is CUDA's, the kernels' and the allocator's."""
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
"""Of a stored feature."""


@dataclass(frozen=True)
class Machine:
    """What is planned for."""

    ranks: int = 1
    memory: int | None = None
    """Bytes of one GPU; None: this machine's CPU, whose memory is not looked at."""
    rate: float | None = None
    """Floating point operations a second that one rank sustains; None: unknown."""


@dataclass(frozen=True)
class Fit:
    """The largest micro-batch that fits under a ZeRO stage."""

    zero: int
    micro: int
    """Conversations; 0: not even one fits."""
    bytes: int
    """Of one GPU at the peak, with this micro-batch or with one conversation."""


class StagePlan:
    """What one stage needs. Everything is found when it is asked for."""

    def __init__(self, recipe: Recipe, name: str, model: MultimodalLM, machine: Machine) -> None:
        """``model``: laid out without numbers; nothing else may change what learns in it meanwhile."""
        self.recipe, self.name, self.model, self.machine = recipe, name, model, machine
        self.stage: Stage = recipe.stages[name]
        self.micro, self.n_micro = micro_batches(self.stage, machine.ranks, f"stages.{name}")
        self.rows: list[PartRow] = set_trainable(model, self.stage.train)
        model.llm.gradient_checkpointing(self.stage.gradient_checkpointing)
        self.sizes = Sizes.of(model, recipe.llm.quantize)
        self._cost: Callable[[int], StepCost] = lru_cache(maxsize=None)(self._of_bins)

    @cached_property
    def workload(self) -> Workload:
        """Its data."""
        return workload(self.recipe, self.name, self.model)

    @cached_property
    def cost(self) -> StepCost:
        """Of its fullest micro-batch as the recipe has it."""
        return self._cost(self.n_micro)

    @property
    def held(self) -> Held:
        """Under the recipe's own ZeRO stage."""
        return self._held(self.stage.zero)

    @property
    def peak(self) -> int:
        """Bytes of one rank at most: gradients count where the pass's own peak does not show them yet."""
        return self._peak(self.stage.zero, self.cost)

    @cached_property
    def tokens_a_step(self) -> float:
        """Of all ranks, on average."""
        return self.workload.mean(sample.length for sample in self.workload.samples) * self.stage.batch

    @property
    def flops_a_step(self) -> float:
        """Of all ranks, on average: those of the fullest micro-batch, by its tokens; not of features that are kept."""
        every = sum(n for part, n in self.cost.flops.items() if part.removeprefix("encoders.") not in self.kept)
        return every / self.cost.n_tokens * self.tokens_a_step

    @property
    def flops_once(self) -> float:
        """Of the encoders whose features are kept, for every different item."""
        each = {name: self.cost.flops.get(f"encoders.{name}", 0) / self.cost.items[name] for name in self.kept}
        return sum(self.cache[name][0] * flops for name, flops in each.items())

    @cached_property
    def kept(self) -> Sequence[str]:
        """Encoders whose features the stage keeps."""
        if self.stage.cache is None:
            return ()
        return [name for name in self.stage.cache.encoders or self.cache if name in self.cache]

    @property
    def seconds(self) -> float | None:
        """Of the whole stage at the machine's rate; None where that is unknown."""
        if self.machine.rate is None:
            return None
        flops = self.flops_a_step / self.stage.batch * self.workload.n_samples + self.flops_once
        return flops / self.machine.ranks / self.machine.rate

    @cached_property
    def cache(self) -> Mapping[str, tuple[int, int]]:
        """Encoder -> (different items of an epoch at most, bytes of one item's features as they are or were kept)."""
        each_value = _BYTES["float16" if self.stage.cache is None else self.stage.cache.dtype]
        found = {}
        for key, each in items(self.workload).items():
            for name in self.model.inputs[key].encoders if key in self.model.inputs else ():
                if name in self.cost.features:
                    n = max(1, round(self.workload.rows * each))
                    found[name] = (n, self.cost.features[name] * each_value)
        return found

    def fits(self) -> Iterator[Fit]:
        """For ZeRO 0 to 3 what fits the machine's GPUs."""
        assert self.machine.memory is not None
        share = self.stage.batch // self.machine.ranks
        # with a budget of tokens a forward is as full as that says, whatever number of conversations it is
        known = [micro for micro in range(share, 0, -1) if share % micro == 0] if self.stage.tokens is None else [share]
        for zero in range(4):
            if zero and self.machine.ranks == 1 and zero < 3:
                continue  # alone there is nothing to split
            yield self._fit(zero, known, SPARE * self.machine.memory)

    def _fit(self, zero: int, known: list[int], memory: float) -> Fit:
        """The first of ``known`` (largest first) that fits; halved until found, as more conversations take more."""
        low, high = 0, len(known) - 1
        if self._at(zero, known[high]) > memory:
            return Fit(zero, 0, self._at(zero, known[high]))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._at(zero, known[middle]) <= memory else (middle + 1, high)
        return Fit(zero, known[low], self._at(zero, known[low]))

    def _at(self, zero: int, micro: int) -> int:
        share = self.stage.batch // self.machine.ranks
        return self._peak(zero, self._cost(share // micro))

    def _held(self, zero: int) -> Held:
        return held(self.sizes, self.stage, zero, self.machine.ranks, self.machine.memory is not None)

    def _peak(self, zero: int, cost: StepCost) -> int:
        return self._held(zero).total + cost.activations

    def _of_bins(self, n_micro: int) -> StepCost:
        return step_cost(self.model, fullest(self.workload, self.stage, n_micro, self.machine.ranks, self.model))


def plans(recipe: Recipe, stage: str | None, machine: Machine) -> Iterator[StagePlan]:
    """A plan of each stage, or of one; each to be read before the next is asked for.

    Raises:
        RecipeError: there is no such stage.
        MmllmError: a part that cannot be laid out, data that are not there.
    """
    if stage is not None and stage not in recipe.stages:
        raise RecipeError(
            f"--stage {stage}: {recipe.name} has no such stage; its stages are {', '.join(recipe.stages)}"
        )
    model = laid_out(recipe)
    for name in [stage] if stage is not None else recipe.stages:
        yield StagePlan(recipe, name, model, machine)
