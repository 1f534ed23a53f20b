"""Parts of a causal LM, found by structure so that every family is the same: blocks, heads, linear layers, norm.

The lowest base of ``CausalLM``; ``hook_points`` hooks connectors into what is found here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from mmllm.errors import MmllmError
from mmllm.hooks.experts import experts_in
from mmllm.llms.blocks import LINEAR, ROUTERS, DecoderBlock, out_features


class Structure(nn.Module):
    """A causal LM and its parts."""

    model: PreTrainedModel
    decoder_name: str
    n_blocks: int

    @property
    def decoder(self) -> nn.Module:
        """The model without its LM head."""
        return self.model.get_submodule(self.decoder_name)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks in order.

        Raises:
            MmllmError: the decoder has no list of them.
        """
        lists = [m for m in self.decoder.children() if isinstance(m, nn.ModuleList) and len(m) == self.n_blocks]
        if not lists:
            raise MmllmError(
                f"{type(self.model).__name__} cannot be used: its decoder, a {type(self.decoder).__name__}, has no "
                f"list of {self.n_blocks} blocks; choose an LLM of another family"
            )
        return lists[0]

    @property
    def hidden_dim(self) -> int:
        """Width of the residual stream; OPT's may be wider than its embeddings."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def heads(self) -> int:
        """Query heads of a block."""
        return int(self.model.config.get_text_config().num_attention_heads)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return int(self._attending().attention.head_dim)  # type: ignore[arg-type]

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        _, columns = self.value_projection(next(n for n in range(self.n_blocks) if self.parts(n).attends))
        return (columns.stop - columns.start) // self.head_dim

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block.

        Raises:
            MmllmError: there is none.
        """
        others = [child for child in self.decoder.children() if not isinstance(child, nn.ModuleList)]
        norms = [m for m in others if hasattr(m, "weight") and not isinstance(m, (*LINEAR, nn.Embedding))]
        if not norms:
            raise MmllmError(f"{type(self.model).__name__} has no norm after its blocks")
        # the last: some families also norm the embeddings, before the blocks
        return norms[-1]

    def _attending(self) -> DecoderBlock:
        """The first block that attends."""
        found = (DecoderBlock.of(block) for block in self.blocks)
        return next(one for one in found if one.attends)

    def attending(self, index: int) -> DecoderBlock:
        """Attention and MLP of block ``index``; MmllmError as :meth:`parts`, and where it does not attend."""
        found = self.parts(index)
        if not found.attends:
            known = [n for n in range(self.n_blocks) if self.parts(n).attends]
            raise MmllmError(
                f"layer {index}: this block has a {type(found.attention).__name__} in place of attention, whose "
                f"queries, keys or values a connector asks for; the blocks that attend are {', '.join(map(str, known))}"
            )
        return found

    def parts(self, index: int) -> DecoderBlock:
        """Attention and MLP of block ``index``.

        Raises:
            MmllmError: there is no such block, or it has another structure.
        """
        if not 0 <= index < self.n_blocks:
            raise MmllmError(f"layer {index}: this LLM has {self.n_blocks} blocks, numbered from 0")
        return DecoderBlock.of(self.blocks[index])

    def experts(self, index: int) -> nn.Module | None:
        """The stacked experts of block ``index``, see ``hooks.experts``; None where its MLP is one for all."""
        if not 0 <= index < self.n_blocks:
            raise MmllmError(f"layer {index}: this LLM has {self.n_blocks} blocks, numbered from 0")
        return experts_in(self.blocks[index])

    def block_linears(self, index: int) -> dict[str, dict[str, nn.Module]]:
        """``attention`` and ``mlp`` -> full name (as in :meth:`linears`) -> linear layer of block ``index``."""
        root = self._name_of(self.blocks[index])
        found = self.parts(index).linears(self.blocks[index])
        return {part: {f"{root}.{name}": m for name, m in named.items()} for part, named in found.items()}

    def linears(self, targets: Sequence[str] | str = "all-linear") -> dict[str, nn.Module]:
        """Linear layers of the blocks by their name in ``model``.

        ``targets``: ``all-linear``, or names as ``q_proj`` or ``self_attn.q_proj`` that end a layer's name.

        Raises:
            MmllmError: a target that no layer has.
        """
        inside = f"{self._name_of(self.blocks)}."
        named = ((name, m) for name, m in self.model.named_modules() if not isinstance(m, ROUTERS))
        found = {name: m for name, m in named if isinstance(m, LINEAR) and name.startswith(inside)}
        if isinstance(targets, str):
            if targets in ("all-linear", "all"):
                return found
            targets = [targets]
        for target in targets:
            if not any(name.endswith(f".{target}") for name in found):
                known = ", ".join(sorted({name.rsplit(".", 1)[1] for name in found}))
                raise MmllmError(f"targets: no linear layer of this LLM is called {target!r}; it has {known}")
        return {name: m for name, m in found.items() if any(name.endswith(f".{target}") for target in targets)}

    def value_projection(self, index: int) -> tuple[str, slice]:
        """The linear layer of block ``index`` whose output holds the values, and their columns in it."""
        size = int(self.attending(index).attention.head_dim)  # type: ignore[arg-type]
        linears = self.block_linears(index)["attention"]
        for name, linear in linears.items():
            if name.endswith(".v_proj"):
                return name, slice(0, out_features(linear))
        for name, linear in linears.items():  # queries, keys and values side by side
            # what is left beside the queries are keys and values of equal width, the values last
            rest = out_features(linear) - self.heads * size
            if rest > 0 and rest % (2 * size) == 0:
                return name, slice(out_features(linear) - rest // 2, out_features(linear))
        raise MmllmError(f"{type(self.model).__name__}: its attention has no layer that gives the values")

    def _name_of(self, wanted: nn.Module) -> str:
        return next(name for name, module in self.model.named_modules() if module is wanted)
