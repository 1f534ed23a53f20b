"""Previews of media as the model is shown them: frames with times, waveforms, drawings of graphs and points.

The chat page asks ``POST /preview`` for it and the terminal chat asks directly. The server draws, not the page, so that
a hostile file meets only what reads it for the model (video is decoded in a process that can be ended) and the page
stays a client of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict

from mmllm.drawing.data_url import data_url
from mmllm.drawing.waveform import blocks
from mmllm.errors import MediaError
from mmllm.messages.openai import MediaPart, read_part
from mmllm.serving.conversation import Inputs, read_media
from mmllm.serving.media import Limits
from mmllm.serving.parts import MediaContent
from mmllm.serving.schema import ApiError

if TYPE_CHECKING:
    from mmllm.processors.graph_files import Graph

FRAMES = 6
"""Maximum number of frames shown of a video."""
NODES = 60
"""Maximum number of nodes drawn of a graph: those nearest to its target, or to the node with most neighbours."""
MOST = (10_000, 100_000)
"""Maximum numbers of nodes and edges of a graph that is opened to be drawn."""
LETTERS = 400
"""Maximum number of letters shown of a document, and of the labels of a graph."""
RATE = 16_000
"""Samples per second of a sound that is drawn: the rate of speech encoders."""
SIDE = 320
"""Longest side of a picture or frame in pixels."""


class PreviewRequest(BaseModel):
    """``POST /preview``: one media part of a message, as ``/v1/chat/completions`` takes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    part: MediaContent


@dataclass(frozen=True)
class Preview:
    """A media item as people see it."""

    caption: str
    """One line of lengths and counts."""
    pictures: tuple[tuple[str, Image.Image], ...] = ()
    """Pairs of a caption (the time of a frame) and a picture."""
    text: str = ""
    """Text to read: a waveform in block characters, texts of nodes, the beginning of a document."""

    def body(self) -> dict[str, Any]:
        """Return the answer to ``POST /preview``: pictures as data URLs."""
        pictures = [{"caption": caption, "url": data_url(picture)} for caption, picture in self.pictures]
        return {"object": "preview", "caption": self.caption, "pictures": pictures, "text": self.text}


class Previewer:
    """Maker of previews of what one served model takes."""

    def __init__(self, inputs: Inputs, limits: Limits) -> None:
        from mmllm.processors.video import VideoReading

        self.inputs, self.limits = inputs, limits
        self._clips = VideoReading(
            frames=FRAMES,
            fps=None,
            backend="pyav",
            timeout=30.0,
            max_pixels=limits.max_pixels,
            max_seconds=limits.max_seconds,
        )

    def of_part(self, part: MediaContent) -> dict[str, Any]:
        """Return the answer to ``POST /preview``; ApiError 400 as for a message with this part."""
        found = read_part(part.model_dump())
        assert isinstance(found, MediaPart)  # the schema lets no text in
        try:
            self.inputs.key(found.modality)
            (item,) = read_media(found.modality, [found.item], self.inputs, self.limits)
            return self.of(found.modality, item).body()
        except MediaError as error:
            raise ApiError(400, str(error), code=f"invalid_{found.modality}", param="part") from error

    def of(self, modality: str, item: Any) -> Preview:
        """Return the preview of an item that has passed the server's checks; MediaError where it cannot be read."""
        makers: dict[str, Callable[[Any], Preview]] = {
            "image": image, "video": self.video, "audio": self.audio,
            "graph": graph, "points": points, "document": document,
        }  # fmt: skip
        return makers[modality](item)

    def video(self, item: bytes) -> Preview:
        """Show up to ``FRAMES`` frames from the first to the last, each with its time."""
        clip = self._clips.read(item)
        frames: list[tuple[str, Image.Image]] = []
        for number, (pixels, at) in enumerate(zip(clip.frames, clip.seconds, strict=True)):
            if not number or at != clip.seconds[number - 1]:  # a short clip's frames repeat
                frames.append((f"{at:.2f} s", _small(Image.fromarray(pixels))))
        height, width = clip.frames[0].shape[:2]
        return Preview(f"video of {clip.seconds[-1]:.1f} s, {width} x {height} pixels", tuple(frames))

    def audio(self, item: bytes) -> Preview:
        """Show waveform and spectrogram of what an encoder at 16 kHz is given."""
        from mmllm.drawing import plots  # here: a server without sounds, graphs and points starts without matplotlib
        from mmllm.processors.sound_files import read_sound

        samples = read_sound(item, RATE, self.limits.max_seconds)
        caption = f"sound of {len(samples) / RATE:.1f} s"
        return Preview(caption, (("", plots.sound(samples, RATE)),), blocks(samples))


def image(item: Image.Image) -> Preview:
    """Show the picture, small."""
    return Preview(f"image of {item.width} x {item.height} pixels", (("", _small(item)),))


def graph(item: bytes | Path) -> Preview:
    """Draw nodes and edges, around the node that the graph is about where there are many."""
    from mmllm.drawing import plots

    found, node = _graph_of(item)
    links, n_nodes = found.links, found.n_nodes
    if not n_nodes or (node is not None and not 0 <= node < n_nodes):
        raise MediaError(f"The graph has no node {node or 0}; it has {n_nodes}.")
    receivers = np.repeat(np.arange(n_nodes), np.diff(links.starts))
    pairs = np.unique(np.sort(np.stack([links.senders, receivers]), axis=0), axis=1)  # each edge once, both ways or one
    caption = f"graph of {_counted(n_nodes, 'node')} and {_counted(pairs.shape[1], 'edge')}"
    shown = np.arange(n_nodes)
    if n_nodes > NODES:
        middle = int(np.diff(links.starts).argmax()) if node is None else node
        shown = links.around(middle, (10, 5, 3), 0)[:NODES]
        caption += f"; {len(shown)} of them around node {middle} are drawn"
    caption += "" if node is None else f"; about node {node}"
    centre = None if node is None else int(np.flatnonzero(shown == node)[0])
    labels = [f"{number}" if found.texts is None else found.texts[number] for number in shown.tolist()]
    picture = plots.graph(len(shown), links.among(shown).T, labels, centre)
    return Preview(caption, (("", picture),), _cut("; ".join(labels)))


def _graph_of(item: bytes | Path) -> tuple[Graph, int | None]:
    """Return the graph of a file or folder, and the node it is about; MediaError where there is none."""
    from mmllm.processors.graph_files import graph_of_folder, graph_of_json, split_node

    if isinstance(item, bytes):
        found = graph_of_json(item, "The graph", *MOST)
        return found, found.target
    path, node = split_node(item)
    if not path.exists():
        raise MediaError(f"{path} is not a file or folder; give the path of a graph.")
    found = graph_of_folder(path) if path.is_dir() else graph_of_json(path.read_bytes(), f"{path}", *MOST)
    return found, found.target if node is None else node


def points(item: bytes) -> Preview:
    """Draw the cloud (of a mesh, points on its faces), thinned by ``plots``."""
    from mmllm.drawing import plots
    from mmllm.processors.point_files import read_points

    cloud = read_points(item, plots.DRAWN_POINTS, 0).numpy()
    spans = " x ".join(f"{span:.3g}" for span in np.ptp(cloud, axis=0))
    return Preview(f"point cloud of {len(cloud)} points, {spans}", (("", plots.points(cloud)),))


def document(item: bytes) -> Preview:
    """Show the beginning of a text."""
    try:
        text = item.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MediaError("The document is not text in UTF-8.") from error
    return Preview(f"document of {len(text.split())} words, {len(text)} letters", (), _cut(text))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"


def _small(picture: Image.Image) -> Image.Image:
    small = ImageOps.exif_transpose(picture)
    small.thumbnail((SIDE, SIDE))
    return small
