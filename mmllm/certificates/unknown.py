"""Tensors without numbers, of which is known what each element is a copy of: hooks are run on them.

An abstract interpretation: whatever holds for such a tensor holds for every text of its shape. Code that wants to see a
number of one (``item``, ``nonzero``, a branch on a value) is refused, so none of it can behave otherwise for some text.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

UNKNOWN = -1
"""Origin of an element that was computed."""
ZERO = -2
"""Origin of an element that is zero."""
aten = torch.ops.aten
MOVES = frozenset({
    aten.view, aten._unsafe_view, aten.permute, aten.transpose, aten.t, aten.expand, aten.slice, aten.select,
    aten.unsqueeze, aten.squeeze, aten.unbind, aten.split, aten.split_with_sizes, aten.cat, aten.stack, aten.index,
    aten.index_select, aten.gather, aten.clone, aten.detach, aten.alias, aten.flip, aten.roll, aten.repeat, aten.copy_,
    aten.index_copy, aten.index_copy_, aten.scatter, aten.lift_fresh, aten.slice_scatter, aten.select_scatter,
})  # fmt: skip
"""Operations that put elements elsewhere and compute none: done to the origins as they are done to the elements."""
INDICES = {
    aten.index: 1, aten.index_put: 1, aten.index_put_: 1, aten.index_select: 2, aten.gather: 2, aten.scatter: 2,
    aten.index_copy: 2, aten.index_copy_: 2,
}  # fmt: skip
"""Operation -> number of the argument that says where elements are, which has to be known to follow them."""
READS = frozenset({
    aten._local_scalar_dense, aten.item, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten.unique_dim,
    aten._unique2, aten.unique_consecutive, aten.nonzero_static, aten.allclose, aten.bincount, aten.repeat_interleave,
})  # fmt: skip
"""Operations whose result, or its shape, needs the numbers."""
POINTWISE = frozenset({
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.rsqrt.default,
    aten.silu.default, aten.sigmoid.default, aten.gelu.default, aten.tanh.default, aten.pow.Tensor_Scalar,
})  # fmt: skip
"""Operations between numbers at one place, whose shape needs no machinery: half of what a block runs."""
_numbers = count(1 << 32, 1 << 32)


class RefusedError(Exception):
    """The code asked for numbers of a text, or put some where they cannot be followed."""


class Unknown(torch.Tensor):
    """A tensor of unknown numbers; ``origins`` int64 of its shape says which element of a marked one each is."""

    shadow: Tensor
    """The same on the meta device, for shapes."""
    origins: Tensor
    """Number of the element of a :meth:`marked` tensor that it is a copy of, ZERO or UNKNOWN."""
    exact: torch.dtype
    """Data type of the elements that the origins count, as far as they do."""

    @staticmethod
    def __new__(cls, shadow: Tensor, origins: Tensor, exact: torch.dtype, device: torch.device) -> Unknown:
        """Wrap; see the attributes."""
        # the documented way to a subclass without storage, though its name looks private
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, shadow.shape, strides=shadow.stride(), dtype=shadow.dtype, device=device
        )
        made.shadow, made.origins, made.exact = shadow, origins, exact
        found: Unknown = made
        return found

    @classmethod
    def like(cls, tensor: Tensor) -> Unknown:
        """One of this shape, type and device of which nothing is known."""
        shadow = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        return cls(shadow, _filled(shadow, UNKNOWN), shadow.dtype, tensor.device)

    def marked(self) -> Unknown:
        """The same, each element with a number of its own that no other marked tensor has."""
        shadow = self.shadow.clone()  # no element of it lies where another does, as in expanded tensors
        numbers = _filled(shadow, UNKNOWN)
        numbers.copy_(torch.arange(self.numel()).view(self.shape) + next(_numbers))
        return Unknown(shadow, numbers, self.dtype, self.device)

    def __repr__(self, **words: Any) -> str:  # type: ignore[override]
        """Shape and type: there are no numbers."""
        return f"Unknown({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation of torch on shapes and origins."""
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    kind = func.overloadpacket
    if kind in READS:
        raise RefusedError(f"{kind.__name__} reads numbers of the text")
    inside = [one for one in _leaves((args, kwargs)) if isinstance(one, Unknown)]
    # an index of unknown truth values gives a tensor of unknown length
    if kind in (aten.index, aten.index_put, aten.index_put_) and any(
        isinstance(one, Unknown) and one.dtype == torch.bool for one in args[1]
    ):
        raise RefusedError("an index by truth values reads numbers of the text")
    if func._schema.is_mutable:
        return _written(func, args, kwargs, inside)
    shadows = _computed(func, args, kwargs)
    origins, exact = _origins(func, args, kwargs, inside)
    device = inside[0].device

    def wrapped(shadow: Tensor, known: Tensor | None) -> Any:
        if known is None or known.shape != shadow.shape:
            return Unknown(shadow, _filled(shadow, UNKNOWN), shadow.dtype, device)
        if known.stride() != shadow.stride():  # of what was copied: views lie as the tensor does
            known = _filled(shadow, UNKNOWN).copy_(known)
        return Unknown(shadow, known, exact, device)

    if isinstance(shadows, Tensor):
        return wrapped(shadows, origins if isinstance(origins, Tensor) else None)
    if isinstance(shadows, tuple | list):
        known = origins if isinstance(origins, tuple | list) else [None] * len(shadows)
        pairs = zip(shadows, known, strict=True)
        return type(shadows)(wrapped(one, k) if isinstance(one, Tensor) else one for one, k in pairs)
    return shadows


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inside: list[Unknown]) -> Any:
    """An operation in place: the origins are written in the same places, through views too."""
    target = args[0]
    if not isinstance(target, Unknown):
        raise RefusedError(f"{func.overloadpacket.__name__} writes what depends on a text into a tensor that is kept")
    kept = func.overloadpacket in (*MOVES, aten.index_put_)
    fitting = all(one.exact == target.exact for one in inside) and not _unknown_places(func, args)
    if kept and fitting and not (func.overloadpacket is aten.index_put_ and _accumulates(args, kwargs)):
        func(*_as_origins(args, first=target.origins), **_as_origins(kwargs))
    elif func.overloadpacket is aten.zero_ or (func.overloadpacket is aten.fill_ and args[1] == 0):
        target.origins.fill_(ZERO)
    else:
        target.origins.fill_(UNKNOWN)
    return target


def _origins(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inside: list[Unknown]
) -> tuple[Any, torch.dtype]:
    """Origins of what an operation gives, None where it computes; and the data type they count in."""
    kind, exact = func.overloadpacket, inside[0].exact
    if kind is aten._to_copy:
        wanted = kwargs.get("dtype") or inside[0].dtype
        # to a wider type and back to its own no number changes
        whole = torch.promote_types(exact, wanted) == wanted
        return (inside[0].origins.clone() if whole else None), (exact if whole else wanted)
    if any(one.exact != exact for one in inside):
        return None, inside[0].dtype
    if kind in MOVES or (kind is aten.index_put and not _accumulates(args, kwargs)):
        return (None if _unknown_places(func, args) else func(*_as_origins(args), **_as_origins(kwargs))), exact
    if func is aten.where.self:
        return (None if isinstance(args[0], Unknown) else torch.where(args[0], *_as_origins(args[1:]))), exact
    if func is aten.add.Tensor:
        return _sum(*_as_origins(args[:2])), exact
    if kind is aten.index_add and not isinstance(args[2], Unknown):
        return args[0].origins.index_fill(args[1], args[2].long(), UNKNOWN), exact
    if kind in (aten.zeros_like, aten.new_zeros):
        return torch.full(tuple(args[1] if kind is aten.new_zeros else args[0].shape), ZERO), exact
    if kind is aten.constant_pad_nd and (len(args) < 3 or args[2] == 0):
        return torch.constant_pad_nd(args[0].origins, args[1], ZERO), exact
    if kind is aten.masked_fill and not isinstance(args[1], Unknown) and isinstance(args[2], int | float):
        return args[0].origins.masked_fill(args[1], ZERO if args[2] == 0 else UNKNOWN), exact
    return None, exact


def _sum(one: Any, other: Any) -> Tensor | None:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return None
    unknown = torch.tensor(UNKNOWN)
    return torch.where(other == ZERO, one, torch.where(one == ZERO, other, unknown))


def _accumulates(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("accumulate", args[3] if len(args) > 3 else False))


def _unknown_places(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an unknown tensor says where elements go."""
    place = INDICES.get(func.overloadpacket)
    return place is not None and any(isinstance(one, Unknown) for one in _leaves(args[place]))


def _as_origins(value: Any, first: Tensor | None = None) -> Any:
    """Arguments with origins in place of numbers; indices stay. ``first``: in place of the first argument."""

    def origin(tensor: Tensor) -> Tensor:
        if isinstance(tensor, Unknown):
            return tensor.origins
        if tensor.is_floating_point():
            return torch.where(tensor == 0, ZERO, UNKNOWN).to("cpu")
        return tensor.to("cpu")

    changed = tree_map_only(Tensor, origin, value)
    return changed if first is None else (first, *changed[1:])


def _computed(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the meta device, where it has a shape and no numbers."""
    if func in POINTWISE:
        tensors = [one for one in args if isinstance(one, Tensor)]
        if tensors[0].is_floating_point() and all(one.dtype == tensors[0].dtype for one in tensors):
            shape = torch.broadcast_shapes(*(one.shape for one in tensors))
            return torch.empty(shape, dtype=tensors[0].dtype, device="meta")

    def shadow(tensor: Tensor) -> Tensor:
        return tensor.shadow if isinstance(tensor, Unknown) else tensor.to("meta")

    words = {name: "meta" if name == "device" else value for name, value in kwargs.items()}
    try:
        return func(*tree_map_only(Tensor, shadow, args), **tree_map_only(Tensor, shadow, words))
    except (RuntimeError, NotImplementedError) as error:
        raise RefusedError(f"{func} has no result without numbers ({str(error).partition(chr(10))[0]})") from error


def _filled(shadow: Tensor, value: int) -> Tensor:
    """Origins laid out as the tensor is: what can be looked at in another shape there can be here."""
    return torch.empty_strided(shadow.shape, shadow.stride(), dtype=torch.int64).fill_(value)


def _leaves(value: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(value)
