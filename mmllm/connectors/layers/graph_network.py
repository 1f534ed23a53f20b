"""Graph networks: states of nodes, mixed with their neighbours' by layers of torch_geometric."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmllm.connectors.layers.graph_disjoint import Nodes
from mmllm.errors import MmllmError

KINDS = ("sage", "gat", "gin", "none")


class GraphNetwork(nn.Module):
    """Rounds of messages: z0 = RMSNorm(W2 SiLU(W1 x)), z1 = mix(z0), z2 = mix(SiLU(W3 z1)) and so on; no biases.

    ``mix`` of a node and its senders, itself among them: their mean (``sage``, as in GraphAdapter's code), attention
    (``gat``, torch_geometric's: GraphAdapter's own, by dot products, does not run as released), an MLP of their sum
    (``gin``), or the node alone (``none``: the same weights as ``sage`` without edges).

    ``neighbours_only``: the result of the node an item is about does not depend on its own state: its z0 is zero and
    it sends nothing, not even to itself.
    """

    def __init__(self, dim: int, hidden: int, gnn: str, layers: int, heads: int, neighbours_only: bool) -> None:
        super().__init__()
        if gnn not in KINDS:
            raise MmllmError(f"gnn: {gnn!r} is unknown; known: {', '.join(KINDS)}.")
        if layers < 1 or hidden < 1:
            raise MmllmError(f"gnn: layers ({layers}) and hidden ({hidden}) must be at least 1.")
        if gnn == "gat" and hidden % heads:
            raise MmllmError(f"gnn: hidden ({hidden}) must be a multiple of heads ({heads}).")
        self.neighbours_only = neighbours_only
        self.enter = nn.Sequential(
            nn.Linear(dim, 2 * hidden, bias=False), nn.SiLU(), nn.Linear(2 * hidden, hidden, bias=False)
        )
        self.norm = nn.RMSNorm(hidden)
        self.mixes = nn.ModuleList([_mix(gnn, hidden, heads) for _ in range(layers)])
        self.between = nn.ModuleList([nn.Linear(hidden, hidden, bias=False) for _ in range(layers - 1)])

    def forward(self, nodes: Nodes) -> Tensor:
        """States float[nodes, hidden] of the nodes of N items."""
        z = self.norm(self.enter(nodes.x))
        loops = torch.arange(len(z), device=z.device)
        edges = nodes.edges
        if self.neighbours_only:
            hidden = torch.zeros(len(z), dtype=torch.bool, device=z.device)
            hidden[nodes.targets[nodes.targets >= 0]] = True
            z = z.masked_fill(hidden[:, None], 0.0)
            edges, loops = edges[:, ~hidden[edges[0]]], loops[~hidden]
        # here and not by the layers (`add_self_loops`): a hidden node must not send to itself either
        edges = torch.cat([edges, loops.expand(2, -1)], dim=1)
        for number, mix in enumerate(self.mixes):
            z = mix(z if number == 0 else F.silu(self.between[number - 1](z)), edges)
        return z


class SelfOnly(nn.Module):
    """No mixing: each node keeps its state."""

    def forward(self, z: Tensor, edges: Tensor) -> Tensor:
        """States float[nodes, W] as they are."""
        return z


def mean_of_senders() -> Any:
    """Layer ``SimpleConv`` of torch_geometric: (float[nodes, W], int64[2, E]) -> means, 0 where nobody sends."""
    return _convolutions().SimpleConv(aggr="mean")


class SymmetricSum(nn.Module):
    """D^-1/2 A D^-1/2 without self loops, D the number of a node's senders; 0 where nobody sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = _convolutions().SimpleConv(aggr="sum")

    def forward(self, z: Tensor, edges: Tensor) -> Tensor:
        """(float[nodes, W], int64[2, E]) -> float[nodes, W]."""
        edges, weights = _convolutions().gcn_conv.gcn_norm(edges, num_nodes=len(z), add_self_loops=False, dtype=z.dtype)
        return self.sum(z, edges, weights)


def _mix(gnn: str, hidden: int, heads: int) -> nn.Module:
    """Layer of one round of messages between nodes; the edges it gets hold the self loops."""
    mix: nn.Module
    if gnn == "none":
        return SelfOnly()
    if gnn == "sage":
        mix = mean_of_senders()
    elif gnn == "gat":
        mix = _convolutions().GATConv(hidden, hidden // heads, heads, add_self_loops=False, bias=False)
    else:
        own = nn.Sequential(nn.Linear(hidden, hidden, bias=False), nn.SiLU(), nn.Linear(hidden, hidden, bias=False))
        mix = _convolutions().GINConv(own, train_eps=True)
    return mix


def _convolutions() -> Any:
    """torch_geometric's layers, imported when the first one is made: it takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it scripts functions while it is imported
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.nn import conv
    return conv
