#!/usr/bin/env bash
# transformers reads a GGUF file that stretches its positions as if it did not.
#
# Guess: the keys <arch>.rope.scaling.type, .factor and .original_context_length of a GGUF file become the config's
# rope_parameters, as its rope.freq_base does; a kind that is not supported would be an error.
# Seen (transformers 5.23.0, gguf 0.19.0, torch 2.13.0): they are dropped without a word. Two files with the same weights,
# one of them with linear scaling by 4, give the same config and bit for bit the same logits, so the scaled one is wrong at
# every position but the first. Setting rope_parameters by hand gives other logits.
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


def write(path, scaled):
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
    if scaled:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(1024)
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

write("models/plain.gguf", False)
write("models/scaled.gguf", True)
keys = [key for key in gguf.GGUFReader("models/scaled.gguf").fields if "scaling" in key]
plain, scaled = (AutoModelForCausalLM.from_pretrained("models", gguf_file=name) for name in ("plain.gguf", "scaled.gguf"))
config = type(plain.config).from_dict(plain.config.to_dict())
config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
by_hand = AutoModelForCausalLM.from_config(config).eval()
by_hand.load_state_dict(plain.state_dict())
ids = torch.arange(12)[None]
with torch.no_grad():
    logits = [model(ids).logits for model in (plain, scaled, by_hand)]
print("transformers", transformers.__version__, "torch", torch.__version__)
print("the file has", keys)
print("guess: rope_parameters with a factor of 4; seen:", scaled.config.rope_parameters)
print("logits of the two files equal:", torch.equal(logits[0], logits[1]))
print("scaled by hand they differ by", float((logits[0] - logits[2]).abs().max()))
assert len(keys) == 3 and scaled.config.rope_parameters == plain.config.rope_parameters
assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2], atol=1e-2)
PY
env/bin/python look.py
