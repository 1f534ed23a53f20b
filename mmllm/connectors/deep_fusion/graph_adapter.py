"""The ``graph_adapter`` connector: a graph network beside the frozen LLM corrects what it says next (GraphAdapter)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.connectors.base import DeepFusion
from mmllm.connectors.layers.basics import in_out_features, mlp
from mmllm.connectors.layers.graph_disjoint import disjoint
from mmllm.connectors.layers.graph_network import GraphNetwork
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints
from mmllm.types import Features, Grid


class GraphAdapterConnector(DeepFusion):
    """GraphAdapter (Huang et al. 2024, arXiv 2402.12984), its residual learning or tokens at the LLM's input.

    ``at: head``: with z of the node that the last graph before a position is about (:class:`GraphNetwork`) and e, the
    LLM's state before its head::

        u = Wb SiLU(Wa [Wg z ; Wp e])          e' = Wext u (+ e with ``skip``, then Wext starts at zero)
        p = 1/2 softmax(Head e) + 1/2 softmax(Head e')

    with the LLM's own frozen head, all it does after it (scale, soft-cap) included. What is handed on as logits is
    log p. The loss is the stage's ordinary one; the paper's pre-training adds label smoothing and weights per node.
    The graph's placeholder takes no place then.

    ``at: input``: z, through an MLP, is a token of the LLM; of the node the graph is about, or of each node
    (``show: nodes``). ``both``: both. A graph that is about no node is represented by the mean over its nodes.

    Of the released code's two stages this is the first; the second, where a linear map of u gives one of C classes, has
    no place in a model that answers in words: train on the classes' names instead.

    ``neighbours_only`` is the arm against leakage: a state of the node's own text tells the text that is to be
    predicted. ``gnn: none`` is the arm without a graph.
    """

    attaches_to_parts = True
    shares_prefix = True

    accepts_padding = True
    goes_on = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        gnn: Literal["sage", "gat", "gin", "none"] = "sage",
        at: Literal["head", "input", "both"] = "head",
        show: Literal["node", "nodes"] = "node",
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        neighbours_only: bool = False,
        skip: bool = False,
        norm: bool = False,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        """Set up the network; what works at the head comes with ``attach``.

        Args:
            dim: width of the node states.
            llm_dim: width of the LLM's embeddings.
            gnn: how nodes exchange messages, see :class:`GraphNetwork`.
            at: where it speaks, see above.
            show: which nodes become tokens.
            hidden: h, the width of the network.
            layers: rounds of messages, so hops that reach a node.
            heads: of ``gat``.
            neighbours_only: leave the node's own state out, see above.
            skip: start from the LLM's own state instead of nothing.
            norm: first bring each node's state to mean 0 and variance 1.
            depth: linear layers of the MLP that makes tokens.
            dropout: share of a node state's channels dropped in training.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        for name, value, known in (("at", at, ("head", "input", "both")), ("show", show, ("node", "nodes"))):
            if value not in known:
                raise MmllmError(f"connector graph_adapter {name}: {value!r} is unknown; known: {', '.join(known)}.")
        if not 0 <= dropout < 1:
            raise MmllmError(f"connector graph_adapter dropout: {dropout} must be in 0..1, below 1.")
        self.head, self.input = at != "input", at != "head"
        self.show, self.skip, self.norm, self.hidden, self.dropout = show, skip, norm, hidden, dropout
        self.network = GraphNetwork(dim, hidden, gnn, layers, heads, neighbours_only)
        self.speak = mlp(hidden, llm_dim, depth) if self.input else None
        self.layers = nn.ModuleDict()
        """``fuse``: what works at the head."""

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid of the nodes, or of one token; at the head alone of none."""
        if not self.input:
            return (0,)
        return tuple(grid) if self.show == "nodes" else (1, 1)

    def forward(self, features: Features) -> tuple[Tensor, Tensor | None]:
        """Node states float[N, T, dim] -> (tokens float[N, most n_tokens, llm_dim], what the head reads).

        The head reads z float[N, h] of the nodes that the items are about.
        """
        nodes = disjoint(features)
        x = F.layer_norm(nodes.x, nodes.x.shape[-1:]) if self.norm else nodes.x
        z = self.network(nodes.with_states(F.dropout(x, self.dropout, self.training)))
        about = nodes.about(z)
        remembered = about if self.head else None
        if self.speak is None:
            return z.new_zeros(len(about), 0, self.llm_dim), remembered
        return nodes.padded(self.speak(z)) if self.show == "nodes" else self.speak(about)[:, None], remembered

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make what fuses z and e, and mix its predictions into the LLM's."""
        if not self.head:
            return Handle.of([])
        if "fuse" not in self.layers:
            width, _ = in_out_features(llm.model.get_output_embeddings())  # some OPT: not that of the blocks
            self.layers["fuse"] = Fuse(self.hidden, width, self.skip)
        return Handle.of([llm.after_logits(partial(self._mixed, llm))])

    def _mixed(self, llm: LLMHookPoints, ctx: ForwardContext, hidden: Tensor, logits: Tensor) -> Tensor:
        """Mixture log p float[M, V] where a graph was seen, the LLM's own logits elsewhere."""
        about = self.remembered(ctx)
        if about is None:
            return logits
        items, active, places = ctx.last_item[self.key], self.active(ctx), ctx.head_positions
        item = items[:, -1] if places is None else items.flatten()[places]
        seen = item >= 0
        if active is not None:
            seen = seen & (active[:, -1, 0] if places is None else active.flatten()[places])
        other = self.layers["fuse"](about[item.clamp(min=0)], hidden)
        # in float32, as the loss takes its logarithms
        pair = [F.log_softmax(one.float(), dim=-1) for one in (logits, llm.plain_logits(other))]
        return torch.where(seen[:, None], torch.logaddexp(*pair) - math.log(2), logits.float())


class Fuse(nn.Module):
    """Fusion e' = Wext Wb SiLU(Wa [Wg z ; Wp e]), plus e with ``skip``; no biases."""

    def __init__(self, hidden: int, llm_hidden: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.of_graph = nn.Linear(hidden, hidden, bias=False)
        self.of_text = nn.Linear(llm_hidden, hidden, bias=False)
        self.wide = nn.Linear(2 * hidden, 10 * hidden, bias=False)
        self.back = nn.Linear(10 * hidden, hidden, bias=False)
        self.output = nn.Linear(hidden, llm_hidden, bias=False)
        if skip:
            nn.init.zeros_(self.output.weight)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Fuse ``z`` float[M, h] and ``e`` float[M, D]: float[M, D] in the dtype of ``e``."""
        both = torch.cat([self.of_graph(z), self.of_text(e.to(z.dtype))], dim=-1)
        made = self.output(self.back(F.silu(self.wide(both)))).to(e.dtype)
        return made + e if self.skip else made
