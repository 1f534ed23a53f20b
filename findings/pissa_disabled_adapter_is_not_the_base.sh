#!/usr/bin/env bash
# Switching a PiSSA adapter off, or unloading it, does not give back the model that it was put on.
#
# Guess: LoRA freezes the base weights, so disable_adapter() and unload() give the base model's outputs bit for bit, however
# the adapter's first weights were chosen; a check "the frozen LLM is as before" may rely on it.
# Seen (peft 0.21.2, transformers 5.23.0, torch 2.13.0): init_lora_weights="pissa" moves the largest singular directions out
# of the frozen weights into the adapter when it is attached. With the adapter the logits are as before; disabled or
# unloaded they are not. With the default start all three are bit for bit the same. (The base weights stand with
# requires_grad False all the while.)
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
cat > look.py <<'PY'
import peft
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

ids = torch.arange(6)[None]
seen = {}
for start in (True, "pissa"):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    base = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        before = base(ids).logits
        lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
        model = peft.get_peft_model(base, lora).eval()
        attached = (model(ids).logits - before).abs().max().item()
        with model.disable_adapter():
            disabled = (model(ids).logits - before).abs().max().item()
        unloaded = (model.unload()(ids).logits - before).abs().max().item()
    seen[start] = attached, disabled, unloaded
print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
print("guess: disabled and unloaded differ from the base by 0")
print("largest difference of a logit (attached, disabled, unloaded): default", seen[True], "pissa", seen["pissa"])
assert seen[True] == (0, 0, 0)
assert seen["pissa"][0] < 1e-5 and min(seen["pissa"][1:]) > 1e-2
PY
env/bin/python look.py
