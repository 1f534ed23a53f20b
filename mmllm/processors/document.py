"""Documents: text of a file as tokens of a language model; their processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmllm.errors import MediaError
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.content import Content, of_file
from mmllm.processors.tokenizer import ModelTokenizer

MAX_BYTES = 16 * 2**20
"""Largest document, known before it is tokenised: about four million tokens of English."""


class DocumentProcessor(Processor):
    """A document of L tokens has the grid (L,); nothing is cut."""

    modality = "document"

    def __init__(self, tokenizer: ModelTokenizer, *, max_tokens: int, max_bytes: int = MAX_BYTES) -> None:
        self.tokenizer = tokenizer
        self.max_tokens, self.max_bytes = max_tokens, max_bytes

    def read(self, media: str | Path | bytes) -> Item:
        """Read one document -> ``{"ids": int64[L]}``; raises ``MediaError`` where it cannot be read or is too long."""
        text = self._text(media)
        ids = self.tokenizer.loaded(text, verbose=False)["input_ids"]
        if not ids or not text.strip():
            raise MediaError("the document is empty")
        if len(ids) > self.max_tokens:
            raise MediaError(
                f"the document has {len(ids)} tokens, over the limit of {self.max_tokens}; nothing is cut: shorten it, "
                "or raise max_tokens"
            )
        return {"ids": torch.tensor(ids, dtype=torch.int64)}

    def content(self, media: str | Path | bytes) -> Content | None:
        """The file, or the text itself."""
        if isinstance(media, str):
            return Content(data=media.encode("utf-8", "surrogatepass"), words="text")
        return of_file(media)

    def _text(self, media: str | Path | bytes) -> str:
        """The characters of a document."""
        if isinstance(media, str):
            return media
        if isinstance(media, Path):
            if not media.is_file():
                raise MediaError(f"there is no file {media}")
            if media.stat().st_size > self.max_bytes:
                raise MediaError(f"{media} has {media.stat().st_size} bytes, over the limit of {self.max_bytes}")
            media = media.read_bytes()
        if not isinstance(media, bytes):
            raise MediaError(f"a {type(media).__name__} is no document; give a Path, bytes or the text itself")
        if len(media) > self.max_bytes:
            raise MediaError(f"the document has {len(media)} bytes, over the limit of {self.max_bytes}")
        try:
            return media.decode("utf-8-sig")  # a byte-order mark is no part of the text
        except UnicodeDecodeError as error:
            raise MediaError(f"the document is not text in UTF-8 ({error.reason} at byte {error.start})") from error

    def grid(self, info: ItemInfo) -> tuple[int]:
        """(tokens,) of one document."""
        return (len(info["ids"]),)

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """``ids`` int64[N, most tokens], padded behind, and ``lengths`` int64[N]."""
        rows = [item["ids"] for item in items]
        lengths = torch.tensor([len(row) for row in rows])
        return {"ids": nn.utils.rnn.pad_sequence(rows, batch_first=True), "lengths": lengths}

    def blank(self) -> Item:
        """A document of one token."""
        return {"ids": torch.zeros(1, dtype=torch.int64)}
