"""Files that are damaged, too large or not what they say they are, made from a seed; each can only be refused.

Used by the measurements that attack the server: ``python -m benchmarks.serve fuzz`` and ``traffic``.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from benchmarks.serve.server_process import NAME
from mmllm.processors.decoding.video_writing import mp4

Part = dict[str, Any]
"""A part of a message."""


def data_url(data: bytes, kind: str) -> str:
    """The bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(number: int, form: str = "PNG", side: int = 64) -> bytes:
    """A file of coloured blocks, others for each number."""
    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(out, form)
    return out.getvalue()


def sound(form: str = "WAV", seconds: float = 0.5) -> bytes:
    """A file of noise, 16 kHz; the same each time, which OGG would not be: its streams have drawn numbers."""
    wave = np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)
    out = io.BytesIO()
    soundfile.write(out, wave, 16_000, format=form)
    return out.getvalue()


@cache
def clip() -> bytes:
    """An mp4 file of a second."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
    return mp4(frames, [n / 8 for n in range(8)])


def png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header says this size, whatever its pixels are; ``chunks``: more of them in front of the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    middle = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + middle + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def wave(rate: int, channels: int, bits: int, claimed: int, data: bytes) -> bytes:
    """A WAV whose header says this, whatever follows."""
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    return (
        b"RIFF"
        + struct.pack("<I", claimed)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + (b"data" + struct.pack("<I", claimed) + data)
    )


def _mutated(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """The file cut at some place, with bytes turned over, and with a stretch of noise."""
    yield "cut", data[: chance.randrange(8, len(data) - 1)]
    turned = bytearray(data)
    for _ in range(20):
        turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
    yield "turned", bytes(turned)
    begin = chance.randrange(8, max(9, len(data) // 2))
    yield "noise", data[:begin] + chance.randbytes(64) + data[begin + 64 :]


def _images() -> dict[str, bytes]:
    row = b"\0" + bytes(3 * 64)
    compressed = zlib.compress(bytes(8 << 20))
    return {
        "size 0": png(0, 0, b""),
        "60000 x 60000": png(60_000, 60_000, row * 64),
        "2147483647 x 1": png(2**31 - 1, 1, row),
        "5000 x 5000": png(5000, 5000, row * 64),
        "10000 x 1": png(10_000, 1, row),
        "4000 x 3000, of which nothing comes": png(4000, 3000, row),
        "text that unpacks to 8 MB": png(64, 64, row * 64, (b"zTXt", b"a\0\0" + compressed)),
        "profile that unpacks to 8 MB": png(64, 64, row * 64, (b"iCCP", b"a\0\0" + compressed)),
        "magic alone": b"\x89PNG\r\n\x1a\n",
        "markup": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "page": b"<html><img src='http://127.0.0.1:1/'></html>",
        "GIF of 65535 x 65535": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";",
        "BMP of 2^31 x 2^31": b"BM" + struct.pack("<IIIIiiHH6I", 64, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6),
        "sound": sound(),
    }


def _sounds() -> dict[str, bytes]:
    data = bytes(3200)
    return {
        "rate 0": wave(0, 1, 16, 3200, data),
        "rate 2^31": wave(2**31, 1, 16, 3200, data),
        "65535 channels": wave(16_000, 65_535, 16, 3200, data),
        "no channel": wave(16_000, 0, 16, 3200, data),
        "4 GB that do not come": wave(16_000, 1, 16, 2**32 - 1, data),
        "bits 0": wave(16_000, 1, 0, 3200, data),
        "no sample": wave(16_000, 1, 16, 0, b""),
        "an hour by its header": wave(1, 1, 8, 3600, bytes(3600)),
        "magic alone": b"RIFF\0\0\0\0WAVE",
        "FLAC's magic": b"fLaC" + bytes(200),
        "OGG's magic": b"OggS" + bytes(200),
        "text": b"not a sound",
        "picture": picture(0),
    }


def _clips() -> dict[str, bytes]:
    good = clip()
    endless = struct.pack(">I", 2**32 - 1) + b"moov"
    return {
        "box of size 0": struct.pack(">I", 0) + b"ftypisom",
        "box of 4 GB": good[:32] + endless + good[40:],
        "a thousand boxes in each other": b"".join(struct.pack(">I", 8 * (1000 - n)) + b"moov" for n in range(1000)),
        "Matroska's magic": b"\x1a\x45\xdf\xa3" + bytes(500),
        "AVI's magic": b"RIFF\0\0\0\0AVI " + bytes(500),
        "header without frames": good[: len(good) // 3],
        "text": b"not a clip",
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        "list of files": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "picture": picture(0),
    }


def part_of(key: str, kind: str, data: bytes) -> Part:
    """A part of a message with a file."""
    return {"type": key, key: {"url": data_url(data, kind)}}


def good_media() -> list[Part]:
    """A part of each modality whose file is whole."""
    return [
        part_of("image_url", "image/png", picture(0)),
        part_of("audio_url", "audio/wav", sound()),
        part_of("video_url", "video/mp4", clip()),
    ]


def hostile_media(seed: int = 0) -> list[tuple[str, Part]]:
    """100 parts of messages with a file each, and what is wrong with it."""
    chance = random.Random(seed)
    found: list[tuple[str, Part]] = []

    def add(name: str, kind: str, key: str, data: bytes) -> None:
        found.append((name, part_of(key, kind, data)))

    pictures = {form: picture(1, form) for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP")}
    sounds = {form: sound(form) for form in ("WAV", "FLAC", "MP3")}
    makers: list[tuple[str, str, Callable[[], dict[str, bytes]], dict[str, bytes], int]] = [
        ("image_url", "image/png", _images, pictures, 2),
        ("audio_url", "audio/wav", _sounds, sounds, 2),
        ("video_url", "video/mp4", _clips, {"MP4": clip()}, 5),
    ]
    for key, kind, special, good, rounds in makers:
        for name, data in special().items():
            add(f"{key} {name}", kind, key, data)
        for number in range(rounds):
            for form, data in good.items():
                for name, mutated in _mutated(data, chance):
                    add(f"{key} {form} {name} {number}", kind, key, mutated)
    return found


def _asks(**words: Any) -> bytes:
    good = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    return json.dumps({**good, **words}).encode()


def _shows(url: str) -> bytes:
    return _asks(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])


POISON: dict[str, tuple[bytes, int]] = {
    "no JSON": (b'{"messages": [', 400),
    "no UTF-8": (b'{"messages": "\xff\xfe"}', 400),
    "a list": (b"[]", 400),
    "nested": (b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
    "another model": (_asks(model="gpt-9"), 404),
    "another role": (_asks(messages=[{"role": "robot", "content": "Hi"}]), 400),
    "a text of 400,000": (_asks(messages=[{"role": "user", "content": "ab " * 133_333}]), 400),
    "an unknown field that matters": (_asks(guided_choice=["a"]), 400),
    "a negative number": (_asks(max_tokens=-1), 400),
    "a schema that cannot be followed": (
        _asks(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}}),
        400,
    ),
    "an address": (_shows("http://127.0.0.1:1/x.png"), 400),
    "a file": (_shows("file:///etc/passwd"), 400),
    "no base64": (_shows("data:image/png;base64,***"), 400),
    "a picture cut off": (_shows(data_url(picture(0)[:200], "image/png")), 400),
    "a picture too large": (_shows(data_url(png(60_000, 60_000, b""), "image/png")), 400),
}
"""What is wrong -> body, and the status that it deserves."""
