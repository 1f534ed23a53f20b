"""A bottleneck beside the MLP of the LLM's blocks (AdaptFormer, Chen et al. 2022, arXiv:2205.13535).

The same as the scaled parallel adapter of He et al. 2022 (arXiv:2110.04366) on the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from mmllm.connectors.layers.bottleneck import Bottleneck
from mmllm.connectors.llm_adapters.bottleneck_adapter import BottleneckConnector
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints


class ParallelAdapterConnector(BottleneckConnector):
    """Parallel bottleneck adapter beside the MLP (He et al. 2021, arXiv 2110.04366; AdaptFormer, 2205.13535).

    ``mlp(x) + scale * up(relu(down(x)))``.

    ``x`` float[R, S, D] is exactly what the MLP itself gets. In families that norm first (all but OLMo 2 among the
    tested ones) that is LN(h), as in the equations and figures of AdaptFormer and of He et al.; AdaptFormer's released
    code feeds the branch the un-normed h instead, which this does not reproduce. In OLMo 2, which norms after, x = h.
    The sum is taken before the block's residual (and before Gemma's or OLMo's norm of the MLP's output). ``up`` is
    zero at the start, so the LLM is then unchanged bit for bit.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        width: int = 64,
        scale: float = 0.1,
        activation: Literal["relu", "gelu", "silu"] = "relu",
        dropout: float = 0.1,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Set up, without weights until ``attach``; the defaults are AdaptFormer's.

        Args:
            llm_dim: width of the LLM.
            width: r of the bottleneck D -> r -> D.
            scale: s, of the branch (He et al. use 4 on language, AdaptFormer 0.1 on images).
            activation: between the two projections.
            dropout: after the activation, while training.
            blocks: indices of the blocks to work in; default: all.
        """
        super().__init__(
            llm_dim=llm_dim,
            name="parallel_adapter",
            width=width,
            activation=activation,
            scale=scale,
            dropout=dropout,
            blocks=blocks,
        )

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make a bottleneck for each block and add it to what the MLP gives."""
        made = [llm.after_mlp(block, self._change(self.bottleneck(llm, block, "mlp"))) for block in self.blocks_of(llm)]
        return Handle.of(made)

    def _change(self, layer: Bottleneck) -> ChangeOutput:
        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            return output if layer.idle else self.select(ctx, output + layer(x), output)

        return change
