"""Runs a frozen model and keeps the hidden states that were asked for; the forward of every encoder comes here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from mmllm import hooks
from mmllm.errors import MmllmError
from mmllm.hooks.shards import is_split
from mmllm.types import Layer

Blocks = nn.ModuleList | nn.Sequential
"""The list in which a model holds its transformer blocks."""


def recorded(
    blocks: Blocks, wanted: Sequence[Layer], run: Callable[[], Tensor], norm: nn.Module | None = None
) -> list[Tensor]:
    """Hidden states of each layer in ``wanted`` (0..n_blocks or ``final``), with all that works inside.

    Nothing behind the deepest of them runs: no block, norm, pooler or head. Under ZeRO-3, where a model's forward must
    come to its end, no block behind it does, but the first one always: its hooks change what enters it.

    Args:
        blocks: the list itself that the model runs through.
        wanted: counted from the front, see ``Encoder.resolve``.
        run: runs the model, ``blocks`` with it, and gives its last state.
        norm: what makes ``final`` of the last state where the model itself leaves that as the last block gave it.

    Raises:
        MmllmError: ``final`` is of another width than what leaves the blocks, or the model does not run its blocks.
    """
    n_blocks = len(blocks)
    taken = {n_blocks if layer == "final" else layer for layer in wanted}
    states: dict[Layer, Tensor] = {}
    handle = _listen(blocks, taken, states, stop="final" not in wanted and not _is_partitioned(blocks))
    final: Tensor | None = None
    try:
        with _only_first(blocks, max(taken)):
            final = run()
    except _Reached:
        pass
    finally:
        handle.remove()
    if not taken <= states.keys():
        raise MmllmError("the model does not run its blocks one after the other; choose another encoder.")
    if "final" in wanted:
        last = states[n_blocks]
        assert final is not None
        states["final"] = norm(final) if norm is not None and _same(final, last) else final
        _same_width(states["final"], last)
    return [states[layer] for layer in wanted]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether these are one state, which ZeRO-3 hands on as another tensor of the same memory."""
    return one is other or (not one.is_meta and one.is_set_to(other))


def depth(wanted: Sequence[Layer], n_blocks: int) -> int:
    """How many of ``n_blocks`` blocks these layers (0..n_blocks or ``final``) are made by."""
    return max(n_blocks if layer == "final" else layer for layer in wanted)


class _Reached(Exception):
    """Ends a model's forward where all that is wanted of it is recorded."""


def _listen(blocks: Blocks, taken: set[int], states: dict[Layer, Tensor], stop: bool) -> hooks.Handle:
    """Record what enters the first block and leaves others; ``stop``: end the forward behind the deepest of them."""
    scope = hooks.Scope.without_context()

    def keep(layer: int, _: None, state: Tensor) -> Tensor:
        states[layer] = state
        if stop and layer == max(taken):
            raise _Reached
        return state

    # hooks, not output_hidden_states: of the last layer some models of transformers (5.23) give the state after the
    # final norm, some the one before; and registered last, so that they record what the hooks of connectors changed
    handles = [hooks.before(blocks[0], partial(keep, 0), scope)] if 0 in taken else []
    for layer in taken - {0}:
        handles.append(hooks.after(blocks[layer - 1], partial(_keep_output, keep, layer), scope))
    return hooks.Handle.of(handles)


def _is_partitioned(blocks: Blocks) -> bool:
    """Whether ZeRO-3 holds these weights: the modules around gather theirs before a forward and let go after it."""
    return any(is_split(weight) for weight in blocks.parameters())


def _same_width(final: Tensor, last: Tensor) -> None:
    """Raise MmllmError where a model's output is not as wide as its blocks, as in OPT 350m."""
    if final.shape[-1] != last.shape[-1]:
        raise MmllmError(
            f"layers: final is {final.shape[-1]} wide in this model, its blocks {last.shape[-1]}; name layers by their "
            "numbers instead."
        )


def _keep_output(
    keep: Callable[[int, None, Tensor], Tensor], layer: int, _: None, __: Tensor, output: Tensor
) -> Tensor:
    return keep(layer, None, output)


@contextmanager
def _only_first(blocks: Blocks, n: int) -> Iterator[None]:
    """Take all but the first ``n`` blocks (at least one) out of the list for as long as this is open.

    Under ZeRO-3 the forward cannot be ended by an exception: the modules around would keep the weights they gathered.
    """
    rest = list(blocks[max(n, 1) :])
    if rest:
        del blocks[max(n, 1) :]
    try:
        yield
    finally:
        if rest:
            blocks.extend(rest)
