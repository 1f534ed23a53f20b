"""The ranks of a training: joins them, adds numbers up over them, and hears the signals that ask it to stop.

``run`` uses it; one rank needs no launcher, several get their environment from DeepSpeed's.
"""

from __future__ import annotations

import logging
import os
import platform
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import distributed

from mmllm.checkpoints.store import all_gather, rank
from mmllm.errors import MmllmError
from mmllm.recipe.models import Recipe

T = TypeVar("T")
LAUNCHER = "MMLLM_LAUNCHER"
"""Environment variable by which ranks know the command that started them."""


def accelerator() -> str:
    """``cuda`` or ``cpu``, told to DeepSpeed before it is imported so that it does not probe the machine."""
    name = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.setdefault("DS_ACCELERATOR", name)
    # the toolkit's version need not be torch's: it matters to DeepSpeed's own kernels, and none is compiled here
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    return name


def init_distributed() -> torch.device:
    """Make this process a rank (once per process) and return its device; alone, it needs no port and no launcher."""
    name = accelerator()
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(key, value)
    device = torch.device(name, int(os.environ["LOCAL_RANK"])) if name == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    import deepspeed

    # it logs its whole configuration at the start
    deepspeed.utils.logger.setLevel(logging.ERROR)
    without_own_all_reduce()
    backend = "nccl" if name == "cuda" else "gloo"
    # before DeepSpeed, which would meet on a TCP port even for one rank
    if not distributed.is_initialized() and os.environ["WORLD_SIZE"] == "1":
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return device


def without_own_all_reduce() -> None:
    """Keep DeepSpeed from compiling its own CPU all-reduce on first use (half a minute); gloo's is there."""
    import deepspeed

    # not read first: from 0.19 on that is what asks the compiler, in each process, about every kernel there is
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False


def resolved(recipe: Recipe) -> Recipe:
    """``recipe`` with ``llm.dtype`` auto settled for this machine, so that a run means the same on every other."""
    if recipe.llm.dtype != "auto":
        return recipe
    half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    llm = recipe.llm.model_copy(update={"dtype": "bfloat16" if half else "float32"})
    return recipe.model_copy(update={"llm": llm})


def shutdown() -> None:
    """Closes the process group; for processes that end now (DeepSpeed cannot join twice in one process)."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world() -> int:
    """Number of ranks."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_sum(values: list[float], device: torch.device, scalars: Sequence[torch.Tensor] = ()) -> list[float]:
    """Each of ``scalars`` (on ``device``) and of ``values`` added up over the ranks, in float64.

    It waits for the device once.
    """
    # float64: counts of tokens and sums over them stay exact where float32 ends at 2**24
    total = torch.tensor(values, dtype=torch.float64, device=device)
    if scalars:
        total = torch.cat([torch.stack([scalar.double() for scalar in scalars]), total])
    if world() > 1:
        distributed.all_reduce(total)
    return total.tolist()


def on_rank0(action: Callable[[], T]) -> T:
    """Runs ``action`` on rank 0 and gives every rank what it returns; every rank raises the MmllmError it raises."""
    answer: tuple[T | None, MmllmError | None] = (None, None)
    if rank() == 0:
        try:
            answer = (action(), None)
        except MmllmError as error:
            answer = (None, error)
    value, problem = all_gather(answer)[0]
    if problem is not None:
        raise problem
    return value


def on_every_rank(action: Callable[[], None]) -> None:
    """Runs ``action`` on every rank; all of them raise the first MmllmError that one raises."""
    problem: MmllmError | None = None
    try:
        action()
    except MmllmError as error:
        problem = error
    found = [one for one in all_gather(problem) if one is not None]
    if found:
        raise found[0]


def derive_seed(*numbers: int) -> int:
    """One seed from several numbers (recipe seed, stage, rank), far from that of neighbouring ones."""
    import numpy

    return int(numpy.random.SeedSequence(list(numbers)).generate_state(1)[0])


def seed(*numbers: int) -> None:
    """Seeds Python, NumPy and torch from these numbers."""
    import numpy

    value = derive_seed(*numbers)
    random.seed(value)
    numpy.random.seed(value)
    torch.manual_seed(value)


def random_state() -> dict[str, Any]:
    """State of every random generator as plain JSON."""
    import numpy

    version, words, gauss = random.getstate()
    name, keys, *rest = numpy.random.get_state(legacy=True)
    cuda = [torch.cuda.get_rng_state().numpy().tobytes().hex()] if torch.cuda.is_available() else []
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, [int(key) for key in keys], *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": cuda,
    }


def restore_random(state: dict[str, Any]) -> None:
    """Puts back what ``random_state`` gave."""
    import numpy

    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"][0]))


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def follow_launcher(every: float = 1.0) -> None:
    """Stop this process, as SIGTERM does, when the command that started its launcher is gone.

    DeepSpeed's launcher lives on when ``mmllm train`` is killed, and its ranks would train unseen. ``LAUNCHER`` says
    ``host:process``; ranks on other hosts are ended by the launcher's own connection.
    """
    host, _, number = os.environ.get(LAUNCHER, "").rpartition(":")
    if host != platform.node() or not number.isdecimal():
        return

    def watch() -> None:
        while _lives(number):
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGTERM)

    if Path("/proc/self").exists():
        threading.Thread(target=watch, name="follow-launcher", daemon=True).start()


def _lives(process: str) -> bool:
    """Whether a process is there and has not ended: one that nobody has asked for its status yet is still listed."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


class StopSignals:
    """While entered, SIGTERM and Ctrl-C only set ``received``; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal, 0 for none."""
        self._old: dict[int, Any] = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __enter__(self) -> StopSignals:
        """Installs the handlers (only the main thread may, elsewhere nothing changes)."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *exc: object) -> None:
        """Puts the old handlers back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
