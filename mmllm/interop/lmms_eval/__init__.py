"""lmms-eval's way to a run: the entry point ``lmms_eval.models`` of this package names :func:`manifests`.

``python -m lmms_eval --model mmllm --model_args pretrained=runs/my --tasks mmmu_val``; read and run with 0.7.3.
"""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """What lmms-eval registers: the model ``mmllm`` with its class; called by lmms-eval, which is there then."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="mmllm", chat_class_path="mmllm.interop.lmms_eval.chat_model.Mmllm")]
