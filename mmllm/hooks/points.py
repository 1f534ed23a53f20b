"""Hook points: where connectors take hold of a frozen model. LLMs and encoders offer them, connectors use them.

Connectors, encoders and LLMs do not import each other; the model hands one to the other. What each point does stands in
``llms/hook_points.py`` and ``encoders/hook_points.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from mmllm.hooks.context import EncoderContext, ForwardContext
from mmllm.hooks.experts import RunExperts
from mmllm.hooks.handles import Around, Change, ChangeOutput, Handle
from mmllm.hooks.scope import Scope

Extend = Callable[[Any, Tensor, Tensor, float], Tensor]
"""(context, query float[R, heads, S, d], output float[R, S, heads, d], scaling of query x key) -> another output."""


class HookPoints(Protocol):
    """The blocks of one frozen transformer. Every function that is hooked in gets the context of its pass first."""

    def before_block(self, index: int, change: Change) -> Handle:
        """Replace the input of a block."""
        ...

    def after_block(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of a block, given its input too."""
        ...

    def before_attention(self, index: int, change: Change) -> Handle:
        """Replace the input of a block's attention."""
        ...

    def after_attention(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the attention adds to the stream, given its input too."""
        ...

    def before_mlp(self, index: int, change: Change) -> Handle:
        """Replace the input of a block's MLP."""
        ...

    def after_mlp(self, index: int, change: ChangeOutput) -> Handle:
        """Replace what the MLP adds to the stream, given its input too."""
        ...


class EncoderHookPoints(HookPoints, Protocol):
    """The blocks of an encoder: float[rows, prefix + T, D]; hooks get an :class:`EncoderContext`."""

    n_blocks: int
    dim: int
    """D of the residual stream."""

    def add_before_block(self, index: int, add: Change) -> Handle:
        """Add to the stream before a block."""
        ...

    def add_before_mlp(self, index: int, add: Change) -> Handle:
        """Add to the stream between attention and MLP."""
        ...

    def add_after_mlp(self, index: int, add: ChangeOutput) -> Handle:
        """Add to what the MLP adds, given the stream and what the MLP reads."""
        ...


class LLMHookPoints(HookPoints, Protocol):
    """A causal LM: R rows of S positions, float[R, S, D]; hooks get a :class:`ForwardContext`."""

    model: Any
    """The wrapped model of transformers."""
    tokenizer: Any
    scope: Scope[ForwardContext]
    n_blocks: int
    dim: int
    """D_llm, width of the embeddings."""

    @property
    def decoder(self) -> nn.Module:
        """The model without its LM head."""
        ...

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks in order."""
        ...

    @property
    def hidden_dim(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def heads(self) -> int:
        """Query heads of a block."""
        ...

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        ...

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block."""
        ...

    @property
    def device(self) -> Any:
        """Device of the embeddings."""
        ...

    @property
    def dtype(self) -> Any:
        """Data type that the blocks compute in."""
        ...

    def parts(self, index: int) -> Any:
        """Attention and MLP of a block."""
        ...

    def linears(self, targets: Sequence[str] | str = "all-linear") -> dict[str, nn.Module]:
        """Name in ``model`` -> linear layer of the blocks."""
        ...

    def block_linears(self, index: int) -> dict[str, dict[str, nn.Module]]:
        """``attention`` and ``mlp`` -> name in ``model`` -> linear layer of a block."""
        ...

    def value_projection(self, index: int) -> tuple[str, slice]:
        """The linear layer whose output holds the values, and their columns in it."""
        ...

    def before_linear(self, name: str, change: Change) -> Handle:
        """Replace the input of a layer."""
        ...

    def after_linear(self, name: str, change: ChangeOutput) -> Handle:
        """Replace the output of a layer, given its input too."""
        ...

    def experts(self, index: int) -> nn.Module | None:
        """The stacked experts of a block; None where it has none."""
        ...

    def around_experts(self, index: int, run: RunExperts) -> Handle:
        """Compute what the experts of a block give, given their own forward and what the router chose."""
        ...

    def around_linear(self, name: str, run: Around) -> Handle:
        """Compute the output of a layer, given the layer's own forward."""
        ...

    def replace_linear(self, name: str, module: nn.Module) -> Handle:
        """Put another module where a layer is."""
        ...

    def after_embed(self, change: ChangeOutput) -> Handle:
        """Replace the embeddings of text, given the ids."""
        ...

    def after_final_norm(self, change: ChangeOutput) -> Handle:
        """Replace the output of the norm after the last block."""
        ...

    def after_head(self, change: ChangeOutput) -> Handle:
        """Replace what the LM head's linear layer gives, at ``ctx.head_positions``."""
        ...

    def after_logits(self, change: ChangeOutput) -> Handle:
        """Replace the logits, given the states they are of, at ``ctx.head_positions``."""
        ...

    def plain_logits(self, hidden: Tensor) -> Tensor:
        """Logits of other states, without what ``after_logits`` changes."""
        ...

    def beginnings(self, answers: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that stand in front of every answer, and the first id of each of these answers."""
        ...

    def extend_attention(self, index: int, extend: Extend) -> Handle:
        """Change what the heads of a block read."""
        ...

    def keys_values(self, index: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values that the frozen block makes of other states."""
        ...

    def copy_block(self, index: int) -> nn.Module:
        """A copy of a block that may learn."""
        ...

    def copied(self, module: nn.Module) -> nn.Module:
        """A copy of a layer that may learn."""
        ...

    def insert_block(self, index: int, block: nn.Module, choose: ChangeOutput) -> Handle:
        """Run ``block`` on the output of block ``index`` (-1: on the embeddings)."""
        ...

    def new_cache(self) -> Any:
        """An empty cache of keys and values."""
        ...


class AdaptableEncoder(Protocol):
    """A frozen encoder with blocks that connectors can work in."""

    scope: Scope[EncoderContext]

    @property
    def modality(self) -> str:
        """Kind of media it takes."""
        ...

    def hook_points(self) -> EncoderHookPoints:
        """Its blocks."""
        ...

    def depth(self, n_blocks: int) -> int:
        """How many of its blocks make the layers that are read of it."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        ...
