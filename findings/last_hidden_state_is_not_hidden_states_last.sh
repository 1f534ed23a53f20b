#!/usr/bin/env bash
# Whether hidden_states[-1] is last_hidden_state depends on the family of the encoder.
#
# Guess: hidden_states[-1] is the last layer's output and last_hidden_state is another name for it, in every model; a recipe
# that counts layers from the end (-1, -2) means the same place everywhere.
# Seen (transformers 5.23.0, torch 2.13.0): the same in CLIP's vision tower (neither is normalised: its last LayerNorm sees
# the pooled token alone) and in Llama (both are normalised); in SigLIP, DINOv2 and ViT hidden_states[-1] comes before the
# last LayerNorm and last_hidden_state after it.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0
cat > look.py <<'PY'
import torch
import transformers as tf

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
vision = {**sizes, "image_size": 28, "patch_size": 14}
models = {
    "CLIP": (tf.CLIPVisionModel(tf.CLIPVisionConfig(**vision)), "vision"),
    "SigLIP": (tf.SiglipVisionModel(tf.SiglipVisionConfig(**vision)), "vision"),
    "DINOv2": (tf.Dinov2Model(tf.Dinov2Config(**vision)), "vision"),
    "ViT": (tf.ViTModel(tf.ViTConfig(**vision)), "vision"),
    "Llama": (tf.LlamaModel(tf.LlamaConfig(vocab_size=8, **sizes)), "text"),
}
same = {}
for name, (model, kind) in models.items():
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
        given = {"pixel_values": torch.randn(1, 3, 28, 28)} if kind == "vision" else {"input_ids": torch.arange(5)[None]}
        out = model(**given, output_hidden_states=True)
    same[name] = torch.equal(out.hidden_states[-1], out.last_hidden_state)
print("transformers", tf.__version__, "torch", torch.__version__)
print("guess: the same in all five; seen:", same)
assert same == {"CLIP": True, "SigLIP": False, "DINOv2": False, "ViT": False, "Llama": True}
PY
env/bin/python look.py
