"""The modalities besides text: their names, file endings, data URLs and how their files begin.

One table for training data, the API, the terminal chat, Python and (through ``/v1/models``) the chat page. How to read
an item is the encoders' knowledge.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Collection
from dataclasses import dataclass

Signature = tuple[int, bytes]
"""Offset and the bytes that stand there."""


@dataclass(frozen=True)
class Modality:
    """Names and files of one modality, as its users know them."""

    noun: str
    plural: str
    endings: tuple[str, ...]
    """Endings of files that are taken, without the dot; no ending belongs to two modalities."""
    example: str
    """Head of a data URL."""
    declared: str | None = None
    """Beginning of the media type of a data URL; None: any that belongs to no other modality."""
    signatures: tuple[tuple[Signature, ...], ...] = ()
    """Beginnings of its files, one of which a file must have; empty: its reader sees for itself. A container that no
    line names never reaches a decoder: playlists and the like, which ffmpeg would open, name other files and
    addresses."""

    def takes(self, kind: str) -> bool:
        """Return whether a media type of a data URL, in lower case, may stand before an item of this modality."""
        if kind == "application/octet-stream":
            return True
        if self.declared is not None:
            return kind.startswith(self.declared)
        return "/" in kind and not kind.startswith(("image/", "video/", "audio/"))

    def begins(self, data: bytes) -> bool:
        """Return whether a file begins as one of this modality."""
        return not self.signatures or any(
            all(data[at : at + len(word)] == word for at, word in signature) for signature in self.signatures
        )


# ISO base media (MP4, MOV): a box begins with its length in 4 bytes, then its type; any of these may come first
_MP4 = tuple(((4, word),) for word in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"))
# program stream, bare video stream, and transport stream: packets of 188 bytes that each begin with the byte G, of
# which one alone would also begin many a text
_MPEG = (((0, b"\0\0\1\xba"),), ((0, b"\0\0\1\xb3"),), ((0, b"G"), (188, b"G")))
# Matroska and WebM (an EBML header), AVI, Flash, Ogg; a GIF is a clip where it is shown as one
_OTHER_VIDEO = (
    ((0, b"\x1a\x45\xdf\xa3"),),
    ((0, b"RIFF"), (8, b"AVI ")),
    ((0, b"FLV"),),
    ((0, b"OggS"),),
    ((0, b"GIF8"),),
)
# a tag, or at once the sync word of a frame: eleven bits that are set
_MP3 = (((0, b"ID3"),), *(((0, bytes([255, second])),) for second in range(0xE0, 0x100)))

MODALITIES: dict[str, Modality] = {
    "image": Modality(
        "image", "images", ("png", "jpg", "jpeg", "webp", "gif", "bmp"), "data:image/png;base64,", "image/"
    ),
    "video": Modality(
        "video",
        "videos",
        ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "ogv"),
        "data:video/mp4;base64,",
        "video/",
        (*_MP4, *_MPEG, *_OTHER_VIDEO),
    ),
    "audio": Modality(
        "sound",
        "sounds",
        ("wav", "mp3", "flac", "ogg"),
        "data:audio/wav;base64,",
        "audio/",
        (((0, b"RIFF"), (8, b"WAVE")), ((0, b"fLaC"),), ((0, b"OggS"),), *_MP3),
    ),
    "graph": Modality("graph", "graphs", ("json",), "data:application/json;base64,"),
    "points": Modality(
        "point cloud", "point clouds", ("npy", "npz", "ply", "off", "xyz"), "data:application/octet-stream;base64,"
    ),
    "document": Modality("document", "documents", ("txt", "md"), "data:text/plain;base64,"),
}
"""``Encoder.modality`` -> its names and files."""

MODALITY_OF = {ending: name for name, modality in MODALITIES.items() for ending in modality.endings}
"""Ending of a file -> key of ``MODALITIES``."""


def modality_of(name: str) -> str | None:
    """Return the key of the modality that a file's name or its ending says, formats that nothing reads among them."""
    ending = name.rpartition(".")[2].lower()
    declared = (mimetypes.guess_type(f"x.{ending}")[0] or "").partition("/")[0]
    # of a text or an archive the media type says nothing
    return MODALITY_OF.get(ending) or (declared if declared in ("image", "video", "audio") else None)


def refusal(modality: str, taken: Collection[str]) -> str:
    """Return the end of a sentence about a model that lacks a modality: ``takes no videos; it takes text and images``.

    Args:
        modality: what it lacks.
        taken: modalities that it reads besides text.
    """
    plurals = [MODALITIES[name].plural for name in MODALITIES if name in taken]
    takes = f"it takes {listed(['text', *plurals])}" if plurals else "send text only"
    return f"takes no {MODALITIES[modality].plural}; {takes}"


def listed(words: list[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
