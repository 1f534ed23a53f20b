"""Hydra (Kim et al. 2023, arXiv:2309.06922): a parallel and a sequential low-rank branch on the LLM's linear layers.

The parallel branch learns new features from a layer's input, the sequential one transforms the layer's own output.
Both are linear, so :meth:`HydraConnector.merge` folds them into plain layers. Works inside the LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmllm.connectors.base import LLMAdapter
from mmllm.connectors.layers.basics import in_out_features, is_noop, module_key
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints


class Branches(nn.Module):
    """``scale * (U_p D_p x + U_s D_s y0)`` of one linear layer; zero at the start, because both U are."""

    def __init__(
        self, dims: tuple[int, int], parallel_rank: int, sequential_rank: int, scale: float, bias: bool
    ) -> None:
        """``dims``: widths (in, out) of the frozen layer; a rank of 0 leaves its branch out; ``bias``: D and U have."""
        super().__init__()
        width_in, width_out = dims
        self.parallel = _pair(width_in, parallel_rank, width_out, bias) if parallel_rank else None
        self.sequential = _pair(width_out, sequential_rank, width_out, bias) if sequential_rank else None
        self.scale = scale
        self.idle = False

    def skip_if_zero(self) -> None:
        """Skip the update while it is frozen and zero, as in a stage before the one that trains it."""
        pairs = [pair for pair in (self.parallel, self.sequential) if pair is not None]
        self.idle = is_noop(*(weight for pair in pairs for weight in pair[1].parameters()))

    def forward(self, x: Tensor, y0: Tensor) -> Tensor:
        """x float[..., in], y0 = W0 x + b0 float[..., out] -> float[..., out], in the dtype of ``y0``."""
        # in float32, as the weights are: small steps vanish in bfloat16
        terms = [pair(v.float()) for pair, v in ((self.parallel, x), (self.sequential, y0)) if pair is not None]
        return (sum(terms[1:], terms[0]) * self.scale).to(y0.dtype)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W = W0 + s (U_p D_p + U_s D_s W0), b = b0 + s U_s D_s b0 from W0 float[out, in], b0 float[out]; float32.

        With biases of the branches also s (U d + u) of each, d and u those of D and U.
        """
        # the sequential branch first: it reads the frozen layer's output, not what the parallel one adds
        merged_weight, merged_bias = weight.float(), None if bias is None else bias.float()
        if self.sequential is not None:
            sequential = self.scale * _product(self.sequential)
            merged_weight = merged_weight + sequential @ merged_weight
            merged_bias = None if merged_bias is None else merged_bias + sequential @ merged_bias
        if self.parallel is not None:
            merged_weight = merged_weight + self.scale * _product(self.parallel)
        for pair in (self.parallel, self.sequential):
            if pair is not None and pair[1].bias is not None:
                shift = self.scale * pair[1](pair[0].bias)
                merged_bias = shift if merged_bias is None else merged_bias + shift
        return merged_weight, merged_bias


class HydraConnector(LLMAdapter):
    """Hydra (Kim et al. 2023, arXiv 2309.06922): parallel and sequential low-rank branches of linear layers.

    ``h = y0 + s U_p D_p x + s U_s D_s y0``, ``y0 = W0 x + b0``.

    D is Xavier-uniform and U zero at the start, so the LLM is then unchanged bit for bit. ``bias`` gives each D and U
    one, from zero, as the released code has them; the paper's equation has none.
    """

    attaches_to_parts = True

    zero_init = True
    goes_on = True
    positionwise = shares_prefix = True

    def __init__(
        self,
        *,
        llm_dim: int,
        parallel_rank: int = 8,
        sequential_rank: int = 8,
        scale: float = 1.0,
        bias: bool = False,
        targets: str | Sequence[str] | None = None,
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            parallel_rank: r of the branch on the layer's input; 0 leaves it out.
            sequential_rank: r of the branch on the layer's output; 0 leaves it out.
            scale: s, of both branches (the paper's images use 0.1).
            bias: whether both linear maps of a branch have one.
            targets: layer names such as [o_proj, down_proj], or ``all-linear``; default: the last linear of each MLP.
        """
        super().__init__(llm_dim=llm_dim)
        if parallel_rank < 0 or sequential_rank < 0 or parallel_rank + sequential_rank == 0:
            raise MmllmError(
                f"hydra: parallel_rank {parallel_rank} and sequential_rank {sequential_rank} must be >= 0, one of "
                "them above 0."
            )
        self.ranks = parallel_rank, sequential_rank
        self.scale, self.bias = scale, bias
        self.targets = targets if targets is None or isinstance(targets, str) else list(targets)
        self.layers = nn.ModuleDict()

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the branches of each target layer and add their outputs to the layer's."""
        made = []
        for name, base in self._linears(llm).items():
            key = module_key(name)
            if key not in self.layers:
                self.layers[key] = Branches(in_out_features(base), *self.ranks, self.scale, self.bias).to(llm.device)
            made.append(llm.after_linear(name, self._change(self.layers[key])))
        return Handle.of(made)

    def skip_if_zero(self) -> None:
        """Find out which updates may be skipped; to be called whenever weights were loaded or (un)frozen."""
        for layer in self.layers.values():
            assert isinstance(layer, Branches)
            layer.skip_if_zero()

    @torch.no_grad()
    def merge(self, llm: LLMHookPoints) -> Handle:
        """Put plain layers with the branches folded in where the target layers are; for inference.

        The hooks stay with the layers that were taken out, so nothing is added twice. Removing the handle puts those
        layers back, hooks included.

        Raises:
            MmllmError: this has ``when:`` (a merged layer works everywhere), another connector works in one of the
                layers (it would be lost), or the weights are spread over ranks.
        """
        if self.when is not None:
            raise MmllmError(
                "hydra: it has `when:`, and a merged layer would work in every conversation; do not merge."
            )
        made = []  # all of them before the first is put in: an error leaves the LLM as it was
        for name, base in self._linears(llm).items():
            layer = self.layers[module_key(name)]
            assert isinstance(layer, Branches)
            # torch (2.15) has no public way to ask which hooks a module has
            if len(base._forward_hooks) != 1 or base._forward_pre_hooks:
                raise MmllmError(
                    f"hydra: it is not attached to {name}, or another connector works in that layer as well, which "
                    "would be lost; attach this one, remove the other, then merge."
                )
            if hasattr(base.weight, "ds_id"):  # the mark of DeepSpeed's ZeRO-3: here is one shard of it
                raise MmllmError("hydra: the LLM's weights are spread over ranks (ZeRO-3); merge in a run without it.")
            if not base.weight.is_floating_point():
                raise MmllmError("hydra: a quantised layer has no weights to merge into; leave llm.quantize out.")
            made.append((name, _plain(base, layer)))
        return Handle.of([llm.replace_linear(name, plain) for name, plain in made])

    def _linears(self, llm: LLMHookPoints) -> dict[str, nn.Module]:
        """Name in the LLM -> frozen layer of each target."""
        if self.targets is not None:
            return llm.linears(self.targets)
        # the MLP's output projection, under whatever name: linears come in the order of the forward pass
        last = [list(llm.block_linears(block)["mlp"].items())[-1] for block in range(llm.n_blocks)]
        return dict(last)

    def _change(self, layer: Any) -> ChangeOutput:
        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            return output if layer.idle else self.select(ctx, output + layer(x, output), output)

        return change


def _pair(width_in: int, rank: int, width_out: int, bias: bool) -> nn.Sequential:
    """D, then U: Xavier-uniform and zero; biases zero."""
    down, up = nn.Linear(width_in, rank, bias=bias), nn.Linear(rank, width_out, bias=bias)
    nn.init.xavier_uniform_(down.weight)
    nn.init.zeros_(up.weight)
    for layer in (down, up) if bias else ():
        nn.init.zeros_(layer.bias)
    return nn.Sequential(down, up)


def _product(pair: nn.Sequential) -> Tensor:
    """U D as one matrix float[out, in]."""
    down, up = pair[0].weight, pair[1].weight
    assert isinstance(down, Tensor) and isinstance(up, Tensor)
    return up @ down


def _plain(base: Any, layer: Branches) -> nn.Module:
    """A frozen layer of the same kind as ``base`` with the branches folded in; GPT-2's keeps its weight transposed."""
    turned = isinstance(base, Conv1D)
    weight, bias = layer.merged(base.weight.T if turned else base.weight, base.bias)
    plain: Any = Conv1D(base.nf, base.nx) if turned else nn.Linear(*in_out_features(base), bias=bias is not None)
    plain.weight = nn.Parameter((weight.T if turned else weight).to(base.weight).contiguous())
    plain.bias = None if bias is None else nn.Parameter(bias.to(base.weight))
    return plain.requires_grad_(False).eval()
