"""Reading pictures: upright, RGB, checked before they are decoded, and every damage is one sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from mmllm.errors import MediaError
from mmllm.model.input_digests import settings
from mmllm.processors.image import FORMATS, ImageProcessor, centre, open_image, square_canvas


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_colours() -> Image.Image:
    """Left half red, right half blue, 40 x 20."""
    image = Image.new("RGB", (40, 20), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 20, 20))
    return image


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_from_bytes_and_file(kind: str, tmp_path: Path) -> None:
    data = encoded(two_colours(), kind)
    path = tmp_path / "picture"  # the content decides, not the name
    path.write_bytes(data)
    for media in (data, path, str(path)):
        image = open_image(media)
        assert image.mode == "RGB" and image.size == (40, 20)
        left, right = image.getpixel((4, 10)), image.getpixel((36, 10))
        assert left[0] > 240 and left[2] < 15 and right[0] < 15 and right[2] > 240


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded(two_colours(), "TIFF"), "it looks like TIFF; save it as one of them"),
        (encoded(two_colours(), "JPEG2000"), "it looks like JPEG 2000; save it as one of them"),
        (encoded(two_colours(), "AVIF"), "it looks like AVIF or HEIC; save it as one of them"),
        (b"<html>404</html>", "it looks like HTML or SVG"),
        (b"nothing known", "it is none, or damaged"),
        (b"", "it is empty"),
    ],
)
def test_other_formats_are_refused(data: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(data)
    for media in (data, path):
        with pytest.raises(MediaError, match=f"cannot be opened as one of PNG, JPEG, WEBP, GIF, BMP: {kind}"):
            open_image(media)


@pytest.mark.parametrize(("orientation", "red_at"), [(1, (4, 10)), (3, (36, 10)), (6, (10, 4)), (8, (10, 36))])
def test_exif_rotation_is_applied(orientation: int, red_at: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(two_colours(), "JPEG", exif=exif, quality=95))
    assert image.size == ((40, 20) if orientation in (1, 3) else (20, 40))
    assert image.getpixel(red_at)[0] > 240


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.putpixel((1, 1), (10, 20, 30, 255))
    palette = clear.quantize(4)
    for image in (
        open_image(encoded(clear)),
        open_image(encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))),
    ):
        assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((1, 1)) == (10, 20, 30)
    grey = Image.merge("LA", (Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 0)))
    assert open_image(encoded(grey)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled_not_clipped() -> None:
    values = numpy.array([[0, 32768], [65535, 256]], dtype="uint16")
    image = open_image(encoded(Image.fromarray(values)))
    assert [image.getpixel(p)[0] for p in ((0, 0), (1, 0), (0, 1), (1, 1))] == [0, 128, 255, 1]


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (
            encoded(Image.fromarray(numpy.full((4, 4), 2000, "uint16"))),
            "holds greys from 2000 to 2000, which say nothing",
        ),
        (Image.fromarray(numpy.full((4, 4), 0.5, "float32")), "holds greys from 0.5 to 0.5, which say nothing"),
        (Image.fromarray(numpy.full((4, 4), 70_000, "int32")), r"scale them to 0..65535 \(16 bits\) or 0..255"),
        (Image.new("L", (4, 4), 200).convert("I"), "holds greys from 200 to 200"),
    ],
)
def test_greys_of_unknown_range_are_no_black_pictures(picture: bytes | Image.Image, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence):
        open_image(picture)


def test_sixteen_bit_black_and_sixteen_bit_colours_are_read() -> None:
    assert open_image(encoded(Image.fromarray(numpy.zeros((4, 4), "uint16")))).getpixel((0, 0)) == (0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n"
    body = zlib.compress(b"\0" + struct.pack(">3H", 65535, 32768, 0))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    png = head + chunk(b"IHDR", struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert open_image(png).getpixel((0, 0)) == (255, 128, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert open_image(Image.new("RGB", (6, 4), "white").convert(mode)).getpixel((2, 2)) == (255, 255, 255)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    header = bytearray(encoded(Image.new("L", (10, 10)), "BMP"))
    header[18:26] = (30_000).to_bytes(4, "little") * 2  # claims 900 million pixels, holds none of them
    with pytest.raises(MediaError, match="too many pixels"):
        open_image(bytes(header))
    with pytest.raises(MediaError, match="has 40 x 20 pixels; at most 799 are read"):
        open_image(encoded(two_colours()), max_pixels=799)
    assert open_image(encoded(two_colours()), max_pixels=800).size == (40, 20)
    with pytest.raises(MediaError, match="at most 799 are read"):
        open_image(two_colours(), max_pixels=799)


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_off_files_are_media_errors(kind: str, tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8")
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "cut"
    for part in (10, len(data) // 2):
        path.write_bytes(data[:part])
        with pytest.raises(MediaError, match="cut"):
            open_image(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for media in (tmp_path / "no.png", tmp_path):
        with pytest.raises(MediaError, match="does not exist"):
            open_image(media)


def test_canvas_and_centre_keep_the_shape_asked_for() -> None:
    image = two_colours()
    canvas = square_canvas(image, (10, 10), (1, 2, 3))
    assert canvas.size == (40, 40)
    assert canvas.getpixel((0, 0)) == (1, 2, 3) and canvas.getpixel((0, 10)) == (255, 0, 0)
    middle = centre(image, (10, 10))
    assert middle.size == (20, 20)
    assert middle.getpixel((0, 0)) == (255, 0, 0) and middle.getpixel((19, 0)) == (0, 0, 255)
    assert square_canvas(image, (10, 20), (0, 0, 0)).size == centre(image, (10, 20)).size == (40, 20)


@pytest.mark.skipif("MMLLM_TEST_DATA" not in os.environ, reason="MMLLM_TEST_DATA names no folder of real pictures")
@pytest.mark.parametrize("kind", ["chartqa", "funsd", "sroie", "easy_vqa", "images_misc"])
def test_real_pictures_are_read_whole(kind: str) -> None:
    paths = sorted(p for p in Path(os.environ["MMLLM_TEST_DATA"], kind).rglob("*") if p.suffix in (".png", ".jpg"))
    assert paths
    for path in paths[:: max(1, len(paths) // 10)]:
        with Image.open(path) as raw:
            expected = raw.size
        image = open_image(path)
        assert image.mode == "RGB" and image.size == expected
        assert numpy.asarray(image).std() > 1  # a picture, not one colour


def test_a_draft_is_decoded_small_shows_the_same_and_is_of_the_digest() -> None:
    photo = Image.effect_mandelbrot((1920, 1080), (-2, -1.2, 1, 1.2), 60).convert("RGB")
    data = encoded(photo, "JPEG", quality=90)
    assert open_image(data, draft=448).size == (960, 540) and open_image(data, draft=2000).size == (1920, 1080)
    assert open_image(encoded(photo), draft=448).size == (1920, 1080)
    with pytest.raises(MediaError, match="has 1920 x 1080 pixels"):  # the picture's own, not the draft's
        open_image(data, max_pixels=1_000_000, draft=448)

    def small(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(numpy.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)).copy()).float()

    whole, draft = (ImageProcessor(small, size=(224, 224), patch=(14, 14), draft=draft) for draft in (False, True))
    off = (whole.read(data)["pixels"] - draft.read(data)["pixels"]).abs()
    assert 0 < off.mean() < 3
    assert "draft" not in settings(whole) and settings(draft)["draft"] is True
