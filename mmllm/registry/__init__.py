"""Names of parts -> their classes, and what a part's source says of its arguments; read without importing any part."""

from mmllm.registry.tables import (
    EncoderPart,
    Parameter,
    UnknownName,
    groups,
    load,
    locate,
    methods,
    nearest,
    parameters,
    summary,
    table,
)

__all__ = [
    "EncoderPart",
    "Parameter",
    "UnknownName",
    "groups",
    "load",
    "locate",
    "methods",
    "nearest",
    "parameters",
    "summary",
    "table",
]
