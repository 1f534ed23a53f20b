"""What turns a recipe's conversations into tokens and places: the tokenizer and each placeholder's way to its tokens.

The same classes as in training, made from configurations: no weights of the LLM are read, and those of an encoder only
where it has no outline. A recipe without placeholders needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm import registry
from mmllm.batches.sample import Item, MediaInput
from mmllm.errors import MmllmError
from mmllm.messages.chat_templates import set_template
from mmllm.messages.new_tokens import add_tokens
from mmllm.messages.tokenize import Prompter
from mmllm.model.item_text import ItemText
from mmllm.recipe.models import Llm, Recipe
from mmllm.types import Place, Span
from mmllm.vlms.vocabulary import AS_ANY_OTHER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmllm.encoders.outlines.record import Outline
    from mmllm.processors.base import Processor

_ANY_WIDTH = 1024
"""Stands for the width of an LLM whose configuration is not read: no number of places depends on it."""


@dataclass(frozen=True)
class Reading:
    """All that reads the samples of one recipe."""

    tokenizer: PreTrainedTokenizerBase
    prompter: Prompter
    inputs: Mapping[str, MediaInput]
    """Placeholder -> what reads its items and knows their places."""
    processors: Mapping[str, Mapping[str, Processor]]
    """Placeholder -> encoder key -> its processor; a placeholder that is not looked at has none."""
    context: int
    """Most tokens of a conversation."""
    notes: tuple[str, ...] = ()
    """Sentences on what is not looked at and why, or what had to be loaded."""


def reading_of(recipe: Recipe) -> Reading:
    """Return what reads the recipe's samples.

    Raises:
        MmllmError: the tokenizer cannot be read, or has no chat template that can be learned from.
    """
    tokenizer = load_tokenizer(recipe.llm)
    keys = [key for key, part in recipe.connectors.items() if part.encoders]
    inputs: dict[str, MediaInput] = {}
    processors: dict[str, Mapping[str, Processor]] = {}
    notes: list[str] = []
    for key in keys:
        try:
            inputs[key], processors[key] = _input(recipe, key, notes)
        except MmllmError as error:
            inputs[key] = Unseen()
            because = str(error).rstrip(".")
            notes.append(f"Not looked at: <{key}>, whose items take no places in the lengths below, because {because}.")
    places = [_place(recipe, key, processors.get(key, {})) for key in keys]
    prompter = Prompter(tokenizer, places, prefix=recipe.llm.attention == "prefix")
    return Reading(tokenizer, prompter, inputs, processors, recipe.llm.context, tuple(notes))


def _place(recipe: Recipe, key: str, processors: Mapping[str, Processor]) -> Place:
    """How the LLM reads items of a placeholder; pictures, where it is not known what is read."""
    part = recipe.connectors[key]
    modality = next((one.modality for one in processors.values()), "image")
    text = ItemText.of(part)
    return Place(key, text.token, modality, text.around, text.bidirectional, text.fronted)


def load_tokenizer(llm: Llm) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the LLM as training has it, without its weights; MmllmError where there is none.

    Of a GGUF file it is read from the file, of an older published VLM the chat template from its processor's file, and
    ``llm.template`` goes over it; ``llm.tokens`` are added.
    """
    place = Path(llm.path)
    in_gguf = place.suffix == ".gguf" or (place.is_dir() and any(place.glob("*.gguf")))
    tokenizer = _of_gguf(llm) if in_gguf else None
    if tokenizer is None:
        tokenizer = _of_folder(llm.path)
    if tokenizer.chat_template is None and (place / "chat_template.json").is_file():
        from mmllm.vlms.text_model import chat_template_of

        tokenizer.chat_template = chat_template_of(llm.path, tokenizer)
    if llm.template is not None:
        set_template(tokenizer, llm.template)
    if llm.tokens is not None:
        add_tokens(tokenizer, llm.new_tokens)
    return tokenizer


def _of_gguf(llm: Llm) -> PreTrainedTokenizerBase | None:
    """The tokenizer inside a GGUF file; None for a folder whose model is none, whatever lies beside it."""
    from mmllm.llms.gguf_file import find_gguf, read_gguf
    from mmllm.llms.gguf_tokenizer import load_tokenizer as inside

    file = find_gguf(llm.path, llm.file)
    return None if file is None else inside(read_gguf(file))


def _of_folder(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of the hub."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, **AS_ANY_OTHER)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise MmllmError(
            f"llm.path: the tokenizer of {path!r} cannot be loaded ({reason}); give a folder with tokenizer.json and a "
            "chat template, or the id of a causal LM on the Hugging Face hub"
        ) from error


@dataclass(frozen=True)
class Unseen:
    """Stands at a placeholder whose items are not looked at: they take no places."""

    spans: list[Span] = field(default_factory=list)
    questions: None = None
    minds_others: bool = False

    def read(self, media: Any) -> Item:
        """Read nothing."""
        return {}

    def measure(self, media: Any) -> Item:
        """Measure nothing."""
        return {}

    def n_tokens(self) -> int:
        """No places."""
        return 0

    def layout(self, item: Mapping[str, Mapping[str, Any]]) -> list[Span]:
        """No spans."""
        return self.spans

    def collate(self, items: Sequence[Item]) -> Item:
        """Nothing to collate."""
        return {}


def _input(recipe: Recipe, key: str, notes: list[str]) -> tuple[MediaInput, Mapping[str, Processor]]:
    """The placeholder's input and its processors; says in ``notes`` which weights had to be loaded."""
    from mmllm.model.inputs import Input

    part = recipe.connectors[key]
    outlines: dict[str, Any] = {name: _outlined(recipe, name, notes) for name in part.encoders}
    connector = _connector(recipe, key, [one.dim * one.n_layers for one in outlines.values()])
    made = Input(key, outlines, connector, ItemText.of(part))
    return made, made.processors


def _outlined(recipe: Recipe, name: str, notes: list[str]) -> Outline:
    from mmllm.encoders.outlines.outline import outline
    from mmllm.encoders.outlines.record import Outline

    part = recipe.encoders[name]
    found = outline(part.type, part.args)
    if found is not None:
        return found
    kind = registry.load("encoders", part.type)
    try:
        encoder = kind(**part.args)
    except TypeError as error:
        raise MmllmError(f"encoders.{name}: {kind.__name__} cannot be made from {part.args} ({error})") from error
    notes.append(
        f"encoders.{name}: its weights were loaded, as a {part.type} encoder so written is known by them alone."
    )
    return Outline(encoder.processor, encoder.dim, len(encoder.layers))


def _connector(recipe: Recipe, key: str, dims: list[int]) -> Any:
    """The connector on torch's meta device: it knows its places, and has no numbers."""
    import torch

    from mmllm.model.build import part_widths, stitched

    part = recipe.connectors[key]
    kind = registry.load("connectors", part.type)
    arguments = {**part_widths(part, dims), "llm_dim": _llm_width(recipe.llm.path), **part.args}
    try:
        with torch.device("meta"):
            made = kind(**arguments)
    except (RuntimeError, NotImplementedError):
        # one that computes with its first weights: made as in training
        made = kind(**arguments)
    except TypeError as error:
        raise MmllmError(f"connectors.{key}: {kind.__name__} cannot be made from {arguments} ({error})") from error
    stitched(key, part, made)
    return made


def _llm_width(path: str) -> int:
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(path).get_text_config().hidden_size)
    except (OSError, ValueError, KeyError, AttributeError):
        return _ANY_WIDTH
