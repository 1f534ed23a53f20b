"""Hold parts to their contract, and tiny parts to test with: for the tests of this package and of plugins.

Each check takes a function that makes a small part, runs every rule of its kind of part on it and raises one
AssertionError that names the rules it breaks, what was found and how to mend it. They need no test framework::

    def test_my_projector():
        check_projector(partial(MyProjector, grid=[2, 2]))

Nothing in mmllm imports it; importing it imports no torch until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmllm.testing.benchmarks import check_benchmark
    from mmllm.testing.datasets import check_dataset
    from mmllm.testing.encoder_adapters import check_encoder_adapter
    from mmllm.testing.encoders import check_encoder, tiny_encoder
    from mmllm.testing.llm_connectors import check_deep_fusion, check_llm_adapter
    from mmllm.testing.projectors import check_projector
    from mmllm.testing.tiny.llms import FAMILIES, tiny_llm, tiny_llm_folder, tiny_model, tiny_tokenizer
    from mmllm.testing.tiny.weights import randomise

__all__ = [
    "FAMILIES",
    "check_benchmark",
    "check_dataset",
    "check_deep_fusion",
    "check_encoder",
    "check_encoder_adapter",
    "check_llm_adapter",
    "check_projector",
    "randomise",
    "tiny_encoder",
    "tiny_llm",
    "tiny_llm_folder",
    "tiny_model",
    "tiny_tokenizer",
]

_MODULES = {
    "benchmarks": ("check_benchmark",),
    "datasets": ("check_dataset",),
    "encoder_adapters": ("check_encoder_adapter",),
    "encoders": ("check_encoder", "tiny_encoder"),
    "llm_connectors": ("check_deep_fusion", "check_llm_adapter"),
    "projectors": ("check_projector",),
    "tiny.llms": ("FAMILIES", "tiny_llm", "tiny_llm_folder", "tiny_model", "tiny_tokenizer"),
    "tiny.weights": ("randomise",),
}
"""Module below this one -> names that it defines."""


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
