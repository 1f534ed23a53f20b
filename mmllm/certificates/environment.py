"""What a certificate was made with and on: versions, and what of the machine decides the last bits of a sum."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import mmllm

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy")


def versions() -> dict[str, str]:
    """Of this project, of Python and of the libraries that compute and read."""
    found = {"mmllm": mmllm.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra that is not installed
            continue
    return found


def machine(device: torch.device) -> dict[str, str | int]:
    """Device, processor and threads."""
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"system": platform.system(), "device": f"{device.type} ({place})", "threads": torch.get_num_threads()}
