"""Measures a finished part as anyone would load it, and keeps the committed table data/mini/RESULTS.md up to date."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmllm.errors import MmllmError

LM_SIZE = 100
FLOORS = {
    "lm": {"gate": 0.95},
    "clip": {
        "scene color": 0.95,
        "scene shape": 0.95,
        "scene occupied": 0.95,
        "scene place": 0.95,
        "digit digit": 0.97,
    },
}
FLOORS["vit"] = FLOORS["clip"]
FLOORS["audio"] = {"phone": 0.85, "f1": 0.6, "f2": 0.6, "pitch": 0.7, "event": 0.9, "manner": 0.9}
TITLES = {
    "lm": "LM",
    "clip": "CLIP (open_clip, contrastive)",
    "vit": "ViT (transformers, dense supervision)",
    "audio": "Whisper encoder (transformers, dense supervision of generated sound)",
}


def _lm(folder: Path) -> dict[str, float]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mmllm.miniature.parts.lm_acceptance import measure

    return measure(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), LM_SIZE)


def encode_vit(folder: Path, layer: int) -> Callable[[Tensor], Tensor]:
    """pixels float[N, 3, 64, 64] -> patches float[N, 64, D] of one layer's output (negative: from the end)."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    return lambda pixels: model(pixel_values=pixels, output_hidden_states=True).hidden_states[layer][:, 1:]


def encode_clip(folder: Path, layer: int) -> Callable[[Tensor], Tensor]:
    """Return what encode_vit does, from open_clip's own loading of a local folder."""
    import open_clip

    model = open_clip.create_model_and_transforms(f"local-dir:{folder}")[0].eval()
    blocks = model.visual.transformer.resblocks

    def encode(pixels: Tensor) -> Tensor:
        out = model.visual.forward_intermediates(
            pixels, indices=[len(blocks) + layer], output_fmt="NLC", intermediates_only=True
        )
        found: Tensor = out["image_intermediates"][0]
        return found

    return encode


def measure_part(part: str, home: Path) -> dict[str, float]:
    """All numbers of one part; encoders are probed at the layer before the last and at the last.

    Floors are for the layer before the last; the miniature recipes read the last.
    """
    folder = home / part
    if not folder.is_dir():
        raise MmllmError(f"no miniature part at {folder}; run `python -m mmllm.miniature build {part}` first")
    if part == "lm":
        return _lm(folder)
    if part == "audio":
        from mmllm.miniature.parts.audio_probe import probe_audio

        return probe_audio(folder)
    from mmllm.miniature.parts.probe import probe

    encode = encode_vit if part == "vit" else encode_clip
    report = probe(encode(folder, -2))
    return report | {f"{name} (last layer)": value for name, value in probe(encode(folder, -1)).items()}


def _machine() -> str:
    return f"{platform.machine()}, {platform.system()}, one thread, torch {torch.__version__}"


def record(part: str, home: Path, command: str) -> bool:
    """Measures, prints, stores the numbers and rewrites RESULTS.md; says whether all floors are reached."""
    report = measure_part(part, home)
    store = home / "results.json"
    known: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {}
    known[part] = {"command": command, "machine": _machine(), "numbers": {k: round(v, 4) for k, v in report.items()}}
    store.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    (home / "RESULTS.md").write_text(table(known))
    missed = {name: report[name] for name, floor in FLOORS[part].items() if report[name] < floor}
    print(f"{part}: " + (f"below its floors: {missed}" if missed else "all floors reached"))
    return not missed


def table(known: dict[str, Any]) -> str:
    """RESULTS.md from the stored numbers."""
    lines = [
        "# What each miniature part reached alone",
        "",
        "Written by `python -m mmllm.miniature build` and `gate`; do not edit. Everything is measured on held-out",
        "combinations (see `mmllm/miniature/world/splits.py`). They are miniature: they know only this small world.",
        "",
        "- LM: share of exact answers, greedy, to one question about one matter described in text; `gate` is over",
        "  scenes, documents and large shapes; `merged` is the same with the words of a fact summed into one position",
        "  (the LM was trained on such rows too, from text alone); `perplexity` is per token of questions, answers and",
        "  descriptions, most of which is chosen at random and cannot be foretold.",
        "- Encoders: accuracy of linear probes on frozen features pooled to the 4 x 4 cells (digits: on their mean),",
        "  2000 training and 500 test pictures for each sort.",
        "- Audio: accuracy of linear probes on frozen tokens of 20 ms, of generated windows that training did not hear",
        "  (800 to fit, 200 to test, each of 2 seconds); all but phone on tokens where there is something of the sort.",
        "  f1, f2, f3 are formants as an average speaker would have them, in 10, 12 and 6 steps; pitch in 14 steps.",
    ]
    for part in [name for name in TITLES if name in known]:
        entry = known[part]
        lines += [
            "",
            f"## {TITLES[part]}",
            "",
            f"`{entry['command']}` on {entry['machine']}",
            "",
            "| what | reached | floor |",
            "|---|---|---|",
        ]
        floors = FLOORS[part]
        for name, value in entry["numbers"].items():
            lines.append(f"| {name} | {value:g} | {floors.get(name, '')} |")
    return "\n".join(lines) + "\n"
