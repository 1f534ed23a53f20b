"""One placeholder's way from media to tokens: the processors of its encoders, and how many tokens its connector gives.

The loader and the server read media with it on the CPU; nothing here runs an encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from mmllm.connectors.base import DeepFusion, Projector
from mmllm.connectors.stitching import Stitch
from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError, RecipeError
from mmllm.features.encoder_cache import EncoderCache
from mmllm.model.item_text import ItemText
from mmllm.processors.native.clips import ClipProcessor
from mmllm.processors.native.tiles import NativeTilesProcessor
from mmllm.processors.tiles import TilesProcessor
from mmllm.processors.video import VideoProcessor
from mmllm.recipe.item_texts import TileText
from mmllm.types import QUESTION, Among, Cut, Grid, Place, QuestionReader, Span, Stored, Tiling, time_steps

_WHOLE = ""
"""Key of an item, which no encoder has, under which stands what its places depend on beside its features' shape."""
_CLIPS = (VideoProcessor, ClipProcessor)
"""Processors that take frames out of files."""
Item = dict[str, dict[str, torch.Tensor]]
"""Encoder key -> tensors of one item without batch axis, as its processor's ``read`` gives them."""


class Input:
    """Input behind ``<key>``: an item goes through its encoders, their features to its connector."""

    def __init__(
        self,
        key: str,
        encoders: Mapping[str, Encoder],
        connector: Projector | DeepFusion,
        text: ItemText | None = None,
    ) -> None:
        """Set up.

        Args:
            key: of the connector: the placeholder is ``<key>``.
            encoders: key -> encoder, in the order in which the connector takes their features.
            connector: which takes them.
            text: of the LLM that belongs to an item (default: none).

        Raises:
            RecipeError: text tells how long what is no clip lasts, there is text between tiles, or they are to be
                stitched, and no encoder cuts pictures; class tokens in front of patches for a connector that needs a
                map; or `attends`, and no tokens.
        """
        self.key = key
        self.encoders = dict(encoders)
        self.processors = {name: encoder.processor for name, encoder in encoders.items()}
        self.connector = connector
        self.text = ItemText() if text is None else text
        self.stitch = None if isinstance(connector, DeepFusion) else connector.stitch
        cutting = {name: one for name, one in self.processors.items() if isinstance(one, TilesProcessor)}
        native = [name for name, one in self.processors.items() if isinstance(one, NativeTilesProcessor)]
        if native:
            _check_native(key, native[0], connector, self.stitch, len(self.processors))
        if self.text.tiles is not None and not cutting and not native:
            raise RecipeError(
                f"connectors.{key}: `tiles` is text between tiles, and its encoder cuts no pictures; give it one of "
                "type tiles, or remove the word"
            )
        if self.stitch is not None:
            _check_stitch(key, self.stitch, self.text, list(cutting.values()))
        if self.text.steps is not None and self.text.steps.tells_duration and self.modality != "video":
            raise RecipeError(
                f"connectors.{key}.steps: {{duration}} is a clip's, and its encoder reads none; remove it"
            )
        extra = [name for name, one in self.processors.items() if one.extra_tokens]
        if extra and not connector.takes_class_tokens:
            raise RecipeError(
                f"connectors.{key}: {type(connector).__name__} works on a map of patches, and encoders.{extra[0]} "
                "gives tokens in front of them as well (keep: all); leave `keep` out, or use mlp, resampler or qformer"
            )
        if extra and self.stitch is not None:
            raise RecipeError(
                f"connectors.{key}: `stitch` puts maps of patches together, and encoders.{extra[0]} gives tokens in "
                "front of them as well (keep: all); leave `keep` or `stitch` out"
            )
        self._cutting = next(iter([*native, *cutting]), "")
        laid_out = self.text.tiles is not None or self.stitch is not None
        self._cutter: TilesProcessor | NativeTilesProcessor | None = None
        if native or (laid_out and cutting):
            self._cutter = self.processors[self._cutting]  # type: ignore[assignment]
        if self.text.bidirectional and self.n_tokens() == 0:
            raise RecipeError(
                f"connectors.{key}: `attends` is about the tokens of an item, and {type(connector).__name__} puts none "
                "into the text; remove the word"
            )
        self.caches: dict[str, EncoderCache] = {}
        """Encoder key -> its kept features; of the others media are read and features computed each time."""

    @property
    def modality(self) -> str:
        """Kind of media it takes; all its encoders read the same kind."""
        return next(iter(self.processors.values())).modality

    @property
    def minds_others(self) -> bool:
        """Whether an item is read differently beside others of its conversation."""
        return any(processor.minds_others for processor in self.processors.values())

    @property
    def place(self) -> Place:
        """How the LLM reads that an item stands somewhere."""
        text = self.text
        return Place(self.key, text.token, self.modality, text.around, text.bidirectional, text.fronted)

    @property
    def questions(self) -> QuestionReader | None:
        """Reads the text of the message that shows an item, where the connector asks for it."""
        return self.connector.questions

    def read(self, media: Any) -> Item:
        """Decode one item (path, bytes, PIL image); MediaError where it cannot be read."""
        found = loaded(media)
        with _named(media):
            item = {name: (self.caches.get(name) or one).read(one.told(found)) for name, one in self.processors.items()}
        return self._with_whole(found, item)

    def measure(self, media: Any) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Find what ``layout`` needs of an item, as cheaply as its kind allows; MediaError as
        ``read``."""
        found = loaded(media)
        with _named(media):
            item = {
                name: (self.caches.get(name) or one).measure(one.told(found)) for name, one in self.processors.items()
            }
        return self._with_whole(found, item)

    def _with_whole(self, media: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item, and of its file what its places depend on and the shape of kept features does not tell: how a
        picture is cut, how long a clip lasts."""
        if self.text.steps is not None and self.text.steps.tells_duration:
            reading = next(one.reading for one in self.processors.values() if isinstance(one, _CLIPS))
            return {**item, _WHOLE: {"lasts": torch.tensor(reading.lasts(media), dtype=torch.float64)}}
        if self._cutter is None:
            return dict(item)
        return {**item, _WHOLE: {"cut": torch.tensor(self._cutter.cut(self._cutter.told(media)).numbers())}}

    def n_tokens(self) -> int | None:
        """Places that every item takes, with its separators, whatever it shows; None where that depends on the item."""
        # text inside an item takes places of its own, as many as its letters need: then only the item tells
        grids = [processor.fixed_grid() for processor in self.processors.values()]
        fixed = [grid for grid in grids if grid is not None]
        plain = self.text.times is None and self.text.steps is None and self.text.rows is None
        known = len(fixed) == len(grids) and plain
        return self.connector.n_tokens(*fixed) + (self.stitch is not None) if known else None

    def layout(self, item: Mapping[str, Mapping[str, torch.Tensor]]) -> list[Span]:
        """Spans that the item's tokens fill: one, or with ``times`` or ``steps`` one for each step in time, with
        ``rows`` one for each row, with ``stitch`` its view of all and its map, and what ends it.

        Raises:
            MediaError: the item has no times, or no rows.
        """
        sources = {name: self.caches.get(name) or one for name, one in self.processors.items()}
        # an item of tensors alone, as a blank one is, holds it as well
        cut = Cut.of(item.get(_WHOLE, item[self._cutting])["cut"].tolist()) if self._cutter is not None else None
        if cut is not None and isinstance(self._cutter, NativeTilesProcessor):
            pictures = [self.connector.out_grid(grid) for grid in self._cutter.pictures(cut)]
            return _between_tiles(self.text.tiles or TileText(), cut.tiling, pictures)
        grids = [source.grid(item[name]) for name, source in sources.items()]
        grid = self.connector.out_grid(*grids)
        if cut is not None:
            if self.stitch is not None:
                return [Span("", one) for one in self.stitch.grids(grid, cut)]
            assert self.text.tiles is not None
            if time_steps(grid) != cut.tiling.n:
                raise MediaError(
                    f"its connector gives a grid of {grid} for {cut.tiling.n} tiles, and text stands between tiles; "
                    "leave `tiles` out, or use a connector that keeps them apart"
                )
            return _between_tiles(self.text.tiles, cut.tiling, [(1, *grid[1:])] * cut.tiling.n)
        if self.text.rows is not None:
            return _between_rows(self.text.rows, grid)
        steps = time_steps(grid)
        timed = self.text.times is not None or self.text.steps is not None
        if not timed and steps == 1:
            return self._ended([Span("", grid)])
        known = [source.seconds(item[name]) for name, source in sources.items()]
        seconds = next((one for one in known if one is not None), None)
        if not timed:
            return self._ended([Span("", grid, interval=_interval(seconds, steps))])
        if seconds is None:
            word = "times" if self.text.steps is None else "steps"
            raise MediaError(f"its connector has `{word}`, but its encoder knows no times; remove the word")
        size = len(seconds) / steps  # of a part: the time of its first frame is shown
        lasts = float(item[_WHOLE]["lasts"]) if _WHOLE in item else 0.0  # a blank item has no file
        return _at_steps(self.text, [seconds[int(n * size)] for n in range(steps)], grid, lasts)

    def _ended(self, spans: list[Span]) -> list[Span]:
        """The spans of an item that is not cut, with the newline behind it where there is one."""
        return spans if self.stitch is None else [*spans, Span("", (1,))]

    def collate(self, items: Sequence[Item]) -> Item:
        """Encoder key -> inputs of N items with the batch axis, as ``MultimodalLM.encode`` takes them."""
        sources = {name: self.caches.get(name) or one for name, one in self.processors.items()}
        found = {name: source.collate([item[name] for item in items]) for name, source in sources.items()}
        asked = {} if self.questions is None else {QUESTION: self.questions.collate([item[QUESTION] for item in items])}
        return {**found, **asked}

    def read_alone(self, media: Any) -> Item:
        """Inputs of one item with the batch axis, as ``encoder.forward`` takes them, whatever is kept of it."""
        found = loaded(media)
        return {name: one.collate([one.read(found)]) for name, one in self.processors.items()}

    def blank(self) -> Item:
        """Inputs of one blank item with the batch axis: what a rank without media runs."""
        blanks = {name: one.collate([one.blank()]) for name, one in self.processors.items()}
        found = {
            name: self.caches[name].marked_blank(blank) if name in self.caches else blank
            for name, blank in blanks.items()
        }
        asked = {} if self.questions is None else {QUESTION: self.questions.collate([self.questions.blank()])}
        return {**found, **asked}


def _interval(seconds: Sequence[float] | None, steps: int) -> float | None:
    """Seconds from one step in time to the next, of frames at these times; None where that is not known."""
    if seconds is None or len(seconds) < 2:
        return None
    return (seconds[-1] - seconds[0]) / (len(seconds) - 1) * (len(seconds) / steps)


def _at_steps(text: ItemText, times: Sequence[float], grid: Grid, lasts: float) -> list[Span]:
    """A span for each step in time, of a grid whose first axis is time where there are several."""
    own = grid if len(times) == 1 else (1, *grid[1:])
    if text.steps is not None:
        return [Span(before, own, True) for before in text.steps.filled(times, lasts)]
    assert text.times is not None
    return [Span(text.times.format(n=number + 1, s=s), own) for number, s in enumerate(times)]


def _between_tiles(text: TileText, tiling: Tiling, grids: Sequence[Grid]) -> list[Span]:
    """A span for each tile of a picture, and one for the view of all of it; ``grids``: of their tokens, in order."""
    if tiling.n == 1:
        return [Span(text.alone, grids[0], True)]
    tiles = grids[1:] if tiling.first else grids
    found = [Span(text.whole, grids[0], True)] if tiling.first else []
    end = text.viewed if tiling.first else ""
    for number in range(tiling.rows * tiling.cols):
        row, col = divmod(number, tiling.cols)
        found.append(Span(end + text.tile.format(row=row + 1, col=col + 1, n=number + 1), tiles[number], True))
        end = text.row if col == tiling.cols - 1 else text.col
    if tiling.whole and not tiling.first:
        found.append(Span(end + text.whole, grids[-1], True))
    return [replace(found[0], front=text.front), *found[1:]]


def _check_native(
    key: str, encoder: str, connector: Projector | DeepFusion, stitch: Stitch | None, n_encoders: int
) -> None:
    """RecipeError where tiles beside a view of another shape cannot be taken: each is projected as it is."""
    why = None
    if stitch is not None:
        why = "`stitch` makes one map of tiles and a view of one size; remove the word"
    elif isinstance(connector, DeepFusion):
        why = f"{type(connector).__name__} reads items as a whole; leave `tiles` out of the encoder"
    elif connector.reads_text or connector.questions is not None:
        why = f"{type(connector).__name__} reads the text around an item beside it; leave `tiles` out of the encoder"
    elif n_encoders > 1:
        why = "another encoder sees no tiles; give the connector this encoder alone"
    if why is not None:
        raise RecipeError(f"connectors.{key}: encoders.{encoder} cuts pictures beside a view of their shape, and {why}")


def _check_stitch(key: str, stitch: Stitch, text: ItemText, cutting: Sequence[TilesProcessor]) -> None:
    """RecipeError where tiles cannot be put together so."""
    why = None
    within = [text.tiles, text.times, text.steps, text.rows]
    if not cutting and not stitch.ends_alone:
        why = (
            "puts tiles together, and its encoder cuts no pictures; give it one of type tiles, remove the word, or "
            "write {newline: end, unpad: false} for a newline behind every item"
        )
    elif stitch.kind == "marks" and not all(one.marks_view for one in cutting):
        why = f"marks the view of all of a picture in front of its tiles, and rule: {cutting[0].rule} has none there; "
        why += "write rule: covering in the encoder"
    elif any(one is not None for one in within):
        why = (
            "makes one map of all tiles, and text cannot stand in it; remove `tiles`, `rows`, `times` and `steps`, or "
            "`stitch`"
        )
    elif stitch.unpad and not cutting[0].pads:
        why = (
            f"cuts borders off again (unpad), and rule: {cutting[0].rule} adds none; write unpad: false, or rule: "
            "resolutions in the encoder"
        )
    if why is not None:
        raise RecipeError(f"connectors.{key}: `stitch` {why}")


def _between_rows(text: str, grid: Grid) -> list[Span]:
    """A span for each row of a picture, ``text`` between them; MediaError where its tokens are in no rows."""
    if len(grid) != 2:
        raise MediaError(
            f"its connector gives a grid of {grid}, and `rows` is text between rows of tokens; leave it out, or use a "
            "connector that keeps rows and columns"
        )
    return [Span(text if row else "", (1, grid[1]), True) for row in range(grid[0])]


@contextmanager
def _named(media: Any) -> Iterator[None]:
    """MediaError where the system refuses a path: one longer than its names, a folder that may not be entered."""
    try:
        yield
    except OSError as error:
        raise MediaError(f"{str(media)[:80]} cannot be opened ({error.strerror or error}).") from error


def loaded(media: Any) -> Any:
    """Return the item itself where it lies inside a larger file; all else as it is."""
    if isinstance(media, Among):
        return Among(loaded(media.item))
    return media.load() if isinstance(media, Stored) else media
