"""Who receives from whom in a graph, and which part of it is looked at; between its file and ``text_graph``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy


class Links:
    """Edges of one graph, for each node those it receives from; ties, self loops and both directions settled here.

    Where the graph has no direction each edge goes both ways. Duplicates count once. Self loops are left out: a
    connector that wants a node to receive from itself adds them.
    """

    def __init__(self, pairs: numpy.ndarray, n_nodes: int, directed: bool) -> None:
        """``pairs`` int64[E, 2] of (from, to), each in 0..n_nodes - 1."""
        if not directed:
            pairs = numpy.concatenate([pairs, pairs[:, ::-1]])
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        # one number for each pair: sorts and drops duplicates at once
        keys = numpy.unique(pairs[:, 1] * max(1, n_nodes) + pairs[:, 0])  # by receiver, then by sender
        receivers, self.senders = keys // max(1, n_nodes), keys % max(1, n_nodes)
        self.n_nodes = n_nodes
        self.starts = numpy.searchsorted(receivers, numpy.arange(n_nodes + 1))

    def of(self, node: int) -> numpy.ndarray:
        """Nodes that ``node`` receives from, int64[k] ascending."""
        return self.senders[self.starts[node] : self.starts[node + 1]]

    def around(self, node: int, fanout: Sequence[int], seed: int) -> numpy.ndarray:
        """``node`` first, then those it receives from, hop by hop: int64[n]; at most ``fanout[hop]`` senders of each.

        Where there are more, that many are drawn, always the same for the same seed and node.
        """
        random = numpy.random.default_rng([seed, node])
        found = {node: None}
        front = [node]
        for most in fanout:
            new: list[int] = []
            for one in front:
                near = self.of(one)
                if len(near) > most:
                    near = numpy.sort(random.choice(near, most, replace=False))
                new += [other for other in near.tolist() if other not in found]
                found |= dict.fromkeys(new)
            front = list(dict.fromkeys(new))
        return numpy.fromiter(found, dtype=numpy.int64)

    def drawn(self, n: int, seed: int) -> numpy.ndarray:
        """``n`` of all nodes, int64[n] ascending, always the same for the same seed."""
        return numpy.sort(numpy.random.default_rng([seed, self.n_nodes]).choice(self.n_nodes, n, replace=False))

    def among(self, nodes: numpy.ndarray) -> numpy.ndarray:
        """Edges between these nodes, int64[2, E] of (sender, receiver) as indices into ``nodes``."""
        order = numpy.argsort(nodes)
        ordered = nodes[order]
        counts = self.starts[nodes + 1] - self.starts[nodes]
        receivers = numpy.repeat(numpy.arange(len(nodes)), counts)
        senders = numpy.concatenate([self.of(node) for node in nodes.tolist()]) if len(nodes) else nodes
        places = numpy.searchsorted(ordered, senders).clip(max=max(0, len(nodes) - 1))
        inside = ordered[places] == senders if len(nodes) else numpy.zeros(0, dtype=bool)
        return numpy.stack([order[places[inside]], receivers[inside]])
