#!/usr/bin/env bash
# MMMU's rule of open answers cuts an answer into lines, never into sentences: a second sentence takes the first one's place.
#
# Guess: parse_open_response splits at a full stop with a capital behind it, as its pattern says, and looks for what each
# sentence states, so "The answer is 42. That is the sum." is read as 42.
# Seen (lmms-eval 0.7.3, whose functions are the authors'): the text is lower-cased before it is split, so the pattern finds
# no capital and only line ends part it. Of a line what stands behind the last "is", "so", "answer", ... counts alone: the
# right answer above is lost, though the same words in two lines are right, and so is a second sentence without such a word.
# Models that explain themselves in one paragraph lose by it. (The letter of a choice is read by another function.)
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --no-deps lmms-eval==0.7.3
cat > look.py <<'PY'
import ast
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# of the module those functions alone: the whole imports the harness with all that it needs
kept = ("parse_open_response", "eval_open", "normalize_str", "check_is_number", "extract_numbers")
source = (Path(find_spec("lmms_eval").submodule_search_locations[0]) / "tasks/mmmu/utils.py").read_text(encoding="utf-8")
own = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name in kept]
names = {"re": re}
exec(compile(ast.Module(own, []), "mmmu", "exec"), names)

said = {
    "The answer is 42.": True,
    "The answer is 42. Both rows add up.": True,
    "The answer is 42.\nThat is the sum of both rows.": True,
    "The answer is 42. That is the sum of both rows.": False,
    "So x is 42. It is clear.": False,
}
print("lmms-eval", version("lmms-eval"), "- right answer: 42")
for text, right in said.items():
    read = names["parse_open_response"](text)
    print(f"{text!r}: read {sorted(map(str, read))}, right {names['eval_open']('42', read)}")
    assert names["eval_open"]("42", read) is right
PY
env/bin/python look.py
