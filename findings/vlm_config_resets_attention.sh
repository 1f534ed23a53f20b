#!/usr/bin/env bash
# Making a vision-language config around a text config changes the attention of the language model that config came from.
#
# Guess: LlavaConfig(text_config=llm.config) keeps a reference, or a copy; the LLM goes on as before.
# Seen (transformers 5.23.0, torch 2.13.0, CPU): it keeps the very same object, and when the LLaVA model is built, that
# object's `_attn_implementation` is set to LLaVA's own choice. The LLM was loaded with another, registered attention; its
# next forward no longer calls it, without a warning. A deep copy of the config is the remedy.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0
cat > look.py <<'PY'
import copy

import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

calls = []


def counted(*args, **kwargs):
    calls.append(1)
    return sdpa_attention_forward(*args, **kwargs)


AttentionInterface.register("counted", counted)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
vision = {"model_type": "clip_vision_model", **sizes, "image_size": 28, "patch_size": 14}


def fresh():
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).eval()
    llm.set_attn_implementation("counted")
    return llm


def used(llm):
    calls.clear()
    llm(input_ids=torch.arange(4)[None])
    return len(calls)


shared, copied = fresh(), fresh()
before = used(shared), used(copied)
config = LlavaConfig(text_config=shared.config, vision_config=dict(vision))
same = config.text_config is shared.config
LlavaForConditionalGeneration(config)
LlavaForConditionalGeneration(LlavaConfig(text_config=copy.deepcopy(copied.config), vision_config=dict(vision)))
after = used(shared), used(copied)
print("same object:", same)
print("calls of the registered attention, shared and copied config: before", before, "after", after)
print("attention of the shared config now:", shared.config._attn_implementation)
assert same and before == (2, 2) and after == (0, 2) and shared.config._attn_implementation != "counted"
PY
env/bin/python look.py
