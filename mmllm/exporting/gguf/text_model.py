"""The LLM of a run as a GGUF file: which families llama.cpp computes the same, under which keys and tensor names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, get_tensor_name_map
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mmllm.errors import MmllmError
from mmllm.exporting.gguf.tensor_file import Entry
from mmllm.llms.gguf_config import llama3_factors

_GEMMA = "hidden_activation"
SILU, GELU = ("silu", "swish"), ("gelu_pytorch_tanh",)


@dataclass(frozen=True)
class Family:
    """How llama.cpp holds a family of transformers."""

    architecture: MODEL_ARCH
    activations: tuple[str, ...] = SILU
    """Names of transformers for the activation that llama.cpp computes in it."""
    activation_word: str = "hidden_act"
    """Word of its config for the activation."""
    biases: bool = False
    """Whether its layers may have biases there."""
    pairs: bool = False
    """Whether rotary pairs stand beside each other, not in two halves of a head: queries and keys are permuted."""
    norm_offset: float = 0.0
    """What the family adds to the weights of its norms before it multiplies by them; llama.cpp adds nothing."""
    tied: bool = False
    """Whether the head is always the table of embeddings."""
    period: int = 0
    """Every how many blocks one sees all, where the others see a window; 0: llama.cpp has no windows in it."""
    large: int = 0
    """Number of blocks of its one model whose queries llama.cpp scales by another width."""
    read_by_transformers: bool = True
    """Whether transformers (5.23) reads such files, and gives what the model gave."""
    scales_pictures: bool = False
    """Whether llama.cpp multiplies a picture's tokens by the root of the width, as it does those of text."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family(MODEL_ARCH.LLAMA, biases=True, pairs=True),
    "mistral": Family(MODEL_ARCH.LLAMA, biases=True, pairs=True),
    "qwen2": Family(MODEL_ARCH.QWEN2, biases=True),
    "qwen3": Family(MODEL_ARCH.QWEN3),
    "gemma": Family(
        MODEL_ARCH.GEMMA, GELU, norm_offset=1.0, tied=True, read_by_transformers=False, scales_pictures=True
    ),
    "gemma2": Family(
        MODEL_ARCH.GEMMA2,
        GELU,
        _GEMMA,
        norm_offset=1.0,
        tied=True,
        period=2,
        large=46,
        read_by_transformers=False,
        scales_pictures=True,
    ),
    "gemma3_text": Family(
        MODEL_ARCH.GEMMA3, GELU, _GEMMA, norm_offset=1.0, period=6, large=62, read_by_transformers=False
    ),
}
"""``model_type`` -> family; SmolLM and its like are ``llama``."""


class TextFile:
    """Keys and tensors of an LLM.

    Raises MmllmError for one that llama.cpp does not compute, with what of it.
    """

    def __init__(self, model: Any, context: int) -> None:
        """``context``: tokens of a conversation that the run reads at most."""
        self.config = model.config.get_text_config()
        kind = self.config.model_type
        if kind not in FAMILIES:
            raise unfit(f"of this kind of LLM ({kind}) no layout is known here; known: {', '.join(FAMILIES)}")
        self.family = FAMILIES[kind]
        self.architecture = MODEL_ARCH_NAMES[self.family.architecture]
        self.words = self.config.to_dict()
        self.head_dim = int(self.words.get("head_dim") or self.config.hidden_size // self.config.num_attention_heads)
        self.pattern, self.context = _check_windows(self.words, self.family, context)
        self._check_activation()
        self.rope = _rotations(self.config)
        self.state = model.state_dict()

    @property
    def picture_scale(self) -> float:
        """What llama.cpp multiplies a picture's tokens by, where the run does not."""
        return math.sqrt(self.config.hidden_size) if self.family.scales_pictures else 1.0

    @property
    def rows(self) -> int:
        """Rows of the table of embeddings."""
        return len(self.state["model.embed_tokens.weight"])

    def _check_activation(self) -> None:
        known, family = self.words[self.family.activation_word], self.family
        if known not in family.activations:
            raise unfit(f"its {self.architecture} computes {family.activations[0]}, and this LLM {known}")
        if self.words.get("use_bidirectional_attention"):
            raise unfit("its LLMs are causal, and this one reads in both directions (use_bidirectional_attention)")

    def add_keys(self, writer: GGUFWriter) -> None:
        """What the model is, without its tokenizer."""
        config = self.config
        writer.add_vocab_size(self.rows)
        writer.add_context_length(self.context)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(float(self.rope["rope_theta"]))
        self._add_scaling(writer)
        if self.pattern:
            writer.add_sliding_window(config.sliding_window)
            writer.add_sliding_window_pattern(self.pattern)
            local = _local_rotations(config)
            if local is not None:
                writer.add_rope_freq_base_swa(local)
        for word, add in (
            ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
            ("final_logit_softcapping", writer.add_final_logit_softcapping),
        ):
            if self.words.get(word):
                add(float(self.words[word]))

    def _add_scaling(self, writer: GGUFWriter) -> None:
        """How its positions are stretched; Llama 3's way is a tensor of factors."""
        rope = self.rope
        if rope["rope_type"] not in ("linear", "yarn"):
            return
        # yarn's may be left to the lengths before and after, as in transformers
        factor = rope["factor"] or self.config.max_position_embeddings / rope["original_max_position_embeddings"]
        writer.add_rope_scaling_factor(float(factor))
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            return
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        _, scale = ROPE_INIT_FUNCTIONS["yarn"](self.config)
        own = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0  # by which llama.cpp scales them anyway
        if scale != own:
            writer.add_rope_scaling_attn_factors(scale / own)

    def entries(self) -> Iterator[Entry]:
        """Its tensors.

        Raises:
            MmllmError: one of them has no name in llama.cpp.
        """
        names = get_tensor_name_map(self.family.architecture, self.config.num_hidden_layers)
        tied = torch.equal(self.state["lm_head.weight"], self.state["model.embed_tokens.weight"])
        if self.family.tied and not tied:
            raise unfit(f"its {self.architecture} has no head but the table of embeddings, and this LLM has one")
        for name, tensor in self.state.items():
            if name == "lm_head.weight" and tied:
                continue
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None or (name.endswith(".bias") and not self.family.biases):
                raise unfit(f"its {self.architecture} has no place for {name}")
            yield Entry(found, tensor, self._change(name))
        if self.rope["rope_type"] == "llama3":
            factors = llama3_factors(float(self.rope["rope_theta"]), self.head_dim, self.rope)
            yield Entry("rope_freqs.weight", factors)

    def _change(self, name: str) -> Callable[[Tensor], Tensor] | None:
        """What is done to a tensor so that llama.cpp computes with it what transformers does."""
        layer = name.split(".")[-2]
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}.get(layer)
        if self.family.pairs and heads is not None:
            return lambda one: _paired(one, heads)
        scale = self._query_scale()
        normed = "model.layers.0.self_attn.q_norm.weight" in self.state
        offset = self.family.norm_offset if layer.endswith("norm") else 0.0
        if layer == ("q_norm" if normed else "q_proj") and scale != 1.0:
            return lambda one: (one + offset) * scale
        return (lambda one: one + offset) if offset else None

    def _query_scale(self) -> float:
        """What queries are multiplied by, as a share of what llama.cpp multiplies them by."""
        config = self.config
        scalar = self.words.get("query_pre_attn_scalar", self.head_dim)
        theirs = self.head_dim
        if self.family.large and config.num_hidden_layers == self.family.large:
            theirs = config.hidden_size // config.num_attention_heads
        return math.sqrt(theirs / scalar)


def unfit(why: str) -> MmllmError:
    """A refusal."""
    return MmllmError(f"--to gguf: llama.cpp cannot hold this run: {why}")


def _paired(tensor: Tensor, heads: int) -> Tensor:
    """Rows of a projection, the two of each rotary pair beside each other."""
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _rotations(config: Any) -> dict[str, Any]:
    """Rotary positions, of the blocks that see all."""
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise unfit(f"rotary positions of the kind {kind} are not written; known: default, linear, llama3, yarn")
    if kind == "yarn":
        _check_yarn(rope, beside_windows=rope is not config.rope_parameters)
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or rope.get("mrope_section"):
        raise unfit("only LLMs that rotate whole heads on one axis are written, and this one does not (M-RoPE, a part)")
    return {**rope, "rope_type": kind}


def _check_yarn(rope: Mapping[str, Any], beside_windows: bool) -> None:
    """MmllmError for words of yarn that llama.cpp (build 11549) computes without, whatever the file says."""
    if beside_windows:
        raise unfit("its yarn stretches the positions of all blocks, and this LLM's not those of blocks with windows")
    for word, theirs in {"beta_fast": 32, "beta_slow": 1, "truncate": True}.items():
        if word in rope and rope[word] not in (None, theirs):
            raise unfit(f"its yarn has {word}: {theirs}, and this LLM's {rope[word]}")


def _local_rotations(config: Any) -> float | None:
    """Base of the rotary positions of blocks with windows, where it is another; MmllmError where they are scaled."""
    local = config.rope_parameters.get("sliding_attention")
    if local is None:
        return None
    if local.get("rope_type", "default") != "default":
        raise unfit("the rotary positions of its blocks with windows are never scaled, and this LLM's are")
    return float(local["rope_theta"])


def _check_windows(words: Mapping[str, Any], family: Family, context: int) -> tuple[int, int]:
    """Every how many blocks one sees all where the others see a window, 0: all see all; and the longest context.

    Where llama.cpp has no windows that context is the window, in which all see all; the run's must not be longer.
    """
    window, positions = words.get("sliding_window"), words["max_position_embeddings"]
    types = words.get("layer_types") or []
    windows = [kind == "sliding_attention" for kind in types] or [bool(window)] * words["num_hidden_layers"]
    if family.architecture == MODEL_ARCH.GEMMA2 and not any(windows):
        raise unfit("its gemma2 always has windows, and this LLM none")
    if window is None or not any(windows):
        return 0, positions
    if not family.period and window >= min(positions, context):
        return 0, min(window, positions)
    if not family.period:
        raise unfit(
            f"its {MODEL_ARCH_NAMES[family.architecture]} sees all that came before, and this LLM a window of {window} "
            f"of its {positions} positions; write llm.context: {window} or less into the run's recipe.yaml, and it is "
            "written for conversations within the window"
        )
    last = windows.index(False) + 1 if False in windows else 0
    if not last or any(one == ((n + 1) % last == 0) for n, one in enumerate(windows)):
        raise unfit("its windows repeat every so many blocks with one that sees all at the end, and this LLM's do not")
    return last, positions
