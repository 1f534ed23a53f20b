"""Names of parts -> their classes, and what a part says of its arguments and bases; built-in parts are not imported."""

from mmllm.registry.documentation import constant, described, docstrings, imports_any, meanings
from mmllm.registry.signatures import OWN, Parameter, bases, load, parameters, summary
from mmllm.registry.tables import FORMER, EncoderPart, UnknownName, groups, locate, nearest, table

__all__ = [
    "FORMER",
    "OWN",
    "EncoderPart",
    "Parameter",
    "UnknownName",
    "bases",
    "constant",
    "described",
    "docstrings",
    "groups",
    "imports_any",
    "load",
    "locate",
    "meanings",
    "nearest",
    "parameters",
    "summary",
    "table",
]
