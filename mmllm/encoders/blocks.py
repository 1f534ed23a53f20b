"""Attention, MLP and norms of an encoder's block, whatever its library calls them; read by `hook_points.py`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mmllm.errors import MmllmError

# names of transformers, open_clip and timm; a block with none of them is refused, never guessed
ATTENTION = ("attention", "self_attn", "attn")
NORM_ATTENTION = (
    "layernorm_before", "norm1", "layer_norm1", "self_attn_layer_norm", "layer_norm", "ln_1", "input_layernorm",
    "attn_norm", "attention_norm", "rms_norm1",
)  # fmt: skip
NORM_MLP = (
    "layernorm_after", "norm2", "layer_norm2", "final_layer_norm", "ln_2", "pre_feedforward_layernorm",
    "post_attention_layernorm", "mlp_norm", "ffn_norm", "rms_norm2",
)  # fmt: skip
MLP = ("mlp", "feed_forward", "ffn")
SCALE_ATTENTION = ("layer_scale1", "ls_1", "ls1")
SCALE_MLP = ("layer_scale2", "ls_2", "ls2")


@dataclass(frozen=True)
class EncoderBlock:
    """The two branches of one encoder block, each added to the residual stream."""

    attention: nn.Module
    """Receives the attention's input."""
    attention_end: nn.Module
    """Gives what is added to the stream: the layer scale where there is one, else the attention."""
    norm_attention: nn.Module
    """Stands before the attention, or (post-norm) after its residual."""
    mlp_first: nn.Module
    """Receives the MLP's input."""
    mlp_last: nn.Module
    """Gives what is added to the stream."""
    norm_mlp: nn.Module
    """Stands before the MLP, or (post-norm) after its residual."""

    @classmethod
    def of(cls, block: nn.Module) -> EncoderBlock:
        """Read a block of transformers, open_clip or timm.

        Raises:
            MmllmError: a block that is not one attention and one MLP, each with its norm.
        """
        inner = dict(block.named_children())
        own = [name for name, _ in block.named_parameters(recurse=False)]
        if own:  # scales of its branches, as in BEiT: what a branch adds is then known nowhere
            raise _refused(block, own)
        if {"attention", "intermediate", "output"} <= inner.keys():
            return cls._bert(block)
        attention = _one_of(inner, ATTENTION)
        norms = _one_of(inner, NORM_ATTENTION), _one_of(inner, NORM_MLP)
        first = last = _one_of(inner, MLP)
        if first is None and {"fc1", "fc2"} <= inner.keys():
            first, last = inner["fc1"], inner["fc2"]
        if attention is None or first is None or last is None or norms[0] is None or norms[1] is None:
            raise _refused(block, list(inner))
        scales = _one_of(inner, SCALE_ATTENTION), _one_of(inner, SCALE_MLP)
        attention_end = attention if scales[0] is None else scales[0]
        mlp_last = last if scales[1] is None else scales[1]
        return cls(attention, attention_end, norms[0], first, mlp_last, norms[1])

    @classmethod
    def _bert(cls, block: nn.Module) -> EncoderBlock:
        """BERT and its kin: each branch ends with a linear layer, the residual and a norm in one module."""
        inside = dict(block.named_modules())
        names = [f"{end}.{part}" for part in ("dense", "LayerNorm") for end in ("attention.output", "output")]
        if not set(names) <= inside.keys():
            raise _refused(block, [name for name, _ in block.named_children()])
        ends = [inside[name] for name in names]
        return cls(inside["attention"], ends[0], ends[2], inside["intermediate"], ends[1], ends[3])


def _refused(block: nn.Module, found: list[str]) -> MmllmError:
    """Error for a block that holds ``found``."""
    return MmllmError(
        f"connectors inside an encoder need blocks of one attention and one MLP, each with its norm, but a "
        f"{type(block).__name__} holds {', '.join(found) or 'nothing'}; choose another encoder."
    )


def list_name(model: nn.Module, n_blocks: int) -> str:
    """Name in ``model`` of the list of its ``n_blocks`` transformer blocks, found by their structure.

    Raises:
        MmllmError: it has no list of that many.
    """
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n_blocks > 0}
    if not lists:
        raise MmllmError(f"{type(model).__name__} has no list of {n_blocks} blocks; choose another encoder.")
    # other parts may have as many members by chance; one that can be read is preferred
    for name, blocks in lists.items():
        try:
            EncoderBlock.of(blocks[0])
        except MmllmError:
            continue
        return name
    return list(lists)[-1]


def blocks_of(model: nn.Module, n_blocks: int) -> list[nn.Module]:
    """The ``n_blocks`` transformer blocks of a model, for connectors inside.

    Raises:
        MmllmError: it has no list of that many blocks, or of blocks that :class:`EncoderBlock` can read.
    """
    blocks = model.get_submodule(list_name(model, n_blocks))
    assert isinstance(blocks, nn.ModuleList)
    EncoderBlock.of(blocks[0])
    return list(blocks)


def _one_of(inner: dict[str, nn.Module], names: tuple[str, ...]) -> nn.Module | None:
    """The first of these children that there is."""
    return next((inner[name] for name in names if name in inner), None)
