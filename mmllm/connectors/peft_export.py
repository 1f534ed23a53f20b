"""A trained LoRA of a run as a folder in peft's format, for peft itself and for ``adapters:`` of arrow and xlora.

``python -m mmllm.connectors.peft_export RUN KEY FOLDER``: the connector ``KEY`` (``lora``, or ``peft`` with
``method: lora``) of the run folder ``RUN``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmllm.connectors.connector import Connector
from mmllm.connectors.lora import LoraConnector, LowRank
from mmllm.connectors.peft import PeftConnector
from mmllm.connectors.peft_experts import write_adapter
from mmllm.connectors.peft_layers import NAME, TunedLora
from mmllm.types import MmllmError


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
            assert isinstance(layer, TunedLora)
            layers[key.replace("-", ".")] = (layer.tuner.lora_A[NAME].weight, layer.tuner.lora_B[NAME].weight)
    else:
        raise MmllmError("export: only lora, and peft with method lora, can be written as a LoRA of peft.")
    write_adapter(Path(folder), layers, words)


def main() -> int:
    """The command; exit code 2 for what the user can mend."""
    from mmllm.checkpoint import load_run

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("run", "key", "folder"):
        parser.add_argument(name)
    words = parser.parse_args()
    try:
        _, assembly = load_run(Path(words.run), "cpu")
        if words.key not in assembly.connectors:
            raise MmllmError(f"export: {words.run} has no connector {words.key!r}; it has {list(assembly.connectors)}.")
        connector = assembly.connectors[words.key]
        assert isinstance(connector, Connector)
        export(connector, words.folder)
    except MmllmError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
