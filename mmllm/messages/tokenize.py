"""Messages -> token ids and labels through the tokenizer's own chat template; the first step of every batch and answer.

What a model is taught is exactly what it will have to say: everything after the template's generation prompt up to and
including the end-of-turn token (see ``template.py``). What a message says can never become a special token.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError, SampleError
from mmllm.messages import placeholders
from mmllm.messages.backends import backends_of, longest_token, whole
from mmllm.messages.bounds import Span
from mmllm.messages.learnable import check_answers, check_places
from mmllm.messages.template import ChatTemplate, part_sign
from mmllm.registry import nearest
from mmllm.types import IGNORE_INDEX, Message, Place, Sample
from mmllm.types import Span as ItemSpan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Unicode noncharacters: never meant for interchange, so no honest text holds them (a text that does is refused).
_TYPED, _TYPED_END = "\ufdd2", "\ufdd3"
_NONCHARACTERS = re.compile("[\ufdd0-\ufdd4]")
_TYPED_PIECE = re.compile(f"{_TYPED}([^{_TYPED}{_TYPED_END}]*){_TYPED_END}")

Fronts = Mapping[str, Sequence[str]]
"""Placeholder -> of each of its items the text in front of ``around``'s, where that depends on the item."""
NO_FRONTS: Fronts = MappingProxyType({})


@dataclass(frozen=True)
class Prompt:
    """A conversation as the LLM's tokens, each media item still one placeholder."""

    ids: list[int]
    """Token ids; at a place the placeholder's id, which never reaches the embedding."""
    labels: list[int]
    """One per id: the id itself in the assistant's text, IGNORE_INDEX elsewhere and at placeholders."""
    places: list[tuple[int, str]]
    """(position in ``ids``, key) of every placeholder, in order."""
    user_turn: list[int]
    """One per id: number of the user's message whose text a position is, -1 elsewhere; empty if not wanted."""
    prefix: int = 0
    """How many of the first ids see each other in both directions: all before the assistant first speaks, where the
    LLM reads them so; else none. What is said after that, by whomever, is causal."""


class Prompter:
    """Renders samples with the tokenizer's chat template and tokenises them; ids equal ``apply_chat_template``'s.

    ``places`` are those of connectors, or their keys alone; ``<key>`` in a message is where an item of
    ``sample.media[key]`` goes, see ``placeholders.py``. The tokenizer is copied, so the caller's never learns the
    placeholders. A special token typed in a message is plain text (outside the assistant's turns so are the template's
    other control tokens). Safe to use from several threads. ``prefix``: whether the LLM reads what precedes its first
    answer in both directions.

    Raises MmllmError for a tokenizer without a chat template or one whose template cannot be learned from.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        places: Sequence[Place | str],
        user_turn: bool = False,
        *,
        prefix: bool = False,
    ) -> None:
        known = [Place(place) if isinstance(place, str) else place for place in places]
        self.placeholders = tuple(place.key for place in known)
        self.bidirectional = frozenset(place.key for place in known if place.bidirectional)
        """Keys of the placeholders whose items' tokens see each other."""
        self.fronted = frozenset(place.key for place in known if place.fronted)
        """Keys of those in front of whose items stands text that depends on the item."""
        self.user_turn, self.prefix = user_turn, prefix
        self._tokens_of = {place.key: place.token for place in known if place.token is not None}
        if len(set(self._tokens_of.values())) < len(self._tokens_of):
            raise MmllmError(
                f"connectors {', '.join(self._tokens_of)}: two of them have one `token`; give each its own"
            )
        # a token of the LLM's own stands for an item as long as nothing is written around it, which may hold it too
        signs = {place.key: _sign_of(place) for place in known}
        own = set(self._tokens_of.values())
        self._backend, self._plain = backends_of(tokenizer, [sign for sign in signs.values() if sign not in own])
        self._keys = {self._place_id(tokenizer, place, signs[place.key]): place.key for place in known}
        self._newline = self._backend.encode("\n", add_special_tokens=False).ids
        self._around = {
            place.token or f"<{place.key}>": (place.key, place.around[0], signs[place.key], place.around[1])
            for place in known
            if place.surrounded
        }
        self._surrounded = _any_of(self._around)
        # runs of blanks that a vocabulary holds as added tokens are ordinary text
        added = [token for token in tokenizer.added_tokens_decoder.values() if not token.content.isspace()]
        own = {f"<{key}>" for key in self.placeholders} | set(self._tokens_of.values())
        self._template = ChatTemplate(
            tokenizer,
            [token.content for token in added if token.content not in own],
            {place.key: place.modality for place in known if place.token is not None},
        )
        # a place's token may be a piece of the vocabulary, which typed text must not become either
        self._control_ids = {self._backend.token_to_id(text) for text in {*own, *(token.content for token in added)}}
        special = own | {token.content for token in added if token.special}
        control = special | {token.content for token in added if token.content in self._template.text}
        self._special, self._control = _any_of(special), _any_of(control)
        ends = [self._backend.token_to_id(self._template.end), tokenizer.eos_token_id]
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys(i for i in ends if i is not None))
        """Ids that end the assistant's turn: the template's end-of-turn, then the tokenizer's own end."""
        self.longest_token = longest_token(self._backend)
        """Most characters that one token stands for, so that a text far over a context need not be tokenised."""

    def tokenize_for_training(self, sample: Sample, fronts: Fronts = NO_FRONTS) -> Prompt:
        """Ids and labels of a whole conversation.

        Raises SampleError where the template refuses it, or placeholders and media differ, or the assistant is silent.
        """
        check_answers(sample)
        messages = self._messages(sample)
        text, spans = self._template.speech(sample.name, messages)
        self._verify(sample, text, ask=False)
        prefix = spans[0][0] if self.prefix else 0
        return self._prompt(sample, text, spans, self._asked(sample.name, messages, False), prefix, fronts)

    def tokenize_prompt(self, sample: Sample, fronts: Fronts = NO_FRONTS) -> Prompt:
        """Ids up to where the assistant has to speak (the generation prompt included); labels are all IGNORE_INDEX."""
        messages = self._messages(sample)
        text, _ = self._template.render(sample.name, messages, ask=True)
        self._verify(sample, text, ask=True)
        prefix = self._first_speech(sample.name, messages, text) if self.prefix else 0
        return self._prompt(sample, text, [], self._asked(sample.name, messages, True), prefix, fronts)

    def _first_speech(self, name: str, messages: list[dict[str, str]], text: str) -> int:
        """Where in a prompt the assistant first speaks, as training has it; at its end where it has not spoken yet."""
        if all(message["role"] != "assistant" for message in messages):
            return len(text)
        shown, spans = self._template.speech(name, messages)
        start = spans[0][0]
        if text[:start] != shown[:start]:
            raise SampleError(f"{name}: the chat template shows a first answer otherwise when it is asked for another")
        return start

    def separator(self, span: ItemSpan) -> list[int]:
        """Ids of the text in front of a span of an item, as those of a message; control tokens in it are text.

        Unless the span says that they are meant.
        """
        if not span.separator:
            return []
        if span.control:
            return self._between(span.separator)
        pieces = _TYPED_PIECE.split(self._control.sub(_typed, span.separator))
        found = [self._piece("times", one, typed=bool(n % 2), first=False)[0] for n, one in enumerate(pieces) if one]
        return [number for ids in found for number in ids]

    def _place_id(self, tokenizer: PreTrainedTokenizerBase, place: Place, sign: str) -> int:
        """Id that stands at a place until its item's tokens do."""
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        if place.token is not None and place.token not in added:
            if self._backend.token_to_id(place.token) is not None:
                # one of the vocabulary's own (Fuyu): found as a whole from now on, under the same id
                self._backend.add_special_tokens([whole(place.token)])
                added[place.token] = 0
        # with text around it a mark stands for it, so it may be any text of the template (SmolVLM's clips)
        written = place.surrounded and str(place.token) in str(tokenizer.chat_template)
        if place.token is not None and place.token not in added and not written:
            near = nearest(place.token, added)
            hint = f'; did you mean "{near}"?' if near else ""
            raise MmllmError(
                f'connectors.{place.key}.token: "{place.token}" is no added token of the LLM\'s tokenizer{hint}'
            )
        found = self._backend.token_to_id(sign)
        assert found is not None  # the LLM's own, or added to this copy
        return int(found)

    def _between(self, text: str) -> list[int]:
        """Ids of a text of the LLM next to an item, control tokens included."""
        # as it stands in a conversation, where control tokens are around it: alone some tokenizers put a blank before
        return self._piece("around", text, typed=False, first=False)[0] if text else []

    # ---- rendering

    def _messages(self, sample: Sample) -> list[dict[str, str]]:
        """Messages as the template takes them, control tokens typed in them marked; counts placeholders."""
        if not sample.messages:
            raise SampleError(f"{sample.name}: a conversation without messages")
        for message in sample.messages:
            _check_text(sample.name, message)
        check_places(sample, self.placeholders)
        return [{"role": m.role, "content": self._neutral(m)} for m in sample.messages]

    def _neutral(self, message: Message) -> str:
        """The text with each typed control token between marks, so that it is tokenised as plain text."""
        pattern = self._special if message.role == "assistant" else self._control
        pieces = placeholders.pieces(message, self.placeholders)
        return "".join(self._sign(text) if place else pattern.sub(_typed, text) for text, place in pieces)

    def _plain_text(self, message: Message) -> str:
        pieces = placeholders.pieces(message, self.placeholders)
        return "".join(self._sign(text) if place else text for text, place in pieces)

    def _sign(self, place: str) -> str:
        """What the template is given for a placeholder."""
        return part_sign(place[1:-1]) if place[1:-1] in self._tokens_of else place

    def _verify(self, sample: Sample, text: str, ask: bool) -> None:
        """The marked rendering without its marks must be the plain rendering, else the template looked at the marks."""
        proven = ask or self._template.marks_speech or self._template.by_roles
        if _TYPED not in text and proven:
            return
        unmarked = [{"role": message.role, "content": self._plain_text(message)} for message in sample.messages]
        plain, _ = self._template.render(sample.name, unmarked, ask)
        if _NONCHARACTERS.sub("", text) != plain:
            raise SampleError(f"{sample.name}: the chat template rewrites a message, so its labels cannot be found")

    # ---- tokens

    def _asked(self, name: str, messages: list[dict[str, str]], ask: bool) -> list[Span]:
        """Characters of the rendered text that the user's messages are, where somebody reads them."""
        if not self.user_turn:
            return []
        bounds = self._template.bounds(name, messages, ask)
        return [bounds[i] for i, message in enumerate(messages) if message["role"] == "user"]

    def _prompt(
        self, sample: Sample, text: str, spans: list[Span], asked: list[Span], prefix: int, fronts: Fronts
    ) -> Prompt:
        """``prefix``: characters of the text in front of what the assistant first says; 0 where it is read causally."""
        ids, offsets, around = self._tokens(sample.name, text, fronts)
        labels = [IGNORE_INDEX] * len(ids)
        n_prefix = _covered(offsets, (prefix, prefix + 1))[0] if prefix else 0
        for span in spans:
            low, high = _covered(offsets, span)
            labels[low:high] = ids[low:high]
        present = self._keys.keys() & ids
        places = [(i, self._keys[token]) for i, token in enumerate(ids) if token in present] if present else []
        user_turn = [-1] * len(ids) if self.user_turn else []
        for number, span in enumerate(asked):
            low, high = _covered(offsets, span)
            user_turn[low:high] = [number] * (high - low)
        # nothing of an item or of what stands around it is learned, nor text of a message
        for position in (*around, *(place for place, _ in places)):
            labels[position] = IGNORE_INDEX
            # an empty list where user turns are not wanted
            user_turn[position : position + 1] = [-1] * self.user_turn
        if len(places) != sum(len(items) for items in sample.media.values()):
            raise SampleError(f"{sample.name}: the chat template drops or repeats a placeholder")
        self._check_order(sample, places)
        return Prompt(ids, labels, places, user_turn, n_prefix)

    def _check_order(self, sample: Sample, places: list[tuple[int, str]]) -> None:
        """Media are handed out in rendered order, so a template that moves a message with media would swap them."""
        if len(places) < 2 or all(message.role != "system" for message in sample.messages):
            return
        holds = [any(placeholders.count(m, key) for key in self.placeholders) for m in sample.messages]
        order = [i for i in self._template.order(sample.name, self._messages(sample)) if holds[i]]
        if order != sorted(order):
            raise SampleError(f"{sample.name}: the chat template moves a message that holds media out of its order")

    def _tokens(self, name: str, text: str, fronts: Fronts) -> tuple[list[int], list[Span], list[int]]:
        """Ids with the characters they stand for, typed control tokens as plain text; and which of them hold text that
        stands around items."""
        ids: list[int] = []
        offsets: list[Span] = []
        around: list[int] = []
        left = {key: iter(texts) for key, texts in fronts.items()}
        position = 0
        for number, piece in enumerate(_TYPED_PIECE.split(text)):
            typed = number % 2 == 1
            position += typed
            if piece and not typed and _NONCHARACTERS.search(piece):
                raise SampleError(f"{name}: the chat template cuts a special token typed in a message")
            if piece:
                for shown, origin in [(piece, None)] if typed else self._with_around(piece, left):
                    new, found = self._piece(name, shown, typed, first=not number and not ids)
                    if origin is not None:
                        around += [len(ids) + n for n, (a, b) in enumerate(found) if origin[b] - origin[a] < b - a]
                        found = [(origin[start], origin[end]) for start, end in found]
                    ids += new
                    offsets += [(position + start, position + end) for start, end in found] if position else found
            position += len(piece) + typed
        return ids, offsets, around

    def _with_around(self, piece: str, fronts: Mapping[str, Iterator[str]]) -> list[tuple[str, Sequence[int] | None]]:
        """The piece with what stands around each item, in stretches that are tokenised one by one: an item by itself.

        With each comes for every character of it, and its end, where in ``piece`` that is; None: as it stands. What is
        around is joined to the text, not to its ids: a tokenizer may make one token of line breaks that meet (Gemma).
        """
        if not self._around or not self._surrounded.search(piece):
            return [(piece, None)]
        shown = ""
        origin: list[int] = []
        cuts = [0]
        last = 0
        for found in self._surrounded.finditer(piece):
            key, before, sign, behind = self._around[found[0]]
            before = next(fronts[key], "") + before if key in fronts else before
            shown += piece[last : found.start()] + before
            cuts += [len(shown)] if before else []
            shown += sign
            cuts += [len(shown)] if behind else []
            shown += behind
            origin += range(last, found.start())
            origin += [found.start()] * (len(before) + len(sign)) + [found.end()] * len(behind)
            last = found.end()
        shown += piece[last:]
        origin += range(last, len(piece) + 1)
        return [(shown[a:b], origin[a : b + 1]) for a, b in pairwise([*cuts, len(shown)]) if b > a]

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
            raise SampleError(f"{name}: the tokenizer has {piece!r} only as a special token; it cannot be plain text")
        return ids, offsets


def _sign_of(place: Place) -> str:
    """What stands for an item in the text that is tokenised."""
    if place.token is None:
        return f"<{place.key}>"
    return part_sign(place.key) if place.surrounded else place.token


def _covered(offsets: list[Span], span: Span) -> Span:
    """Tokens [low, high) that stand for these characters.

    A token that reaches over the border belongs to the span: its end lies behind the start, its start before the end.
    """
    start, end = span
    return bisect_right(offsets, start, key=itemgetter(1)), bisect_left(offsets, end, key=itemgetter(0))


def _typed(found: re.Match[str]) -> str:
    """What was found, between the marks of plain text."""
    return f"{_TYPED}{found[0]}{_TYPED_END}"


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=lambda text: (-len(text), text)))) or "(?!)")


def _check_text(name: str, message: Message) -> None:
    if message.text.isascii():
        return
    if _NONCHARACTERS.search(message.text):
        raise SampleError(f"{name}: a message holds a Unicode noncharacter (U+FDD0 to U+FDD4)")
    try:
        message.text.encode()
    except UnicodeEncodeError as error:
        raise SampleError(f"{name}: a message is not valid Unicode (a lone surrogate at {error.start})") from error
