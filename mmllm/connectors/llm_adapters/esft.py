"""ESFT (Wang et al. 2024, arXiv:2407.01906): of an LLM with experts some are trained whole, all else stays frozen.

The trained experts belong to this connector and stand in for the LLM's own, so the LLM's tree, names and digests are
the same with and without it. Many such sets over one LLM are served together: ``sets/expert_tables.py`` (ExpertWeave).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmllm.connectors.base import LLMAdapter
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.experts import RunExperts, expert_tensors, n_experts, run_experts
from mmllm.hooks.points import LLMHookPoints


class Experts(nn.Module):
    """Stand-ins for some experts of one block: tensors as the block has them, float[e, ...] in place of [M, ...]."""

    slots: Tensor

    def __init__(self, base: nn.Module, ids: Sequence[int]) -> None:
        """``base`` is the frozen module, whose tensors of ``ids`` are where they start."""
        super().__init__()
        self.ids = tuple(ids)
        # float32 whatever the LLM computes in: small steps vanish in bfloat16 weights
        for name, tensor in expert_tensors(base).items():
            self.register_parameter(name, nn.Parameter(tensor.detach()[list(ids)].float().clone()))
        slots = torch.full((n_experts(base),), -1, device=next(self.parameters()).device)
        slots[list(ids)] = torch.arange(len(ids), device=slots.device)
        # not of the checkpoint: the recipe says it
        self.register_buffer("slots", slots, persistent=False)
        """int64[M]: expert -> its stand-in, -1: it has none."""

    def tensors(self) -> dict[str, nn.Parameter]:
        """Name -> float[e, ...]."""
        return dict(self.named_parameters(recurse=False))


class EsftConnector(LLMAdapter):
    """ESFT (Wang et al. 2024, arXiv 2407.01906): some experts of an LLM that has experts are trained whole.

    Routers and all other experts stay as they are. It takes no places in the LLM's sequence.
    """

    goes_on = True
    positionwise = shares_prefix = True

    def __init__(
        self,
        *,
        llm_dim: int,
        experts: list[int] | dict[str, list[int]],
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            experts: numbers of the experts, the same in every block, or block -> numbers: {"0": [1, 5], "3": [2]}.
            blocks: with numbers that are the same in every block: which blocks; default: all that have experts.
        """
        super().__init__(llm_dim=llm_dim)
        given = list(experts.values()) if isinstance(experts, Mapping) else [experts]
        if not given or any(not ids or len(set(ids)) < len(ids) or min(ids) < 0 for ids in given):
            raise MmllmError(
                f"esft: experts {experts!r} must be numbers from 0, at least one in each place, none twice."
            )
        if isinstance(experts, Mapping) and not all(key.isdigit() for key in experts):
            raise MmllmError(f"esft: experts {experts!r} must have numbers of blocks as keys.")
        if isinstance(experts, Mapping) and blocks is not None:
            raise MmllmError("esft: blocks stand with experts that are the same in each; experts names blocks already.")
        self.experts, self.blocks = experts, None if blocks is None else list(blocks)
        self.layers = nn.ModuleDict()

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Copy the experts that learn and put them in for the LLM's own."""
        handles = []
        for block, ids in self._wanted(llm).items():
            base = llm.experts(block)
            if base is None:
                raise MmllmError(f"esft: block {block} of this LLM has no experts; name blocks that have some.")
            if max(ids) >= n_experts(base):
                raise MmllmError(
                    f"esft: block {block} has {n_experts(base)} experts, numbered from 0; found {max(ids)}."
                )
            if str(block) not in self.layers:
                self.layers[str(block)] = Experts(base, ids)
            handles.append(llm.around_experts(block, self._standing_in(base, self.layer(block))))
        return Handle.of(handles)

    def layer(self, block: int) -> Experts:
        """The stand-ins of a block."""
        found = self.layers[str(block)]
        assert isinstance(found, Experts)
        return found

    def _wanted(self, llm: LLMHookPoints) -> dict[int, Sequence[int]]:
        """Block -> experts that learn in it."""
        if isinstance(self.experts, Mapping):
            return {int(block): ids for block, ids in self.experts.items()}
        every = range(llm.n_blocks) if self.blocks is None else self.blocks
        found = [block for block in every if self.blocks is not None or llm.experts(block) is not None]
        if not found:
            raise MmllmError("esft: this LLM has no experts that are known; it is for LLMs whose MLPs are mixtures.")
        return dict.fromkeys(found, self.experts)

    def _standing_in(self, base: nn.Module, layer: Experts) -> RunExperts:
        """The hook: where an expert has a stand-in, that one answers."""

        def run(
            ctx: ForwardContext, plain: Callable[..., Tensor], hidden: Tensor, ids: Tensor, weights: Tensor
        ) -> Tensor:
            slots = layer.slots[ids]
            own = slots >= 0
            active = self.active(ctx)
            if active is not None:
                own &= active.reshape(-1, 1)
            rows, picks = own.nonzero(as_tuple=True)
            # a choice that a stand-in answers weighs nothing for the LLM's own expert
            output = plain(hidden, ids, weights.masked_fill(own, 0.0))
            if not len(rows) and not torch.is_grad_enabled():
                return output
            # also without a row: every weight gets a gradient, so that no rank waits for another's
            dtype = next(layer.parameters()).dtype
            made = run_experts(
                base,
                layer.tensors(),
                hidden[rows].to(dtype),
                slots[rows, picks][:, None],
                weights[rows, picks][:, None].to(dtype),
            )
            return output.index_add(0, rows, made.to(output.dtype))

        return run
