#!/usr/bin/env bash
# A model that was read from a GGUF file of plain float32 cannot be saved: it counts as quantised.
#
# Guess: from_pretrained(gguf_file=...) turns everything into ordinary torch weights, so save_pretrained writes them, and
# that is how a GGUF file becomes a folder of safetensors; at most a file of 4-bit weights might be refused.
# Seen (transformers 5.23.0, gguf 0.19.0, torch 2.13.0): save_pretrained raises ValueError ("quantized with gguf and is not
# serializable") though no weight was ever quantised and every parameter is float32. A fresh model of the same config that
# is given the same state_dict is saved.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cat > look.py <<'PY'
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

TOKENS, WIDTH = 32, 64


def write(path):
    """A Llama of one block with random float32 weights, as any converter would write it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(TOKENS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    rng = np.random.default_rng(0)
    tensors = {"token_embd": (TOKENS, WIDTH), "output": (TOKENS, WIDTH), "output_norm": (WIDTH,)}
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors |= {f"blk.0.{name}": (WIDTH, WIDTH) for name in square}
    tensors |= {f"blk.0.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in tensors.items():
        writer.add_tensor(f"{name}.weight", (0.3 * rng.normal(size=shape)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


Path("models").mkdir()

write("models/plain.gguf")
stored = {tensor.tensor_type.name for tensor in gguf.GGUFReader("models/plain.gguf").tensors}
model = AutoModelForCausalLM.from_pretrained("models", gguf_file="plain.gguf")
held = {weight.dtype for weight in model.parameters()}
try:
    model.save_pretrained("saved")
    refused = None
except ValueError as error:
    refused = str(error)
settings = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
fresh = AutoModelForCausalLM.from_config(type(model.config).from_dict(settings))
fresh.load_state_dict(model.state_dict())
fresh.save_pretrained("fresh")
print("transformers", transformers.__version__, "torch", torch.__version__)
print("types in the file", stored, "types in the model", held)
print("guess: saved; seen:", refused)
print("fresh model of the same weights:", sorted(path.name for path in Path("fresh").iterdir()))
assert stored == {"F32"} and held == {torch.float32} and refused is not None and "not serializable" in refused
assert Path("fresh/model.safetensors").is_file()
PY
env/bin/python look.py
