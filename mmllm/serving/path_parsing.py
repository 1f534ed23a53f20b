"""Media files dropped into a line of the terminal chat, found in it: quoted, escaped or as file:// addresses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlparse

from mmllm.modalities import MODALITY_OF


def split_paths(line: str) -> tuple[str, list[Path]]:
    """Return the question without the media files dropped into it, and those files; other words stay as they are."""
    paths: list[Path] = []

    def take(match: re.Match[str]) -> str:
        word = match.group(0)
        # as it is first: a file's name may end in such a mark itself
        for written in (word, word.rstrip("?!.,;:")):
            path = path_of(written)
            if _is_media(path):
                paths.append(path)
                return word.removeprefix(written)
        return word

    # a quote inside a word is an apostrophe, so quotes count only where a word begins
    text = re.sub(r"(?<!\S)(?:'[^']*'|\"[^\"]*\"|(?:\\.|[^\s\\])+)", take, line)
    return (" ".join(text.split()) if paths else text), paths


def path_of(word: str) -> Path:
    """Parse what a terminal inserts for a dropped file: quoted, with escaped spaces, or as a file:// address."""
    try:
        words = shlex.split(word)
    except ValueError:
        words = [word]
    plain = words[0] if len(words) == 1 else word
    if plain.startswith("file://"):
        plain = unquote(urlparse(plain).path)
    return Path(plain).expanduser()


def _is_media(path: Path) -> bool:
    """Return whether a word of a question is meant as a media file: the ending of one, and a file of that name."""
    return path.suffix[1:].lower() in MODALITY_OF and path.is_file()
