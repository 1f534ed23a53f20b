"""The ``graph_tokens`` connector: a graph around a node as a sequence of the LLM's tokens, without a graph network."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import mlp
from mmllm.connectors.layers.graph_disjoint import Nodes, disjoint
from mmllm.connectors.layers.graph_network import SymmetricSum, mean_of_senders
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class GraphTokensConnector(Projector):
    """Node sequences of LLaGA (Chen et al. 2024, arXiv 2402.08170), or queries; an MLP is what learns.

    ``template``:

    - ``nd``: a fixed tree, the node, then of each node of the hop before ``fanout[hop]`` neighbours in the order of the
      encoder (the released code draws them); beside its state each slot has its row of the eigenvectors of the tree's
      normalised Laplacian. A slot without a node is a zero token. The released positions are eigenvectors of I - A of
      the tree with edges one way: that matrix lacks a basis of them, so they are no choice here.
    - ``ho``: the node's state, then means over ``hops`` hops: h_k = mean of the neighbours' h_(k-1), as the paper
      says, or with ``average: symmetric``, as the released code does, h_k = D^-1/2 A D^-1/2 h_(k-1).
    - ``queries``: ``queries`` learned vectors attend over all nodes; a node's distance from the one the graph is about,
      up to ``hops``, is added to it. The only one that does without such a node.

    Without self loops; edges as the encoder gives them.
    """

    accepts_padding = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        template: Literal["nd", "ho", "queries"] = "nd",
        fanout: Sequence[int] = (10, 10),
        hops: int = 4,
        average: Literal["mean", "symmetric"] = "mean",
        queries: int = 8,
        width: int = 128,
        heads: int = 4,
        depth: int = 2,
        norm: bool = False,
    ) -> None:
        """Set up.

        Args:
            dim: width of the node states.
            llm_dim: width of the LLM's embeddings.
            template: see above.
            fanout: slots per node and hop of ``nd``.
            hops: of ``ho``, and distances that ``queries`` tell apart.
            average: of the neighbours, in ``ho``; see above.
            queries: how many tokens ``queries`` gives.
            width: of its attention.
            heads: of its attention.
            depth: linear layers of the MLP.
            norm: first bring each node's state to mean 0 and variance 1.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if template not in ("nd", "ho", "queries"):
            raise MmllmError(f"connector graph_tokens template: {template!r} is unknown; known: nd, ho, queries.")
        if average not in ("mean", "symmetric"):
            raise MmllmError(f"connector graph_tokens average: {average!r} is unknown; known: mean, symmetric.")
        if not fanout or min(*fanout, hops, queries, heads, width) < 1 or width % heads:
            raise MmllmError(
                f"connector graph_tokens: fanout {list(fanout)}, hops {hops} and queries {queries} must be at least 1, "
                f"and width {width} a multiple of heads {heads}."
            )
        self.template, self.fanout, self.hops, self.norm = template, tuple(fanout), hops, norm
        if template == "nd":
            self.register_buffer("positions", tree_positions(self.fanout))
            self.project = mlp(dim + len(self.get_buffer("positions")), llm_dim, depth)
        elif template == "ho":
            self.average = mean_of_senders() if average == "mean" else SymmetricSum()
            self.project = mlp(dim, llm_dim, depth)
        else:
            self.attend = NodeQueries(dim, width, queries, heads, hops)
            self.project = mlp(width, llm_dim, depth)

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """One row of slots, hops or queries, the same for every graph."""
        if self.template == "nd":
            return (1, len(self.get_buffer("positions")))
        return (1, self.hops + 1 if self.template == "ho" else self.attend.n_queries)

    def forward(self, features: Features) -> Tensor:
        """Read node states float[N, T, dim] and their edges: float[N, n_tokens, llm_dim].

        Raises:
            MmllmError: a template but ``queries``, and an item does not say which node it is about.
        """
        nodes = disjoint(features)
        if self.norm:
            nodes = nodes.with_states(F.layer_norm(nodes.x, nodes.x.shape[-1:]))
        if self.template == "nd":
            return self._tree(nodes)
        return self.project(self._hops(nodes) if self.template == "ho" else self.attend(nodes))

    def _tree(self, nodes: Nodes) -> Tensor:
        """Tokens of the slots of each tree, float[N, slots, llm_dim]; zero where a slot has no node."""
        slots = tree_slots(nodes, nodes.centred("graph_tokens template: nd"), self.fanout)
        positions = self.get_buffer("positions").to(nodes.x.dtype)
        states = torch.cat([nodes.x[slots.clamp(min=0)], positions.expand(len(slots), -1, -1)], dim=-1)
        return self.project(states) * (slots >= 0)[..., None]

    def _hops(self, nodes: Nodes) -> Tensor:
        """States of each item's node, hop after hop, float[N, hops + 1, D]."""
        targets = nodes.centred("graph_tokens template: ho")
        states = [nodes.x]
        for _ in range(self.hops):
            states.append(self.average(states[-1], nodes.edges))
        return torch.stack([state[targets] for state in states], dim=1)


class NodeQueries(nn.Module):
    """Learned queries over the nodes of each graph: one layer of attention with a residual at the queries."""

    def __init__(self, dim: int, width: int, queries: int, heads: int, hops: int) -> None:
        super().__init__()
        self.n_queries, self.heads, self.hops = queries, heads, hops
        self.enter = nn.Linear(dim, width)
        # 0 to `hops`, and one for all that is further away
        self.distance = nn.Embedding(hops + 2, width)
        self.norm = nn.LayerNorm(width)
        # a layer, not a bare parameter: ZeRO-3 gathers weights where their module is called
        self.queries = nn.Embedding(queries, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, nodes: Nodes) -> Tensor:
        """Read all nodes of each item: float[N, queries, width]."""
        states = self.norm(self.enter(nodes.x) + self.distance(distances(nodes, self.hops)))
        key, value = nodes.padded(self.key_value(states)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        asked = self.queries(torch.arange(self.n_queries, device=nodes.x.device)).expand(len(key), -1, -1)
        query = asked.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        read = F.scaled_dot_product_attention(
            query, key.transpose(1, 2), value.transpose(1, 2), attn_mask=nodes.mask[:, None, None]
        )
        return asked + self.output(read.transpose(1, 2).flatten(2))


def tree_positions(fanout: Sequence[int]) -> Tensor:
    """Eigenvectors float[slots, slots] of I - D^-1/2 A D^-1/2 of the tree, by rising eigenvalue; level by level."""
    sizes = [prod(fanout[:hop]) for hop in range(len(fanout) + 1)]
    parents = [-1]
    for hop, size in enumerate(sizes[1:]):
        first = sum(sizes[:hop])
        parents += [first + child // fanout[hop] for child in range(size)]
    links = torch.zeros(len(parents), len(parents), dtype=torch.float64)
    for child, parent in enumerate(parents[1:], 1):
        links[child, parent] = links[parent, child] = 1
    scale = links.sum(dim=0).rsqrt()
    vectors = torch.linalg.eigh(torch.eye(len(parents)) - scale[:, None] * links * scale).eigenvectors
    largest = vectors.abs().argmax(dim=0)
    # a solver may give any sign: the largest entry of each is made positive, so that every machine has the same
    return (vectors * vectors[largest, torch.arange(len(parents))].sign()).float()


def tree_slots(nodes: Nodes, roots: Tensor, fanout: Sequence[int]) -> Tensor:
    """Node of each slot of the trees from ``roots`` int64[N]: int64[N, slots], level by level; -1: no node.

    A node's children are its first senders, in the order of the encoder.
    """
    total, most = len(nodes.x), max(fanout)
    keys = (nodes.edges[1] * total + nodes.edges[0]).sort().values  # by receiver, then by sender
    receivers, senders = keys // total, keys % total
    firsts = torch.searchsorted(receivers, torch.arange(total, device=keys.device))
    ranks = torch.arange(len(keys), device=keys.device) - firsts[receivers]
    children = keys.new_full((total + 1, most), -1)  # the last row: children of no node
    kept = ranks < most
    children[receivers[kept], ranks[kept]] = senders[kept]
    levels = [roots[:, None]]
    for count in fanout:
        levels.append(children[levels[-1], :count].flatten(1))
    return torch.cat(levels, dim=1)


def distances(nodes: Nodes, hops: int) -> Tensor:
    """Number of edges to the node its graph is about, int64[nodes]: 0..hops; hops + 1: further, or no such node."""
    found = torch.full_like(nodes.owners, hops + 1)
    found[nodes.targets[nodes.targets >= 0]] = 0
    senders, receivers = nodes.edges
    for hop in range(1, hops + 1):
        near = senders[(found[receivers] == hop - 1) & (found[senders] > hop)]
        found[near] = hop
    return found
