"""What a stage says before its first step: its data, what learns and what is frozen, where it starts; for ``run``."""

from __future__ import annotations

from mmllm.training import distributed
from mmllm.training.log import Log, parts_table
from mmllm.training.stage import StageTraining

_LISTED = 6  # tensors that a start left, named


def announce(training: StageTraining, log: Log) -> None:
    """Show it."""
    stage = training.settings
    for key, dataset in training.datasets.items():
        log.say(f"data.{key}: {dataset.summary or f'{len(dataset):,} samples'}")
    for where, begun in training.started.items():
        more = " ..." if len(begun.left) > _LISTED else ""
        left = f"; left: {', '.join(begun.left[:_LISTED])}{more}" if begun.left else ""
        log.say(f"{where}: {len(begun.taken)} tensors of {begun.path}{left}")
    for sentence in training.computed:
        log.say(sentence)
    if training.room:
        log.say(training.room)
    log.console.print(parts_table(training.name, training.rows))
    steps = training.n_steps
    start = f"goes on after step {training.done} of {steps}" if training.done else f"{steps} steps"
    micro = f"{training.engine.n_micro} micro-batches"
    if stage.tokens is not None:
        micro = f"micro-batches of up to {stage.tokens} tokens"
    log.say(
        f"stage {training.name}: {start}, {stage.batch} conversations each ({distributed.world()} ranks x {micro}), "
        f"ZeRO {stage.zero} on {training.device}"
    )
