"""The tools of ``mmllm serve --tools FILE``: functions of Python and addresses by the names that models call them."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmllm.errors import MmllmError
from mmllm.serving.tasks.http_tool import MOST_BYTES, ToolError, ask, check_url
from mmllm.serving.tasks.parsing import Place, Task, read_tags

LOG = logging.getLogger("serve")

MOST_TASKS = 8
"""Of one answer that are run; a model may repeat itself."""
THREADS = 8
FORM = (
    'the file is {hosts: [tools.example.org], tools: {segment: {python: "module:function"}, edit: {url: '
    '"https://tools.example.org/edit", timeout: 20, images: true}}}'
)


class Tool(BaseModel):
    """One entry of the file, without its name: a function of Python, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    url: str | None = None
    timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Seconds until it has to be done."""
    images: bool = False
    """Whether it is given the conversation's pictures."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Tool:
        if (self.python is None) == (self.url is None):
            raise ValueError("a tool has either python or url")
        return self


class ToolFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hosts: list[str] = []
    """Hosts that may be asked, with the port where it is not the usual one."""
    tools: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")], Tool]


@dataclass(frozen=True)
class ToolCall:
    """What a tool is given."""

    task: str
    text: str
    """What the model wrote between the tags, without places."""
    places: Sequence[Place]
    images: Sequence[str] = ()
    """Data URLs of the conversation's pictures, where its entry asks for them."""

    def body(self) -> dict[str, Any]:
        """Return what is posted to an address."""
        places = [{"type": place.kind, "numbers": list(place.numbers)} for place in self.places]
        return {"task": self.task, "text": self.text, "places": places, "images": list(self.images)}


class Tools:
    """Tools by name, each ready to be called."""

    def __init__(self, functions: dict[str, tuple[Tool, Callable[[ToolCall], Any]]]) -> None:
        self._functions = functions
        self._threads = ThreadPoolExecutor(THREADS, "tools")

    @classmethod
    def read(cls, path: Path) -> Tools:
        """Read a file of tools; MmllmError says what is wrong with it. Its functions are imported."""
        try:
            found = ToolFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise MmllmError(f"--tools {path} cannot be read ({' '.join(str(error).split())}); {FORM}.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"]) or "the whole"
            raise MmllmError(f"--tools {path}: {where}: {first['msg']}; {FORM}.") from error
        functions = {}
        for name, tool in found.tools.items():
            try:
                functions[name] = tool, _function(tool, found.hosts)
            except MmllmError as error:
                raise MmllmError(f"--tools {path}: {name}: {error}.") from error
        return cls(functions)

    @property
    def names(self) -> list[str]:
        """Return the names of all."""
        return list(self._functions)

    async def run(self, text: str, images: Sequence[str]) -> list[dict[str, Any]]:
        """Read the tags of an answer, and run the tools that it asks for, side by side.

        Returns each tag in the API's form; of a task also ``result``, JSON, and ``error``, a sentence: one is None.
        ``images``: of the conversation, as data URLs.
        """
        tags = read_tags(text, self._functions)
        tasks = [tag for tag in tags if isinstance(tag, Task)]
        coming = [self._run(task, images) for task in tasks[:MOST_TASKS]]
        done = iter(await asyncio.gather(*coming))
        over = {"result": None, "error": f"At most {MOST_TASKS} tasks of an answer are run."}
        return [{**tag.body(), **next(done, over)} if isinstance(tag, Task) else tag.body() for tag in tags]

    async def _run(self, task: Task, images: Sequence[str]) -> dict[str, Any]:
        tool, function = self._functions[task.name]
        call = ToolCall(task.name, task.text, task.places, images if tool.images else ())
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, _checked, function, call)
            return {"result": await asyncio.wait_for(running, tool.timeout), "error": None}
        except TimeoutError:
            LOG.error("the tool %s took longer than %g s", task.name, tool.timeout)
        except Exception:  # whatever a tool raises is no fault of the answer
            LOG.exception("the tool %s failed", task.name)
        return {"result": None, "error": f"The tool {task.name} failed."}

    def close(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _checked(function: Callable[[ToolCall], Any], call: ToolCall) -> Any:
    """Return what a tool gives; ToolError where it is no JSON or too much."""
    found = function(call)
    try:
        size = len(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"{call.task} gave something that is no JSON ({error})") from error
    if size > MOST_BYTES:
        raise ToolError(f"{call.task} gave {size} characters, over {MOST_BYTES}")
    return found


def _function(tool: Tool, hosts: Sequence[str]) -> Callable[[ToolCall], Any]:
    if tool.url is not None:
        return partial(_post, check_url(tool.url, hosts), tool.timeout)
    module, _, name = str(tool.python).partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MmllmError(f"there is no {tool.python} ({error})") from error
    if not callable(found):
        raise MmllmError(f"{tool.python} cannot be called")
    return found


def _post(url: Any, timeout: float, call: ToolCall) -> Any:
    return ask(url, call.body(), timeout)
