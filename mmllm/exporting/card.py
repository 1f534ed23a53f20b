"""The model card of what leaves a run: parts, data, scores and how to load it, from the run's own records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, try_to_load_from_cache

from mmllm import __version__
from mmllm.certificates.summary import summary
from mmllm.checkpoints.load import last_checkpoint
from mmllm.checkpoints.store import Manifest
from mmllm.evaluation.digests import of_parts
from mmllm.exporting.places import is_local, shown
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import learned_parts
from mmllm.published.comparison import Stage
from mmllm.recipe.models import Recipe

CARD = "README.md"
UNKNOWN = "not stated"
ID = "USER/NAME"
"""Stands in the card for the name on the hub until it is pushed."""
PIPELINES = {"image": "image-text-to-text", "audio": "audio-text-to-text", "video": "video-text-to-text"}
"""Modality -> the hub's word for a model that reads it."""
LOADED = {
    "hf": """from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{id}")
processor = AutoProcessor.from_pretrained("{id}")""",
    "llm": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{id}")
tokenizer = AutoTokenizer.from_pretrained("{id}")""",
    "peft": """from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("{id}")""",
    "gguf": """# llama.cpp reads both files; mmproj.gguf is there where pictures are shown
# llama-server -m model.gguf --mmproj mmproj.gguf""",
    "vllm": """# vLLM finds it through this package: pip install mmllm, beside vLLM
# vllm serve {id}""",
    "run": """import mmllm

model = mmllm.load("{id}")
model.chat("What is it?")""",
}
"""Form -> Python that loads it."""
LIBRARIES = {
    "hf": "transformers",
    "llm": "transformers",
    "peft": "peft",
    "gguf": "gguf",
    "vllm": "vllm",
    "run": "mmllm",
}


@dataclass(frozen=True)
class Facts:
    """What a card tells of a run."""

    recipe: Recipe
    manifest: Manifest
    learned: Sequence[str]
    """Names of the parts that learned."""
    modalities: Sequence[str]
    scores: Mapping[str, Mapping[str, Any]]
    """Benchmark -> its entry in results.json; of other weights there are none."""

    @classmethod
    def of(cls, run: Path, recipe: Recipe, model: MultimodalLM) -> Facts:
        """Read a run's records; ``model``: its last checkpoint, loaded."""
        found, _ = last_checkpoint(run, recipe)
        assert found is not None  # it was loaded
        modalities = dict.fromkeys(entry.modality for entry in model.inputs.values())
        learned = learned_parts(model)
        return cls(recipe, found.manifest, learned, tuple(modalities), _scores(run, model, learned))


def _scores(run: Path, model: MultimodalLM, learned: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    try:
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        known = results["digests"]
        found: Mapping[str, Mapping[str, Any]] = results["benchmarks"]
    except (OSError, ValueError, KeyError):
        return {}
    # an evaluation of weights that were trained further since is not about these; what learns beside the connectors
    # may be in another dtype here, and never learns without them
    parts = [name for name in learned if name.startswith("connectors.")]
    same = all(known.get(name) == digest for name, digest in of_parts(model, parts).items())
    return found if same else {}


def card(facts: Facts, form: str, stages: Sequence[Stage], certificate: Mapping[str, Any] | None = None) -> str:
    """Markdown with the hub's metadata in front. ``stages``: what was compared; ``certificate``: of the run."""
    recipe = facts.recipe
    bases = [place for place in dict.fromkeys(place for _, place in _parts(recipe)) if not is_local(place)]
    data = ModelCardData(
        base_model=bases or None,
        library_name=LIBRARIES.get(form),
        pipeline_tag=_pipeline(facts, form),
        tags=["mmllm", *facts.modalities],
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {recipe.name}",
        f"Made with mmllm {__version__}: frozen parts, joined by what was learned ({', '.join(facts.learned)}).",
        "## Parts\n\n" + _table(("part", "what it is", "licence", "sha256 of its weights"), _part_rows(facts)),
        *_data(facts),
        *_results(facts),
        *_load(form),
        "## Compared\n\n" + _compared(form, stages),
        *([] if certificate is None else ["## Text without media\n\n" + summary(certificate)]),
    ]
    return "\n\n".join(sections) + "\n"


def _pipeline(facts: Facts, form: str) -> str | None:
    if form in ("llm", "peft"):
        return "text-generation"
    return PIPELINES.get(facts.modalities[0]) if len(facts.modalities) == 1 else None


def _parts(recipe: Recipe) -> list[tuple[str, str]]:
    """Name of a part that came from somewhere, and its place."""
    found = [("llm", str(recipe.llm.path))]
    for key, part in recipe.encoders.items():
        args = part.args.get("image", part.args)
        place = next((str(args[word]) for word in ("pretrained", "model") if word in args), None)
        if part.type == "open_clip" and "model" in args:
            place = str(args["model"]) if is_local(str(args["model"])) else f"{args['model']} of open_clip"
        if place is not None:
            found.append((f"encoders.{key}", place))
    return found


def _part_rows(facts: Facts) -> list[tuple[str, ...]]:
    digests = facts.manifest.frozen
    rows: list[tuple[str, ...]] = []
    for name, place in _parts(facts.recipe):
        digest = f"`{digests[name]}`" if name in digests else "learned"
        rows.append((name, shown(place), _licence(place), digest))
    for key, part in facts.recipe.connectors.items():
        rows.append((f"connectors.{key}", part.type, "", "learned"))
    return rows


def _licence(place: str) -> str:
    """The licence that a part's own records state; nothing is concluded from a name."""
    folder = Path(place)
    if folder.is_dir():
        for file, read in (("source.json", _of_source), (CARD, _of_card)):
            stated = read(folder / file) if (folder / file).is_file() else None
            if stated:
                return stated
        return UNKNOWN
    found = try_to_load_from_cache(place, CARD) if not is_local(place) and place.count("/") == 1 else None
    return (_of_card(Path(found)) if isinstance(found, str) else None) or UNKNOWN


def _of_source(file: Path) -> str | None:
    try:
        words = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    stated = words.get("licence", words.get("license")) if isinstance(words, dict) else None
    return str(stated) if stated else None


def _of_card(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n"):
        return None
    try:
        words = yaml.safe_load(text.split("---\n")[1])
    except yaml.YAMLError:
        return None
    stated = words.get("license_name") or words.get("license") if isinstance(words, dict) else None
    return str(stated) if stated else None


def _data(facts: Facts) -> list[str]:
    digests = facts.manifest.inputs
    rows = []
    for key, part in facts.recipe.data.items():
        digest = digests.get(f"data.{key}")
        rows.append((key, part.type, f"`{digest}`" if digest else UNKNOWN))
    return ["## Data\n\n" + _table(("data", "type", "sha256"), rows)] if rows and facts.recipe.stages else []


def _results(facts: Facts) -> list[str]:
    if not facts.scores:
        return ["## Scores\n\nNone were measured on these weights."]
    rows = []
    for name, found in facts.scores.items():
        low, high = found["interval"]
        of = f"{found['n']} of {found['total']}" if found.get("total") else str(found["n"])
        rows.append((name, str(found["metric"]), f"{found['score']:.3f}", f"{low:.3f} to {high:.3f}", of))
    return ["## Scores\n\n" + _table(("benchmark", "metric", "score", "95 % interval", "questions"), rows)]


def _load(form: str) -> list[str]:
    code = LOADED.get(form)
    return [f"## Load it\n\n```python\n{code.format(id=ID)}\n```"] if code else []


def _compared(form: str, stages: Sequence[Stage]) -> str:
    rows = [(stage.name, f"{stage.difference:.1g}" if stage.difference else "equal") for stage in stages]
    told = "What other software makes of these files, compared with the run before they were put here"
    told = "These files, opened anew, compared with the run" if form == "run" else told
    return f"{told} (tokens and logits: largest difference as a share of their spread).\n\n" + _table(
        ("compared", "difference"), rows
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
