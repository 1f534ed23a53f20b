"""The ``adaptformer`` connector: a bottleneck beside the MLP of a frozen encoder's blocks (AdaptFormer)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mmllm.connectors.encoder_adapters.block_adapter import BlockAdapter
from mmllm.connectors.layers.bottleneck import ACTIVATIONS, Bottleneck
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, EncoderContext, Handle
from mmllm.hooks.points import AdaptableEncoder, EncoderHookPoints


class AdaptformerConnector(BlockAdapter):
    """``x + MLP(LN x) + scale * up(relu(down(x)))`` (AdaptFormer, Chen et al. 2022, arXiv 2205.13535).

    ``down`` is drawn and ``up`` zero, so an untrained one changes nothing bit for bit. The branch reads the residual
    stream x without norm, as the authors' code does (their figure shows LN x: ``reads: normed``). With ``scale: 1``,
    ``reads: normed`` and ``activation: gelu`` it is the parallel bottleneck that PETL_AST compares with, here
    initialised so that it can learn.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        width: int = 64,
        scale: float = 0.1,
        activation: Literal["relu", "gelu", "silu"] = "relu",
        dropout: float = 0.1,
        reads: Literal["stream", "normed"] = "stream",
        blocks: str | list[int] = "all",
    ) -> None:
        """Set up, without weights until ``attach``; the defaults are the authors'.

        Args:
            llm_dim: width of the LLM.
            width: r of the bottleneck D -> r -> D.
            scale: of the branch.
            activation: between the two projections.
            dropout: after the activation, while training.
            reads: the residual ``stream`` before the MLP's norm, or what the MLP itself reads (``normed``).
            blocks: ``all``, ``top half`` or a list of numbers.
        """
        super().__init__(llm_dim=llm_dim, name="adaptformer", blocks=blocks)
        if width < 1 or not 0 <= dropout < 1:
            raise MmllmError(f"adaptformer: width {width} must be >= 1 and dropout {dropout} in [0, 1).")
        for word, value, known in (("activation", activation, ACTIVATIONS), ("reads", reads, ("stream", "normed"))):
            if value not in known:
                raise MmllmError(f"adaptformer: {word} {value!r} is unknown; known: {', '.join(known)}.")
        self.width, self.scale, self.activation, self.dropout, self.reads = width, scale, activation, dropout, reads
        self.layers = nn.ModuleDict()

    def put(self, key: str, encoder: AdaptableEncoder, points: EncoderHookPoints, block: int) -> list[Handle]:
        """Put a bottleneck beside the MLP."""

        def make() -> Bottleneck:
            return Bottleneck(points.dim, self.width, self.activation, self.scale, self.dropout)

        layer = self.kept(self.layers, f"{key}-{block}", make, encoder)
        return [points.add_after_mlp(block, self._add(layer))]

    def _add(self, layer: Bottleneck) -> ChangeOutput:
        def add(_: EncoderContext, stream: Tensor, normed: Tensor) -> Tensor:
            # nothing is computed: one zero, seen as wide as the stream
            if layer.idle:
                return stream.new_zeros(()).expand_as(stream)
            return layer((stream if self.reads == "stream" else normed).float())

        return add

    def skip_if_zero(self) -> None:
        """Skip bottlenecks that are frozen and still zero."""
        for layer in self.layers.values():
            assert isinstance(layer, Bottleneck)
            layer.skip_if_zero()
