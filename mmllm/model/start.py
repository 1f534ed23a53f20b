"""``connectors.KEY: {start: ...}``: fills a connector with a published projector's or a file's weights.

``checkpoints/start.py`` calls it before a run's first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmllm.connectors.base import Connector
from mmllm.errors import MmllmError, RecipeError
from mmllm.recipe.models import ComponentSpec, Start
from mmllm.vlms.projector import projector_tensors
from mmllm.vlms.tensors import read_tensors


@dataclass(frozen=True)
class Started:
    """What a connector began with."""

    path: str
    """Where the weights came from."""
    taken: tuple[str, ...]
    """Tensors of the connector that were filled: all of them."""
    left: tuple[str, ...]
    """Tensors of the projector or file, below the prefix, that the connector has no place for."""


@torch.no_grad()
def load_start(key: str, part: ComponentSpec, connector: Connector) -> Started:
    """Fill every tensor of ``connector``.

    Raises:
        RecipeError: nothing there, another projector, a tensor without a value or of another shape.
    """
    assert part.start is not None
    where = f"connectors.{key}.start"
    try:
        if Path(part.start.path).suffix == ".safetensors":
            found, left = of_file(part.start, set(connector.state_dict()))
        else:
            _check_folder(part.start)
            found, left = projector_tensors(part.start.path, part.type, part.args, frozenset(connector.state_dict()))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"{where}: {part.start.path!r} cannot be read ({reason}).") from error
    except MmllmError as error:
        raise RecipeError(f"{where}: {error}.") from error
    fill(where, part.start.path, connector, found)
    return Started(part.start.path, tuple(sorted(found)), tuple(sorted(left)))


def _check_folder(start: Start) -> None:
    """A folder is a published model's; its names are known, so it needs no prefix."""
    place = Path(start.path)
    if start.prefix or start.rename:
        raise MmllmError(f"prefix and rename are for a safetensors file, and {start.path!r} is none; name the file")
    if place.is_file():
        raise MmllmError(f"{start.path!r} is no safetensors file; other files are not read, as they could run code")
    if place.is_dir() and not (place / "config.json").is_file():
        raise MmllmError(
            f"{start.path!r} has no config.json, so it is no published model; give its safetensors file: "
            f"start: {{path: FILE, prefix: ...}}; a folder that mmllm train made has a folder stages"
        )


def of_file(start: Start, wanted: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by the connector's names, and the names of others below the prefix."""
    if Path(start.path).is_dir():
        raise MmllmError(
            f"{start.path!r} is a folder without a run (it has no stages) and no safetensors file; give a folder that "
            "mmllm train made, or the file"
        )
    if not Path(start.path).is_file():
        raise MmllmError(f"there is no file {start.path!r}; a path is meant from the current folder, {Path.cwd()}")
    found = read_tensors(start.path, (start.prefix,))
    if not found:
        raise MmllmError(f"no tensor of {start.path!r} begins with the prefix {start.prefix!r}")
    used: set[str] = set()
    renamed: dict[str, Tensor] = {}
    for name, tensor in found.items():
        # the longest first: `linear_1.` before `linear`
        old = next((old for old in sorted(start.rename, key=len, reverse=True) if name.startswith(old)), None)
        new = name if old is None else start.rename[old] + name[len(old) :]
        used |= {old} if old is not None else set()
        if new in renamed:
            raise MmllmError(f"rename gives two tensors of {start.path!r} the name {new!r}")
        renamed[new] = tensor
    idle = sorted(set(start.rename) - used)
    if idle:
        known = ", ".join(sorted(found)[:6])
        raise MmllmError(f"rename: no tensor below the prefix begins with {idle[0]!r}; the file has {known}")
    return {name: renamed[name] for name in renamed if name in wanted}, [n for n in renamed if n not in wanted]


@torch.no_grad()
def fill(where: str, path: str, connector: Connector, found: dict[str, Tensor]) -> None:
    """Copy, after comparing names and shapes."""
    own = connector.state_dict()
    missing = sorted(own.keys() - found.keys())
    if missing:
        raise RecipeError(
            f"{where}: {path!r} gives {len(own) - len(missing)} of the connector's {len(own)} tensors; {missing[0]} "
            "has no value. Choose the connector's settings so that it is the same, or name tensors with rename."
        )
    strange = sorted(found.keys() - own.keys())
    if strange:
        raise RecipeError(
            f"{where}: {path!r} has {strange[0]}, and the connector has no such tensor; check its settings."
        )
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise RecipeError(
                f"{where}: {name} is {list(tensor.shape)} in {path!r} and {list(own[name].shape)} in the connector; "
                "encoder, layers and LLM must be as wide as those it was trained between."
            )
    for name, tensor in found.items():
        own[name].copy_(tensor)
