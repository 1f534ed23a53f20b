"""What an experiment is: arms, what must hold between them, and where the paper's own figures stand.

One file each, named in ``TABLE``, with a module-level ``EXPERIMENT``; ``plan`` runs it, ``table`` prints it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.claims.finished import Finished
    from mmllm.model.model import MultimodalLM
    from mmllm.recipe.models import Recipe

TABLE = {
    "infmllm": "benchmarks.claims.infmllm",
    "iaa": "benchmarks.claims.iaa",
    "llama_adapter": "benchmarks.claims.llama_adapter",
    "llama_adapter_v2": "benchmarks.claims.llama_adapter_v2",
    "llama_adapter_image": "benchmarks.claims.llama_adapter_image",
    "pill": "benchmarks.claims.pill",
    "llava_mole": "benchmarks.claims.llava_mole",
    "mola": "benchmarks.claims.mola",
    "pumgpt": "benchmarks.claims.pumgpt",
    "fine_detail": "benchmarks.claims.fine_detail",
    "meteora": "benchmarks.claims.meteora",
    "any2point": "benchmarks.claims.any2point",
    "text_memory": "benchmarks.claims.text_memory",
    "iva_video": "benchmarks.claims.iva_video",
    "graph_adapter": "benchmarks.claims.graph_adapter",
    "tem_adapter": "benchmarks.claims.tem_adapter",
    "ted_adapter": "benchmarks.claims.ted_adapter",
    "conformer_adapter": "benchmarks.claims.audio_adapters",
    "conformer_adapter_tones": "benchmarks.claims.audio_adapters_tones",
    "audio_adapter_fusion": "benchmarks.claims.audio_adapter_fusion",
    "mixture_of_adapters": "benchmarks.claims.mixture_of_adapters",
    "adaptvision": "benchmarks.claims.adaptvision",
    "texthawk": "benchmarks.claims.texthawk",
    "mova": "benchmarks.claims.mova",
    "tgdoc": "benchmarks.claims.tgdoc",
    "starts": "benchmarks.claims.starts",
}
"""Experiment -> module whose ``EXPERIMENT`` it is, in the order of the table."""
RECIPES = (Path("benchmarks/claims/recipes"), Path("recipes/mini"))
QUIET = {"save_every": 10**6, "keep": 1, "log_every": 10**6}
"""Words of every stage in every run of the claims: one checkpoint, at its end."""

Metrics = Mapping[str, float]
"""Of one run: ``<task>``, ``<task>.<kind>``, ``<task>.blind`` and what the measures add."""
BySeed = Mapping[str, Metrics]
"""Arm -> metrics, all of one seed."""
Load = Callable[["MultimodalLM", Mapping[str, Mapping[str, "Tensor"]]], int]
"""Puts learned tensors of other arms' runs (arm -> name -> tensor) into a model; how many it put."""


@dataclass(frozen=True)
class Arm:
    """One way of training: a recipe and what is changed in it."""

    recipe: str
    """File below ``benchmarks/claims/recipes`` or ``recipes/mini``, without .yaml."""
    overrides: tuple[str, ...] = ()
    """As on the command line: ``stages.instruct.steps=300``."""
    rates: tuple[float, ...] | None = None
    """Another grid of learning rates than the experiment's. One rate: nothing is tuned."""
    rate_of: str | None = None
    """Arm whose tuned rate is taken."""
    tune: tuple[str, ...] = ()
    """Stages that take the rate: their highest peak becomes it, the others keep their ratio to it. None named: all."""
    start: tuple[str, ...] = ()
    """Arms (or ``experiment/arm``) of the same seed whose learned tensors it starts from; others stay new."""
    load: Load | None = None
    """How they are loaded, where not by name."""
    tune_on: tuple[str, ...] = ()
    """Metrics that choose its rate, instead of the experiment's."""
    same_as: str = ""
    """``experiment/arm`` whose runs stand for this one (same tasks, seeds and measures); nothing is run again."""
    note: str = ""
    """What it is, for the table."""


@dataclass(frozen=True)
class Compare:
    """A difference that must be above zero: paired over seeds, it holds if its mean is above 2 standard errors."""

    says: str
    value: Callable[[BySeed], float]
    """The difference in one seed."""
    margin: float = 0.0
    """Allowance added to the difference: "not worse by more than"."""
    kind: Literal["claim", "report"] = "claim"
    """report: no paper's claim, whatever comes out is stated."""


@dataclass(frozen=True)
class Check:
    """An exact property that is so or is not, in every seed."""

    says: str
    value: Callable[[BySeed], bool]


@dataclass(frozen=True)
class Experiment:
    """A paper's claim in miniature."""

    title: str
    claim: str
    """One sentence."""
    arms: Mapping[str, Arm]
    tasks: tuple[str, ...]
    """Tasks of ``lessons.MAKERS`` whose held-out questions every arm answers."""
    metrics: tuple[str, ...]
    """Columns of the table."""
    tune: tuple[str, ...]
    """Metrics whose mean, in the pilot run, chooses an arm's rate."""
    rates: tuple[float, ...]
    comparisons: tuple[Compare | Check, ...]
    paper: tuple[str, ...] = ()
    """The paper's own figures with their source, as the spec has them."""
    tried: tuple[str, ...] = ()
    """What was tried where a claim does not hold, and other remarks."""
    chance: Mapping[str, float] = field(default_factory=dict)
    """Metric -> what guessing gives."""
    measures: tuple[Callable[[Finished], dict[str, float]], ...] = ()
    """What else is measured on the trained model of each run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    pilot: int = 99
    """Seed of the runs that choose the rates."""
    blind: bool = False
    """Also answer without the picture."""
    tune_lower: bool = False
    """The tuning metrics are better when lower."""
    part: str = ""
    """b, c: a further part of the claim of the experiment before it in ``TABLE``, with other tasks or arms."""


def better(a: str, b: str, metric: str, lower: bool = False) -> Compare:
    """Arm a above arm b (below, with ``lower``)."""
    sign = -1.0 if lower else 1.0
    word = "<" if lower else ">"
    return Compare(f"{a} {word} {b} in {metric}", lambda arms: sign * (arms[a][metric] - arms[b][metric]))


def not_worse(a: str, b: str, metric: str, margin: float, lower: bool = False) -> Compare:
    """Arm a at most ``margin`` worse than arm b."""
    sign = -1.0 if lower else 1.0
    says = f"{a} {'<=' if lower else '>='} {b} in {metric} (allowance {margin:g})"
    return Compare(says, lambda arms: sign * (arms[a][metric] - arms[b][metric]), margin)


def larger_gap(a: str, b: str, metric: str, other: str) -> Compare:
    """The lead of a over b is larger in ``metric`` than in ``other``."""
    return Compare(
        f"{a} - {b} is larger in {metric} than in {other}",
        lambda arms: arms[a][metric] - arms[b][metric] - (arms[a][other] - arms[b][other]),
    )


def reached(arm: str, metric: str, least: float) -> Check:
    """Metric of an arm is at least so much in every seed."""
    return Check(f"{metric} of {arm} >= {least:g} in every seed", lambda arms: arms[arm][metric] >= least)


def written() -> list[str]:
    """Names of the table whose module is there."""
    return [name for name, module in TABLE.items() if importlib.util.find_spec(module) is not None]


def load(name: str) -> Experiment:
    """The experiment of a name; SystemExit where there is none."""
    if name not in TABLE or importlib.util.find_spec(TABLE[name]) is None:
        raise SystemExit(f"there is no experiment {name}; known: {', '.join(written())}")
    found = importlib.import_module(TABLE[name]).EXPERIMENT
    assert isinstance(found, Experiment)
    return found


def recipe_of(arm: Arm, seed: int, rate: float, more: Sequence[str] = ()) -> Recipe:
    """The resolved recipe of one run. SystemExit where there is no such file; RecipeError as ``load_recipe``."""
    from mmllm.recipe.load import load_recipe

    files = [folder / f"{arm.recipe}.yaml" for folder in RECIPES]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise SystemExit(f"there is no recipe {arm.recipe}: neither {files[0]} nor {files[1]} exists")
    overrides = [*arm.overrides, *more, f"seed={seed}"]
    stages = load_recipe(path, overrides).stages
    for name, stage in stages.items():
        overrides += [f"stages.{name}.{word}={value}" for word, value in QUIET.items()]
        if name in (arm.tune or stages):
            peak = max(stage.train.values())
            overrides += [f"stages.{name}.train.{part}={rate * own / peak:.9f}" for part, own in stage.train.items()]
    return load_recipe(path, overrides)
