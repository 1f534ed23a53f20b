"""Media items as an encoder gets them: fitted pictures, frames with times, windows of sound, graphs, points, documents.

``rows.py`` asks for them with what the processors read; an encoder of another package is described by its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmllm.drawing import plots
from mmllm.drawing.waveform import blocks
from mmllm.errors import MediaError
from mmllm.inspection.pictures import denormalised
from mmllm.model.inputs import loaded
from mmllm.processors.audio import AudioProcessor
from mmllm.processors.base import Item, Processor
from mmllm.processors.canvas import CanvasProcessor
from mmllm.processors.document import DocumentProcessor
from mmllm.processors.graph import GraphProcessor
from mmllm.processors.image import ImageProcessor
from mmllm.processors.native.clips import ClipProcessor
from mmllm.processors.native.processor import NativeProcessor
from mmllm.processors.native.tiles import NativeTilesProcessor
from mmllm.processors.points import FIXED_POINT, PointsProcessor
from mmllm.processors.sound_files import read_sound
from mmllm.processors.tiles import TilesProcessor, size_of
from mmllm.processors.video import VideoProcessor
from mmllm.processors.waveform import WaveformProcessor
from mmllm.types import Cut, Tiling

FRAMES = 16
"""Most frames shown of a clip, evenly chosen."""
NODES = 60
"""Most nodes drawn of a graph: the first, which lie nearest to the node it is about."""
LETTERS = 600
"""Most letters shown of a document, and of the texts of a graph's nodes."""


@dataclass(frozen=True)
class View:
    """One item as one encoder gets it."""

    title: str
    """What it is: ``<image> 1 for clip``."""
    facts: str
    """Sizes and counts in one line."""
    pictures: tuple[tuple[str, Image.Image], ...] = ()
    """Pairs of a caption (the time of a frame) and a picture."""
    text: str = ""
    """Text to read: a waveform in characters, texts of nodes, the beginning of a document."""


def view(title: str, processor: Processor, media: Any, item: Item) -> View:
    """Return the view of an item that ``processor`` read as ``item``; ``media`` is what the row holds."""
    grid = processor.grid(item)
    shape = " x ".join(map(str, grid))
    tokens = f"{shape} tokens of the encoder" if len(grid) == 1 else f"{shape} = {prod(grid)} tokens of the encoder"
    try:
        facts, pictures, text = _shown(processor, loaded(media), item)
    except MediaError as error:
        facts, pictures, text = str(error).rstrip("."), (), ""
    return View(title, f"{facts}; {tokens}", pictures, text)


Shown = tuple[str, tuple[tuple[str, Image.Image], ...], str]
"""Facts, captioned pictures, text."""


def _shown(processor: Processor, media: Any, item: Item) -> Shown:
    match processor:
        case ImageProcessor():
            return _image(processor, item)
        case TilesProcessor():
            return _tiles(processor, item)
        case NativeTilesProcessor():
            return _native_tiles(processor, item)
        case NativeProcessor():
            return _native(processor, item)
        case CanvasProcessor():
            return _canvas(processor, media, item)
        case VideoProcessor():
            return _video(processor, item)
        case ClipProcessor():
            return _clip(processor, item)
        case AudioProcessor():
            return _audio(processor, media, item)
        case WaveformProcessor():
            return _waveform(item, processor)
        case GraphProcessor():
            return _graph(processor, media, item)
        case PointsProcessor():
            return _points(item)
        case DocumentProcessor():
            return _document(processor, item)
    return _tensors(item)


def _image(processor: ImageProcessor, item: Item) -> Shown:
    picture = denormalised(processor, item["pixels"])
    return f"{picture.width} x {picture.height} pixels after fitting", (("", picture),), ""


def _tiles(processor: TilesProcessor, item: Item) -> Shown:
    tiling = Cut.of(item["cut"].tolist()).tiling
    pixels = zip(_tile_names(tiling), item["pixels"], strict=True)
    shown = [(name, denormalised(processor.image, one)) for name, one in pixels]
    height, width = item["pixels"].shape[-2:]
    cut = f"{tiling.rows} x {tiling.cols} tiles and all of it" if tiling.whole else "in one piece"
    more = f", {FRAMES} of them shown" if len(shown) > FRAMES else ""
    some = shown[:FRAMES] if tiling.first else shown[-FRAMES:]
    return f"{cut}, each {width} x {height} pixels{more}", tuple(some), ""


def _native_tiles(processor: NativeTilesProcessor, item: Item) -> Shown:
    tiling = Cut.of(item["cut"].tolist()).tiling
    pixels = zip(_tile_names(tiling), processor.pixels(item), strict=True)
    shown = [(name, denormalised(processor, one)) for name, one in pixels]
    sizes = " and ".join(dict.fromkeys(f"{one.width} x {one.height}" for _, one in shown))
    cut = f"{tiling.rows} x {tiling.cols} tiles and all of it" if tiling.whole else "in one piece"
    more = f", {FRAMES} of them shown" if len(shown) > FRAMES else ""
    return f"{cut}, {sizes} pixels{more}", tuple(shown[-FRAMES:]), ""


def _tile_names(tiling: Tiling) -> list[str]:
    """Captions of a picture's tiles and of the view of all of it, in the order in which the encoder sees them."""
    names = [f"row {row + 1}, column {col + 1}" for row in range(tiling.rows) for col in range(tiling.cols)]
    names = [*names, "all of it"] if tiling.whole else ["all of it"]
    return names[-1:] + names[:-1] if tiling.first else names


def _native(processor: NativeProcessor, item: Item) -> Shown:
    grid = processor.grid(item)
    pixels = processor.patching.pixels(item["patches"], grid)
    height, width = pixels.shape[-2:]
    picture = denormalised(processor, pixels)
    return f"{width} x {height} pixels in {' x '.join(map(str, grid))} patches", (("", picture),), ""


def _canvas(processor: CanvasProcessor, media: Any, item: Item) -> Shown:
    canvas = processor.canvas(*size_of(media, processor.max_pixels))
    names = [f"row {row + 1}, column {col + 1}" for row in range(canvas.rows) for col in range(canvas.cols)]
    shown = [(name, denormalised(processor.image, one)) for name, one in zip(names, item["pixels"], strict=False)]
    height, width = item["pixels"].shape[-2:]
    empty = len(item["pixels"]) - canvas.n
    rest = f", and {empty} empty" if empty else ""
    return f"{canvas.rows} x {canvas.cols} tiles{rest}, each {width} x {height} pixels", tuple(shown), ""


def _video(processor: VideoProcessor, item: Item) -> Shown:
    times = [float(time) for time in item["times"]]
    chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), FRAMES)).round().astype(int))
    frames = [(f"{times[n]:.2f} s", denormalised(processor.image, item["pixels"][n])) for n in chosen.tolist()]
    height, width = item["pixels"].shape[-2:]
    fewer = f", {len(frames)} of them shown" if len(frames) < len(times) else ""
    return (
        f"{len(times)} frames of {width} x {height} pixels, {times[0]:.2f} to {times[-1]:.2f} s{fewer}",
        (*frames,),
        "",
    )


def _clip(processor: ClipProcessor, item: Item) -> Shown:
    times = processor.seconds(item)
    chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), FRAMES)).round().astype(int)).tolist()
    shown = (processor.patching.shown(item["patches"], processor.grid(item)) * 255).round().to(torch.uint8)
    frames = [(f"{times[n]:.2f} s", Image.fromarray(shown[n].permute(1, 2, 0).numpy())) for n in chosen]
    height, width = shown.shape[-2:]
    lasting = f"{len(times)} steps of {processor.patching.steps} frames of {width} x {height} pixels"
    fewer = f", {len(frames)} of them shown" if len(frames) < len(times) else ""
    return f"{lasting}, {times[0]:.2f} to {times[-1]:.2f} s{fewer}", (*frames,), ""


def _audio(processor: AudioProcessor, media: Any, item: Item) -> Shown:
    rate = processor.front_end.rate
    samples = read_sound(media, rate, processor.max_seconds, processor.timeout)
    lengths = processor.lengths(len(samples))
    borders = np.cumsum(lengths)[:-1] / rate
    windows = "1 window" if len(lengths) == 1 else f"{len(lengths)} windows"
    inputs = " x ".join(map(str, item["windows"].shape[1:]))
    facts = f"{len(samples) / rate:.2f} s at {rate:,} Hz in {windows} of {inputs} numbers"
    return facts, (("", plots.sound(samples, rate, borders.tolist())),), blocks(samples)


def _waveform(item: Item, processor: WaveformProcessor) -> Shown:
    length = int(item["samples"])
    samples = item["frames"].flatten()[:length].numpy()
    frames = f"{len(item['frames'])} frames of {processor.samples:,} samples"
    facts = f"{length / processor.rate:.2f} s at {processor.rate:,} Hz in {frames}"
    return facts, (("", plots.sound(samples, processor.rate, [])),), blocks(samples)


def _graph(processor: GraphProcessor, media: Any, item: Item) -> Shown:
    graph, _ = processor.open(media)
    nodes = item["nodes"].tolist()
    labels = [str(number) if graph.texts is None else graph.texts[number] for number in nodes]
    edges = item["edges"].numpy().T
    pairs = np.unique(np.sort(edges, axis=1), axis=0)
    drawn = min(len(nodes), NODES)
    centre = int(item["target"])
    about = f", about node {nodes[centre]}" if centre >= 0 else ""
    fewer = f"; the first {drawn} are drawn" if drawn < len(nodes) else ""
    facts = f"{len(nodes)} of {graph.n_nodes} nodes, {len(pairs)} edges{about}{fewer}"
    inside = pairs[(pairs < drawn).all(axis=1)]
    picture = plots.graph(drawn, inside, labels[:drawn], centre if 0 <= centre < drawn else None)
    return facts, (("", picture),), _cut("; ".join(labels))


def _points(item: Item) -> Shown:
    cloud = item["points"].float().numpy() / FIXED_POINT
    return f"{len(cloud)} points on the unit sphere's scale", (("", plots.points(cloud)),), ""


def _document(processor: DocumentProcessor, item: Item) -> Shown:
    text = processor.tokenizer.loaded.decode(item["ids"].tolist())
    return f"{len(text.split())} words, {len(text)} letters", (), _cut(text)


def _tensors(item: Mapping[str, Any]) -> Shown:
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in item.items())
    return f"tensors {shapes}; its encoder is of another package, so they are not drawn", (), ""


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
