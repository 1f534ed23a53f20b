"""A run as one model of transformers: of the published model that it was made of, or else as LLaVA.

Whatever is written is compared with the run as an imported model is, by transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor
from transformers import AutoConfig

from mmllm.errors import MmllmError
from mmllm.exporting.llava import fill, laid_out
from mmllm.exporting.merging import loras, merge
from mmllm.exporting.places import nameless
from mmllm.exporting.weights import hand_over, in_float32, release
from mmllm.messages.new_tokens import add_tokens
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import learned_parts
from mmllm.processors.tiles import TilesProcessor
from mmllm.published.architectures import TABLE
from mmllm.published.comparison import Stage, compare, record
from mmllm.published.source import Source
from mmllm.recipe.models import ComponentSpec, Recipe
from mmllm.vlms.projector import published_tensors
from mmllm.vlms.quiet import quiet
from mmllm.vlms.text_model import renamed


def write(recipe: Recipe, model: MultimodalLM, folder: Path) -> Iterator[Stage]:
    """A folder that transformers' ``AutoModelForImageTextToText`` loads with its processor.

    Raises:
        MmllmError: no model of transformers computes what the run does; says what of it.
    """
    origin = _origin(recipe)
    projectors = () if origin is None else [key for key, part in recipe.connectors.items() if part.encoders]
    loras(model, "hf", projectors)  # before anything is computed: what has no place is refused at once
    theirs = laid_out(recipe, model, folder) if origin is None else None
    if origin is not None:
        if recipe.llm.new_tokens:
            add_tokens(origin.tokenizer, recipe.llm.new_tokens)
        _crop_as(model, origin)
        origin.processor.save_pretrained(folder)
    before = origin or Source(str(folder), _cuts(recipe))
    before.sections()
    recorded = record(before, model)  # of the run as it is: afterwards its weights belong to what is written
    merge(model, "hf", projectors)
    if theirs is not None:
        fill(theirs, model)
    else:
        assert origin is not None
        theirs = _published(origin, recipe, model)
    nameless(theirs.config)
    with quiet():
        theirs.save_pretrained(folder)
    del theirs
    source = Source(str(folder), _cuts(recipe))
    source.sections()
    yield from compare(source, model, recorded)


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
    return any(map(_tiled, recipe.encoders.values()))


def _crop_as(model: MultimodalLM, origin: Source) -> None:
    """Tell the image processor that is written how the run cuts long pictures, which its folder may not have said."""
    for entry in model.inputs.values():
        for processor in entry.processors.values():
            if isinstance(processor, TilesProcessor) and processor.rule == "pan_and_scan":
                for word, value in processor.settings.items():
                    setattr(origin.pictures, word, value)


def _tiled(part: ComponentSpec) -> bool:
    if part.type == "hf_native":
        return part.args.get("tiles") is not None
    return part.type == "mllama_vision" or (part.type == "tiles" and part.args.get("most") != 1)


def _published(source: Source, recipe: Recipe, model: MultimodalLM) -> Any:
    """The published model with what the run learned in place of its own; the run has no weights afterwards."""
    (key,) = _projectors(recipe)
    part = recipe.connectors[key]
    with quiet():
        kind = getattr(transformers, source.config.architectures[0])
        # in the files' own dtype: then they are mapped, and what is replaced below is never read
        theirs = kind.from_pretrained(source.path, dtype="auto", use_safetensors=True)
    learned = {name: one.detach() for name, one in model.connectors[key].state_dict().items()}
    tensors = _projector(
        theirs,
        published_tensors(source.path, source.config, part.type, part.args, learned),
        f"connectors.{key}",
    )
    tensors |= _text(theirs, source, model.llm.model.state_dict())
    tensors |= _towers(theirs, source, model)
    hand_over(theirs, tensors)
    theirs.config.get_text_config().vocab_size = model.llm.vocab_size
    release(model)
    in_float32(theirs, but=tensors)
    theirs.tie_weights()
    return theirs


def _projector(theirs: Any, tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Name in the published model -> tensor of the projector."""
    own, found = theirs.state_dict(), {}
    for name, tensor in tensors.items():
        place = name if name in own else f"model.{name}"
        there = own.get(place)
        if there is None or there.shape != tensor.shape:
            what = "nothing" if there is None else str(list(there.shape))
            raise MmllmError(
                f"--to hf: {part} has other layers than the published model: its {name} is {list(tensor.shape)}, and "
                f"{what} is there; a changed connector has no place in it"
            )
        found[place] = tensor
    return found


def _towers(theirs: Any, source: Source, model: MultimodalLM) -> dict[str, Tensor]:
    """Name in the published model -> what encoders of the run have learned.

    Raises:
        MmllmError: some of it has no place there.
    """
    learned = [name.partition(".")[2] for name in learned_parts(model) if name.startswith("encoders.")]
    own = theirs.state_dict()
    found = {}
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
            found[place] = tensor
    return found


def _text(theirs: Any, source: Source, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The LLM's weights, by the names that the whole model has for them."""
    names = {name: renamed(name, source.config, source.family) for name in theirs.state_dict()}
    return {name: text[there] for name, there in names.items() if there in text}
