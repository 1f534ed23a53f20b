"""Rules of a contract: functions whose docstring says what must hold and how to mend it; the checks run them all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Subject = TypeVar("Subject")
Failure = TypeVar("Failure", bound=BaseException)


def check(what: str, rules: Sequence[Callable[[Subject], None]], subject: Subject) -> None:
    """Run every rule on ``subject``, which errors call ``what``.

    Raises:
        AssertionError: rules are broken; the text names each with what was found and how to mend it. Its cause is the
            first error that the part itself raised, if any.
    """
    broken: list[str] = []
    cause: Exception | None = None
    for rule in rules:
        try:
            rule(subject)
        except Exception as error:
            own = isinstance(error, AssertionError) and bool(str(error))
            cause = cause if own else cause or error
            found = str(error) if own else f"{type(error).__name__}: {error}"
            broken.append(_indented(f"* {inspect.getdoc(rule) or rule.__name__}\nFound: {found}"))
    if broken:
        text = f"{what} breaks {len(broken)} of {len(rules)} rules of its contract.\n\n" + "\n\n".join(broken)
        raise AssertionError(text) from cause


def require_kind(part: Any, base: type) -> None:
    """AssertionError unless a part derives from its base class."""
    bases = ", ".join(kind.__name__ for kind in type(part).__mro__[1:-1])
    require(
        isinstance(part, base),
        f"{named(part)} does not derive from {base.__module__}.{base.__name__}, by which its kind is known; its bases "
        f"are {bases or 'none'}",
    )


def require(holds: bool | Tensor, found: str) -> None:
    """AssertionError with what was found, unless something holds."""
    if not holds:
        raise AssertionError(found)


def require_close(found: Any, expected: Any, what: str, *, rtol: float, atol: float) -> None:
    """AssertionError unless two tensors (or lists of them) agree in shape, dtype and, up to rounding, in value."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}")


def require_error(kind: type[Failure], call: Callable[[], Any], what: str, *texts: str) -> Failure:
    """The error of this kind that a call raises; AssertionError where it raises none, or these texts are not in it."""
    try:
        found = call()
    except kind as error:
        missing = [text for text in texts if text not in str(error)]
        require(not missing, f"{what}: the {kind.__name__} does not say {missing}: {error}")
        return error
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} ({error}) instead of {kind.__name__}") from error
    raise AssertionError(f"{what}: no {kind.__name__}, but {found!r}")


def named(part: Any) -> str:
    """How errors call a part: its class's name."""
    return type(part).__name__


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
