"""Messages -> token ids and labels through the tokenizer's own chat template; the first step of every batch and answer.

What a model is taught is exactly what it will have to say: everything after the template's generation prompt up to and
including the end-of-turn token. Templates with ``{% generation %}`` marks say so themselves; for the others the spans
are found by marking the messages' texts in the rendering, and checked against the unmarked rendering.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmllm.types import IGNORE, Message, MmllmError, Sample, SampleError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Unicode noncharacters: never meant for interchange, so no honest text holds them (a text that does is refused).
_MARK, _CLOSE, _TYPED, _TYPED_END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_NONCHARACTERS = re.compile(f"[{_MARK}{_CLOSE}{_TYPED}{_TYPED_END}]")
_BOUNDS = re.compile(f"{_MARK}(\\d+){_MARK}|{_CLOSE}")
_TYPED_PIECE = re.compile(f"{_TYPED}([^{_TYPED}{_TYPED_END}]*){_TYPED_END}")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

_WORDS = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]

Span = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """A conversation as the LLM's tokens, each media item still one placeholder."""

    ids: list[int]
    """Token ids; at a place the placeholder's id, which never reaches the embedding."""
    labels: list[int]
    """As long as ``ids``: the id where the assistant speaks, IGNORE elsewhere and at placeholders."""
    places: list[tuple[int, str]]
    """(position in ``ids``, encoder key) of every placeholder, in order."""


class Prompter:
    """Renders samples with the tokenizer's chat template and tokenises them; ids equal ``apply_chat_template``'s.

    ``placeholders`` are the encoder keys; ``<key>`` in a message is where an item of ``sample.media[key]`` goes. The
    tokenizer is copied, so the caller's never learns the placeholders. A special token typed in a message is plain text
    (outside the assistant's turns so are the template's other control tokens). Safe to use from several threads.

    Raises MmllmError for a tokenizer without a chat template or one whose template cannot be learned from.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, placeholders: Sequence[str]) -> None:
        self.placeholders = tuple(placeholders)
        self._template = _chat_template(tokenizer)
        self._own_marks = _GENERATION.search(self._template) is not None
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._lock = threading.Lock()  # transformers' generation tracker is one object per template, not per call
        self._backend, self._plain = _backends(tokenizer, [f"<{key}>" for key in self.placeholders])
        self._keys = {self._backend.token_to_id(f"<{key}>"): key for key in self.placeholders}
        self._newline = self._backend.encode("\n", add_special_tokens=False).ids
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        added = {text: special for text, special in added.items() if not text.isspace()}
        self._control_ids = {self._backend.token_to_id(text) for text in added}
        typed = [text for text, special in added.items() if special or text in self._template]
        self._control = self._pattern(typed)
        self._special = self._pattern([text for text, special in added.items() if special])
        self._end = self._end_of_turn([text for text in added if self._backend.token_to_id(text) not in self._keys])
        if not self._own_marks:  # say now, not at the first sample, that its opening is none
            self._derive("chat template", _WORDS)
        ends = [self._backend.token_to_id(self._end), tokenizer.eos_token_id]
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys(i for i in ends if i is not None))
        """Ids that end the assistant's turn: the template's end-of-turn, then the tokenizer's own end."""

    def train(self, sample: Sample) -> Prompt:
        """Ids and labels of a whole conversation. SampleError if the template refuses it or nothing is to be learned."""
        spoken = [message for message in sample.messages if message.role == "assistant"]
        if not spoken:
            raise SampleError(f"{sample.name}: no message of the assistant, so there is nothing to learn from it")
        if not all(message.text.strip() for message in spoken):
            raise SampleError(f"{sample.name}: a message of the assistant is empty")
        messages = self._messages(sample)
        if self._own_marks:
            text, marks = self._render(sample.name, messages, ask=False)
            spans = [(start, self._through_end(text, start, end)) for start, end in marks]
        else:
            text, spans = self._derive(sample.name, messages)
        self._verify(sample, text, ask=False)
        return self._prompt(sample, text, spans)

    def ask(self, sample: Sample) -> Prompt:
        """Ids up to where the assistant has to speak (the generation prompt included); labels are all IGNORE."""
        text, _ = self._render(sample.name, self._messages(sample), ask=True)
        self._verify(sample, text, ask=True)
        return self._prompt(sample, text, [])

    # ---- rendering

    def _messages(self, sample: Sample) -> list[dict[str, str]]:
        """Messages as the template takes them, control tokens typed in them marked; counts placeholders."""
        if not sample.messages:
            raise SampleError(f"{sample.name}: a conversation without messages")
        for message in sample.messages:
            _check_text(sample.name, message)
        for key in sample.media:
            if key not in self.placeholders:
                known = ", ".join(self.placeholders) or "none"
                raise SampleError(f"{sample.name}: holds {key!r} media, but the encoders are: {known}")
        for key in self.placeholders:
            n_places = sum(message.text.count(f"<{key}>") for message in sample.messages)
            n_items = len(sample.media.get(key, ()))
            if n_places != n_items:
                raise SampleError(f"{sample.name}: {n_places} <{key}> placeholders in the text, {n_items} items given")
        return [{"role": m.role, "content": self._neutral(m)} for m in sample.messages]

    def _neutral(self, message: Message) -> str:
        """The text with each typed control token between marks, so that it is tokenised as plain text."""
        pattern = self._special if message.role == "assistant" else self._control
        if pattern.search(message.text) is None:
            return message.text
        own = {f"<{key}>" for key in self.placeholders}
        return pattern.sub(lambda m: m[0] if m[0] in own else f"{_TYPED}{m[0]}{_TYPED_END}", message.text)

    def _render(self, name: str, messages: list[dict[str, str]], ask: bool) -> tuple[str, list[Span]]:
        """The template's text and, where it has generation marks, their character spans."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            with self._lock:
                texts, marks = render_jinja_template(
                    conversations=[messages],
                    chat_template=self._template,
                    return_assistant_tokens_mask=self._own_marks,
                    add_generation_prompt=ask,
                    **self._special_tokens,
                )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise SampleError(f"{name}: the chat template refuses messages of {roles}: {error.message}") from error
        return texts[0], list(marks[0]) if marks else []

    def _verify(self, sample: Sample, text: str, ask: bool) -> None:
        """The marked rendering without its marks must be the plain rendering, else the template looked at the marks."""
        if _TYPED not in text and (ask or self._own_marks):
            return
        plain, _ = self._render(sample.name, [{"role": m.role, "content": m.text} for m in sample.messages], ask)
        if _NONCHARACTERS.sub("", text) != plain:
            raise SampleError(f"{sample.name}: the chat template rewrites a message, so its labels cannot be found")

    def _derive(self, name: str, messages: list[dict[str, str]]) -> tuple[str, list[Span]]:
        """Rendering of a template without generation marks and the spans in which the assistant speaks."""
        bounded = _bounded(messages)
        text, bounds = _strip_bounds(self._render(name, bounded, ask=False)[0])
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if i not in bounds or (i and i - 1 not in bounds):
                raise SampleError(f"{name}: the chat template rewrites message {i + 1}, so its labels cannot be found")
            opened, closed = bounds[i]
            start = opened if i == 0 else self._after_opening(name, bounded[:i], text[bounds[i - 1][1] : opened], opened)
            spans.append((start, self._through_end(text, start, closed)))
        return text, spans

    def _after_opening(self, name: str, before: list[dict[str, str]], between: str, opened: int) -> int:
        """Where the assistant starts to speak: right after what the generation prompt of ``before`` already says."""
        prompt, bounds = _strip_bounds(self._render(name, before, ask=True)[0])
        opening = prompt[bounds[len(before) - 1][1] :]
        if not between.startswith(opening):
            raise SampleError(
                f"{name}: the chat template's generation prompt {opening!r} is not how it opens "
                f"the assistant's turn, {between!r}; what is learned could not be asked for"
            )
        return opened - len(between) + len(opening)

    def _through_end(self, text: str, start: int, end: int) -> int:
        """``end`` moved behind the end-of-turn token where that follows (marks may leave it out)."""
        if text[start:end].rstrip().endswith(self._end):
            return end
        rest = text[end:]
        lead = len(rest) - len(rest.lstrip())
        return end + lead + len(self._end) if rest.startswith(self._end, lead) else end

    def _end_of_turn(self, tokens: list[str]) -> str:
        """The special token with which the template ends the assistant's turn, seen on a conversation of two words."""
        text, bounds = _strip_bounds(self._render("chat template", _bounded(_WORDS), ask=False)[0])
        if 1 not in bounds:
            raise MmllmError("the tokenizer's chat template does not show the assistant's messages")
        found = re.match(r"\s*(" + "|".join(map(re.escape, _longest_first(tokens))) + ")", text[bounds[1][1] :])
        if not tokens or found is None:
            raise MmllmError(
                "the tokenizer's chat template ends the assistant's turn with no special token, so the model could "
                "never learn to stop; let the template write one there (usually eos_token)"
            )
        return found[1]

    # ---- tokens

    def _prompt(self, sample: Sample, text: str, spans: list[Span]) -> Prompt:
        ids, starts, ends = self._tokens(sample.name, text)
        labels = [IGNORE] * len(ids)
        for start, end in spans:
            low, high = bisect_right(ends, start), bisect_left(starts, end)
            labels[low:high] = ids[low:high]
        places = [(i, self._keys[token]) for i, token in enumerate(ids) if token in self._keys]
        for position, _ in places:
            labels[position] = IGNORE
        if len(places) != sum(len(items) for items in sample.media.values()):
            raise SampleError(f"{sample.name}: the chat template drops or repeats a placeholder")
        self._check_order(sample, places)
        return Prompt(ids, labels, places)

    def _check_order(self, sample: Sample, places: list[tuple[int, str]]) -> None:
        """Media are handed out in rendered order, so a template that moves a message with media would swap them."""
        if len(places) < 2 or all(message.role != "system" for message in sample.messages):
            return
        _, bounds = _strip_bounds(self._render(sample.name, _bounded(self._messages(sample)), ask=False)[0])
        with_media = [
            bounds[i][0]
            for i, message in enumerate(sample.messages)
            if any(f"<{key}>" in message.text for key in self.placeholders) and i in bounds
        ]
        if with_media != sorted(with_media):
            raise SampleError(f"{sample.name}: the chat template moves a message that holds media out of its order")

    def _tokens(self, name: str, text: str) -> tuple[list[int], list[int], list[int]]:
        """Ids with the characters they stand for (start, end), typed control tokens as plain text."""
        ids: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        position = 0
        for number, piece in enumerate(_TYPED_PIECE.split(text)):
            typed = number % 2 == 1
            position += typed
            if piece and not typed and _NONCHARACTERS.search(piece):
                raise SampleError(f"{name}: the chat template cuts a special token typed in a message")
            if piece:
                new, offsets = self._piece(name, piece, typed, first=number == 0)
                ids += new
                starts += [position + start for start, _ in offsets]
                ends += [position + end for _, end in offsets]
            position += len(piece) + typed
        return ids, starts, ends

    def _piece(self, name: str, piece: str, typed: bool, first: bool) -> tuple[list[int], list[Span]]:
        """Ids and offsets of one stretch of text; a later one is encoded behind a newline, so that tokenizers which
        put a space before the start of a text do not put one into its middle."""
        backend = self._plain if typed else self._backend
        encoded = backend.encode(piece if first else "\n" + piece, add_special_tokens=False)
        ids, offsets = encoded.ids, encoded.offsets
        if not first and ids[: len(self._newline)] == self._newline:
            ids = ids[len(self._newline) :]
            offsets = [(start - 1, end - 1) for start, end in offsets[len(self._newline) :]]
        elif not first:
            encoded = backend.encode(piece, add_special_tokens=False)
            ids, offsets = encoded.ids, encoded.offsets
        if typed and self._control_ids.intersection(ids):
            raise SampleError(f"{name}: the tokenizer knows {piece!r} only as a special token, so it cannot be plain text")
        return ids, offsets

    def _pattern(self, tokens: list[str]) -> re.Pattern[str]:
        """Matches any of the tokens or placeholders, the longest first; nothing if there are none."""
        known = _longest_first([*tokens, *(f"<{key}>" for key in self.placeholders)])
        return re.compile("|".join(map(re.escape, known)) or "(?!)")


def _longest_first(tokens: Sequence[str]) -> list[str]:
    return sorted(set(tokens), key=lambda token: (-len(token), token))


def _check_text(name: str, message: Message) -> None:
    if _NONCHARACTERS.search(message.text):
        raise SampleError(f"{name}: a message holds a Unicode noncharacter (U+FDD0 to U+FDD3)")
    try:
        message.text.encode()
    except UnicodeEncodeError as error:
        raise SampleError(f"{name}: a message is not valid Unicode (a lone surrogate at {error.start})") from error


def _bounded(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Messages whose texts carry their number and end as marks, inside outer blanks, which a template may trim."""

    def mark(i: int, text: str) -> str:
        core = text.strip()
        lead = text[: len(text) - len(text.lstrip())]
        return f"{lead}{_MARK}{i}{_MARK}{core}{_CLOSE}{text[len(lead) + len(core) :]}"

    return [{**message, "content": mark(i, message["content"])} for i, message in enumerate(messages)]


def _strip_bounds(text: str) -> tuple[str, dict[int, Span]]:
    """The text without bounds, and for each message rendered exactly once its (start, end) in it."""
    clean: list[str] = []
    length, last = 0, 0
    opened: int | None = None
    starts: dict[int, int] = {}
    bounds: dict[int, Span] = {}
    repeated: set[int] = set()
    for found in _BOUNDS.finditer(text):
        clean.append(text[last : found.start()])
        length, last = length + len(clean[-1]), found.end()
        if found[1] is not None:
            opened = int(found[1])
            repeated.update({opened} & starts.keys())
            starts[opened] = length
        elif opened is not None:
            bounds[opened] = (starts[opened], length)
            opened = None
    clean.append(text[last:])
    return "".join(clean), {i: bound for i, bound in bounds.items() if i not in repeated}


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's template text, or one sentence on what to do without."""
    try:
        template: Any = tokenizer.get_chat_template()
    except ValueError as error:
        raise MmllmError(
            f"the tokenizer of {tokenizer.name_or_path or 'the LLM'!r} has no chat template: put a chat_template.jinja "
            "beside its tokenizer.json (that of the model's instruct version, say) or take the instruct version"
        ) from error
    return str(template)


def _backends(tokenizer: PreTrainedTokenizerBase, placeholders: list[str]) -> tuple[Tokenizer, Tokenizer]:
    """Two copies of the fast tokenizer: one that knows the placeholders, one that knows no added token at all."""
    from tokenizers import AddedToken, Tokenizer

    if not tokenizer.is_fast:
        raise MmllmError(f"the tokenizer of {tokenizer.name_or_path!r} has no fast version (tokenizer.json)")
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    parts = json.loads(backend.to_str())
    parts["added_tokens"], parts["post_processor"] = [], None
    plain = Tokenizer.from_str(json.dumps(parts))
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in placeholders])
    return backend, plain
