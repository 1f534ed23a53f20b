#!/usr/bin/env bash
# Installing a package turns the tokenizer of an unchanged folder into an object of another kind.
#
# Guess: AutoTokenizer gives one kind of tokenizer for a folder; mistral_common beside transformers changes at most how
# conversations are laid out.
# Seen (transformers 5.23.0, mistral_common 1.13.1): a folder with a tekken.json and no tokenizer.json is read as any other
# vocabulary (TokenizersBackend) as long as mistral_common is missing. With it the same call gives a MistralCommonBackend:
# `added_tokens_decoder` is a method there instead of a mapping, there is no `backend_tokenizer`, and a chat template cannot be
# given. Ids of plain text are the same. mistral_format=False gives the first kind again.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet transformers==5.23.0 tokenizers==0.23.3
cat > look.py <<'PY'
import base64
import json
import os

import transformers

os.makedirs("folder", exist_ok=True)
special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
special += ["[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"]
special += ["[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
tekken = {
    "config": {
        "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "num_vocab_tokens": 256, "default_vocab_size": 276, "default_num_special_tokens": 20, "version": "v7",
    },
    "vocab": [{"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode(), "token_str": None} for n in range(256)],
    "special_tokens": [
        {"rank": n, "token_str": special[n] if n < len(special) else f"<SPECIAL_{n}>", "is_control": True}
        for n in range(20)
    ],
}
with open("folder/tekken.json", "w") as file:
    json.dump(tekken, file)
transformers.MistralConfig(vocab_size=276).save_pretrained("folder")


def kind(**words):
    """Class, whether added tokens are a mapping, whether there is a fast tokenizer, ids of a text."""
    found = transformers.AutoTokenizer.from_pretrained("folder", **words)
    mapped, fast = isinstance(found.added_tokens_decoder, dict), hasattr(found, "backend_tokenizer")
    return type(found).__name__, mapped, fast, found("a b", add_special_tokens=False).input_ids


print("transformers", transformers.__version__)
print("as it is:", kind())
print("mistral_format=False:", kind(mistral_format=False))
want = {"0": "TokenizersBackend", "1": "MistralCommonBackend"}[os.environ["WITH"]]
ids = [20 + one for one in b"a b"]
assert kind() == (want, want == "TokenizersBackend", want == "TokenizersBackend", ids)
assert kind(mistral_format=False) == ("TokenizersBackend", True, True, ids)
PY
WITH=0 env/bin/python look.py
env/bin/pip install --quiet mistral_common==1.13.1
echo "with mistral_common 1.13.1:"
WITH=1 env/bin/python look.py
