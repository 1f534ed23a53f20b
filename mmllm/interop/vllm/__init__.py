"""vLLM's way to a run: the entry point ``vllm.general_plugins`` of this package names :func:`register`.

``mmllm export runs/my --to vllm --out my-vllm`` and then ``vllm serve my-vllm``; run with vLLM 0.32.0 on CPUs.
"""

from __future__ import annotations


def register() -> None:
    """Make the folders that ``--to vllm`` writes known to vLLM, which calls this in each of its processes."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from mmllm.exporting.vllm.config import ARCHITECTURE, MmllmConfig

    AutoConfig.register(MmllmConfig.model_type, MmllmConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        # by name: the class is imported where a model is made, and not in each process that reads a configuration
        ModelRegistry.register_model(ARCHITECTURE, f"mmllm.interop.vllm.model:{ARCHITECTURE}")
