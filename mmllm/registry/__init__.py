"""Names of parts -> their classes, and what a part says of its arguments and bases; built-in parts are not imported."""

from mmllm.registry.signatures import Parameter, bases, load, parameters, summary
from mmllm.registry.tables import FORMER, EncoderPart, UnknownName, groups, locate, nearest, table

__all__ = [
    "FORMER",
    "EncoderPart",
    "Parameter",
    "UnknownName",
    "bases",
    "groups",
    "load",
    "locate",
    "nearest",
    "parameters",
    "summary",
    "table",
]
