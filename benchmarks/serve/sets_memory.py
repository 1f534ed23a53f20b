"""Memory that each further set takes in a process that has the LLM: beside its tensors.

Part of ``python -m benchmarks.serve sets``.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.serve.set_runs import SetRuns
from benchmarks.serve.sets_speed import RANKS
from benchmarks.speed.measure import status
from mmllm.generation.memory import Sizes
from mmllm.generation.sampling import Sampling
from mmllm.sets.library import SetLibrary
from mmllm.sets.offers import Offers
from mmllm.types import Message, Sample

QUESTION = Sample("question", (Message("user", "How many red squares are there?"),))
FIRST = 4
"""Sets before the first look: one of each rank."""


def memory(n_sets: int) -> dict[str, Any]:
    """Load so many sets, each asked once, and compare the growth of the process with their tensors."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "sets"
        folder.mkdir()
        made = SetRuns(Path(place))
        for number in range(n_sets + FIRST):
            made.write(folder / f"set{number:03}", RANKS[number % len(RANKS)], number)
        del made
        library = SetLibrary(Offers(folder), Sizes(), 2**40)
        names = list(library.offers.names())
        for name in names[:FIRST]:
            _ask(library, name)
        before, tensors = _resident(library), library.used
        for name in names[FIRST:]:
            _ask(library, name)
        grown, own = _resident(library) - before, library.used - tensors
    each = (grown - own) / n_sets
    return {"sets": n_sets, "tensors_mb": own / 1e6, "grown_mb": grown / 1e6, "beside_tensors_mb_each": each / 1e6}


def _ask(library: SetLibrary, name: str) -> None:
    offer = library.offers.find(name)
    assert offer is not None
    with library.lease(offer) as held:
        request = held.generator.submit(held.generator.encode(QUESTION), Sampling(4))
    while not request.done:
        library.engine.step()


def _resident(library: SetLibrary) -> int:
    """Bytes of the process without what is kept of conversations."""
    library.engine.forget()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")
