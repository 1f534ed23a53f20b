"""Hands the context of the running pass to the hooks of one frozen model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Context = TypeVar("Context")


class Scope(Generic[Context]):
    """Hands the context of the running pass to the hooks of one frozen model.

    One per model and not per thread: passes of one model must not run in two threads at once (the server's one worker
    sees to it).
    """

    def __init__(self) -> None:
        self._open: list[Context] = []
        self.enabled = True
        """False while frozen layers are asked for something outside of a pass (:meth:`off`)."""

    @classmethod
    def without_context(cls) -> Scope[None]:
        """A scope for hooks that belong to a model itself and need to know nothing of a pass."""
        made = Scope[None]()
        made._open.append(None)
        return made

    @property
    def current(self) -> Context:
        """Context of the pass that runs.

        Raises:
            RuntimeError: no pass is open, so whatever a hook did would rest on an earlier one.
        """
        if not self._open:
            raise RuntimeError(
                "a connector's hook ran without a forward context; call the model through MultimodalLM, or open one "
                "with `model.scope.open(context)`, or remove the connector's handle first"
            )
        return self._open[-1]

    @property
    def peek(self) -> Context | None:
        """Context of the pass that runs, or None outside of any."""
        return self._open[-1] if self._open else None

    @contextmanager
    def open(self, context: Context) -> Iterator[Context]:
        """Run a pass: hooks get ``context``. Passes may be nested; the innermost is the one that runs."""
        self._open.append(context)
        try:
            yield context
        finally:
            self._open.pop()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Let no hook work inside."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before
