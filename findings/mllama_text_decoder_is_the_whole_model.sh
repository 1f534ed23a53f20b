#!/usr/bin/env bash
# MllamaForCausalLM.get_decoder() is the model itself, head and all.
#
# Guess: get_decoder() of a causal language model is the stack without the head, so lm_head(get_decoder()(ids)[0]) is what the
# model gives; code that computes the loss in pieces or takes hidden states is written so, and works for Llama.
# Seen (transformers 5.23.0, torch 2.15.0): get_decoder() and base_model both give the model back, since its base_model_prefix,
# "language_model", names no part of it (the stack is called model). The "states" are the logits: the head then meets the
# vocabulary's width and raises or, where that happens to be the hidden size, is applied twice without a word; and code that
# goes down through get_decoder() never arrives. MllamaForConditionalGeneration.get_decoder() is right.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 transformers==5.23.0
cat > look.py <<'PY'
import torch
import transformers as tf
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

torch.manual_seed(0)
ids = torch.arange(4)[None]
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def mllama(words):
    return MllamaTextConfig(vocab_size=words, cross_attention_layers=[], **sizes, **special)


def by_parts(model):
    with torch.no_grad():
        states = model.get_decoder()(input_ids=ids)[0]
        try:
            same = torch.allclose(model.lm_head(states), model(input_ids=ids).logits)
        except RuntimeError as error:
            same = str(error)
    return type(model.get_decoder()).__name__, states.shape[-1], same


llama = tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=32, **sizes, **special)).eval()
text = tf.MllamaForCausalLM(mllama(32)).eval()
square = tf.MllamaForCausalLM(mllama(16)).eval()
vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_global_layers": 1, "attention_heads": 2,
          "image_size": 28, "patch_size": 14, "vision_output_dim": 32, "intermediate_layers_indices": [0]}
whole = tf.MllamaForConditionalGeneration(tf.MllamaConfig(vision_config=vision, text_config=mllama(32).to_dict()))
seen = {name: by_parts(model) for name, model in (("Llama", llama), ("Mllama", text), ("Mllama, 16 words", square))}
print("transformers", tf.__version__, "torch", torch.__version__)
print("decoder, width of its states, head of them is the model's logits:")
for name, row in seen.items():
    print(" ", name, row)
print("with pictures:", type(whole.get_decoder()).__name__)
assert seen["Llama"] == ("LlamaModel", 16, True)
assert text.get_decoder() is text and text.base_model is text and isinstance(text.model, tf.MllamaTextModel)
assert seen["Mllama"][1] == 32 and "shapes cannot be multiplied" in seen["Mllama"][2]
assert seen["Mllama, 16 words"][1:] == (16, False)
assert type(whole.get_decoder()) is tf.MllamaTextModel
PY
OMP_NUM_THREADS=1 env/bin/python look.py
