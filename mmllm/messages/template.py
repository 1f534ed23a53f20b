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
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError, SampleError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Unicode noncharacters: never meant for interchange, so no honest text holds them (a text that does is refused).
_MARK, _CLOSE = "\ufdd0", "\ufdd1"
_BOUNDS = re.compile(f"{_MARK}(\\d+){_MARK}|{_CLOSE}")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = re.compile(r"""strftime_now\(\s*(["'])([^"']*)\1\s*\)""")
_DAY = date(2024, 7, 26)  # the day that Llama's templates print where they are given none
_WORDS = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]

Span = tuple[int, int]
"""Characters [start, end) of a rendered text."""


class ChatTemplate:
    """Renders conversations; safe to use from several threads.

    ``ends`` are the tokens of which the template's end-of-turn is one (the tokenizer's added ones). Raises MmllmError
    for a tokenizer without a template, a template without end-of-turn, or one whose generation prompt is not how it
    opens the assistant's turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[str]) -> None:
        self.text = _TODAY.sub(lambda found: repr(_DAY.strftime(found[2])), _chat_template(tokenizer))
        """The template itself."""
        self.marks_speech = _GENERATION.search(self.text) is not None
        """Whether it has ``{% generation %}`` marks."""
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._lock = threading.Lock()  # transformers' generation tracker is one object per template, not per call
        self.as_parts = False
        """Whether messages are handed over as lists of parts, ``[{"type": "text", "text": ...}]``."""
        self.as_parts = not self._shows_words() and self._shows_words(as_parts=True)
        self.end = self._end_of_turn(ends)
        """The token that ends the assistant's turn."""
        if not self.marks_speech:  # say now, not at the first sample, that its opening is none
            self.speech("chat template", _WORDS)

    def render(self, name: str, messages: list[dict[str, str]], ask: bool) -> tuple[str, list[Span]]:
        """The text and, where the template has generation marks, their spans; ``ask`` adds the generation prompt.

        Messages are {"role", "content"}. Raises SampleError where the template refuses them.
        """
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        given: list[Any] = [_in_parts(message) for message in messages] if self.as_parts else messages
        try:
            with self._lock:
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
            return len(_strip_bounds(self.render("chat template", _bounded(_WORDS), ask=False)[0])[1]) == len(_WORDS)
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
        bounded = _bounded(messages)
        text, bounds = _strip_bounds(self.render(name, bounded, ask=False)[0])
        spans = []
        for i, message in enumerate(messages):
            if i not in bounds:
                raise SampleError(f"{name}: the chat template drops or rewrites message {i + 1} ({message['role']})")
            if message["role"] != "assistant":
                continue
            opened, closed = bounds[i]
            between = text[bounds[i - 1][1] : opened] if i else ""
            start = opened - (self._unasked(name, bounded[:i], between, i + 1 == len(messages)) if i else 0)
            spans.append((start, self._through_end(text, start, closed)))
        return text, spans

    def _unasked(self, name: str, before: list[dict[str, str]], between: str, last: bool) -> int:
        """Number of the last characters ``between`` the messages ``before`` and the assistant's text that the
        generation prompt leaves to the assistant (an empty block of thought, say)."""
        prompt, bounds = _strip_bounds(self.render(name, before, ask=True)[0])
        if len(before) - 1 not in bounds:
            raise SampleError(f"{name}: the chat template drops or rewrites message {len(before)} when asked to go on")
        opening = prompt[bounds[len(before) - 1][1] :]
        if not last and opening.startswith(between):  # earlier turns are shown without their empty thought
            return 0
        if not between.startswith(opening):
            raise SampleError(
                f"{name}: the chat template's generation prompt {opening!r} is not how it opens "
                f"the assistant's turn, {between!r}; what is learned could not be asked for"
            )
        return len(between) - len(opening)

    def _through_end(self, text: str, start: int, end: int) -> int:
        """``end`` moved behind the end-of-turn token where that follows (marks may leave it out)."""
        if text[start:end].rstrip().endswith(self.end):
            return end
        rest = text[end:]
        lead = len(rest) - len(rest.lstrip())
        return end + lead + len(self.end) if rest.startswith(self.end, lead) else end

    def _end_of_turn(self, tokens: Sequence[str]) -> str:
        """The special token with which the template ends the assistant's turn, seen on a conversation of two words."""
        text, bounds = _strip_bounds(self.render("chat template", _bounded(_WORDS), ask=False)[0])
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
        _, bounds = _strip_bounds(self.render(name, _bounded(messages), ask)[0])
        lost = [i for i in range(len(messages)) if i not in bounds]
        if lost:
            raise SampleError(f"{name}: the chat template drops or rewrites message {lost[0] + 1}")
        return bounds

    def order(self, name: str, messages: list[dict[str, str]]) -> list[int]:
        """Indices of the messages in the order in which they are rendered (a template may move the system's)."""
        _, bounds = _strip_bounds(self.render(name, _bounded(messages), ask=False)[0])
        return sorted(bounds, key=lambda i: bounds[i])


def _in_parts(message: dict[str, str]) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


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
    # a message that is rendered twice has no place of its own, so its labels could not be told
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
            f"the tokenizer of {tokenizer.name_or_path or 'the LLM'!r} has no chat template: give it one with "
            "llm: {template: chatml}, or a jinja file, or take the model's instruct version"
        ) from error
    return str(template)
