"""A run as one model of transformers: of the published model that it was made of, or else as LLaVA.

Whatever is written is compared with the run as an imported model is, by transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig

from mmllm.errors import MmllmError
from mmllm.exporting.llava import write_llava
from mmllm.exporting.merging import merge
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import learned_parts
from mmllm.published.architectures import TABLE
from mmllm.published.comparison import Stage, compare
from mmllm.published.source import Source
from mmllm.recipe.models import Recipe
from mmllm.vlms.projector import published_tensors
from mmllm.vlms.quiet import quiet
from mmllm.vlms.text_model import renamed


def write(recipe: Recipe, model: MultimodalLM, folder: Path) -> Iterator[Stage]:
    """A folder that transformers' ``AutoModelForImageTextToText`` loads with its processor.

    Raises:
        MmllmError: no model of transformers computes what the run does; says what of it.
    """
    origin = _origin(recipe)
    reading = [key for key, part in recipe.connectors.items() if part.encoders]
    merge(model, "hf", () if origin is None else reading)
    if origin is None:
        write_llava(recipe, model, folder)
    else:
        _write_published(origin, recipe, model, folder)
    source = Source(str(folder), _cuts(recipe))
    source.sections()
    yield from compare(source, model)


def _origin(recipe: Recipe) -> Source | None:
    """The published model that LLM and encoder of a recipe are parts of; None: they are not of one."""
    paths = {recipe.llm.path}
    for part in recipe.encoders.values():
        inner = part.args.get("image", part.args)
        if "model" in inner:  # pixels alone are of no model
            paths.add(str(inner["model"]))
    if len(paths) > 1 or len(_projectors(recipe)) != 1:
        return None
    kind = AutoConfig.from_pretrained(recipe.llm.path, trust_remote_code=False).model_type
    # of a known kind, a folder that cannot be opened is an error: LLaVA's form would drop what it is
    return Source(recipe.llm.path) if kind in TABLE else None


def _projectors(recipe: Recipe) -> list[str]:
    """Keys of the connectors that take an encoder's features and have weights of their own."""
    return [key for key, part in recipe.connectors.items() if part.encoders and part.shares is None]


def _cuts(recipe: Recipe) -> bool:
    """Whether pictures are cut into tiles; else they are taken whole where the model would cut them."""
    return any(part.type in ("tiles", "mllama_vision") for part in recipe.encoders.values())


def _write_published(source: Source, recipe: Recipe, model: MultimodalLM, folder: Path) -> None:
    """The published model with what the run learned in place of its own."""
    (key,) = _projectors(recipe)
    part = recipe.connectors[key]
    with quiet():
        kind = getattr(transformers, source.config.architectures[0])
        theirs = kind.from_pretrained(source.path, dtype=torch.float32, use_safetensors=True)
    learned = {name: one.detach() for name, one in model.connectors[key].state_dict().items()}
    _put(theirs, published_tensors(source.path, source.config, part.type, part.args, learned), f"connectors.{key}")
    _put_text(theirs, source, model.llm.model.state_dict())
    _put_towers(theirs, source, model)
    with quiet():
        theirs.save_pretrained(folder)
    source.processor.save_pretrained(folder)


@torch.no_grad()
def _put(theirs: Any, tensors: Mapping[str, Tensor], part: str) -> None:
    own = theirs.state_dict()
    for name, tensor in tensors.items():
        there = own.get(name, own.get(f"model.{name}"))
        if there is None or there.shape != tensor.shape:
            what = "nothing" if there is None else str(list(there.shape))
            raise MmllmError(
                f"--to hf: {part} has other layers than the published model: its {name} is {list(tensor.shape)}, and "
                f"{what} is there; a changed connector has no place in it"
            )
        there.copy_(tensor)


@torch.no_grad()
def _put_towers(theirs: Any, source: Source, model: MultimodalLM) -> None:
    """What encoders of the run have learned, in the published tower.

    Raises:
        MmllmError: some of it has no place there.
    """
    learned = [name.partition(".")[2] for name in learned_parts(model) if name.startswith("encoders.")]
    own = theirs.state_dict()
    for key in learned:
        starts = source.family.clip_tower if model.encoders[key].modality == "video" else None
        start = starts or source.family.tower
        places = {name.removeprefix("model.").removeprefix(f"{start}."): name for name in own if f"{start}." in name}
        for name, tensor in model.encoders[key].state_dict().items():
            ends = [name.split(".", n)[-1] for n in range(name.count(".") + 1)]
            place = next((places[end] for end in ends if end in places), None)
            if place is None or own[place].shape != tensor.shape:
                raise MmllmError(
                    f"--to hf: encoders.{key} has learned, and its {name} has no place in the published model's tower; "
                    "keep the run"
                )
            own[place].copy_(tensor)


@torch.no_grad()
def _put_text(theirs: Any, source: Source, text: Mapping[str, Tensor]) -> None:
    """The LLM's weights, by the names that the whole model has for them."""
    for name, tensor in theirs.state_dict().items():
        found = text.get(renamed(name, source.config, source.family))
        if found is not None:
            tensor.copy_(found)
