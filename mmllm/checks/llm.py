"""The LLM's folder: config, weights, tokenizer, chat template, and what they say of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmllm.checks import configs
from mmllm.checks.places import Found, missing, model_files
from mmllm.checks.report import Report
from mmllm.checks.tokenizers import TokenizerFiles, template_problems
from mmllm.files import safetensors_files
from mmllm.messages.new_tokens import known_token
from mmllm.recipe import yaml_lines
from mmllm.recipe.models import Llm
from mmllm.vlms.families import FAMILIES

AT: yaml_lines.Path = ("llm", "path")
_DEPTH = ("num_hidden_layers", "n_layer")
_GGUF = b"GGUF"


def check_llm(llm: Llm, report: Report) -> int | None:
    """Open what ``llm.path`` names; returns its number of blocks, None where it is not known."""
    found = model_files(llm.path, AT, report)
    template = _given_template(llm.model_dump().get("template"), report)
    if found is None:
        return None
    if found.path.is_file() or not (found.path / "config.json").is_file():
        _without_config(found, report)
        return None
    try:
        config = configs.read_json(found.path / "config.json")
    except configs.UnreadableError as error:
        report.error(AT, str(error))
        return None
    foreign = next(_kind(found.path, config), None)
    if foreign is not None:
        report.error(AT, foreign)
        return None
    weights(found, AT, report)
    _tokenizer(found, config, template, llm.new_tokens, report)
    own = configs.llm_config(config)
    positions = configs.number(own, "max_position_embeddings", "n_positions")
    if positions is not None and llm.context > positions:
        report.error(
            ("llm", "context"), f"found {llm.context:,} tokens, but {llm.path} has {positions:,} positions; give fewer"
        )
    where = {"folder": "", "shipped": ", placed here by `mmllm train`", "cached": ", in the hub's cache"}[found.origin]
    report.note(("llm",), f"{own.get('model_type')}{_width(own)}{where}")
    return configs.number(own, *_DEPTH)


def weights(found: Found, path: yaml_lines.Path, report: Report) -> None:
    """Note what is wrong with a folder's weights; what the hub's cache lacks will be downloaded, so it is no error."""
    for sentence in safetensors_files.problems(found.path):
        if found.origin == "cached":
            report.warning(path, f"the hub's cache is incomplete, the rest will be downloaded: {sentence}")
        else:
            report.error(path, sentence)


def _width(config: Mapping[str, Any]) -> str:
    """``, 24 blocks, width 896`` where the config says so."""
    blocks = configs.number(config, *_DEPTH)
    width = configs.number(config, "hidden_size", "n_embd")
    return (f", {blocks} blocks" if blocks else "") + (f", width {width:,}" if width else "")


def _without_config(found: Found, report: Report) -> None:
    """A GGUF file or folder, or something that is no LLM."""
    folder = found.path
    files = [folder] if folder.is_file() else sorted(folder.glob("*.gguf"))
    if files and all(file.suffix == ".gguf" for file in files):
        for file in files:
            with file.open("rb") as opened:
                if opened.read(len(_GGUF)) != _GGUF:
                    report.error(AT, f"{file} is no GGUF file; download it again")
        report.warning(AT, f"{folder} is in GGUF; its weights, tokenizer and template are not tested before training")
    elif (folder / "adapter_config.json").is_file():
        base = _base_of(folder / "adapter_config.json")
        report.error(
            AT, f"{folder} is a PEFT adapter of {base}, no LLM; merge it (peft's merge_and_unload) and give that folder"
        )
    elif folder.is_file():
        report.error(AT, f"{folder} is a file; give a folder in save_pretrained format")
    elif found.origin == "cached":
        report.warning(AT, f"the hub's cache has no config.json of it ({folder}); the rest will be downloaded")
    else:
        report.error(AT, f"{folder} has no config.json; give a folder in save_pretrained format")


def _base_of(file: Path) -> str:
    try:
        return str(configs.read_json(file).get("base_model_name_or_path") or "another model")
    except configs.UnreadableError:
        return "another model"


def _kind(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence where transformers has no causal LM of this kind."""
    kind = config.get("model_type")
    causal, listed = configs.llm_types()
    multimodal = listed | FAMILIES.keys()
    if not isinstance(kind, str):
        yield f"{folder / 'config.json'} has no model_type, so transformers cannot tell what it is"
    elif "auto_map" in config and kind not in causal | multimodal:
        yield f"{folder} needs code of its own (auto_map in config.json), and mmllm runs none that comes with weights"
    elif causal and kind not in causal | multimodal:
        yield f'{folder} holds a model of type "{kind}", which is no causal LM of the installed transformers'


def _given_template(given: Any, report: Report) -> str | None:
    """Text of a template that the recipe gives as a file, "" where it names one; None: the tokenizer's own is used."""
    if not isinstance(given, str):
        return None
    if "/" not in given and "." not in given:
        return ""
    lost = missing(given)
    if lost:
        report.error(("llm", "template"), lost)
    return "" if lost else Path(given).read_text(encoding="utf-8")


def _tokenizer(
    found: Found, config: Mapping[str, Any], template: str | None, tokens: Sequence[str], report: Report
) -> None:
    """Tokenizer and template, and whether every token has an embedding; an empty template is not tried.

    ``tokens``: new ones, which must not be there already.
    """
    try:
        tokenizer = TokenizerFiles(found.path)
    except configs.UnreadableError as error:
        if found.origin == "cached":
            report.warning(AT, f"the hub's cache is incomplete, the rest will be downloaded: {error}")
        else:
            report.error(AT, str(error))
        return
    vocabulary = configs.number(configs.llm_config(config), "vocab_size")
    if vocabulary is not None and len(tokenizer) > vocabulary:
        report.error(
            AT,
            f"the tokenizer of {found.path} has {len(tokenizer):,} tokens, the model {vocabulary:,} embeddings; use "
            "the tokenizer that belongs to the model",
        )
    if tokens and (found.path / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        sentence = known_token(Tokenizer.from_file(str(found.path / "tokenizer.json")), tokens)
        if sentence is not None:
            report.error(("llm", "tokens"), sentence)
    if template != "":
        for sentence in template_problems(tokenizer, template):
            report.error(AT if template is None else ("llm", "template"), sentence)
