"""Trains one stage: builds the model, takes the last weights, steps through the data, saves; called by ``run``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mmllm.batches.loader import StepBatches
from mmllm.checkpoints.digest_cache import DigestCache, frozen, frozen_in_parts
from mmllm.checkpoints.load import check_frozen
from mmllm.checkpoints.saving import Saving
from mmllm.checkpoints.start import start_weights
from mmllm.checkpoints.store import (
    LEARNED,
    Manifest,
    VerifiedCheckpoint,
    all_gather,
    commit,
    rank,
    read_json,
    read_tensors,
)
from mmllm.errors import CheckpointError, MmllmError
from mmllm.hooks.shards import full_shape
from mmllm.model.build import build
from mmllm.model.metrics import added, plain
from mmllm.model.model import MultimodalLM
from mmllm.model.sharing import check_sharing
from mmllm.model.start import Started
from mmllm.model.trainable import frozen_parts, learning, load_trainable, set_trainable, trainable_state
from mmllm.recipe.load import digest
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import shaping
from mmllm.training import distributed
from mmllm.training.cached_stage import check_room, open_cache
from mmllm.training.changed_inputs import accepted, digests_of
from mmllm.training.computed_starts import computed_starts
from mmllm.training.deepspeed_config import config
from mmllm.training.engine import Engine, optimizer_groups
from mmllm.training.log import Log, memory
from mmllm.training.met_items import STEPS, MetItems
from mmllm.training.metrics import line, shortened
from mmllm.training.run_folder import Metrics
from mmllm.training.schedule import lr_scale
from mmllm.training.stage_data import datasets_of, loader_of


class StageTraining:
    """One stage of a run, from its start or from a checkpoint of it to its end or a stop signal."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        out: Path,
        device: torch.device,
        start: VerifiedCheckpoint | None,
        *,
        accept: bool = False,
        verify: bool = False,
    ) -> None:
        """Build everything.

        Args:
            recipe: of the run.
            name: of the stage.
            out: the run folder.
            device: of this rank.
            start: a checkpoint of this stage to go on from, or the last stage's end.
            accept: go on where the inputs have changed since ``start``.
            verify: hash all frozen weights and data anew.
        """
        self.recipe, self.name, self.out, self.device = recipe, name, out, device
        self.settings = recipe.stages[name]
        self.folder = out / "stages" / name
        self.where = f"stages.{name}"
        self.number = list(recipe.stages).index(name)
        self.done = 0
        """Optimizer steps done."""
        self.saving: Saving | None = None
        """The checkpoint that is being written."""
        self._all_written = False  # on every rank
        self._ended = 0.0  # when the last step was over: reading the next one's data counts as its time
        distributed.seed(recipe.seed)
        self.model: MultimodalLM = build(recipe, device, self._partition())
        # before DeepSpeed may partition the weights, and on one rank: all of them loaded the same files
        self.cache = DigestCache(out, verify)
        told = start.manifest.frozen if start is not None else {}
        digests: dict[str, str] = distributed.on_rank0(lambda: frozen(self.model, recipe, self.cache, told))
        digests |= frozen_in_parts(self.model, recipe, self.cache, told)
        self.frozen = {part: digests[part] for part in frozen_parts(self.model)}
        self.started: Mapping[str, Started] = start_weights(self.model, recipe) if start is None else {}
        if start is not None:
            check_frozen(start, {part: one for part, one in digests.items() if part in told or part in self.frozen})
            load_trainable(self.model, read_tensors(start.path / LEARNED), later=told)
        # known without a look at the data, so that ranks agree on whether to exchange reports
        self.connectors: dict[str, Any] = dict(self.model.connectors.items())
        self.counting = any(connector.has_metrics for connector in self.connectors.values())
        self.learned = list(trainable_state(self.model))
        self.items = MetItems(self.model, self.settings.train, name)
        self.rows = set_trainable(self.model, self.settings.train)
        if self.settings.gradient_checkpointing:
            self.model.llm.gradient_checkpointing(True)
        self.features = open_cache(self.model, self.settings.cache, verify)
        if self.settings.share_prefix is not None:
            check_sharing(self.model, self.where)
        self.computed = computed_starts(self.model, recipe, self.started) if start is None else []
        """Sentences on weights that were computed from data."""
        self.datasets = datasets_of(recipe, self.settings)
        self.loader = loader_of(recipe, name, self.model, self.datasets, device)
        self.inputs = digests_of(self.model, self.datasets, self.cache)
        self.accepted = accepted(start, name, self.inputs, accept)
        self.n_steps = self.loader.mixture.n_steps
        self.room = ""
        """What the kept features will take on the disk, as a sentence."""
        if self.features is not None:
            n_samples = self.n_steps * self.settings.batch
            self.room = check_room(self.features, self.model, self.datasets, n_samples, self.where)
        self.engine = self._engine()
        self.model.train()
        # only now: the model had to be the same on every rank, what follows (dropout) need not
        distributed.seed(recipe.seed, self.number, rank())
        if start is not None and start.manifest.stage == name:
            self._continue(start)

    def _partition(self) -> dict[str, Any] | None:
        """DeepSpeed's configuration where it may split the LLM as it is loaded; None: every rank loads all of it."""
        if self.settings.zero < 3 or distributed.world() == 1:
            return None
        return self._config(torch.bfloat16 if self.recipe.llm.dtype == "bfloat16" else torch.float32)

    def _config(self, dtype: torch.dtype, n_params: int | None = None) -> dict[str, Any]:
        return config(self.settings, self.where, distributed.world(), dtype, self.out, n_params)

    def _engine(self) -> Engine:
        dtype = self.model.llm.dtype
        if dtype == torch.float16:
            raise MmllmError("llm.dtype float16 is for use only; train with bfloat16, float32 or auto")
        wanted = self.settings.train.items()
        groups = optimizer_groups(
            {name: (peak, learning(self.model, name).values()) for name, peak in wanted}, self.settings.weight_decay
        )
        n_params = sum(full_shape(parameter).numel() for parameter in self.model.parameters())
        return Engine(self.model, groups, self.settings.betas, self._config(dtype, n_params))

    def _continue(self, start: VerifiedCheckpoint) -> None:
        """Takes over optimizer, random generators and error budget of a checkpoint of this stage."""
        if start.manifest.world != distributed.world():
            raise CheckpointError(
                f"{start.path} was written by {start.manifest.world} ranks and this run has {distributed.world()}: "
                f"inside a stage the number cannot change; run it with {start.manifest.world}, or remove "
                f"{self.folder} to start this stage again"
            )
        state = read_json(start.path / f"state-rank{rank()}.json")
        self.engine.restore(read_tensors(start.path / f"optimizer-rank{rank()}.safetensors"))
        self.engine.set_step(start.manifest.step)
        self.loader.restore(state["loader"])
        distributed.restore_random(state["random"])
        self.items.met |= set(state.get("met", self.model.inputs))  # runs of 0.1 did not write it down
        self.done = start.manifest.step
        threads = start.manifest.threads
        if rank() == 0 and threads not in (None, torch.get_num_threads()) and self.device.type == "cpu":
            print(
                f"this run had {threads} threads of torch and has {torch.get_num_threads()} now: the last bits of its "
                "losses may differ",
                file=sys.stderr,
            )

    def train(self, stop: distributed.StopSignals, log: Log) -> VerifiedCheckpoint:
        """Runs the remaining steps; the checkpoint of the last one done, after a signal not the stage's last."""
        # by default ten checkpoints a stage
        every = self.settings.save_every or max(1, self.n_steps // 10)
        frozen = self.engine.frozen_digest()
        metrics = Metrics(self.out)
        began, first = time.monotonic(), self.done
        self._ended = began
        saved: VerifiedCheckpoint | None = None
        for batches in self._steps():
            for error in batches.bad:
                log.say(f"skipped {error}")
            row, stopping = self._step(batches, stop)
            self.done += 1
            if self._all_written:
                self._finish_saving()
            self.items.add(batches)
            if self.done == min(STEPS, self.n_steps):
                seen = all_gather((sorted(self.items.met), self.items.n_samples))
                self.items.check(self.done, {key for met, _ in seen for key in met}, sum(n for _, n in seen))
            if rank() == 0:
                metrics.write(row)
                left = (time.monotonic() - began) / (self.done - first) * (self.n_steps - self.done)
                log.step(row, left, line(self.connectors, row.get("usage", {})))
                self._monitor(row)
            final = self.done == self.n_steps
            # once a stage, before anything is kept: hashing all frozen weights costs seconds
            if final and self.engine.frozen_digest() != frozen:
                raise RuntimeError(f"frozen weights changed in stage {self.name}; nothing was saved")
            if final or stopping or self.done % every == 0:
                metrics.secure()  # before the checkpoint: a resumed run cuts lines after its step, it cannot make any
                saved = self._save(final, wait=final or stopping)
            if stopping:
                break
            self._ended = time.monotonic()
        self.engine.close()
        if saved is None:
            raise RuntimeError(f"stage {self.name} had no step left after step {first} of {self.n_steps}")
        return saved

    def _steps(self) -> Iterator[StepBatches]:
        """The remaining steps; where their data end the run, a checkpoint that is being written is published first."""
        try:
            yield from self.loader.steps(self.done)
        except MmllmError:
            if distributed.world() == 1:  # with others, some of them may not be here
                self._finish_saving()
            raise

    def _step(self, batches: StepBatches, stop: distributed.StopSignals) -> tuple[dict[str, Any], bool]:
        """One optimizer step: its line of metrics, the same on every rank, and whether some rank was told to stop."""
        settings = self.settings
        rates = self.engine.set_rates(lr_scale(batches.step, self.n_steps, settings.warmup, settings.schedule))
        labels = max(1, batches.n_labels_global)
        n_micro, world = len(batches.micro), distributed.world()
        nll, extra = (torch.zeros((), dtype=torch.float64, device=self.engine.device) for _ in range(2))
        norm: float | None = None
        usage: dict[str, Any] = {}
        for number, batch in enumerate(batches.micro, start=1):
            # The likelihood is a sum over labels and divided by those of the whole step, so that it does not depend on
            # how samples fall into micro-batches. The extra loss is a mean already, over
            # this micro-batch, so it is averaged over micro-batches and ranks and not weighed by labels.
            weight = 0.0 if settings.distill is None else settings.distill.weight
            summed, extra_loss, counted = self.engine(batch.to(self.engine.device), weight)
            # times world: DeepSpeed averages over the ranks
            loss = summed * (world / labels) + extra_loss / n_micro
            norm = self.engine.backward_and_step(loss, last=number == n_micro)
            nll += summed.detach()
            extra += extra_loss.detach()
            usage = added(usage, counted)
        tokens = sum(batch.n_tokens for batch in batches.micro)
        samples = sum(batch.n_samples for batch in batches.micro)
        # the signal is told along: it may reach one rank in one step and another in the next, and all must stop
        # together
        written = self.saving is not None and self.saving.written
        mine = [float(tokens), float(samples), float(bool(stop.received)), float(written)]
        total = distributed.all_reduce_sum(mine, self.engine.device, [nll, extra])
        self._all_written = total[5] == distributed.world()
        self._check_finite(total[0] / labels, total[1], batches.step)
        seconds = time.monotonic() - self._ended
        row = {
            "stage": self.name,
            "step": batches.step + 1,
            "loss": total[0] / labels,
            "extra_loss": total[1] / (world * n_micro),
            "lr": rates,
            "grad_norm": norm,
            "labels": batches.n_labels_global,
            "tokens": int(total[2]),
            "samples": int(total[3]),
            "bad": self.loader.n_bad,
            "tokens_per_second": total[2] / seconds,
            "seconds": seconds,
            "memory": memory(self.device),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        return row | self._usage(usage), total[4] > 0

    def _usage(self, mine: Mapping[str, Any]) -> dict[str, Any]:
        """Return the connectors' metrics of this step over all ranks; empty where none has any."""
        if not self.counting:
            return {}
        short = shortened(self.connectors, all_gather(plain(mine)))
        return {"usage": short} if short else {}

    def _check_finite(self, loss: float, extra: float, step: int) -> None:
        if not (math.isfinite(loss) and math.isfinite(extra)):
            self._finish_saving()  # all ranks are here: the sums are the same on each
            raise MmllmError(
                f"the loss is {loss} in step {step + 1} of stage {self.name}; lower its learning rates (peak "
                f"{self.settings.train}) or look at its data; the checkpoints before it are intact"
            )

    def _monitor(self, row: Mapping[str, Any]) -> None:
        monitor = self.engine.deepspeed.monitor
        if monitor.enabled:
            names = ("loss", "extra_loss", "grad_norm", "tokens_per_second", "memory", "bad")
            monitor.write_events([(f"{self.name}/{name}", row[name], row["step"]) for name in names])

    def keep_features(self) -> None:
        """Write down what this rank's encoders have computed; MmllmError where the disk is full."""
        if self.features is not None:
            self.features.commit()

    def _finish_saving(self) -> None:
        """Publish the checkpoint that is being written, if there is one; every rank calls it at the same step."""
        if self.saving is not None:
            saving, self.saving = self.saving, None
            saving.finish()
        self._all_written = False

    def _save(self, final: bool, wait: bool) -> VerifiedCheckpoint | None:
        """A checkpoint of this step: written while training goes on, or, with ``wait``, when this returns."""
        self._finish_saving()
        distributed.on_every_rank(self.keep_features)
        with self.engine.gathered(self.learned):
            # a copy on the CPU, made while the weights are whole: with ZeRO-3 they are split again when this block ends
            learned = trainable_state(self.model) if rank() == 0 else {}
            learned = {name: tensor.detach().cpu().clone() for name, tensor in learned.items()}
        head = Manifest(
            stage=self.name,
            step=self.done,
            final=final,
            world=distributed.world(),
            recipe=digest(self.recipe),
            frozen=self.frozen,
            shaping=shaping(self.recipe, self.name),
            inputs=self.inputs,
            accepted=self.accepted,
            threads=torch.get_num_threads(),
        )
        files: dict[str, Any] = {
            f"optimizer-rank{rank()}.safetensors": self.engine.state(),
            f"state-rank{rank()}.json": {
                "step": self.done,
                "loader": self.loader.state(),
                "random": distributed.random_state(),
                "met": sorted(self.items.met),
            },
        }
        if rank() == 0:
            files[LEARNED] = learned
        if wait:
            return VerifiedCheckpoint(commit(self.folder, head, files, self.settings.keep), head)
        self.saving = Saving(self.folder, head, files, self.settings.keep)
        return None
