"""The tokenizer's chat template: renders messages and finds the assistant's text in them; used by ``tokenize.py``.

Templates with ``{% generation %}`` marks say themselves what the assistant says. For the others the messages' texts are
put between marks, and a turn begins where the template's own generation prompt ends. Templates of published VLMs want
a message as a list of parts; whether one does is tried. A template that prints today's
date prints 26 July 2024 here, so that a run resumed or evaluated tomorrow reads the same tokens; one that can open
with thoughts (``enable_thinking``) is told not to, as samples hold none.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError, SampleError
from mmllm.messages.bounds import Frame, Span, bounded, is_bound, strip_bounds
from mmllm.messages.template_flow import writes_by_roles_alone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = re.compile(r"""strftime_now\(\s*(["'])([^"']*)\1\s*\)""")
_DAY = date(2024, 7, 26)  # the day that Llama's templates print where they are given none
# transformers keeps one generation tracker per text of a template, not per call: all that render one text share it
_RENDERING = threading.Lock()
_PART = "\ufdd4"  # a noncharacter, as those of `bounds.py`
_BREAKS = re.compile(f"{_PART}[^{_PART}]*{_PART}\n|\n{_PART}[^{_PART}]*{_PART}(?=[\ufdd1\\s]*$)")
_WORDS = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]


class ChatTemplate:
    """Renders conversations; safe to use from several threads.

    ``ends`` are the tokens of which the template's end-of-turn is one (the tokenizer's added ones). ``parts``: key of a
    placeholder that becomes a part of its message (:func:`part_sign` stands for it in the text) -> the part's type.
    Raises MmllmError for a tokenizer without a template, a template without end-of-turn, or one whose generation prompt
    is not how it opens the assistant's turn.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[str], parts: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.text = on_one_day(_chat_template(tokenizer))
        """The template itself."""
        self.marks_speech = _GENERATION.search(self.text) is not None
        """Whether it has ``{% generation %}`` marks."""
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self.as_parts = False
        """Whether messages are handed over as lists of parts, ``[{"type": "text", "text": ...}]``."""
        self._parts = dict(parts)
        self.as_parts = (bool(parts) or not self._shows_words()) and self._shows_words(as_parts=True)
        if parts and not self.as_parts:
            raise MmllmError(
                f"the chat template takes no messages in parts, so it writes no token for media of {', '.join(parts)}; "
                "leave `token` out, or give the model's own template with llm: {template: FILE}"
            )
        self.end = self._end_of_turn(ends)
        """The token that ends the assistant's turn."""
        self.by_roles = not (self.marks_speech or parts) and writes_by_roles_alone(self.text)
        """Whether its syntax proves that it writes texts whole and all else by the roles of the messages."""
        self._openings: dict[tuple[str, ...], str] = {}
        """What ``_opening`` has found, where that hangs on roles alone."""
        self._frames: dict[tuple[str, ...], Frame] = {}
        """Roles -> what is written around their texts, likewise: conversations of the same roles are rendered once."""
        if not self.marks_speech:  # say now, not at the first sample, that its opening is none
            self.speech("chat template", _WORDS)

    def render(self, name: str, messages: list[dict[str, str]], ask: bool) -> tuple[str, list[Span]]:
        """The text and, where the template has generation marks, their spans; ``ask`` adds the generation prompt.

        Messages are {"role", "content"}. Raises SampleError where the template refuses them.
        """
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        given: list[Any] = [_in_parts(message, self._parts) for message in messages] if self.as_parts else messages
        try:
            with _RENDERING:
                texts, marks = render_jinja_template(
                    conversations=[given],
                    chat_template=self.text,
                    return_assistant_tokens_mask=self.marks_speech,
                    add_generation_prompt=ask,
                    enable_thinking=False,
                    **self._special_tokens,
                )
        except TemplateSyntaxError as error:
            raise MmllmError(f"the chat template is no jinja: line {error.lineno}: {error.message}") from error
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise SampleError(f"{name}: the chat template refuses messages of {roles}: {error.message}") from error
        return texts[0], list(marks[0]) if marks else []

    def _shows_words(self, as_parts: bool = False) -> bool:
        """Whether question and answer are in what it renders."""
        before, self.as_parts = self.as_parts, as_parts
        try:
            return len(strip_bounds(self.render("chat template", bounded(_WORDS), ask=False)[0])[1]) == len(_WORDS)
        except (SampleError, TypeError):  # text joined to a list
            return False
        finally:
            self.as_parts = before

    def speech(self, name: str, messages: list[dict[str, str]]) -> tuple[str, list[Span]]:
        """The rendered conversation and where in it the assistant speaks, end-of-turn included.

        Raises SampleError where the template refuses or rewrites the messages.
        """
        if self.marks_speech:
            text, marks = self.render(name, messages, ask=False)
            return text, [(start, self._through_end(text, start, end)) for start, end in marks]
        text, bounds = self._shown(name, messages)
        spans = []
        for i, message in enumerate(messages):
            if i not in bounds:
                raise SampleError(f"{name}: the chat template drops or rewrites message {i + 1} ({message['role']})")
            if message["role"] != "assistant":
                continue
            opened, closed = bounds[i]
            between = text[bounds[i - 1][1] : opened] if i else ""
            opening = self._opening(name, messages[:i]) if i else between
            start = opened - _unasked(name, opening, between, i + 1 == len(messages))
            spans.append((start, self._through_end(text, start, closed)))
        return text, spans

    def _shown(self, name: str, messages: list[dict[str, str]]) -> tuple[str, dict[int, Span]]:
        """The rendered conversation, and for each message that is in it once its (start, end)."""
        texts = [message["content"] for message in messages]
        # a template may trim outer blanks; an empty text does not tell where among its neighbours it stands
        plain = self.by_roles and all(text and text == text.strip() for text in texts)
        roles = tuple(message["role"] for message in messages)
        if plain and roles in self._frames:
            return self._frames[roles].filled(texts)
        text, bounds = strip_bounds(self.render(name, bounded(messages), ask=False)[0])
        if plain and len(bounds) == len(messages):
            self._frames[roles] = Frame.of(text, bounds)
        return text, bounds

    def _opening(self, name: str, before: list[dict[str, str]]) -> str:
        """How the generation prompt opens the assistant's turn after these messages, from the last one's text on."""
        text = before[-1]["content"]
        # outer blanks stand between the messages' texts where the template does not trim them
        key = (*(message["role"] for message in before), text[len(text.rstrip()) :])
        known = self._openings.get(key)
        if known is not None:
            return known
        prompt, bounds = strip_bounds(self.render(name, bounded(before), ask=True)[0])
        if len(before) - 1 not in bounds:
            raise SampleError(f"{name}: the chat template drops or rewrites message {len(before)} when asked to go on")
        opening = prompt[bounds[len(before) - 1][1] :]
        if self.by_roles:
            self._openings[key] = opening
        return opening

    def _through_end(self, text: str, start: int, end: int) -> int:
        """``end`` moved behind the end-of-turn token where that follows (marks may leave it out)."""
        if text[start:end].rstrip().endswith(self.end):
            return end
        rest = text[end:]
        lead = len(rest) - len(rest.lstrip())
        return end + lead + len(self.end) if rest.startswith(self.end, lead) else end

    def _end_of_turn(self, tokens: Sequence[str]) -> str:
        """The special token with which the template ends the assistant's turn, seen on a conversation of two words."""
        text, bounds = strip_bounds(self.render("chat template", bounded(_WORDS), ask=False)[0])
        if 1 not in bounds:
            raise MmllmError("the tokenizer's chat template does not show the assistant's messages")
        # the longest first: one end token may begin like another
        found = re.match(
            r"\s*(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")", text[bounds[1][1] :]
        )
        # without tokens the pattern is empty and matches anything
        if not tokens or found is None:
            raise MmllmError(
                "the tokenizer's chat template ends the assistant's turn with no special token, so the model could "
                "never learn to stop; let the template write one there (usually eos_token), or use "
                "llm: {template: chatml}"
            )
        return found[1]

    def bounds(self, name: str, messages: list[dict[str, str]], ask: bool) -> dict[int, Span]:
        """Message -> characters of its text, without outer blanks, in the rendered conversation.

        Raises SampleError where the template drops or rewrites a message.
        """
        if ask:
            _, bounds = strip_bounds(self.render(name, bounded(messages), ask)[0])
        else:
            _, bounds = self._shown(name, messages)
        lost = [i for i in range(len(messages)) if i not in bounds]
        if lost:
            raise SampleError(f"{name}: the chat template drops or rewrites message {lost[0] + 1}")
        return bounds

    def order(self, name: str, messages: list[dict[str, str]]) -> list[int]:
        """Indices of the messages in the order in which they are rendered (a template may move the system's)."""
        _, bounds = self._shown(name, messages)
        return sorted(bounds, key=lambda i: bounds[i])


def _unasked(name: str, opening: str, between: str, last: bool) -> int:
    """Number of the last characters ``between`` two messages that the generation prompt's ``opening`` leaves to the
    assistant (an empty block of thought, say)."""
    if not last and opening.startswith(between):  # earlier turns are shown without their empty thought
        return 0
    if not between.startswith(opening):
        raise SampleError(
            f"{name}: the chat template's generation prompt {opening!r} is not how it opens "
            f"the assistant's turn, {between!r}; what is learned could not be asked for"
        )
    return len(between) - len(opening)


def on_one_day(template: str) -> str:
    """A template's text with the day that it prints here in place of today."""
    return _TODAY.sub(lambda found: repr(_DAY.strftime(found[2])), template)


def part_sign(key: str) -> str:
    """What stands in a message's text where a part of its own belongs."""
    return f"{_PART}{key}{_PART}"


def _in_parts(message: dict[str, str], types: Mapping[str, str]) -> dict[str, Any]:
    """A message whose text is one part, or several with items of media between them.

    A line break behind an item, or before a last one, only sets it apart in our text and goes: the template has a rule
    of its own for that. Marks of the text's bounds are no part of their own: a template may ask for the first one's
    type.
    """
    text = _BREAKS.sub(lambda found: found[0].strip("\n"), message["content"])
    parts: list[dict[str, str]] = []
    held = ""
    for number, piece in enumerate(text.split(_PART)):  # text, key, text, ...
        if number % 2:
            parts.append({"type": types[piece]})
        elif is_bound(held + piece):
            held += piece
        elif held + piece:
            parts.append({"type": "text", "text": held + piece})
            held = ""
    last = next((part for part in reversed(parts) if part["type"] == "text"), None)
    if held and last is not None:
        last["text"] += held
    elif held or not parts:
        parts.append({"type": "text", "text": held})
    return {**message, "content": parts}


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's template text, or one sentence on what to do without."""
    try:
        template: Any = tokenizer.get_chat_template()
    except ValueError as error:
        raise MmllmError(
            f"the tokenizer of {tokenizer.name_or_path or 'the LLM'!r} has no chat template: give it one with "
            "llm: {template: chatml}, or a jinja file, or take the model's instruct version"
        ) from error
    return str(template)
