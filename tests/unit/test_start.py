"""What eval and serve import before they answer: no library of training or of a modality that the recipe has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UNUSED = (  # transformers itself imports peft and soundfile where they are installed, torch networkx
    "deepspeed", "datasets", "pyarrow", "torch_geometric", "open_clip", "timm", "matplotlib", 
    "decord", "av", "sklearn", "pandas", "ctranslate2", "onnxruntime", "streamlit",
)  # fmt: skip


@pytest.mark.slow
def test_eval_and_serve_import_only_what_the_recipe_uses() -> None:
    code = (
        "import sys; import mmllm.evaluation.run, mmllm.serving.app, mmllm.generation.generator; "
        "from mmllm import load_recipe; from mmllm.model.build import build; "
        "build(load_recipe('recipes/mini/swap_encoder.yaml')); "
        f"print([name for name in {UNUSED} if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines() or [done.stderr])[-1] == "[]"
