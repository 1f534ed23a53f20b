"""What the server knows of each sense besides text: its names, file endings, data URLs and how its files begin.

One table for the API, the terminal chat and (through ``/v1/models``) the chat page; how to read them encoders know.
"""

from __future__ import annotations

from dataclasses import dataclass

Signature = tuple[int, bytes]
"""Offset and the bytes that stand there."""


@dataclass(frozen=True)
class Modality:
    """One modality as its users name and send it."""

    noun: str
    plural: str
    endings: tuple[str, ...]
    """Of files that are taken, without the dot; no ending belongs to two senses."""
    example: str
    """Head of a data URL."""
    declared: str | None = None
    """What the media type of a data URL begins with; None: any that belongs to no other sense."""
    signatures: tuple[tuple[Signature, ...], ...] = ()
    """How its files begin, one of these; empty: its reader sees for itself. A container that no line names never
    reaches a decoder: playlists and the like, which ffmpeg would open, name other files and addresses."""

    def takes(self, kind: str) -> bool:
        """Whether the media type of a data URL, in lower case, may stand before an item of this sense."""
        if kind == "application/octet-stream":
            return True
        if self.declared is not None:
            return kind.startswith(self.declared)
        return "/" in kind and not kind.startswith(("image/", "video/", "audio/"))

    def begins(self, data: bytes) -> bool:
        """Whether a file begins as one of this sense."""
        return not self.signatures or any(
            all(data[at : at + len(word)] == word for at, word in signature) for signature in self.signatures
        )


_MP4 = tuple(((4, word),) for word in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"))
_MPEG = (((0, b"\0\0\1\xba"),), ((0, b"\0\0\1\xb3"),), ((0, b"G"), (188, b"G")))
_OTHER_VIDEO = (((0, b"\x1a\x45\xdf\xa3"),), ((0, b"RIFF"), (8, b"AVI ")), ((0, b"FLV"),), ((0, b"OggS"),))
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
"""Modality of an encoder -> its sense."""

MODALITY_OF = {ending: modality for modality, sense in MODALITIES.items() for ending in sense.endings}
"""Ending of a file -> modality."""


def listed(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
