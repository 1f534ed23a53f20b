"""Pictures in a terminal in half blocks: two pixels per character, or shades of characters without colour.

Used by the terminal chat and by the demo, so that a user sees what the model is asked about.
"""

from __future__ import annotations

from PIL import Image, ImageOps
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

SHADES = " .:-=+*#%@"
"""Characters from dark to light, for terminals and files without colour."""


def draw(image: Image.Image, width: int = 40) -> Picture:
    """Return a rich renderable of ``image``, at most ``width`` characters wide (never wider than the terminal)."""
    if width < 1:
        raise ValueError(f"width is {width}; a picture is at least 1 character wide")
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return Picture(upright.convert("RGB"), width)


class Picture:
    """A picture that is drawn anew for each console that prints it."""

    def __init__(self, image: Image.Image, width: int) -> None:
        self.image = image
        self.width = width

    def size(self, available: int) -> tuple[int, int]:
        """Return characters per line and lines; a character is about twice as high as wide."""
        columns = max(1, min(self.width, available))
        return columns, max(1, round(columns * self.image.height / self.image.width / 2))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, lines = self.size(options.max_width)
        if console.color_system is None:
            yield from self._shaded(columns, lines)
            return
        pixels = self.image.resize((columns, 2 * lines), Image.Resampling.BOX).tobytes()
        for line in range(lines):
            for column in range(columns):
                starts = (3 * (columns * (2 * line + half) + column) for half in (0, 1))
                upper, lower = (Color.from_rgb(*pixels[start : start + 3]) for start in starts)
                # the upper half block: its colour is the pixel above, its background the one below
                yield Segment("\u2580", Style(color=upper, bgcolor=lower))
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        columns, _ = self.size(options.max_width)
        return Measurement(columns, columns)

    def _shaded(self, columns: int, lines: int) -> RenderResult:
        grey = self.image.convert("L").resize((columns, lines), Image.Resampling.BOX)
        values = list(grey.tobytes())
        for line in range(lines):
            row = values[line * columns : (line + 1) * columns]
            yield Segment("".join(SHADES[value * len(SHADES) // 256] for value in row))
            yield Segment.line()
