"""Counts what a pass keeps in memory and multiplies, by the part that does it; ``step.py`` runs a step under it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Meter(TorchDispatchMode):
    """While entered, every tensor that an operation makes counts from then until nothing holds it.

    What a kernel takes for itself while it runs is not seen.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        """``known``: tensors that were there before and do not count (weights, inputs)."""
        super().__init__()
        self.flops: Counter[str] = Counter()
        """Part -> floating point operations of products, convolutions and attention."""
        self.bytes: Counter[str] = Counter()
        """Part -> bytes that are held now."""
        self.peak: Counter[str] = Counter()
        """Part -> bytes at the moment when all together were most."""
        self._most = 0
        self._parts = ["other"]
        self._held: dict[int, tuple[str, int]] = {}
        # by address: PyTorch keeps one object per storage only while somebody holds it
        self._known = [tensor.untyped_storage() for tensor in known]
        self._outside = {storage._cdata for storage in self._known}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count as ``name`` inside, unless a part inside says otherwise."""
        self.enter_part(name)
        try:
            yield
        finally:
            self.leave_part()

    def enter_part(self, name: str) -> None:
        """Count as ``name`` from now on."""
        self._parts.append(name)

    def leave_part(self) -> None:
        """Count again as before the last ``enter_part``."""
        self._parts.pop()

    def rename(self, tensor: Tensor, name: str) -> None:
        """Count a tensor that is held as of another part: a gradient, once it is known to be one."""
        address = tensor.untyped_storage()._cdata
        if address in self._held:
            old, size = self._held[address]
            self.bytes[old] -= size
            self.bytes[name] += size
            self._held[address] = (name, size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = getattr(func, "_overloadpacket", None)
        if packet in flop_registry:
            self.flops[self._parts[-1]] += int(flop_registry[packet](*args, **kwargs, out_val=out))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._held or address in self._outside:
            return
        part, size = self._parts[-1], storage.nbytes()
        self._held[address] = (part, size)
        weakref.finalize(storage, self._release, address).atexit = False
        self.bytes[part] += size
        total = sum(self.bytes.values())
        if total > self._most:
            self._most, self.peak = total, Counter(self.bytes)

    def _release(self, address: int) -> None:
        part, size = self._held.pop(address)
        self.bytes[part] -= size


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of these tensors, those that share memory once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
