"""The sub-layers of a decoder block, whatever the family calls them; found by structure, not by names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.pytorch_utils import Conv1D

from mmllm.errors import MmllmError

LINEAR = (nn.Linear, Conv1D)
"""Linear layers; GPT-2's Conv1D holds its weight transposed."""
ROUTERS = (Llama4Router,)
"""Linear layers by class that choose experts: what they give is no state, so nothing is added to it."""


@dataclass(frozen=True)
class DecoderBlock:
    """The two sub-layers of one decoder block."""

    attention: nn.Module
    """The self-attention: called with ``hidden_states``, gives a tuple whose first is its output; or what stands in its
    place and gives its output alone (a short convolution)."""
    mlp_first: nn.Module
    """Module that gets the MLP's input: the MLP itself, or its first linear layer where the block holds both (OPT)."""
    mlp_last: nn.Module
    """Module that gives the MLP's output: the MLP itself, or its last linear layer."""

    @property
    def attends(self) -> bool:
        """Whether there are queries, keys and values: a short convolution has none."""
        return not any(isinstance(child, nn.Conv1d) for child in self.attention.children())

    @classmethod
    def of(cls, block: nn.Module) -> DecoderBlock:
        """Read a block.

        Raises:
            MmllmError: a block without exactly one self-attention, or without an MLP after it.
        """
        children = list(block.children())
        # transformers numbers whatever writes to the cache, and nothing else in a block
        attentions = [child for child in children if hasattr(child, "layer_idx")]
        if len(attentions) != 1:
            raise MmllmError(
                f"{type(block).__name__} has {len(attentions)} attention layers where connectors inside the LLM need "
                "one; choose an LLM whose blocks are self-attention and MLP"
            )
        # behind the attention: norms have no linear layers, and a block's children are in the order it makes them
        after = children[children.index(attentions[0]) + 1 :]
        mlp = [child for child in after if any(isinstance(inner, LINEAR) for inner in child.modules())]
        if not mlp:
            raise MmllmError(f"{type(block).__name__} has no MLP with linear layers after its attention")
        return cls(attentions[0], mlp[0], mlp[-1])

    def linears(self, block: nn.Module) -> dict[str, dict[str, nn.Module]]:
        """``attention`` and ``mlp`` -> name inside ``block`` -> linear layer."""
        inside = set(self.attention.modules())
        found: dict[str, dict[str, nn.Module]] = {"attention": {}, "mlp": {}}
        for name, module in block.named_modules():
            if isinstance(module, LINEAR) and not isinstance(module, ROUTERS):
                found["attention" if module in inside else "mlp"][name] = module
        return found


def out_features(linear: nn.Module) -> int:
    """Width of a linear layer's output."""
    return int(linear.nf) if isinstance(linear, Conv1D) else int(linear.out_features)  # type: ignore[arg-type]
