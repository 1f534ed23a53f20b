#!/usr/bin/env bash
# A JSON column of strings that all look like dates is not read as strings, not even where the call says that it is text.
#
# Guess: JSON has no dates, so load_dataset("json") gives the strings that stand in the file, whatever they look like; if it
# should guess, naming the column's type as string in the call settles it.
# Seen (datasets 5.2.0, pyarrow 26.0.1): a column of "2024-05-01" is a timestamp[s] column and its values are
# datetime.datetime; with one answer "Ada" more in the file the same rows are strings. A split of questions that happens to
# hold dates only (receipts, forms) thus gives references that no string metric compares. With the column named a string in
# `features` the dates are parsed all the same and written out anew: "2024-05-01 00:00:00", a text that the file never had.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet datasets==5.2.0 pyarrow==26.0.1
cat > look.py <<'PY'
import datetime
import json
from pathlib import Path

import datasets
import pyarrow

dates = [{"question": "When was it signed?", "answer": "2024-05-01"}, {"question": "And sent?", "answer": "2023-11-30"}]
found = {}
for name, rows in {"dates": dates, "mixed": [*dates, {"question": "By whom?", "answer": "Ada"}]}.items():
    file = Path(f"{name}.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir="cache")
    found[name] = data.features["answer"].dtype, data[0]["answer"]
named = datasets.Features({"question": datasets.Value("string"), "answer": datasets.Value("string")})
data = datasets.load_dataset("json", data_files="dates.jsonl", split="train", cache_dir="cache", features=named)
print("datasets", datasets.__version__, "pyarrow", pyarrow.__version__)
print('guess: "2024-05-01" in all three cases')
print("dates only:", found["dates"], "one more row:", found["mixed"], "features named:", repr(data[0]["answer"]))
assert found["mixed"] == ("string", "2024-05-01")
assert found["dates"] == ("timestamp[s]", datetime.datetime(2024, 5, 1)) and data[0]["answer"] == "2024-05-01 00:00:00"
PY
env/bin/python look.py
