#!/usr/bin/env bash
# Choosing average pooling in timm changes the patch tokens, not only how they are pooled.
#
# Guess: global_pool says how the tokens of a vision transformer become one vector; forward_features, the tokens before any
# pooling, are the same under "token" and "avg" with the same weights.
# Seen (timm 1.0.31, torch 2.15.0): under "avg" the last LayerNorm moves behind the pooling: forward_features gives states
# without it, and its weights are called fc_norm instead of norm, so a checkpoint of the other kind does not fit by name.
# Who takes patch tokens for a projector gets another distribution from the same weights. With fc_norm=False the norm stays
# where it was, and the tokens are bit for bit the same.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.15.0 torchvision==0.29.2 timm==1.0.31
cat > look.py <<'PY'
import timm
import torch

torch.manual_seed(0)
options = {"num_classes": 0, "img_size": 32}
token = timm.create_model("vit_tiny_patch16_224", global_pool="token", **options).eval()
average = timm.create_model("vit_tiny_patch16_224", global_pool="avg", **options).eval()
kept = timm.create_model("vit_tiny_patch16_224", global_pool="avg", fc_norm=False, **options).eval()
with torch.no_grad():
    token.norm.weight.mul_(3)
weights = token.state_dict()
only = sorted(set(weights) ^ set(average.state_dict()))
kept.load_state_dict(weights)
average.load_state_dict({name.replace("norm", "fc_norm") if name in only else name: w for name, w in weights.items()})
pictures = torch.randn(2, 3, 32, 32)
with torch.no_grad():
    states = [model.forward_features(pictures) for model in (token, average, kept)]
    normed = average.fc_norm(states[1])
print("timm", timm.__version__, "torch", torch.__version__)
print("guess: forward_features the same; names of the weights too")
print("weights under one kind only:", only)
print("deviation of the tokens: token", float(states[0].std()), "avg", float(states[1].std()), "avg, fc_norm=False", float(states[2].std()))
assert only == ["fc_norm.bias", "fc_norm.weight", "norm.bias", "norm.weight"]
assert not torch.allclose(states[0], states[1], atol=0.1) and torch.equal(states[0], states[2])
assert torch.allclose(states[0], normed, atol=1e-5)
PY
env/bin/python look.py
