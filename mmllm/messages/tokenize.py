"""Messages -> token ids and labels through the tokenizer's own chat template; the first step of every batch and answer.

What a model is taught is exactly what it will have to say: everything after the template's generation prompt up to and
including the end-of-turn token (see ``template.py``). What a message says can never become a special token.
"""

from __future__ import annotations

import copy
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from mmllm.errors import MmllmError, SampleError
from mmllm.messages import placeholders
from mmllm.messages.bounds import Span
from mmllm.messages.learnable import check_answers, check_places
from mmllm.messages.template import ChatTemplate, part_sign
from mmllm.registry import nearest
from mmllm.types import IGNORE_INDEX, Message, Place, Sample
from mmllm.types import Span as ItemSpan

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

# Unicode noncharacters: never meant for interchange, so no honest text holds them (a text that does is refused).
_TYPED, _TYPED_END = "\ufdd2", "\ufdd3"
_NONCHARACTERS = re.compile("[\ufdd0-\ufdd4]")
_TYPED_PIECE = re.compile(f"{_TYPED}([^{_TYPED}{_TYPED_END}]*){_TYPED_END}")


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


class Prompter:
    """Renders samples with the tokenizer's chat template and tokenises them; ids equal ``apply_chat_template``'s.

    ``places`` are those of connectors, or their keys alone; ``<key>`` in a message is where an item of
    ``sample.media[key]`` goes, see ``placeholders.py``. The tokenizer is copied, so the caller's never learns the
    placeholders. A special token typed in a message is plain text (outside the assistant's turns so are the template's
    other control tokens). Safe to use from several threads.

    Raises MmllmError for a tokenizer without a chat template or one whose template cannot be learned from.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, places: Sequence[Place | str], user_turn: bool = False
    ) -> None:
        known = [Place(place) if isinstance(place, str) else place for place in places]
        self.placeholders = tuple(place.key for place in known)
        self.user_turn = user_turn
        self._tokens_of = {place.key: place.token for place in known if place.token is not None}
        self._backend, self._plain = _backends(tokenizer, [f"<{place.key}>" for place in known if place.token is None])
        self._keys = {self._place_id(tokenizer, place): place.key for place in known}
        if len(self._keys) < len(known):
            raise MmllmError(
                f"connectors {', '.join(self._tokens_of)}: two of them have one `token`; give each its own"
            )
        self._newline = self._backend.encode("\n", add_special_tokens=False).ids
        self._around = {
            place.key: (self._between(place.around[0]), self._between(place.around[1]))
            for place in known
            if any(place.around)
        }
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

    def tokenize_for_training(self, sample: Sample) -> Prompt:
        """Ids and labels of a whole conversation.

        Raises SampleError where the template refuses it, or placeholders and media differ, or the assistant is silent.
        """
        check_answers(sample)
        messages = self._messages(sample)
        text, spans = self._template.speech(sample.name, messages)
        self._verify(sample, text, ask=False)
        return self._prompt(sample, text, spans, self._asked(sample.name, messages, False))

    def tokenize_prompt(self, sample: Sample) -> Prompt:
        """Ids up to where the assistant has to speak (the generation prompt included); labels are all IGNORE_INDEX."""
        messages = self._messages(sample)
        text, _ = self._template.render(sample.name, messages, ask=True)
        self._verify(sample, text, ask=True)
        return self._prompt(sample, text, [], self._asked(sample.name, messages, True))

    def separator(self, span: ItemSpan) -> list[int]:
        """Ids of the text in front of a span of an item; nothing in it is special unless the span says so."""
        if not span.separator:
            return []
        if span.control:
            return self._between(span.separator)
        return self._piece("times", span.separator, typed=True, first=False)[0]

    def _place_id(self, tokenizer: PreTrainedTokenizerBase, place: Place) -> int:
        """Id that stands at a place until its item's tokens do."""
        if place.token is None:
            found = self._backend.token_to_id(f"<{place.key}>")
            assert found is not None  # it was added to this copy
            return int(found)
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        if place.token not in added and (piece := self._backend.token_to_id(place.token)) is not None:
            # one of the vocabulary's own (Fuyu): found as a whole from now on, under the same id
            self._backend.add_special_tokens([_whole(place.token)])
            return int(piece)
        if place.token not in added:
            near = nearest(place.token, added)
            hint = f'; did you mean "{near}"?' if near else ""
            raise MmllmError(
                f'connectors.{place.key}.token: "{place.token}" is no added token of the LLM\'s tokenizer{hint}'
            )
        return added[place.token]

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

    def _prompt(self, sample: Sample, text: str, spans: list[Span], asked: list[Span]) -> Prompt:
        ids, offsets = self._tokens(sample.name, text)
        labels = [IGNORE_INDEX] * len(ids)
        for span in spans:
            low, high = _covered(offsets, span)
            labels[low:high] = ids[low:high]
        present = self._keys.keys() & ids
        places = [(i, self._keys[token]) for i, token in enumerate(ids) if token in present] if present else []
        user_turn = [-1] * len(ids) if self.user_turn else []
        for number, span in enumerate(asked):
            low, high = _covered(offsets, span)
            user_turn[low:high] = [number] * (high - low)
        for position, _ in places:
            labels[position] = IGNORE_INDEX
            # an empty list where user turns are not wanted
            user_turn[position : position + 1] = [-1] * self.user_turn
        if len(places) != sum(len(items) for items in sample.media.values()):
            raise SampleError(f"{sample.name}: the chat template drops or repeats a placeholder")
        self._check_order(sample, places)
        prompt = Prompt(ids, labels, places, user_turn)
        return self._with_around(prompt) if self._around else prompt

    def _with_around(self, prompt: Prompt) -> Prompt:
        """The same with what stands around items: nothing of it is learned, nor text of a message."""
        found = Prompt([], [], [], [])
        last = 0
        for position, key in prompt.places:
            before, behind = self._around.get(key, ([], []))
            _extend(found, prompt, last, position)
            found.places.append((len(found.ids) + len(before), key))
            for ids in (before, prompt.ids[position : position + 1], behind):
                found.ids.extend(ids)
                found.labels.extend([IGNORE_INDEX] * len(ids))
                found.user_turn.extend([-1] * (len(ids) if self.user_turn else 0))
            last = position + 1
        _extend(found, prompt, last, len(prompt.ids))
        return found

    def _check_order(self, sample: Sample, places: list[tuple[int, str]]) -> None:
        """Media are handed out in rendered order, so a template that moves a message with media would swap them."""
        if len(places) < 2 or all(message.role != "system" for message in sample.messages):
            return
        holds = [any(placeholders.count(m, key) for key in self.placeholders) for m in sample.messages]
        order = [i for i in self._template.order(sample.name, self._messages(sample)) if holds[i]]
        if order != sorted(order):
            raise SampleError(f"{sample.name}: the chat template moves a message that holds media out of its order")

    def _tokens(self, name: str, text: str) -> tuple[list[int], list[Span]]:
        """Ids with the characters they stand for, typed control tokens as plain text."""
        ids: list[int] = []
        offsets: list[Span] = []
        position = 0
        for number, piece in enumerate(_TYPED_PIECE.split(text)):
            typed = number % 2 == 1
            position += typed
            if piece and not typed and _NONCHARACTERS.search(piece):
                raise SampleError(f"{name}: the chat template cuts a special token typed in a message")
            if piece:
                new, found = self._piece(name, piece, typed, first=number == 0)
                ids += new
                offsets += [(position + start, position + end) for start, end in found] if position else found
            position += len(piece) + typed
        return ids, offsets

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


def _extend(prompt: Prompt, other: Prompt, start: int, end: int) -> None:
    """Put positions [start, end) of another one behind it."""
    prompt.ids.extend(other.ids[start:end])
    prompt.labels.extend(other.labels[start:end])
    prompt.user_turn.extend(other.user_turn[start:end])


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


def _backends(tokenizer: PreTrainedTokenizerBase, placeholders: list[str]) -> tuple[Tokenizer, Tokenizer]:
    """Two copies of the fast tokenizer: one that knows the placeholders, one that knows no added token at all."""
    from tokenizers import Tokenizer

    if not tokenizer.is_fast:
        raise MmllmError(f"the tokenizer of {tokenizer.name_or_path!r} has no fast version (tokenizer.json)")
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    # tokenizer.json may ask for both, and would cut a long conversation without a word
    backend.no_truncation()
    backend.no_padding()
    parts = json.loads(backend.to_str())
    # the post-processor goes too: it names special tokens that this copy no longer has
    parts["added_tokens"], parts["post_processor"] = [], None
    plain = Tokenizer.from_str(json.dumps(parts))
    # not normalized: a placeholder is found as it is written, before a normalizer changes case or adds blanks
    backend.add_special_tokens([_whole(text) for text in placeholders])
    return backend, plain


def _whole(text: str) -> AddedToken:
    """A control token that is found as it is written, wherever it stands."""
    from tokenizers import AddedToken

    return AddedToken(text, special=True, normalized=False)
