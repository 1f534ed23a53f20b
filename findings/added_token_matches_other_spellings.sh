#!/usr/bin/env bash
# A placeholder token that was added to a vocabulary is also found where a user wrote something else.
#
# Guess: add_tokens(["<Image>"]) adds a literal: the text "<Image>" is that token, and "<image>" or full-width signs are text.
# Seen (tokenizers 0.23.3): a token added by its bare text is itself normalised and looked for in the normalised text. Under
# a normaliser of NFKC and lower case, as many encoders' tokenizers have one, four spellings give the same id, and the token
# that is printed is not the one that was added. Counting placeholders in the text and in the ids then differs.
# AddedToken(..., normalized=False) is the remedy.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet tokenizers==0.23.3
cat > look.py <<'PY'
import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers


def ids_with(token):
    """Ids of each spelling after adding the token to a vocabulary of two words."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "what": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens([token])
    return [tokenizer.encode(text).ids.count(2) for text in texts], tokenizer.encode(texts[0]).tokens


texts = ["<Image> what", "<image> what", "<IMAGE> what", "\uff1cimage\uff1e what"]
bare, literal = ids_with("<Image>"), ids_with(AddedToken("<Image>", normalized=False))
print("tokenizers", tokenizers.__version__)
print("guess: found once in the first text and in no other")
print("added as text:", bare, "added with normalized=False:", literal)
assert bare == ([1, 1, 1, 1], ["<image>", "what"]) and literal == ([1, 0, 0, 0], ["<Image>", "what"])
PY
env/bin/python look.py
