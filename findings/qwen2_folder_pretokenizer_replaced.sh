#!/usr/bin/env bash
# A tokenizer.json beside a config.json of Qwen2 is read with another pre-tokenizer than it holds.
#
# Guess: AutoTokenizer on a local folder gives the tokenizer that its tokenizer.json describes; tokenizer_config.json names
# the generic backend class, so nothing else is asked for.
# Seen (transformers 5.23.0, tokenizers 0.23.3): where config.json beside it says model_type qwen2, the pre-tokenizer of the
# file is replaced by Qwen2's own, without a warning, and the ids change: each digit is a token of its own. With model_type
# llama, mistral or gpt2 the same files give the ids that they were trained for.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet transformers==5.23.0 tokenizers==0.23.3
cat > look.py <<'PY'
import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

trained = Tokenizer(models.BPE())
trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
trained.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
trained.train_from_iterator(["in 2024 and in 2025"] * 50, trainer)
read = {}
for kind in ("llama", "mistral", "gpt2", "qwen2"):
    PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|endoftext|>").save_pretrained(kind)
    Path(kind, "config.json").write_text(json.dumps({"model_type": kind}))
    read[kind] = AutoTokenizer.from_pretrained(kind).tokenize("in 2024")
print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
print("tokenizer_config.json names", json.loads(Path("qwen2/tokenizer_config.json").read_text())["tokenizer_class"])
print("guess: in all folders", trained.encode("in 2024").tokens)
print("seen:", read)
wanted = trained.encode("in 2024").tokens
assert read["llama"] == read["mistral"] == read["gpt2"] == wanted and read["qwen2"][-4:] == ["2", "0", "2", "4"] != wanted
PY
env/bin/python look.py
