"""Small real files of every sense, and a tiny encoder that takes any of them, for server, terminal and page."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import av
import numpy
import soundfile
import torch
from torch import Tensor, nn

from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError
from mmllm.generation.generator import Generator
from mmllm.model.model import MultimodalLM
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.serving.media import Limits
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import Features
from tests.support.parts import tiny_llm

TOKENS = 3
SENSES_LIMITS = Limits(max_images=3, max_files=2, max_seconds=30, max_body=300_000, max_new_tokens=12)


class AnyProcessor(Processor):
    """Reads any bytes; files with BROKEN in them are not read; a video lasts a second per 1000 bytes."""

    def __init__(self, modality: str) -> None:
        self.modality = modality
        self.read_count = 0

    def read(self, media: Any) -> Item:
        """``{"counts": float[3, 16]}``."""
        if not isinstance(media, bytes):
            raise TypeError(f"{type(media).__name__} came where bytes were sent")
        self.read_count += 1
        if b"BROKEN" in media:
            raise MediaError("the file is broken inside.")
        thirds = numpy.array_split(numpy.frombuffer(media, numpy.uint8) % 16, TOKENS)
        counts = numpy.stack([numpy.bincount(third, minlength=16) / max(1, len(third)) for third in thirds])
        return {"counts": torch.from_numpy(counts).float(), "length": torch.tensor(len(media))}

    def measure(self, media: Any) -> ItemInfo:
        """The length."""
        return {"length": torch.tensor(len(media))}

    def seconds(self, info: ItemInfo) -> Sequence[float] | None:
        """Of the three tokens."""
        if self.modality not in ("video", "audio"):
            return None
        return [float(info["length"]) / 1000 * step / (TOKENS - 1) for step in range(TOKENS)]

    def grid(self, info: ItemInfo) -> tuple[int]:
        """(3,)."""
        return (TOKENS,)

    def fixed_grid(self) -> tuple[int]:
        """(3,)."""
        return (TOKENS,)

    def blank(self) -> Item:
        """No bytes."""
        return {"counts": torch.zeros(TOKENS, 16)}


class AnyEncoder(Encoder):
    """Three tokens of any bytes: how often each of 16 kinds of byte occurs in each third."""

    processor: AnyProcessor

    def __init__(self, modality: str, seed: int = 0) -> None:
        super().__init__(layers=(-1,))
        self.processor = AnyProcessor(modality)
        self.dim = 16
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mix = nn.Linear(16, 16)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """float[N, 3, 16]."""
        states = 30 * self.mix(inputs["counts"])
        return Features({-1: states}, torch.ones(states.shape[:2], dtype=torch.bool), (TOKENS,))


def assembled(**encoders: Encoder) -> Generator:
    """A random LLM of 4 blocks with a context of 256 behind these encoders, each with an mlp."""
    llm = tiny_llm("llama")
    connectors = {
        key: MlpConnector(dim=encoder.dim * len(encoder.layers), llm_dim=llm.dim) for key, encoder in encoders.items()
    }
    return Generator(MultimodalLM(llm, encoders, connectors, {key: key for key in encoders}))


def every_sense() -> Generator:
    """Images through a real tiny encoder; video, audio, graph, points and document through ``AnyEncoder``."""
    others = {name: AnyEncoder(name, seed) for seed, name in enumerate(("video", "audio", "graph", "points"))}
    return assembled(image=tiny_encoders.hf_vision(), **others, text=AnyEncoder("document", 9))


def video_file(frames: int = 12, form: str = "mp4", size: tuple[int, int] = (48, 32)) -> bytes:
    """A clip of a few frames at 4 per second that grow brighter."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream: Any = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = numpy.full((size[1], size[0], 3), 20 * number % 256, numpy.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def sound_file(form: str = "WAV", seconds: float = 0.5, rate: int = 8000) -> bytes:
    """A tone that grows louder."""
    time = numpy.arange(int(seconds * rate)) / rate
    buffer = io.BytesIO()
    soundfile.write(buffer, numpy.sin(2 * numpy.pi * 440 * time) * time / seconds, rate, format=form)
    return buffer.getvalue()


def graph_file(nodes: int = 3, target: int | None = 1) -> bytes:
    """A chain in the project's JSON form."""
    found = {"nodes": [f"tea {number}" for number in range(nodes)], "edges": [[i, i + 1] for i in range(nodes - 1)]}
    return json.dumps(found if target is None else {**found, "target": target}).encode()


def points_file(count: int = 40) -> bytes:
    """Points of a bent sheet as NPY."""
    buffer = io.BytesIO()
    x = numpy.linspace(-1, 1, count)
    numpy.save(buffer, numpy.stack([x, x**2, numpy.cos(7 * x)], axis=1))
    return buffer.getvalue()


DOCUMENT = b"the name is carl. the total is 42. " * 3
FILES: dict[str, tuple[str, bytes]] = {
    "video": ("clip.mp4", video_file()),
    "audio": ("tone.wav", sound_file()),
    "graph": ("chain.json", graph_file()),
    "points": ("sheet.npy", points_file()),
    "document": ("letter.txt", DOCUMENT),
}
"""Modality -> name and content of a file."""
