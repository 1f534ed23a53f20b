"""The ``audio_adapter_fusion`` connector: adapters trained one per task, then combined without knowing the task."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmllm.connectors.encoder_adapters.block_adapter import BlockAdapter, layout_of
from mmllm.connectors.encoder_adapters.mixture_of_adapters import Gate
from mmllm.connectors.layers.bottleneck import ACTIVATIONS, Bottleneck
from mmllm.errors import MmllmError, SampleError
from mmllm.hooks import EncoderContext, Handle
from mmllm.hooks.points import AdaptableEncoder, EncoderHookPoints


class AudioAdapterFusionConnector(BlockAdapter):
    """``y = h + sum_n alpha_n A_n(h)`` over task adapters A_n (Audio-AdapterFusion, Huang et al. 2023, 2310.13015).

    h is what leaves a block; ``A_n(h) = up(relu(down(LN h)))`` with ``up`` zero at the start. ``tasks`` maps each task
    to the data entries of the recipe that are of it. Two stages::

        tasks: {train: {connectors.fusion.adapters: 1.0e-3}, ...}     each item uses the adapter of its data entry
        fuse:  {train: {connectors.fusion.alpha: 1.0e-3}, ...}        all adapters frozen and mixed; no task is known

    While adapters learn, each item uses that of its task alone; else all are mixed by ``alpha``: ``uniform`` (1 / n,
    nothing to learn), ``learned`` (one number per adapter and block) or ``attention`` (of h, per token), both through
    a softmax. The paper's exact forms could not be verified; this is our reading. ``only`` uses one task's adapter for
    everything, for comparison: the right one (the oracle) or a wrong one.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        tasks: dict[str, list[str]],
        alpha: Literal["uniform", "learned", "attention"] = "learned",
        width: int = 64,
        activation: Literal["relu", "gelu", "silu"] = "relu",
        only: str | None = None,
        blocks: str | list[int] = "all",
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            tasks: name -> data entries of the recipe.
            alpha: how the adapters are mixed, see above.
            width: of each adapter.
            activation: between the two projections.
            only: a task whose adapter is used for all.
            blocks: ``all``, ``top half`` or a list of numbers.
        """
        super().__init__(llm_dim=llm_dim, name="audio_adapter_fusion", blocks=blocks)
        entries = [entry for named in tasks.values() for entry in named]
        if not tasks or len(set(entries)) < len(entries) or any("." in task for task in tasks):
            raise MmllmError(
                f"audio_adapter_fusion: tasks {tasks} must name at least one task (no dots) and no data entry twice."
            )
        known = {"alpha": (alpha, ("uniform", "learned", "attention")), "activation": (activation, tuple(ACTIVATIONS))}
        for word, (value, words) in known.items():
            if value not in words:
                raise MmllmError(f"audio_adapter_fusion: {word} {value!r} is unknown; known: {', '.join(words)}.")
        if width < 1 or only not in (None, *tasks):
            raise MmllmError(f"audio_adapter_fusion: width {width} must be >= 1 and only {only!r} one of the tasks.")
        self.kind, self.width, self.activation, self.only = alpha, width, activation, only
        self.task_of = {entry: number for number, named in enumerate(tasks.values()) for entry in named}
        self.adapters = nn.ModuleDict({task: nn.ModuleDict() for task in tasks})
        self.alpha = nn.ModuleDict()

    def put(self, key: str, encoder: AdaptableEncoder, points: EncoderHookPoints, block: int) -> list[Handle]:
        """Put one adapter per task on what leaves the block, and what mixes them."""

        def make() -> TaskAdapter:
            return TaskAdapter(points.dim, self.width, self.activation)

        def new_gate() -> Gate:
            return Gate(points.dim, len(self.adapters), self.kind == "attention")

        name = f"{key}-{block}"
        layers = [self.kept(self._of(task), name, make, encoder) for task in self.adapters]
        gate = None if self.kind == "uniform" else self.kept(self.alpha, name, new_gate, encoder)

        def change(ctx: EncoderContext, _: Tensor, output: Tensor) -> Tensor:
            x = output.float()
            shares = self._shares(ctx, x, gate)
            added = [share * layer(x) for share, layer in zip(shares, layers, strict=True) if share is not None]
            return output + torch.stack(added).sum(dim=0).to(output.dtype)

        return [points.after_block(block, change)]

    def _shares(self, ctx: EncoderContext, x: Tensor, gate: Gate | None) -> list[Tensor | None]:
        """alpha of each adapter, to be multiplied with float[rows, tokens, D]; None: not used at all."""
        tasks = list(self.adapters)
        # in evaluation no task is known, also in a stage that trains the adapters
        learning = self.training and any(p.requires_grad for p in self.adapters.parameters())
        if learning:
            chosen = self._tasks(ctx).to(x.device)[:, None, None]
            return [(chosen == number).to(x.dtype) for number in range(len(tasks))]
        if self.only is not None:
            return [x.new_ones(()) if task == self.only else None for task in tasks]
        if gate is None:
            return [x.new_full((), 1 / len(tasks)) for _ in tasks]
        return list(gate(x).split(1, dim=-1))

    def _tasks(self, ctx: EncoderContext) -> Tensor:
        """int64[rows]: number of each row's task, by the data entry its conversation is of; -1 for a blank item.

        Raises:
            SampleError: a data entry that ``tasks`` does not name.
        """
        rows = layout_of(ctx, self.name).rows
        assert ctx.dataset_names is not None
        names = ctx.dataset_names[: len(rows)]
        for name in names:
            if name not in self.task_of:
                raise SampleError(
                    f'audio_adapter_fusion: no task names the data entry "{name}"; its tasks name '
                    f"{', '.join(self.task_of) or 'none'}"
                )
        numbers = [self.task_of[name] for name in names] + [-1] * (len(rows) - len(names))
        return torch.repeat_interleave(torch.tensor(numbers), torch.tensor(rows))

    def _of(self, task: str) -> nn.ModuleDict:
        found = self.adapters[task]
        assert isinstance(found, nn.ModuleDict)
        return found


class TaskAdapter(nn.Module):
    """``up(relu(down(LN h)))``, zero at the start."""

    def __init__(self, dim: int, width: int, activation: str) -> None:
        """``dim`` is D."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.bottleneck = Bottleneck(dim, width, activation)

    def forward(self, x: Tensor) -> Tensor:
        """float[rows, tokens, D] -> the same shape."""
        return self.bottleneck(self.norm(x))
