"""A published model's folder, opened: configuration, processor, tokenizer; and what becomes of it in a recipe."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, SmolVLMProcessor, VoxtralProcessor

from mmllm.connectors.base import Connector
from mmllm.errors import MmllmError
from mmllm.messages.template import on_one_day
from mmllm.processors.image import WHOLE
from mmllm.published.architectures import NEEDS, TABLE
from mmllm.vlms.families import FAMILIES, Family, family_of
from mmllm.vlms.vocabulary import AS_ANY_OTHER

Asked = Callable[["Source", str, Sequence[Any]], dict[str, Any]]
"""(the model, a question, items as its processor takes them) -> what the model's own class takes."""

Filled = Callable[[Connector], dict[str, Tensor]]
"""A connector -> its tensors by its own names."""


@dataclass(frozen=True)
class Sections:
    """What of a recipe a published model is, beside its LLM."""

    encoders: dict[str, dict[str, Any]]
    connectors: dict[str, dict[str, Any]]
    template: str | None = None
    """Chat template of a model whose own processor has none; None: that of the folder."""
    asked: Asked | None = None
    """What its processor makes of one question, where it knows no conversations."""
    filled: Mapping[str, Filled] = field(default_factory=dict)
    """Connectors whose weights are no projector's -> what reads them."""
    rewrites: Callable[[str], str] | None = None
    """Its chat template -> one that also writes what its processor does to a rendered conversation. None: nothing."""
    llm: dict[str, Any] = field(default_factory=dict)
    """Words of the LLM."""
    words: dict[str, Any] = field(default_factory=dict)
    """Words for a call of its processor with pictures: what that does not do unasked, whatever its folder says."""


class Source:
    """A checkpoint as transformers opens it, weights aside."""

    def __init__(self, path: str, tiles: bool = True) -> None:
        """Read configuration and processor.

        Args:
            path: folder or hub id.
            tiles: False: pictures are to be taken whole where the model would cut them into tiles.

        Raises:
            MmllmError: it is no published model that is known, or lacks a processor.
        """
        self.path, self.tiles = path, tiles
        self.config: Any = _opened(path, "configuration", AutoConfig)
        family = family_of(self.config)
        if family is None or self.config.model_type not in TABLE:
            known = ", ".join(FAMILIES[kind].name for kind in TABLE)
            name = f"a {self.config.model_type if family is None else family.name}, which cannot be imported"
            raise MmllmError(
                f"{path} is {name}; known are {known}. Its parts may still be "
                "usable one by one: llm: {path: ...}, encoders with model: ..., connectors with start: ... "
                "(docs/recipes.md)"
            )
        self.family: Family = family
        package, extra = NEEDS.get(self.config.model_type, ("", ""))
        if package and importlib.util.find_spec(package) is None:
            raise MmllmError(
                f"{path} is {family.name}, whose processor needs the package {package}, which is not installed: pip "
                f"install 'mmllm[{extra}]'"
            )
        self.processor: Any = _processor(path)
        self.tokenizer: Any = self.processor.tokenizer
        self.asked: Asked | None = None
        """See ``Sections.asked``, once there are sections; None: it takes conversations, through its chat template."""
        self._words: dict[str, Any] = {}

    def sections(self) -> Sections:
        """What becomes of it in a recipe; MmllmError where a part of it is not computed by any here."""
        module = importlib.import_module(f"mmllm.published.architectures.{TABLE[self.config.model_type]}")
        found: Sections = module.sections(self)
        self.asked, self._words = found.asked, found.words
        return found

    @property
    def pictures(self) -> Any:
        """Its image processor."""
        return self.processor.image_processor

    @property
    def extractor(self) -> Any:
        """Its feature extractor."""
        parts = vars(self.processor)
        return parts["feature_extractor" if "feature_extractor" in parts else "audio_processor"]

    def sampling(self) -> dict[str, Any]:
        """Words of an encoder of clips: how many frames its video processor takes, where that says so."""
        known = {"frames": "num_frames", "fps": "fps"}
        found = {word: getattr(self.processor.video_processor, name, None) for word, name in known.items()}
        return {word: value for word, value in found.items() if value is not None}

    @property
    def template(self) -> Any:
        """Its chat template; several by their names, or None, where it has not one."""
        return self.processor.chat_template or self.tokenizer.chat_template

    def words(self) -> dict[str, Any]:
        """Words for a call of its processor with pictures, once there are sections: as they are cut there, or, where
        that is wanted, those that leave a picture in one piece."""
        whole = {word: value for word, value in WHOLE.items() if hasattr(self.pictures, word)}
        return dict(self._words) if self.tiles else whole

    def rendered(self, messages: list[dict[str, Any]], ask: bool = False) -> str:
        """What its chat template makes of messages in parts; ``ask`` adds the generation prompt."""
        # Voxtral's processor hands its tokenizer no template, whatever it is given
        own = self.processor.chat_template and not isinstance(self.processor, VoxtralProcessor)
        owner = self.processor if own else self.tokenizer
        words: dict[str, Any] = {"add_generation_prompt": ask, "tokenize": False}
        shown = {part["type"] for message in messages for part in message["content"]}
        if not (isinstance(owner, SmolVLMProcessor) and "video" in shown):  # it has another template for these
            # where a template prints today, runs print one day, and so does this
            words["chat_template"] = on_one_day(self.template)
        return str(owner.apply_chat_template(messages, **words))

    def special_tokens(self, text: str) -> dict[str, bool]:
        """Words for a call of its processor: a prompt that begins with the first token gets no second one."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": not (bos and text.startswith(bos))}

    def token(self, number: int) -> str:
        """The token with this id."""
        return str(self.tokenizer.convert_ids_to_tokens(number))


def _processor(path: str) -> Any:
    try:
        found = _opened(path, "processor", AutoProcessor)
        if type(found.tokenizer).__name__ == "MistralCommonBackend":  # by mistral_common, see AS_ANY_OTHER
            found.tokenizer = AutoTokenizer.from_pretrained(path, **AS_ANY_OTHER)
        return found
    except MmllmError as error:
        try:
            AutoTokenizer.from_pretrained(path, **AS_ANY_OTHER)
        except Exception:  # the tokenizers package raises nothing narrower on a damaged file
            raise MmllmError(
                f"{path} has no tokenizer that transformers {transformers.__version__} can open, so its ids are "
                "unknown; put its tokenizer.json there (or tekken.json, as Mistral AI calls it)"
            ) from error
        raise


def _opened(path: str, what: str, kind: Any) -> Any:
    try:
        return kind.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        hint = "" if Path(path).exists() or "/" in path else "; give a folder, or the name of a model on the hub"
        raise MmllmError(f"{path}: its {what} cannot be read ({first}){hint}") from error
