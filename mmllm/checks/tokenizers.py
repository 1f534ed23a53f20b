"""A folder's tokenizer and chat template as its files hold them, tried out as training will use them, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from mmllm.checks.configs import UnreadableError, read_json
from mmllm.errors import MmllmError
from mmllm.files.tokenizers import FILES, TEKKEN


class TokenizerFiles:
    """What a chat template needs of a tokenizer, by the folder's files alone.

    Raises UnreadableError where the folder holds no tokenizer or a damaged file of one.
    """

    def __init__(self, folder: Path) -> None:
        self.name_or_path = str(folder)
        if not any((folder / name).is_file() for name in FILES):
            raise UnreadableError(
                f"{folder} has no tokenizer ({', '.join(FILES[:3])}, ...); put that of its model beside the weights"
            )
        fast, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
        self._vocabulary = read_json(fast) if fast.is_file() else {}
        self._config = read_json(config) if config.is_file() else {}
        self._folder = folder
        extra = folder / "special_tokens_map.json"
        named = {**(read_json(extra) if extra.is_file() else {}), **self._config}
        tekken = folder / TEKKEN
        self._tekken = read_json(tekken) if tekken.is_file() and not fast.is_file() else {}
        if self._tekken:
            named = {"bos_token": "<s>", "eos_token": "</s>", **named}  # as transformers 5.23 reads such a file
        self.special_tokens_map = {
            name: text for name, value in named.items() if name.endswith("_token") and (text := _content(value))
        }
        """``eos_token`` and the like."""
        self.given: str | None = None
        """A template in place of the folder's own."""

    @property
    def added(self) -> list[str]:
        """Texts of the tokens that are added to the vocabulary, control tokens among them."""
        tekken = [{"content": entry.get("token_str")} for entry in self._tekken.get("special_tokens") or []]
        entries = [
            *tekken,
            *self._vocabulary.get("added_tokens", []),
            *self._config.get("added_tokens_decoder", {}).values(),
        ]
        texts = [_content(entry) for entry in entries]
        return list(dict.fromkeys([*filter(None, texts), *self.special_tokens_map.values()]))

    def __len__(self) -> int:
        """Number of tokens; 0 where only a library could tell (SentencePiece or tekken alone)."""
        model = self._vocabulary.get("model", {})
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict | list):
            return 0
        texts = set(vocabulary) if isinstance(vocabulary, dict) else {str(entry[0]) for entry in vocabulary}
        return len(texts | set(self.added))

    def get_chat_template(self) -> str:
        """The template's text, found where transformers looks for it; ValueError where there is none."""
        if self.given is not None:
            return self.given
        file = self._folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        older = self._folder / "chat_template.json"
        found = self._config.get("chat_template")
        if found is None and older.is_file():
            found = read_json(older).get("chat_template")
        if isinstance(found, list):
            found = {entry.get("name"): entry.get("template") for entry in found}
        if isinstance(found, dict):
            found = found.get("default")
        if not isinstance(found, str):
            raise ValueError("no chat template")
        return found


def template_problems(tokenizer: TokenizerFiles, given: str | None = None) -> Iterator[str]:
    """A sentence where the chat template cannot be learned from: none, broken, or the assistant's text not found.

    ``given`` is a template in place of the tokenizer's own.
    """
    from mmllm.messages.template import ChatTemplate

    tokenizer.given = given
    ends = [text for text in tokenizer.added if not text.isspace()]
    try:
        ChatTemplate(cast(Any, tokenizer), ends)
    except MmllmError as error:
        yield str(error).removeprefix("chat template: ")


def _content(value: Any) -> str | None:
    """Text of a token, which files write alone or as an object."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None
