"""``mmllm extract``: documents' pictures in, a line of JSON for each out; what was read before is not read again.

RASG (Cesista et al. 2024, arXiv 2405.20245): the answer follows a schema, and a solved document that looks alike stands
in front of the question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmllm.datasets.boxes import Box
from mmllm.datasets.scanned import Text
from mmllm.errors import ConstraintError, MmllmError, TooLongError
from mmllm.evaluation import digests
from mmllm.extraction.fields import Leaf, leaves, probability
from mmllm.extraction.grounding import Grounding, parts
from mmllm.extraction.lines import Line, key_of
from mmllm.extraction.pictures import PictureHash, read_hash
from mmllm.extraction.records import Examples, Record, read_records
from mmllm.extraction.schema import bounded, in_order
from mmllm.extraction.text_layer import layer_file, places_of, read_layer
from mmllm.generation.answers import Delta, Request
from mmllm.generation.constraints.grammars import json_grammar
from mmllm.generation.constraints.guidance import Guidance
from mmllm.generation.generator import Encoded
from mmllm.generation.model import Model
from mmllm.generation.sampling import Sampling
from mmllm.messages import placeholders

ASK = "Write what this document says as JSON of this schema: {schema}"
SCHEMA = "{schema}"
BLANK = " "
"""Between two signs of the object, if anything: a model may use up its tokens with blanks."""
CUT, TOO_LONG, UNREADABLE, NO_LAYER, IMPOSSIBLE = "cut_at_limit", "too_long", "unreadable", "no_text_layer", "schema"
"""Codes of a line's error."""


@dataclass(frozen=True)
class Settings:
    """What is asked of each document."""

    schema: dict[str, Any]
    """JSON Schema of an object; what bounds its values is added, see ``schema``."""
    ask: str = ASK
    """The question; ``{schema}`` in it is replaced."""
    limit: int = 512
    """Most tokens of an answer."""
    examples: Path | None = None
    """Documents of known fields, see ``records``."""
    text_layer: Path | None = None
    """Folder of texts with boxes, see ``text_layer``."""
    locate: str | None = None
    """The question by which the run was trained to name a box, see ``grounding``."""
    box_scale: float = 1.0


@dataclass
class _Document:
    """One document on its way."""

    file: Path
    picture: PictureHash
    texts: list[Text] | None
    example: Path | None
    """Picture of the document in front of it."""
    encoded: Encoded
    leaves: list[Leaf] = field(default_factory=list)


class Extractor:
    """Extracts with one run."""

    def __init__(self, model: Model, settings: Settings) -> None:
        """Compile the schema and read the examples.

        Raises:
            MmllmError: the run sees no pictures, the schema cannot be followed, an example does not follow it.
        """
        if "image" not in {entry.modality for entry in model.model.inputs.values()}:
            raise MmllmError(f"{model.recipe.name} takes no pictures; documents are extracted from their pictures.")
        if settings.text_layer is not None and settings.locate is not None:
            raise MmllmError("--text-layer and --locate both say where values are; give one of the two.")
        self._model, self._settings, self._generator = model, settings, model.generator
        llm = self._generator.llm
        guidance = Guidance(llm.tokenizer, llm.vocab_size, self._generator.end_ids)
        try:
            self._schema = bounded(settings.schema)
            self.grammar = guidance.compile(json_grammar(self._schema, BLANK))
        except ConstraintError as error:
            raise MmllmError(f"the schema cannot be followed: {error}.") from error
        ask = settings.ask.replace(SCHEMA, json.dumps(settings.schema, ensure_ascii=False))
        self._ask = placeholders.escape(ask, list(model.model.inputs))
        self._grounding = None
        if settings.locate is not None:
            self._grounding = Grounding.of(model.recipe, settings.locate, settings.box_scale)
        self._examples = None
        if settings.examples is not None:
            self._examples = Examples(read_records(settings.examples, "--examples"), self._shown)

    @property
    def key(self) -> str:
        """Digest of all that an answer depends on beside its document."""
        asked = self._settings
        words = [asked.schema, self._ask, asked.limit, asked.locate, asked.box_scale, asked.text_layer is not None]
        examples = None if self._examples is None else self._examples.key
        return key_of([*words, examples, self._generator.system, digests.of_parts(self._model.model)])

    def reads(self, file: Path) -> list[Path]:
        """The files that the line of a document depends on."""
        layer = self._settings.text_layer
        with suppress(MmllmError):  # its line says so
            return [file] if layer is None else [file, layer_file(layer, file)]
        return [file]

    def extract(self, files: Sequence[Path]) -> list[Line]:
        """The lines of some documents, answered together, in their order."""
        read = [self._read(file) for file in files]
        documents = [one for one in read if isinstance(one, _Document)]
        sampling = Sampling(self._settings.limit, logprobs=0)
        requests = [self._generator.submit(one.encoded, sampling, constraint=self.grammar.begin()) for one in documents]
        self._generator.finish(requests)
        made = [self._line(document, request) for document, request in zip(documents, requests, strict=True)]
        self._ground(documents, made)
        answers = iter(made)
        return [one if isinstance(one, Line) else next(answers) for one in read]

    # ---- before the answer

    def _shown(self, record: Record) -> str:
        """An example's answer as text; MmllmError where it does not follow the schema."""
        text = json.dumps(in_order(record.answer, self._schema), ensure_ascii=False)
        tokens = self._generator.llm.tokenizer.encode(text, add_special_tokens=False)
        if not self.grammar.accepts(tokens):
            raise MmllmError(f"--examples: the fields of {record.image} do not follow the schema: {text[:200]}")
        return text

    def _read(self, file: Path) -> _Document | Line:
        code = UNREADABLE
        example: Path | None = None
        try:
            picture = read_hash(file)
            found = None if self._examples is None else self._examples.nearest(picture)
            messages: list[dict[str, Any]] = []
            if found is not None:
                example = found[0].image
                messages += [{"role": "user", "content": parts(example, self._ask)}]
                messages += [{"role": "assistant", "content": found[1]}]
            messages += [{"role": "user", "content": parts(file, self._ask)}]
            encoded = self._model.encode(messages)
            code = NO_LAYER
            layer = self._settings.text_layer
            texts = None if layer is None else read_layer(layer, file)
        except MmllmError as error:
            code = TOO_LONG if isinstance(error, TooLongError) else code
            return Line.failed(file, code, str(error), example)
        return _Document(file, picture, texts, example, encoded)

    # ---- behind it

    def _line(self, document: _Document, request: Request) -> Line:
        file, example = document.file, document.example
        if isinstance(request.error, ConstraintError):
            return Line.failed(file, IMPOSSIBLE, str(request.error), example)
        if request.error is not None:
            raise request.error
        pieces = [
            (delta.text, sum(one.logprob for one in delta.logprobs))
            for delta in request.events
            if isinstance(delta, Delta)
        ]
        text = "".join(piece for piece, _ in pieces)
        if request.finish != "stop":
            n = len(request.tokens)
            why = f"the object was not whole after {n} tokens; raise --max-new-tokens, or llm.context where it is full"
            return Line.failed(file, CUT, why, example)
        document.leaves = leaves(text)
        fields: dict[str, dict[str, Any]] = {}
        for leaf in document.leaves:
            boxes = None
            if document.texts is not None:
                boxes = [_fractions(box, document.picture.size) for box in places_of(leaf.value, document.texts)]
            fields[leaf.pointer] = {"probability": probability(leaf, pieces), "boxes": boxes}
        return Line(str(file), json.loads(text), fields, None if example is None else str(example))

    def _ground(self, documents: Sequence[_Document], made: Sequence[Line]) -> None:
        """Ask for the box of every value, where the run is to be asked."""
        if self._grounding is None:
            return
        wanted = [
            (line.fields[leaf.pointer], (document.file, document.picture.size, str(leaf.value)))
            for document, line in zip(documents, made, strict=True)
            if line.fields is not None
            for leaf in document.leaves
            if leaf.value is not None and not isinstance(leaf.value, bool) and str(leaf.value).strip()
        ]
        most = max(1, self._generator.engine.sizes.rows)
        for start in range(0, len(wanted), most):
            some = wanted[start : start + most]
            found = self._grounding.ask(self._model, [asked for _, asked in some])
            for (entry, _), boxes in zip(some, found, strict=True):
                entry["boxes"] = None if boxes is None else [[round(side, 4) for side in box] for box in boxes]


def _fractions(box: Box, size: tuple[int, int]) -> list[float]:
    """Pixels -> fractions of the picture."""
    width, height = size
    return [round(side / whole, 4) for side, whole in zip(box, (width, height, width, height), strict=True)]
