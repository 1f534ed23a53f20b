"""`mmllm import`: a published model becomes a run, its weights where they are, after a comparison with transformers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from mmllm.checkpoints.digest_cache import DigestCache, frozen
from mmllm.checkpoints.store import LEARNED, Manifest, commit, replace_text
from mmllm.connectors.base import Connector
from mmllm.errors import MmllmError
from mmllm.model.build import build
from mmllm.model.input_digests import input_digests
from mmllm.model.model import MultimodalLM
from mmllm.model.start import fill, load_start
from mmllm.model.trainable import trainable_state
from mmllm.published.comparison import Stage, check, compare, outcome
from mmllm.published.source import Sections, Source
from mmllm.recipe.load import digest, dump, load_recipe, parse
from mmllm.recipe.models import Recipe, Start
from mmllm.recipe.shaping import IMPORTED, shaping
from mmllm.vlms.text_model import chunk_of

CONTEXT = 4096
"""Longest conversation of an imported run, where its LLM takes more; free to change."""
TEMPLATE, COPY, REPORT = "chat_template.jinja", "published", "import.json"
"""Files of the run: its chat template, the folder of a copied model, what was compared."""
Say = Callable[[str], None]


def import_checkpoint(
    path: str, out: Path, *, tiles: bool = True, copy: bool = False, say: Say = lambda _: None
) -> list[Stage]:
    """Write the run ``out`` for the published model at ``path``; nothing is there unless all stages agree.

    Args:
        path: folder or hub id.
        out: run folder, which must not exist.
        tiles: False: pictures are taken whole where the model would cut them into tiles.
        copy: copy the model's folder into the run, so that it can move without it.
        say: is told each thing that is done.

    Raises:
        MmllmError: the model is not known, a part cannot be taken, or something differs; says what first.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MmllmError(f"{out} is there already; choose another --out, or remove it")
    if copy and not Path(path).is_dir():
        raise MmllmError(f"--copy copies a local folder, and {path} is none; download it first (hf download)")
    source = Source(path, tiles)
    say(f"{path} is {source.family.name}; transformers {transformers.__version__} is what it is compared with")
    sections = source.sections()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        folder = Path(place) / "run"
        folder.mkdir()
        words, model = assembled(source, sections, folder, out.name)
        stages = []
        for stage in compare(source, model):
            stages.append(stage)
            say(outcome(stage))
        check(stages, path)
        _write(folder, source, words, model, stages, copy)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return stages


def assembled(source: Source, sections: Sections, folder: Path, name: str) -> tuple[dict[str, Any], MultimodalLM]:
    """The recipe's sections and the model that they build, with the published weights; compared with nothing yet.

    ``folder``: a chat template that is no file of the model is written there.
    """
    words = _words(source, sections, folder, name)
    recipe = parse(yaml.safe_dump(words, sort_keys=False), stages=False)
    model = build(recipe, "cpu")
    for key, part in recipe.connectors.items():
        if key in sections.filled:
            connector = model.connectors[key]
            assert isinstance(connector, Connector)
            fill(f"connectors.{key}", source.path, connector, sections.filled[key](connector))
        elif part.shares is None:
            _fill(source, recipe, key, model)
    return words, model


def _words(source: Source, sections: Sections, folder: Path, name: str) -> dict[str, Any]:
    """The recipe's sections."""
    text: Any = source.config.get_text_config()
    context = min(CONTEXT, text.max_position_embeddings, chunk_of(text) or CONTEXT)
    llm = {"path": source.path, "dtype": "float32", "context": context, **sections.llm}
    template = sections.template or _template(source, sections)
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
        llm["template"] = str(folder / TEMPLATE)
    return {"name": name, "llm": llm, "encoders": sections.encoders, "connectors": sections.connectors}


def _template(source: Source, sections: Sections) -> str | None:
    """The processor's chat template, where the tokenizer's own would give other ids; None where it gives the same."""
    wanted = source.template
    if wanted is None:
        raise MmllmError(
            f"{source.path} has no chat template, so what its prompts look like is unknown; save one beside it as "
            "chat_template.jinja (its model card shows the prompt)"
        )
    if not isinstance(wanted, str):
        raise MmllmError(f"{source.path} has several chat templates ({', '.join(wanted)}); keep one")
    wanted = wanted if sections.rewrites is None else sections.rewrites(wanted)
    if not _begins(source):
        return None if wanted == source.tokenizer.chat_template else wanted
    # the processor's tokenizer puts it in front of every text; a run's writes what the template says
    return "{{ bos_token }}" + wanted


def _begins(source: Source) -> bool:
    """Whether the tokenizer puts its first token in front of a conversation whose template does not write it."""
    bos = source.tokenizer.bos_token
    if bos is None or source.tokenizer("a").input_ids[:1] != [source.tokenizer.bos_token_id]:
        return False
    talk = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    return not source.rendered(talk).startswith(bos)


def _fill(source: Source, recipe: Recipe, key: str, model: MultimodalLM) -> None:
    """Copy the published projector into its connector."""
    part = recipe.connectors[key].model_copy(update={"start": Start(path=source.path, prefix="")})
    connector = model.connectors[key]
    assert isinstance(connector, Connector)
    load_start(key, part, connector)


def _write(
    folder: Path, source: Source, words: dict[str, Any], model: MultimodalLM, stages: list[Stage], copy: bool
) -> None:
    """The run's files; paths inside the run are relative to it."""
    if "template" in words["llm"]:
        words["llm"]["template"] = TEMPLATE
    if copy:
        shutil.copytree(source.path, folder / COPY)
        words["llm"]["path"] = COPY
        for part in words["encoders"].values():
            part.get("image", part)["model"] = COPY
        for part in words["connectors"].values():
            part |= {"tokenizer": COPY} if "tokenizer" in part else {}
    recipe = parse(yaml.safe_dump(words, sort_keys=False), stages=False)
    replace_text(folder / "recipe.yaml", dump(recipe))
    (folder / "stages" / IMPORTED).mkdir(parents=True)
    recipe = load_recipe(folder / "recipe.yaml")  # as it will be read: its paths start in the run
    head = Manifest(
        stage=IMPORTED,
        step=0,
        final=True,
        world=1,
        recipe=digest(recipe),
        frozen=frozen(model, model.recipe or recipe, DigestCache(None)),
        shaping=shaping(recipe, IMPORTED),
        inputs=input_digests(model),
    )
    learned: dict[str, torch.Tensor] = {name: one.detach().clone() for name, one in trainable_state(model).items()}
    commit(folder / "stages" / IMPORTED, head, {LEARNED: learned}, keep=1)
    report = {
        "checkpoint": source.path,
        "architecture": source.config.model_type,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "tiles": source.tiles,
        "stages": [asdict(stage) for stage in stages],
    }
    replace_text(folder / REPORT, json.dumps(report, indent=1) + "\n")
