#!/usr/bin/env bash
# COCO's caption scorer takes punctuation out, but brackets stay in and count as words.
#
# Guess: PTBTokenizer of pycocoevalcap drops what stands in its list PUNCTUATIONS, which names "-LRB-" and "-RRB-" (the
# treebank's words for brackets), so "a dog (brown)" and "a dog brown" are the same caption.
# Seen (pycocoevalcap 1.2, Java 17): the tokenizer also lower-cases, so the words are "-lrb-" and "-rrb-" and are in no list:
# they stay. A caption that differs from its only reference by a pair of brackets has a BLEU-1 of 3/5 and not 1; commas, full
# stops, quotes and dashes at the same places change nothing. A model that likes brackets loses by it.
# Ends with status 1 if that is no longer so. Needs a Java runtime, as the package does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --no-deps pycocoevalcap==1.2
cat > look.py <<'PY'
import contextlib
import io
from importlib.metadata import version

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, PTBTokenizer

said = ["a dog brown", "a dog, brown.", 'a dog "brown"', "a dog - brown", "a dog (brown)"]
tokens = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(said)})
cut = [tokens[number][0] for number in range(len(said))]
scores = []
for text in cut:
    with contextlib.redirect_stdout(io.StringIO()):
        scores.append(round(Bleu(4).compute_score({0: [cut[0]]}, {0: [text]})[0][0], 6))
print("pycocoevalcap", version("pycocoevalcap"), "- in its list:", [one for one in PUNCTUATIONS if "RB" in one])
for text, words, score in zip(said, cut, scores):
    print(f"{text!r}: {words!r}, BLEU-1 {score}")
assert "-LRB-" in PUNCTUATIONS
assert cut[:4] == ["a dog brown"] * 4 and scores[:4] == [1.0] * 4
assert cut[4] == "a dog -lrb- brown -rrb-" and scores[4] == 0.6
PY
env/bin/python look.py
