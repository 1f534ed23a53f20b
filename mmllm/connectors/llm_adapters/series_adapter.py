"""Serial bottleneck adapters in the LLM's blocks, on the outputs of its sub-layers.

Houlsby et al. 2019 (arXiv:1902.00751) put one after the attention and one after the MLP, each on the sub-layer's
output before the residual connection; Pfeiffer et al. 2020 (arXiv:2005.00247) keep only the one after the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from mmllm.connectors.layers.bottleneck import Bottleneck
from mmllm.connectors.llm_adapters.bottleneck_adapter import BottleneckConnector
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints

PLACES = {"houlsby": ("attention", "mlp"), "pfeiffer": ("mlp",)}
"""Style -> sub-layers whose output it changes."""


class SeriesAdapterConnector(BottleneckConnector):
    """Serial bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00247).

    With their own residual, on the outputs of attention and MLP: ``y + up(act(down(y)))``.

    ``y`` float[R, S, D] is what the sub-layer gives, before the block adds its residual (and before Gemma's or OLMo's
    norm of the sub-layer's output). ``up`` is zero at the start, so the LLM is then unchanged bit for bit.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        style: Literal["houlsby", "pfeiffer"] = "houlsby",
        width: int = 64,
        activation: Literal["relu", "gelu", "silu"] = "gelu",
        dropout: float = 0.0,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            style: ``houlsby`` after attention and MLP, ``pfeiffer`` after the MLP only.
            width: r of the bottleneck D -> r -> D.
            activation: between the two projections.
            dropout: after the activation, while training.
            blocks: indices of the blocks to work in; default: all.
        """
        super().__init__(
            llm_dim=llm_dim,
            name="series_adapter",
            width=width,
            activation=activation,
            scale=1.0,
            dropout=dropout,
            blocks=blocks,
        )
        if style not in PLACES:
            raise MmllmError(f"series_adapter: style {style!r} is unknown; known: {', '.join(PLACES)}.")
        self.places = PLACES[style]

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make a bottleneck for each place and put it after its sub-layer."""
        after = {"attention": llm.after_attention, "mlp": llm.after_mlp}
        made = [
            after[place](block, self._change(self.bottleneck(llm, block, place)))
            for block in self.blocks_of(llm)
            for place in self.places
        ]
        return Handle.of(made)

    def _change(self, layer: Bottleneck) -> ChangeOutput:
        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            return output if layer.idle else self.select(ctx, output + layer(output), output)

        return change
