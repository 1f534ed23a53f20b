"""What an export takes in memory and time: `mmllm export` in a process of its own, watched from outside.

    python -m benchmarks.export run [--hidden 2048] [--layers 16] [--at FOLDER]
    python -m benchmarks.export table       writes the table of docs/published-models.md from the figures

The run is a random LLM of Llama's shape with a LoRA in all of its linear layers, a tiny CLIP tower and an mlp; nothing
is trained, the LoRA's numbers are drawn. Memory is /proc/PID/status, read every few milliseconds: VmHWM, the largest
resident set, with the pages of mapped files in it, and RssAnon, which is memory that the system cannot take back. What
the same export of a tiny LLM takes (Python, torch, transformers) is measured in the same way and subtracted.

The command's time falls into three: loading (the run is opened, checked, and answers what it will be compared by),
writing (from the first byte of a weights file until the last one has its name) and comparing (other software loads the
folder and answers).
Writing is set beside copying the same files, several times, the disk brought to rest before each and before the export;
neither waits for a flush. How long either waits depends on what else is written on the machine, so the processor time
of the process while it writes, and the load, are kept too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KEPT = Path("benchmarks/export.json")
DOCS = Path("docs/published-models.md")
START, END = "<!-- export: written by python -m benchmarks.export table -->", "<!-- end of export -->"
FORMS = ("hf", "llm")
DTYPES = ("float32", "bfloat16")
TOKENIZER = "data/mini/lm"
WEIGHTS = "*.safetensors"
RECIPE = """
name: random
llm: {{path: {folder}/llm, dtype: {dtype}, context: 512}}
encoders: {{image: {{type: hf_vision, model: {folder}/tower, layers: [-2]}}}}
connectors:
  image: {{type: mlp, from: image}}
  lora: {{type: lora, rank: 8}}
data: {{none: {{type: chat, path: {folder}/none.jsonl}}}}
stages:
  drawn: {{train: {{connectors.image: 1.0e-3, connectors.lora: 1.0e-3}}, data: {{none: 1.0}}, steps: 1, batch: 1}}
"""
COPIES = 5
PAUSE = 0.005
"""Seconds between two looks at the process."""


@dataclass(frozen=True)
class Taken:
    """What one export took; bytes and seconds."""

    resident: int
    """Largest resident set, mapped files' pages included."""
    anonymous: int
    """Largest part of it that is no file's."""
    seconds: float
    """Of the whole command."""
    written: int
    """Bytes of the weights in the folder."""
    loading: float
    """Seconds up to the first byte of a weights file."""
    writing: float
    """Seconds from there until the last such file has its name."""
    busy: float
    """Seconds of processor time in the process while it wrote."""


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("task", choices=["run", "make", "table"])
    parser.add_argument("folder", nargs="?", type=Path, help="of `make`: where a run of random weights is put")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of `make`: of the LLM's files and the run")
    parser.add_argument("--hidden", type=int, default=2048, help="width of the LLM (default: 2048)")
    parser.add_argument("--layers", type=int, default=16, help="its blocks (default: 16)")
    parser.add_argument("--at", type=Path, help="folder on the disk that is meant (default: the system's for such)")
    asked = parser.parse_args()
    if asked.task == "make":
        _make(asked.folder, asked.hidden, asked.layers, asked.dtype)
        return
    if asked.task == "run":
        KEPT.write_text(json.dumps(_measured(asked.hidden, asked.layers, asked.at), indent=1) + "\n", encoding="utf-8")
    _write(json.loads(KEPT.read_text(encoding="utf-8")))


def _measured(hidden: int, layers: int, at: Path | None) -> dict[str, object]:
    rows = []
    with tempfile.TemporaryDirectory(dir=at) as place:
        for dtype in DTYPES:
            tiny = _run(Path(place) / f"tiny-{dtype}", 64, 1, dtype)
            large = _run(Path(place) / dtype, hidden, layers, dtype)
            for form in FORMS:
                without = _exported(tiny, form, Path(place) / "out")
                shutil.rmtree(Path(place) / "out")
                taken = _exported(large, form, Path(place) / "out")
                copying = _copied(Path(place) / "out", Path(place) / "copy")
                shutil.rmtree(Path(place) / "out")
                rows.append(
                    {
                        "form": form,
                        "dtype": dtype,
                        "load": os.getloadavg()[2],
                        "copying": copying,
                        "without": asdict(without),
                        **asdict(taken),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
            shutil.rmtree(Path(place) / dtype)
    parameters = next(row["written"] for row in rows if row["form"] == "llm" and row["dtype"] == "float32")
    return {"float32": parameters, "cores": os.cpu_count(), "rows": rows}


def _run(folder: Path, hidden: int, layers: int, dtype: str) -> Path:
    """A run folder of random weights, made in a process of its own."""
    words = ["--hidden", str(hidden), "--layers", str(layers), "--dtype", dtype]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.export", "make", str(folder), *words], check=True, env=_environment()
    )
    return folder / "run"


def _make(folder: Path, hidden: int, layers: int, dtype: str) -> None:
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    from mmllm.generation.model import Model
    from mmllm.model.build import build
    from mmllm.recipe.load import parse
    from mmllm.testing.tiny.weights import randomise

    torch.manual_seed(0)
    heads = max(hidden // 128, 2)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        vocab_size=32000,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder / "llm")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder / "llm")
    tower = CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=56, patch_size=14
    )
    CLIPVisionModel(tower).save_pretrained(folder / "tower")
    CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=56).save_pretrained(folder / "tower")
    recipe = parse(RECIPE.format(folder=folder, dtype=dtype))
    model = build(recipe, "cpu")
    for connector in model.connectors.values():
        randomise(connector)
    with torch.no_grad():
        for parameter in model.connectors["lora"].parameters():
            parameter.mul_(0.05)  # so that it changes answers and does not drown the LLM
    Model(model, recipe).save_pretrained(folder / "run")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}


def _exported(run: Path, form: str, out: Path) -> Taken:
    """Run the command and watch it."""
    command = [sys.executable, "-m", "mmllm", "export", str(run), "--to", form, "--out", str(out)]
    os.sync()
    began = time.perf_counter()
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL)
    resident = anonymous = 0
    first = last = 0.0
    started = ended = 0.0
    while process.poll() is None:
        now = _memory(process.pid)
        resident, anonymous = max(resident, now.get("VmHWM", 0)), max(anonymous, now.get("RssAnon", 0))
        if _is_written(out):
            last, ended = time.perf_counter(), _busy(process.pid)
            first, started = (first, started) if first else (last, ended)
        time.sleep(PAUSE)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - began
    return Taken(resident, anonymous, seconds, sum(_sizes(out)), first - began, last - first, ended - started)


def _busy(pid: int) -> float:
    """Seconds of processor time that a process has had; 0 where it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # utime and stime, the 14th and 15th of the line, whose first two are cut off
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> dict[str, int]:
    """Words of /proc/PID/status in bytes; nothing where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = (line.split() for line in lines if line.startswith(("VmHWM:", "RssAnon:")))
    return {word.rstrip(":"): int(number) * 1024 for word, number, _ in found}


def _is_written(out: Path) -> bool:
    """Whether weights are being written beside ``out``, where they stand until the folder is put there."""
    # safetensors gives a file its name when it is whole
    return any(True for folder in out.parent.glob(f".{out.name}.*/made") for _ in folder.glob(".tmp*"))


def _sizes(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.glob(WEIGHTS)]


def _copied(folder: Path, to: Path) -> list[float]:
    """Seconds that copying the weights of a folder takes on the same disk, of each of ``COPIES`` goes."""
    taken = []
    for _ in range(COPIES):
        to.mkdir()
        os.sync()
        began = time.perf_counter()
        for file in folder.glob(WEIGHTS):
            shutil.copyfile(file, to / file.name)
        taken.append(time.perf_counter() - began)
        shutil.rmtree(to)
    return taken


def _write(kept: dict[str, Any]) -> None:
    """Replace the table in the docs; N is the model in float32, as it is written."""
    size = kept["float32"]
    rows = [
        f"N is the LLM in float32, {size / 1e9:.2f} GB; the other software takes {{}} MB, which are subtracted.",
        "",
        "| `--to` | run's dtype | memory, of N | with mapped files, of N | written | in (processor) | copied in | "
        "loading | comparing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    least = []
    for row in kept["rows"]:
        without = row["without"]
        least.append(without["resident"] / 1e6)
        shares = [f"{(row[word] - without[word]) / size:.2f}" for word in ("anonymous", "resident")]
        low, middle, high = min(row["copying"]), statistics.median(row["copying"]), max(row["copying"])
        cells = [
            f"{row['written'] / 1e9:.2f} GB",
            f"{row['writing']:.0f} s ({row['busy']:.0f} s)",
            f"{middle:.0f} s ({low:.0f} to {high:.0f})",
            f"{row['loading']:.0f} s",
            f"{row['seconds'] - row['loading'] - row['writing']:.0f} s",
        ]
        rows.append(f"| {row['form']} | {row['dtype']} | {' | '.join(shares + cells)} |")
    loads = [row["load"] for row in kept["rows"]]
    rows[0] = rows[0].format(f"{min(least):.0f} to {max(least):.0f}")
    rows[0] += f" {kept['cores']} cores, load {min(loads):.0f} to {max(loads):.0f}."
    text = DOCS.read_text(encoding="utf-8")
    table = f"{START}\n\n" + "\n".join(rows) + f"\n\n{END}"
    DOCS.write_text(
        re.sub(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: table, text, flags=re.S), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
