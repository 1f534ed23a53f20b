"""The ``llama_adapter`` connector: learned prompts as extra keys and values of frozen attention, gated from zero.

V1 (Zhang et al. 2023, arXiv 2303.16199) and the parts of V2 (Gao et al. 2023, arXiv 2304.15010): early fusion of
visual prompts, bias, scale and norm tuning, parameter groups by kind of conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import DeepFusion
from mmllm.connectors.deep_fusion.llama_adapter.tuning import make
from mmllm.connectors.deep_fusion.llama_adapter.visual_prompts import Prompts, VisualPrompts, VisualQueries
from mmllm.connectors.layers.basics import module_key
from mmllm.connectors.layers.prompt_attention import HeadGate, extra_attention
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import Extend, LLMHookPoints
from mmllm.types import Features


class LlamaAdapterConnector(DeepFusion):
    """LLaMA-Adapter V1 (Zhang et al. 2023, arXiv 2303.16199) and V2 (Gao et al. 2023, arXiv 2304.15010).

    Prompts of each layer l are more keys and values of its frozen attention.

    ``out = Wo[ softmax(q kᵀ) v + tanh(g_l) * softmax(q k'ᵀ) v' ]``, ``k' = Wk P_l``, ``v' = Wv P_l``.
    P_l float[K, D] from N(0, 1), neither normed nor rotated; Wk, Wv, Wo frozen; g_l one gate per head, 0 at the start,
    so the LLM is bit for bit what it was. With features (``from:``) there are three ways for them to enter:

    - ``fusion: global`` (V1): I = LN MLP LN(mean of an item's features), the mean over a conversation's items is added
      to all prompts of all layers, for the whole conversation; other conversations have the bare prompts.
    - ``fusion: early`` (V2): features averaged to ``visual_prompts`` cells in raster order, then LN MLP LN, are the
      prompts V of the first ``early_layers`` blocks, with gates of their own; a position reads those of the items of
      its conversation that start at or before it. V takes no part in the layers of the P_l.
    - ``fusion: late`` (the released multimodal V2, which is not the paper's): ``prompts`` learned queries beside all
      features through ``visual_depth`` blocks of a ViT give a vector for each prompt, added to that of every layer, the
      mean over a conversation's items. With ``layers: 31``, ``tuning: [bias, norm]`` and CLIP ViT-L/14 with its class
      token (``layers: [final]``, ``keep: all``) that is BIAS-7B; CLIP's projection is a part of its first linear map.

    ``tuning`` adds V2's ``y = s * (W x + b)`` on every linear layer, and the same on the norms of the residual stream;
    prompts still pass the frozen Wk and Wv. ``disjoint`` (V2's joint training): conversations with media of ``from``
    give a gradient to ``visual`` alone, the others to all but ``visual``; outputs do not depend on it.
    """

    zero_init = True
    goes_on = True
    shares_prefix = True
    learns_without_items = True  # its prompts and scales, wherever no `when` is

    def __init__(
        self,
        *,
        llm_dim: int,
        dim: int = 0,
        prompts: int = 10,
        layers: int | None = None,
        init: Literal["zero", "random"] = "zero",
        fusion: Literal["global", "early", "late"] = "global",
        visual_prompts: int = 20,
        early_layers: int = 1,
        depth: int = 2,
        tuning: Sequence[Literal["bias", "scale", "norm"]] = (),
        disjoint: bool = False,
        visual_width: int = 768,
        visual_depth: int = 8,
        visual_heads: int = 16,
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            dim: width of the features; 0: no features, prompts alone.
            prompts: K of each layer.
            layers: how many of the last blocks have prompts; default: all, with early fusion all after the early ones.
            init: ``zero`` gates, or ``random``: gates of 1 (tanh(1) = 0.76 from step 0), the paper's ablation.
            fusion: how features enter, see above.
            visual_prompts: number of V per item (``early``).
            early_layers: how many of the first blocks read V (``early``).
            depth: linear layers of the MLP.
            tuning: any of bias, scale, norm.
            disjoint: parameter groups by kind of conversation.
            visual_width: channels of the ViT (``late``).
            visual_depth: its blocks.
            visual_heads: their heads.
        """
        super().__init__(llm_dim=llm_dim, dim=dim)
        sizes = {"prompts": prompts, "visual_prompts": visual_prompts, "early_layers": early_layers, "depth": depth}
        for name, value in sizes.items():
            if value < 1:
                raise MmllmError(f"connector llama_adapter {name}: {value} must be at least 1.")
        for name, word, words in (("init", init, ("zero", "random")), ("fusion", fusion, ("global", "early", "late"))):
            if word not in words:
                raise MmllmError(f"connector llama_adapter {name}: {word!r} is unknown; known: {', '.join(words)}.")
        if not dim and (fusion != "global" or disjoint):
            raise MmllmError(
                "connector llama_adapter: fusion early or late and disjoint need features; say `from: <encoder>`."
            )
        self.n_prompts, self.n_layers, self.depth = prompts, layers, depth
        self.start = 0.0 if init == "zero" else 1.0
        self.reads_later_items = bool(dim) and fusion != "early"
        self.takes_class_tokens = fusion == "late"
        self.vit = (visual_width, visual_depth, visual_heads) if fusion == "late" else None
        self.early = early_layers if fusion == "early" else 0
        self.cells = visual_prompts if fusion == "early" else 1
        self.kinds, self.disjoint = list(tuning), disjoint
        self.prompts, self.gates, self.tuning = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.visual: VisualPrompts | VisualQueries | None = None

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the weights and let attention read the prompts.

        Raises:
            MmllmError: more layers than the LLM has, or unknown words in ``tuning``.
        """
        last = llm.n_blocks - self.early if self.n_layers is None else self.n_layers
        if not 1 <= last <= llm.n_blocks or self.early > llm.n_blocks:
            raise MmllmError(
                f"connector llama_adapter: layers {last} and early_layers {self.early} do not fit this LLM's "
                f"{llm.n_blocks} blocks; each must be at least 1 and at most that."
            )
        late = [str(i) for i in range(llm.n_blocks - last, llm.n_blocks)]
        tuned = make(llm, self.kinds)
        # attached a second time, it goes on with the weights it has
        if not self.prompts:
            self.prompts.update({i: Prompts(self.n_prompts, llm.hidden_dim) for i in late})
            self.gates.update({i: HeadGate(llm.heads, self.start) for i in late})
            self.tuning.update({module_key(name): layer() for name, layer in tuned.items()})
            if self.dim and self.vit is not None:
                self.visual = VisualQueries(self.dim, llm.hidden_dim, self.n_prompts, *self.vit)
            elif self.dim:
                gates = {str(i): HeadGate(llm.heads, self.start) for i in range(self.early)}
                self.visual = VisualPrompts(self.dim, llm.hidden_dim, self.cells, self.depth, gates)
        handles = [llm.extend_attention(int(i), self._reading(llm, i)) for i in late]
        handles += [llm.extend_attention(i, self._seeing(llm, i)) for i in range(self.early)]
        handles += [llm.after_linear(name, self._tuned(module_key(name))) for name in tuned]
        return Handle.of(handles)

    def remember(self, features: Features) -> tuple[Tensor, Tensor]:
        """Make the visual prompts of N items: float[N, cells, D], and which are of real features, bool[N, cells]."""
        assert self.visual is not None
        prompts: tuple[Tensor, Tensor] = self.visual(features)
        return prompts

    def still(self, ctx: ForwardContext) -> Tensor | None:
        """Mask bool[R, S] of positions whose conversation trains ``visual`` alone; None: no groups."""
        if not self.disjoint:
            return None
        return ctx.once((self.key, "still"), lambda: ctx.has_media[self.key][ctx.sequence_ids])

    def _reading(self, llm: LLMHookPoints, layer: str) -> Extend:
        """Let block ``layer`` read its prompts."""

        def extend(ctx: ForwardContext, query: Tensor, output: Tensor, scaling: float) -> Tensor:
            states = self.prompts[layer]()
            still = self.still(ctx) if torch.is_grad_enabled() else None
            read = self._read(llm, int(layer), ctx, states, query, scaling)
            if still is not None:  # the same values, computed so that they give the prompts no gradient
                held = self._read(llm, int(layer), ctx, states.detach(), query, scaling)
                read = torch.where(still[..., None, None], held, read)
            return self._add(ctx, output, self.gates[layer](read, still))

        return extend

    def _read(
        self, llm: LLMHookPoints, layer: int, ctx: ForwardContext, states: Tensor, query: Tensor, scaling: float
    ) -> Tensor:
        """Read the prompts float[K, D], what the conversations' items add to them: float[R, S, heads, d]."""
        remembered = self.remembered(ctx)
        if self.early or remembered is None:
            key, value = llm.keys_values(layer, states.to(query.dtype))
            return extra_attention(query, key, value, scaling, None)
        visual, _ = remembered
        owners, conversations = self._owners(ctx, len(visual)), len(ctx.has_media[self.key])
        share = (owners == torch.arange(conversations, device=owners.device)[:, None]).float()  # B, N
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
        added = states + (share @ visual.flatten(1)).unflatten(1, visual.shape[1:])  # B, K, D
        key, value = llm.keys_values(layer, added.flatten(0, 1).to(query.dtype))
        if len(query) == conversations:  # rows are conversations
            key, value = (kept.unflatten(1, added.shape[:2]).transpose(0, 1) for kept in (key, value))
            return extra_attention(query, key, value, scaling, None)
        of = torch.arange(conversations, device=owners.device).repeat_interleave(len(states))
        return extra_attention(query, key, value, scaling, ctx.sequence_ids[..., None] == of)

    def _seeing(self, llm: LLMHookPoints, layer: int) -> Extend:
        """Let block ``layer`` read the visual prompts; nothing changes in a batch without media."""

        def extend(ctx: ForwardContext, query: Tensor, output: Tensor, scaling: float) -> Tensor:
            remembered = self.remembered(ctx)
            if remembered is None:
                return output
            assert isinstance(self.visual, VisualPrompts)
            states, real = remembered
            key, value = llm.keys_values(layer, states.flatten(0, 1).to(query.dtype))
            owners = self._owners(ctx, len(states))
            numbers = torch.arange(len(owners), device=owners.device)
            here = owners == ctx.sequence_ids[..., None]
            started = numbers <= ctx.last_item[self.key][..., None]
            seen = (here & started)[..., None] & real  # R, S, N, V
            read = extra_attention(query, key, value, scaling, seen.flatten(2))
            return self._add(ctx, output, self.visual.gates[str(layer)](read))

        return extend

    def _tuned(self, name: str) -> ChangeOutput:
        """Scale and shift what a tuned layer gives."""

        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            still = self.still(ctx)
            if still is not None:  # rows [R * S, D] where the layer sees those
                still = (still if output.dim() == 3 else still.flatten())[..., None]
            return self.select(ctx, self.tuning[name](output, still), output)

        return change

    def _add(self, ctx: ForwardContext, output: Tensor, gated: Tensor) -> Tensor:
        """Attention's output float[R, S, heads, d] with the gated one added where the connector is active."""
        changed = (output.float() + gated).to(output.dtype)
        return self.select(ctx, changed.flatten(2), output.flatten(2)).view_as(output)

    def _owners(self, ctx: ForwardContext, n_items: int) -> Tensor:
        """Conversation of each item, int64[N]; -1 for the blank item of a batch without media."""
        owners = ctx.item_sequence[self.key]
        return functional.pad(owners, (0, n_items - len(owners)), value=-1)
