"""transformers loads weights without its bar and its report; whoever loads reads the info and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers logs only errors and draws no bar over weights; those of the hub's downloads stay.

    For ``from_pretrained`` with ``output_loading_info``, whose report would else list what is no fault: a pooler that
    nothing uses, the weights of a model's other parts.
    """
    verbosity, hook = logging.get_verbosity(), logging.set_tqdm_hook(_no_bar)
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)


def lost(info: Mapping[str, Any]) -> list[str]:
    """Return what of a loading info makes a model unusable: weights that are missing, or are of another shape."""
    return [*sorted(map(str, info["missing_keys"])), *mismatched(info)]


def mismatched(info: Mapping[str, Any]) -> list[str]:
    """Return weights whose shape is another than the configuration says; loaded with ``ignore_mismatched_sizes``."""
    return [
        f"{name} ({list(found)} in the file, {list(wanted)} by config.json)"
        for name, found, wanted in sorted(info["mismatched_keys"], key=str)
    ]


def _no_bar(make: Callable[..., Any], args: tuple[Any, ...], words: dict[str, Any]) -> Any:
    return make(*args, **{**words, "disable": True})
