"""Images of requests: what is decoded, and that everything else is refused in one sentence before it costs anything."""

from __future__ import annotations

import io
import re
import resource
import struct
import time
import zlib

import pytest
from PIL import Image

from mmllm.errors import MediaError
from mmllm.serving.media import Limits, decode_url, open_path, read_images
from tests.support.serving import data_url, file_bytes, picture

LIMITS = Limits(max_images=3, max_pixels=10_000, max_request_pixels=15_000, max_body=1_000_000)
LEAK = re.compile(r"0x[0-9a-f]+|/usr|/home|/tmp|Error|PIL|object at", re.IGNORECASE)


def bomb(width: int, height: int) -> bytes:
    """A small PNG of many black pixels."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + width * 3)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def piece(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = piece(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + piece(b"IDAT", data) + piece(b"IEND", b"")


def refused(*urls: str, limits: Limits = LIMITS) -> str:
    with pytest.raises(MediaError) as caught:
        read_images(urls, limits)
    sentence = str(caught.value)
    assert not LEAK.search(sentence), sentence
    assert len(sentence) < 300
    return sentence


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_each_format_is_decoded_to_the_same_picture(form: str) -> None:
    (image,) = read_images([data_url(file_bytes(picture("red"), form), f"image/{form.lower()}")], LIMITS)
    red, green, blue = image.convert("RGB").getpixel((20, 15))
    assert image.size == (40, 30) and red > 240 and green < 15 and blue < 15


def test_order_mode_and_rotation_are_kept() -> None:
    turned = Image.new("RGB", (20, 10), "blue")
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif)
    grey = file_bytes(Image.new("L", (5, 5), 7))
    images = read_images([data_url(grey), data_url(buffer.getvalue(), "image/jpeg")], LIMITS)
    assert [image.mode for image in images] == ["L", "RGB"]
    assert images[1].getexif()[0x0112] == 6


def test_the_type_a_client_claims_does_not_matter() -> None:
    (image,) = read_images([data_url(file_bytes(picture(), "BMP"), "image/png")], LIMITS)
    assert image.format == "BMP"


def test_base64_may_be_broken_into_lines() -> None:
    head, _, text = data_url(file_bytes(picture())).partition(",")
    assert decode_url(head + "," + "\r\n".join(text[i : i + 60] for i in range(0, len(text), 60)), "x", 10**6)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/cat.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://example.com/cat.png",
        "",
        " data:image/png;base64,AAAA",
    ],
)
def test_nothing_is_fetched_or_opened(url: str) -> None:
    sentence = refused(url)
    assert "not a data URL" in sentence and "data:image/png;base64" in sentence
    assert "passwd" not in sentence and "169.254" not in sentence


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64", "malformed"),
        ("data:text/html;base64,PGI+", "malformed"),
        ("data:image/png,abc", "malformed"),
        ("data:,abc", "malformed"),
        ("data:image/png;base64,@@@@", "not valid base64"),
        ("data:image/png;base64,AAA", "not valid base64"),
        ("data:image/png;base64,\u00e9\u00e9\u00e9\u00e9", "not valid base64"),
        ("data:image/png;base64,", "is empty"),
        (data_url(b"GIF89a"), "could not be read"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "could not be read"),
        (data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"), "could not be read"),
        (data_url(file_bytes(picture(), "TIFF")), "could not be read"),
        (data_url(file_bytes(picture(size=(90, 90)))[:90]), "damaged"),
    ],
)
def test_malformed_images(url: str, words: str) -> None:
    assert words in refused(url)


def test_the_image_at_fault_is_named_by_its_number() -> None:
    assert refused(data_url(file_bytes(picture())), data_url(b"nothing")).startswith("Image 2 ")


def test_truncated_and_flipped_files_never_escape_as_other_errors() -> None:
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        whole = file_bytes(Image.effect_noise((40, 30), 60).convert("RGB"), form)
        for cut in range(0, len(whole), max(1, len(whole) // 25)):
            damaged = whole[:cut] + bytes([whole[cut] ^ 0x5A]) + whole[cut + 1 :]
            for data in (whole[:cut], damaged):
                try:
                    read_images([data_url(data)], LIMITS)
                except MediaError as error:
                    assert not LEAK.search(str(error)), error


def test_limits_on_count_bytes_and_pixels() -> None:
    url = data_url(file_bytes(picture()))
    assert "4 images were sent" in refused(url, url, url, url)
    assert "larger than 20 bytes" in refused(url, limits=Limits(max_body=20))
    assert "200 x 60 pixels; at most 10000" in refused(data_url(file_bytes(picture(size=(200, 60)))))
    large = data_url(file_bytes(picture(size=(100, 90))))
    assert "first 2 images hold 18000 pixels" in refused(large, large)
    assert "more than 200 times" in refused(data_url(file_bytes(picture(size=(1, 4000)))))
    assert read_images([data_url(file_bytes(picture(size=(1, 1))))], LIMITS)[0].size == (1, 1)


@pytest.mark.parametrize("side", [6000, 9600, 14000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    url = data_url(bomb(side, side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    assert "pixels" in refused(url, limits=Limits())
    assert time.monotonic() - started < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # kB


def test_a_path_of_the_user_at_the_terminal(tmp_path) -> None:  # type: ignore[no-untyped-def]
    good = tmp_path / "red square.png"
    good.write_bytes(file_bytes(picture()))
    assert open_path(good, LIMITS).size == (40, 30)
    with pytest.raises(MediaError, match="not a file"):
        open_path(tmp_path / "absent.png", LIMITS)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(MediaError, match=r"notes\.txt could not be read"):
        open_path(text, LIMITS)


def test_a_picture_of_5000_x_5000_costs_its_header() -> None:
    url = data_url(file_bytes(Image.new("1", (5000, 5000))))
    begun = time.process_time()
    with pytest.raises(MediaError, match="holds 5000 x 5000 pixels; at most 12582912 are decoded"):
        read_images([url], Limits())
    assert time.process_time() - begun < 0.1
    read_images([data_url(file_bytes(Image.new("1", (4032, 3024))))], Limits())  # of a phone
