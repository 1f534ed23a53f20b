"""`mmllm export`: writes a run in a form that other software loads, and compares what that software makes of it."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from mmllm.certificates.making import FILE, write_certificate
from mmllm.certificates.signing import read
from mmllm.checkpoints.load import Trust, find_run, load_run, run_recipe
from mmllm.checkpoints.store import replace_text
from mmllm.errors import MmllmError
from mmllm.exporting.card import CARD, Facts, card
from mmllm.published.comparison import Stage, differing, outcome

FORMS: Mapping[str, str] = {
    "gguf": "mmllm.exporting.gguf.whole:write",
    "hf": "mmllm.exporting.whole:write",
    "llm": "mmllm.exporting.text:write_llm",
    "peft": "mmllm.exporting.text:write_peft",
    "run": "mmllm.exporting.own:write_run",
    "vllm": "mmllm.exporting.vllm.whole:write",
}
"""Form -> what writes it."""
WITH_ROWS = ("hf", "llm", "run", "vllm")
"""Forms that hold rows of new tokens."""
REPORT = "mmllm_export.json"
"""File beside the weights that says what was compared."""
Write = Callable[..., Iterator[Stage]]
"""Takes recipe, model and folder, and the form's own words by name."""


def export_run(
    run: str | Path,
    form: str,
    out: Path,
    *,
    trust: Trust | None = None,
    say: Callable[[str], None] = lambda _: None,
    certify: bool = False,
    **words: Any,
) -> list[Stage]:
    """Write a run's last checkpoint into the folder ``out``; nothing is there unless all stages agree.

    Everything is computed and written in float32, whatever the run computes in.

    Args:
        run: folder, or name on the hub.
        form: a key of :data:`FORMS`.
        out: folder, which must be empty or not exist.
        trust: as ``load_run`` has it.
        say: is told each thing that is compared.
        certify: make a certificate of the run, see ``mmllm certify``; else the one that its folder has goes along.
        words: of the form alone, see its ``write``: ``dtype`` and ``allow`` of ``gguf``.

    Raises:
        MmllmError: the form cannot hold the run or has no such word, or something differs; says what first.
    """
    if form not in FORMS:
        raise MmllmError(f"--to {form} is unknown; known: {', '.join(FORMS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MmllmError(f"{out} is there already; choose another --out, or remove it")
    module, _, name = FORMS[form].partition(":")
    write: Write = getattr(importlib.import_module(module), name)
    foreign = words.keys() - inspect.signature(write).parameters.keys()
    if foreign:
        raise MmllmError(f"--{min(foreign)} says nothing of --to {form}; leave it out")
    folder = find_run(run)
    # a run that stays one is written as it is; other software gets whole weights
    recipe, model = load_run(folder, "cpu", None, () if form == "run" else _in_float32(folder, form), trust)
    facts = Facts.of(folder, recipe, model)
    out.parent.mkdir(parents=True, exist_ok=True)
    stages, where = [], f"{run}: --to {form}"
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        made = Path(place) / "made"
        made.mkdir()
        for stage in _in_sentences(where, write(recipe, model, made, **words)):
            stages.append(stage)
            say(outcome(stage))
            if not stage.equal:
                raise MmllmError(f"{where}: what was written differs from the run first in its {differing(stage)}")
        del model  # a certificate opens another one
        certificate = _certificate(folder, facts, made, certify, trust, say)
        replace_text(made / CARD, card(facts, form, stages, certificate))
        report = {
            "run": recipe.name,
            "form": form,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "stages": [asdict(stage) for stage in stages],
            "files": digests_of(made),
        }
        replace_text(made / REPORT, json.dumps(report, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        made.rename(out)
    return stages


def _certificate(
    run: Path, facts: Facts, made: Path, certify: bool, trust: Trust | None, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The certificate that is put beside what was written; None where there is none of this checkpoint.

    It is not made unasked: it holds the LLM twice, in use and bare.
    """
    try:
        if certify:
            found = write_certificate(run, made / FILE, trust=trust)
        elif (run / FILE).is_file():
            found = read(run / FILE)
            told, manifest = found["run"], facts.manifest
            if (told.get("stage"), told.get("step")) != (manifest.stage, manifest.step):
                raise MmllmError(f"{run / FILE} is of another checkpoint; make it anew (`mmllm certify {run}`)")
            shutil.copyfile(run / FILE, made / FILE)
        else:
            say(f"no certificate: `mmllm certify {run}` makes one, which the next export takes along")
            return None
    except MmllmError as error:  # what was written is equal all the same, and must not be lost
        say(f"no certificate: {error}")
        return None
    say(f"certificate of the run: {FILE}")
    return found


def digests_of(folder: Path) -> dict[str, str]:
    """Name of a file -> sha256, of all files but the report and the card, which are about the others."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in (REPORT, CARD):
            with file.open("rb") as opened:
                found[str(file.relative_to(folder))] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def _in_sentences(where: str, stages: Iterator[Stage]) -> Iterator[Stage]:
    """The stages; MmllmError where a library fails at writing or loading what no check here has foreseen."""
    try:
        yield from stages
    except MmllmError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise MmllmError(
            f"{where}: transformers cannot write or load this run in that form ({type(error).__name__}: {first}); keep "
            "the run, or try another form"
        ) from error


def _in_float32(folder: Path, form: str) -> list[str]:
    """Overrides under which a run's LLM computes in float32; MmllmError where it cannot be written as it is."""
    recipe = run_recipe(folder)
    if recipe.llm.quantize is not None:
        raise MmllmError(
            f"{folder}: its LLM is quantised (llm.quantize: {recipe.llm.quantize}), and what learned beside rounded "
            "weights is not what other software would compute beside whole ones; export is not possible"
        )
    if recipe.llm.tokens and form not in WITH_ROWS:
        raise MmllmError(
            f"{folder}: its LLM has tokens of its own (llm.tokens), whose rows stand beside the frozen tables; --to "
            f"{form} has no place for them, --to {' and --to '.join(WITH_ROWS)} have"
        )
    return [] if recipe.llm.dtype == "float32" else ["llm.dtype=float32"]
