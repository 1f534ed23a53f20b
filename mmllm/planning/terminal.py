"""A plan as the terminal shows it: one table of parts, then sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from mmllm.planning.plan import SPARE, StagePlan
from mmllm.planning.step import BACKWARD, GRADIENTS, HEAD
from mmllm.training.feature_room import size

_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def show(plan: StagePlan, console: Console) -> None:
    """Print the plan of one stage."""
    ranks = f"{plan.machine.ranks} {'rank' if plan.machine.ranks == 1 else 'ranks'}"
    dealt = f"{plan.n_micro} micro-batches of {plan.micro}"
    if plan.stage.tokens is not None:
        dealt = f"forwards of {plan.stage.tokens:,} tokens at most"
    console.print(
        f"stage {plan.name}: {plan.workload.n_steps:,} steps of {plan.stage.batch} conversations on {ranks}, "
        f"{dealt} each, ZeRO {plan.stage.zero}",
        soft_wrap=True,
    )
    console.print(_table(plan))
    for sentence in sentences(plan):
        console.print(sentence, markup=False, soft_wrap=True)


def sentences(plan: StagePlan) -> Iterator[str]:
    """What the table does not say: memory at the peak, data, time, cache, and what fits."""
    kept, cost = plan.held, plan.cost
    yield (
        f"peak of one rank: {size(plan.peak)} = weights {size(kept.weights)} + gradients {size(kept.gradients)} + "
        f"optimizer {size(kept.optimizer)} + DeepSpeed's buffers {size(kept.buffers)} + activations "
        f"{size(cost.activations)} (fullest micro-batch: {cost.n_tokens:,} tokens, {cost.n_labels:,} with a loss)"
    )
    if plan.machine.memory is None:
        yield "on a CPU the process may hold up to a half more: its allocator keeps what was freed for the next tensor"
    looked = plan.workload.samples
    mean = plan.workload.mean(sample.length for sample in looked)
    yield (
        f"data: {plan.tokens_a_step:,.0f} tokens a step, {mean:,.0f} a conversation (of the first {len(looked):,}"
        + (f"; {len(plan.workload.bad)} would be skipped: {plan.workload.bad[0]}" if plan.workload.bad else "")
        + ")"
    )
    once = f" and {short(plan.flops_once)}FLOP once for features that are kept" if plan.kept else ""
    yield f"compute: {short(plan.flops_a_step)}FLOP a step{once}, {_time(plan)}"
    for name, (n, each) in plan.cache.items():
        end = "kept" if name in plan.kept else "in 16 bits, were they kept"
        yield f"features of encoders.{name}: {n:,} items x {size(each)} = {size(n * each)} {end}"
    if plan.machine.memory is not None:
        yield from _fits(plan)


def _fits(plan: StagePlan) -> Iterator[str]:
    limit = f"{SPARE:.0%} of {size(plan.machine.memory or 0)}"
    found = list(plan.fits())
    for fit in found:
        if fit.micro:
            what = f"micro_batch {fit.micro}" if plan.stage.tokens is None else f"tokens {plan.stage.tokens}"
            yield f"ZeRO {fit.zero}: {what} fits {limit} ({size(fit.bytes)})"
        else:
            yield f"ZeRO {fit.zero}: not one conversation fits {limit} ({size(fit.bytes)})"
    # the least splitting, and so the least talk between ranks, with which the recipe's own micro-batch fits
    enough = [fit for fit in found if fit.micro >= plan.micro]
    best = enough[0] if enough else max(found, key=lambda fit: (fit.micro, -fit.zero))
    if best.micro:
        chosen = f" stages.{plan.name}.micro_batch={best.micro}" if plan.stage.tokens is None else ""
        yield f"fits: stages.{plan.name}.zero={best.zero}{chosen}"
    else:
        yield (
            "nothing fits: set gradient_checkpointing or offload, quantise the LLM, shorten llm.context, or take more "
            "or larger GPUs"
        )


def _time(plan: StagePlan) -> str:
    seconds, rate = plan.seconds, plan.machine.rate
    if seconds is None or rate is None:
        return "time unknown: give the rate that a GPU sustains with --flops"
    unit, of = next(((word, n) for word, n in (("h", 3600), ("min", 60)) if seconds > n), ("s", 1))
    said = f"{seconds / of:,.1f} {unit}"
    return f"{said} in all at {short(rate)}FLOP/s a rank, data not counted"


def _table(plan: StagePlan) -> Table:
    table = Table()
    for column in ("part", "parameters", "learning", "activations", "FLOP of a micro-batch"):
        table.add_column(column, justify="left" if column == "part" else "right")
    cost = plan.cost
    parts = [row.name for row in plan.rows]
    for row in plan.rows:
        name = next((part for part in [*cost.peak, *cost.flops] if f"{row.name}.".startswith(f"{part}.")), row.name)
        first = name == row.name or name not in parts
        numbers = (cost.peak.get(name, 0), cost.flops.get(name, 0)) if first else (0, 0)
        table.add_row(row.name, f"{row.n_params:,}", f"{row.n_trainable:,}", size(numbers[0]), short(numbers[1]))
    for name in (HEAD, BACKWARD):
        table.add_row(name, "", "", size(cost.peak.get(name, 0)), short(cost.flops.get(name, 0)))
    totals = sum(value for name, value in cost.peak.items() if name != GRADIENTS), sum(cost.flops.values())
    table.add_row("all", f"{plan.sizes.n_params:,}", f"{plan.sizes.n_learning:,}", size(totals[0]), short(totals[1]))
    return table


def short(n: float) -> str:
    """A number with a prefix behind it: ``3.2 T``."""
    power = 0
    while n >= 1000 and power < len(_UNITS) - 1:
        n, power = n / 1000, power + 1
    return f"{n:.3g} {_UNITS[power]}"


def lines(plans: Iterable[StagePlan], console: Console) -> None:
    """Print every plan, an empty line between two."""
    for number, plan in enumerate(plans):
        if number:
            console.print()
        show(plan, console)
