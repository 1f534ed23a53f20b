"""Reading pictures for training: threads beside processes, the same pictures through the same processor.

    python -m benchmarks.speed.readers [--workers N] [--pictures N] [--rounds R] [--side PIXELS]

Each way reads all pictures (JPEG, decoded, resized, cropped, normalised to float32[3, 336, 336]) and hands the tensors
to the caller, as a loader does; they take turns. The tensors are asserted equal. Prints pictures a second by the clock
and CPU seconds a hundred pictures, children included: median, lowest, highest, and the load before it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psutil
import torch
from torch import Tensor
from transformers import CLIPImageProcessor

from mmllm.processors.image import HfTransform, ImageProcessor
from mmllm.published.media.pictures import picture

SIDE = 336  # of CLIP ViT-L/14 in LLaVA 1.5
Map = Callable[[list[Path]], list[Tensor]]


@lru_cache(maxsize=1)
def processor() -> ImageProcessor:
    """CLIP's, as the encoder ``hf_vision`` reads with it; one for each process."""
    own = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    return ImageProcessor(HfTransform(own, (SIDE, SIDE), "crop", True), size=(SIDE, SIDE), patch=(14, 14))


def read(path: Path) -> Tensor:
    """One picture."""
    pixels: Tensor = processor().read(path)["pixels"]
    return pixels


def _alone() -> None:
    torch.set_num_threads(1)


@contextmanager
def threads(workers: int) -> Iterator[Map]:
    """A pool of threads."""
    with ThreadPoolExecutor(workers) as pool:
        yield lambda paths: list(pool.map(read, paths))


@contextmanager
def processes(workers: int) -> Iterator[Map]:
    """A pool of processes, each of which imports torch; tensors come back pickled."""
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_alone) as pool:
        yield lambda paths: list(pool.map(read, paths, chunksize=4))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=1080)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    found: dict[str, list[tuple[float, float]]] = {"threads": [], "processes": []}
    with tempfile.TemporaryDirectory() as folder:
        image = picture(asked.side * 16 // 9, asked.side)
        paths = [Path(folder) / f"{number}.jpg" for number in range(asked.pictures)]
        for path in paths:
            image.save(path, quality=90)
        expected = read(paths[0])
        for number in range(asked.rounds):
            for name, way in [("threads", threads), ("processes", processes)][:: -1 if number % 2 else 1]:
                found[name].append(_measured(way(asked.workers), paths, expected))
    for name, values in found.items():
        rates, seconds = zip(*values, strict=True)
        print(
            f"{name}: {median(rates):.1f} pictures/s ({min(rates):.1f}-{max(rates):.1f}), "
            f"{median(seconds):.2f} CPU s per 100 ({min(seconds):.2f}-{max(seconds):.2f}), load {load:.1f}"
        )


def _measured(way: AbstractContextManager[Map], paths: list[Path], expected: Tensor) -> tuple[float, float]:
    """Pictures a second, and CPU seconds a hundred pictures."""
    with way as read_all:
        read_all(paths[:8])  # processes start, libraries are imported
        began, used = time.perf_counter(), _used()
        tensors = read_all(paths)
        wall = time.perf_counter() - began
        assert all(torch.equal(tensor, expected) for tensor in tensors)
        del tensors
        return len(paths) / wall, 100 * (_used() - used) / len(paths)


def _used() -> float:
    """CPU seconds of this process and of its children that live."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in family)


if __name__ == "__main__":
    main()
