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
from mmllm.connectors.layers.graph_fusion import FirstWords, Fuse
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

    Of the released code's two stages this is the first. ``classes`` is the second: where an answer begins, p is the
    softmax of a linear map of u onto the classes, told by the first token of each one's name; the rest of the name, and
    all else, is as the LLM says it. The recipe's ``start`` takes over what the first stage learned, all but Wext.

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
        classes: Sequence[str] = (),
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
            classes: names that answers begin with, see above; none: the first stage.
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
        if classes and (at == "input" or skip):
            raise MmllmError(
                "connector graph_adapter classes: they are told at the head in place of the other prediction; say "
                "at: head or both, and no skip."
            )
        if len(set(classes)) < len(classes) or len(classes) == 1:
            raise MmllmError(f"connector graph_adapter classes: {list(classes)} must be two or more, each once.")
        self.head, self.input = at != "input", at != "head"
        self.show, self.skip, self.norm, self.hidden, self.dropout = show, skip, norm, hidden, dropout
        self.network = GraphNetwork(dim, hidden, gnn, layers, heads, neighbours_only)
        self.speak = mlp(hidden, llm_dim, depth) if self.input else None
        self.classes = tuple(classes)
        self.goes_on = self.shares_prefix = not classes  # what stands in front of an answer must be in the same pass
        self.layers = nn.ModuleDict()
        """``fuse``: what works at the head."""
        self.first: FirstWords | None = None
        """Of the classes, once attached."""

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
            self.layers["fuse"] = Fuse(self.hidden, width, self.skip, len(self.classes))
        if self.classes:
            self.first = FirstWords.of(llm, self.classes)
        return Handle.of([llm.after_logits(partial(self._mixed, llm))])

    def _mixed(self, llm: LLMHookPoints, ctx: ForwardContext, hidden: Tensor, logits: Tensor) -> Tensor:
        """Log p float[M, V], of the mixture or the classes, where a graph was seen; the LLM's own logits elsewhere."""
        about = self.remembered(ctx)
        if about is None:
            return logits
        items, active, places = ctx.last_item[self.key], self.active(ctx), ctx.head_positions
        item = items[:, -1] if places is None else items.flatten()[places]
        seen = item >= 0
        if active is not None:
            seen = seen & (active[:, -1, 0] if places is None else active.flatten()[places])
        other = self.layers["fuse"](about[item.clamp(min=0)], hidden)
        if self.first is not None:
            if ctx.host is not None:
                self.first.check(ctx.host, self.key)
            of_classes = self.first.over_vocabulary(F.log_softmax(other.float(), dim=-1), logits.shape[-1])
            return torch.where((seen & self.first.begins(ctx, places))[:, None], of_classes, logits.float())
        # in float32, as the loss takes its logarithms
        pair = [F.log_softmax(one.float(), dim=-1) for one in (logits, llm.plain_logits(other))]
        return torch.where(seen[:, None], torch.logaddexp(*pair) - math.log(2), logits.float())
