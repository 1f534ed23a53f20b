"""First steps in Python, cell by cell: ``python docs/first_steps.py runs/demo digit.png``, or open it as a notebook.

Takes a run folder (``mmllm demo`` makes ``runs/demo``) and a picture.
"""

# %% Load a run: its recipe, the frozen parts that it names, and what it learned.
import sys
import tempfile
from pathlib import Path

import mmllm

run, picture = sys.argv[1:3]
model = mmllm.load(run)
print(model)  # a line per part: class, parameters, frozen or learned, tokens of an item

# %% Ask. A picture may be a path, a PIL image, an array, bytes or a data URL.
print(model.chat("what is it?", image=picture, max_new_tokens=16))

# %% A conversation in OpenAI's form; media stand in parts, or come by keyword for the placeholders.
messages = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": "what is it?"},
        ],
    }
]
print(model.chat(messages, max_new_tokens=16))

# %% Piece by piece, drawn with a seed instead of the likeliest word each time.
for piece in model.stream(messages, max_new_tokens=16, temperature=0.7, seed=1):
    print(piece.text, end="", flush=True)
print(f"  [{piece.finish}, {piece.prompt_tokens} + {piece.completion_tokens} tokens]")

# %% Several conversations at once, greedily: the same answers as one by one.
for answer in model.generate([messages, "say something."], max_new_tokens=16):
    print(answer.n_tokens, answer.finish, repr(answer.text))

# %% Look inside: the encoder's features of the picture.
name, encoder = next((name, one) for name, one in model.encoders.items() if one.modality == "image")
features = encoder(**model.process(image=picture))
print(name, {layer: tuple(values.shape) for layer, values in features.layers.items()}, "grid", features.grid)

# %% What cannot be done is one error with one sentence.
try:
    model.chat("what is it?", image="nowhere.png")
except mmllm.MmllmError as error:
    print(type(error).__name__, error)

# %% Score it on the recipe's benchmarks, a few questions of each, with the text-only baseline.
with tempfile.TemporaryDirectory() as folder:
    results = mmllm.evaluate(model, limit=2, blind=True, out=folder)
for benchmark, entry in results["benchmarks"].items():
    print(benchmark, entry["metric"], entry["score"], "blind", entry["blind"])

# %% Keep what it learned, with the recipe and the digests of the frozen parts; load it again.
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    print(sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()))
    again = mmllm.load(folder)
assert again.chat(messages, max_new_tokens=16) == model.chat(messages, max_new_tokens=16)
