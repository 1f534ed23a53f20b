"""The ``vl_adapter`` connector: bottlenecks after attention and MLP, shared by several encoders (VL-Adapter)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mmllm.connectors.encoder_adapters.block_adapter import BlockAdapter
from mmllm.connectors.layers.bottleneck import ACTIVATIONS
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, EncoderContext, Handle
from mmllm.hooks.points import AdaptableEncoder, EncoderHookPoints

SHARE = ("all", "down", "up", "none")


class VlAdapterConnector(BlockAdapter):
    """``y + up(silu(down y))`` on the outputs of attention and MLP (VL-Adapter, Sung et al. 2022, arXiv 2112.06825).

    There one adapter per layer is shared by tasks of a BART or T5; here by the encoders that ``adapts`` names, one per
    task or medium (``adapts: [image, video]``): ``share: all`` uses the same weights in each, ``none`` gives each its
    own, ``down`` and ``up`` share one of the two projections (the paper's half-shared). Encoders that share must be of
    one width. ``start: drawn`` is the authors' (no identity); the default starts with ``up`` zero.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        reduction: int = 8,
        share: Literal["all", "down", "up", "none"] = "all",
        start: Literal["identity", "drawn"] = "identity",
        activation: Literal["relu", "gelu", "silu"] = "silu",
        blocks: str | list[int] = "all",
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            reduction: D over the width of the bottleneck.
            share: what the encoders share, see above.
            start: ``identity`` or ``drawn``, see above.
            activation: between the two projections.
            blocks: ``all``, ``top half`` or a list of numbers.
        """
        super().__init__(llm_dim=llm_dim, name="vl_adapter", blocks=blocks)
        known = (
            ("share", share, SHARE),
            ("start", start, ("identity", "drawn")),
            ("activation", activation, ACTIVATIONS),
        )
        for word, value, words in known:
            if value not in words:
                raise MmllmError(f"vl_adapter: {word} {value!r} is unknown; known: {', '.join(words)}.")
        if reduction < 1:
            raise MmllmError(f"vl_adapter: reduction {reduction} must be at least 1.")
        self.reduction, self.share, self.start = reduction, share, start
        self.zero_init = start == "identity"
        self.activation = ACTIVATIONS[activation]()
        self.downs = nn.ModuleDict()
        self.ups = nn.ModuleDict()

    def put(self, key: str, encoder: AdaptableEncoder, points: EncoderHookPoints, block: int) -> list[Handle]:
        """Put one after the attention and one after the MLP."""
        if self.share != "none":
            self.same_width(self.downs, points, key)
        width = max(1, points.dim // self.reduction)
        handles = []
        for place, after in (("attention", points.after_attention), ("mlp", points.after_mlp)):
            own, common = f"{key}-{block}-{place}", f"{block}-{place}"
            name = common if self.share in ("all", "down") else own
            down = self.kept(self.downs, name, lambda: nn.Linear(points.dim, width), encoder)
            name = common if self.share in ("all", "up") else own
            up = self.kept(self.ups, name, lambda: self._up(width, points.dim), encoder)
            handles.append(after(block, self._change(down, up)))
        return handles

    def _up(self, width: int, dim: int) -> nn.Linear:
        layer = nn.Linear(width, dim)
        if self.start == "identity":
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return layer

    def _change(self, down: nn.Linear, up: nn.Linear) -> ChangeOutput:
        def change(_: EncoderContext, __: Tensor, output: Tensor) -> Tensor:
            return output + up(self.activation(down(output.float()))).to(output.dtype)

        return change
