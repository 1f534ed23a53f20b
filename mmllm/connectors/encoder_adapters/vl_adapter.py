"""The ``vl_adapter`` connector: bottlenecks after attention and MLP, shared by several encoders (VL-Adapter)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from mmllm.connectors.encoder_adapters.block_adapter import EncoderAdapter
from mmllm.connectors.layers.bottleneck import ACTIVATIONS
from mmllm.errors import MmllmError
from mmllm.hooks import Handle
from mmllm.hooks.points import Encoder, Inside

SHARE = ("all", "down", "up", "none")


class VlAdapterConnector(EncoderAdapter):
    """``y + up(silu(down y))`` on the outputs of attention and MLP (VL-Adapter, Sung et al. 2022, arXiv 2112.06825).

    There one adapter per layer is shared by tasks of a BART or T5; here by the encoders that ``inside`` names, one per
    task or medium (``inside: [image, video]``): ``share: all`` uses the same weights in each, ``none`` gives each its
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
        """Set up, without weights until ``adapt``.

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
        self.identity_at_start = start == "identity"
        self.activation = ACTIVATIONS[activation]()
        self.downs = nn.ModuleDict()
        self.ups = nn.ModuleDict()

    def put(self, key: str, encoder: Encoder, inside: Inside, block: int) -> list[Handle]:
        """One after the attention and one after the MLP."""
        if self.share != "none":
            self.same_width(self.downs, inside, key)
        width = max(1, inside.dim // self.reduction)
        handles = []
        for place, after in (("attention", inside.after_attention), ("mlp", inside.after_mlp)):
            own, common = f"{key}-{block}-{place}", f"{block}-{place}"
            name = common if self.share in ("all", "down") else own
            down = self.kept(self.downs, name, lambda: nn.Linear(inside.dim, width), encoder)
            name = common if self.share in ("all", "up") else own
            up = self.kept(self.ups, name, lambda: self._up(width, inside.dim), encoder)
            handles.append(after(block, self._change(down, up)))
        return handles

    def _up(self, width: int, dim: int) -> nn.Linear:
        layer = nn.Linear(width, dim)
        if self.start == "identity":
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return layer

    def _change(self, down: nn.Linear, up: nn.Linear) -> Callable[[Tensor, Tensor], Tensor]:
        def change(_: Tensor, output: Tensor) -> Tensor:
            return output + up(self.activation(down(output.float()))).to(output.dtype)

        return change

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> VlAdapterConnector:
        """A quarter of the width."""
        return cls(llm_dim=llm.dim, reduction=4)
