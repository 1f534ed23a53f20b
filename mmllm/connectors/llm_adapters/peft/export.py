"""A trained LoRA as a folder in peft's format, for peft itself and for ``adapters:`` of arrow and xlora.

``_, model = mmllm.checkpoints.load.load_run(run, "cpu")``, then ``export(model.connectors["lora"], folder)``.
"""

from __future__ import annotations

from pathlib import Path

from mmllm.connectors.base import Connector
from mmllm.connectors.llm_adapters.lora import LoraConnector, LowRank
from mmllm.connectors.llm_adapters.peft.experts import write_adapter
from mmllm.connectors.llm_adapters.peft.layers import NAME, TunerLora
from mmllm.connectors.llm_adapters.peft.peft import PeftConnector
from mmllm.errors import MmllmError


def export(connector: Connector, folder: str | Path) -> None:
    """Write the weights and the scaling of a LoRA.

    Raises:
        MmllmError: a connector that is no plain LoRA.
    """
    layers = {}
    if isinstance(connector, LoraConnector):
        words = {"r": connector.config.r, "lora_alpha": connector.config.lora_alpha}
        words["use_rslora"] = connector.config.use_rslora
        for key, layer in connector.layers.items():
            assert isinstance(layer, LowRank)
            layers[key.replace("-", ".")] = (layer.a.weight, layer.b.weight)
    elif isinstance(connector, PeftConnector) and connector.method == "lora":
        found = connector.options
        words = {"r": found["rank"], "lora_alpha": found["alpha"], "use_rslora": found["rslora"]}
        for key, layer in connector.layers.items():
            assert isinstance(layer, TunerLora)
            layers[key.replace("-", ".")] = (layer.tuner.lora_A[NAME].weight, layer.tuner.lora_B[NAME].weight)
    else:
        raise MmllmError("export: only lora, and peft with method lora, can be written as a LoRA of peft.")
    write_adapter(Path(folder), layers, words)
