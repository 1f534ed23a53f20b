"""Functions that a request offers to the model, and calls of them in its messages: OpenAI's shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mmllm.errors import ConstraintError
from mmllm.generation.constraints.grammars import check_schema

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""Schema of the arguments of a function that names none."""
MOST_TOOLS = 128


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        check_schema(schema)
    except ConstraintError as error:
        raise ValueError(str(error)) from error
    return schema


class Function(BaseModel):
    """A function: what it does, and the JSON Schema of its arguments."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: FunctionName
    description: Annotated[str, Field(max_length=20_000)] | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_bounded)] | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """Return the JSON Schema of its arguments, an object."""
        return {"type": "object", **self.parameters} if self.parameters else NOTHING


class Tool(BaseModel):
    """``{"type": "function", "function": {...}}``; there are no tools of the server's own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["function"]
    function: Function


class Named(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: FunctionName


class NamedTool(BaseModel):
    """``{"type": "function", "function": {"name": "f"}}``: this one is to be called."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["function"]
    function: Named


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class Called(BaseModel):
    """Name and arguments of a call, the arguments as a text of JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: FunctionName
    arguments: str


class ToolCall(BaseModel):
    """A call in a message of the assistant."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"] = "function"
    function: Called
