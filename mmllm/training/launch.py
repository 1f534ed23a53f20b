"""Starts a training: in this process for one rank, by DeepSpeed's launcher for several GPUs, nodes or CPU ranks."""

from __future__ import annotations

import base64
import json
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mmllm.errors import MmllmError
from mmllm.recipe.load import load_recipe
from mmllm.recipe.located import run_folder
from mmllm.training.threads import thread_settings


def launch(
    recipe: Path,
    overrides: Sequence[str] = (),
    gpus: int = 1,
    nodes: Path | None = None,
    out: Path | None = None,
    *,
    accept: bool = False,
    verify: bool = False,
) -> int:
    """Trains ``recipe`` into ``out`` (default: its run, or ``runs/<name>``) and returns the exit code.

    ``gpus`` ranks on this machine (CPU ranks where it has no GPU), or on each of ``nodes``, a DeepSpeed hostfile
    (``host slots=8`` per line; the run folder and the code must be reachable under the same paths everywhere).
    ``accept`` and ``verify`` as ``train`` has them.
    """
    loaded = load_recipe(recipe, overrides)
    folder = run_folder(recipe, loaded.name, out)
    if gpus < 1:
        raise MmllmError(f"--gpus is {gpus}; give 1 or more")
    if gpus == 1 and nodes is None:
        if "torch" not in sys.modules:  # its OpenMP reads them when it is loaded
            os.environ.update(thread_settings(os.environ, loaded.threads))
        from mmllm.training.run import train

        train(loaded, folder, accept=accept, verify=verify)
        return 0
    script = ["mmllm.training.run", str(recipe), *overrides, "--out", str(folder)]
    script += ["--accept", "changed"] * accept + ["--verify"] * verify
    command = _node_command(nodes, gpus) + script if nodes else _local_command(gpus) + script
    return _run(command, gpus, loaded.threads)


def _local_command(gpus: int) -> list[str]:
    """Command of DeepSpeed's per-node launcher; its outer one would count NUMA nodes where there is no GPU."""
    # the form in which DeepSpeed's outer launcher hands hosts and their ranks on
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(gpus))}).encode()).decode()
    command = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}"]
    address = ["--master_addr=127.0.0.1", f"--master_port={_free_port()}"]
    return [*command, *address, "--no_local_rank", "--log_level=error", "--module"]


def _node_command(nodes: Path, gpus: int) -> list[str]:
    if not nodes.is_file():
        raise MmllmError(f"--nodes {nodes}: no such file; give a DeepSpeed hostfile with lines like `host1 slots=8`")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={nodes}", f"--num_gpus={gpus}"]
    return [*command, "--no_local_rank", "--log_level=error", "--module"]


def _run(command: list[str], ranks: int, threads: int | None) -> int:
    """Runs the launcher; SIGTERM and Ctrl-C reach the ranks through it, and then the code is 128 + the signal."""
    import torch

    from mmllm.training.distributed import LAUNCHER

    environment = {**os.environ, LAUNCHER: f"{platform.node()}:{os.getpid()}"}
    if not torch.cuda.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
        # the ranks share the cores: torch would start as many threads as there are cores in each of them
        environment.update(thread_settings(environment, threads, ranks))
    received: list[int] = []
    # A terminal's Ctrl-C goes to every process of its session. The ranks get it from here instead, once and as SIGTERM:
    # a second Ctrl-C would interrupt them in the middle of a step.
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:

        def forward(number: int, frame: FrameType | None) -> None:
            received.append(number)
            process.send_signal(signal.SIGTERM)

        old = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = process.wait()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
    # as a shell tells that a signal ended a command
    return 128 + received[-1] if received else code


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
