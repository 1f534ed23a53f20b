"""Encoders' models: folders with config, weights and preprocessing, names and tags of open_clip, layers asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmllm import registry
from mmllm.checks import configs
from mmllm.checks.llm import weights
from mmllm.checks.places import Found, cached, here_or_shipped, local_arguments, missing, model_files
from mmllm.checks.report import Report
from mmllm.checks.tokenizers import TokenizerFiles
from mmllm.files import safetensors_files
from mmllm.recipe import part_arguments, yaml_lines

_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
_READS_MEDIA = ("HfVisionEncoder", "HfNativeEncoder", "HfSamEncoder", "MllamaVisionEncoder", "HfAudioEncoder")
_READS_TEXT = ("DocumentEncoder", "TextGraphEncoder")
_OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")


def check_encoder(path: yaml_lines.Path, type: str, args: Mapping[str, Any], report: Report) -> None:
    """Open what an encoder's arguments name; an encoder inside it (``frames``) is checked as its own.

    Which rules hold is told by the class that its class derives from, so they hold for subclasses of other packages.
    """
    for name in part_arguments.inner_encoders("encoders", type):
        inner = args[name]
        rest = {word: value for word, value in inner.items() if word != "type"}
        check_encoder((*path, name), str(inner["type"]), rest, report)
    local = local_arguments("encoders", type, args)
    for name, value in local.items():
        lost = missing(value) if name != "model" else None
        if lost:
            report.error((*path, name), lost)
        elif value.endswith(".safetensors") and Path(value).is_file():
            check_weights_file(Path(value), (*path, name), report)
    model = args.get("model")
    if not isinstance(model, str):
        return
    bases = registry.bases("encoders", type)
    at = (*path, "model")
    if "OpenClipEncoder" in bases or ("PointsEncoder" in bases and _is_open_clip(model, args)):
        _open_clip(model, args.get("pretrained"), _layers(type, args), path, report)
    elif {*_READS_MEDIA, *_READS_TEXT, "PointsEncoder"} & {*bases}:
        found = model_files(model, at, report)
        if found is not None:
            _folder(found, bases, path, _layers(type, args), report)
    elif "/" in model:  # a class of another package: a word alone may be a name that only it knows
        model_files(model, at, report)


def check_weights_file(file: Path, path: yaml_lines.Path, report: Report) -> None:
    """Note a safetensors file that is incomplete or of another kind."""
    try:
        safetensors_files.tensors(file)
    except safetensors_files.DamagedError as error:
        report.error(path, str(error))


def _layers(type: str, args: Mapping[str, Any]) -> list[int]:
    """Numbers of layers asked for; words among them are left to the class."""
    parameter = registry.parameters("encoders", type).get("layers")
    found = args.get("layers", part_arguments.default_of(parameter) if parameter else ())
    return [layer for layer in found or () if isinstance(layer, int)]


def _folder(found: Found, bases: list[str], path: yaml_lines.Path, layers: list[int], report: Report) -> None:
    """A model of transformers: config, weights, preprocessing or tokenizer, layers that exist."""
    at = (*path, "model")
    if found.path.is_file():
        report.error(at, f"{found.path} is a file; give a folder in save_pretrained format")
        return
    lacking = report.warning if found.origin == "cached" else report.error
    end = "; it will be downloaded" if found.origin == "cached" else ""
    try:
        config = configs.read_json(found.path / "config.json")
    except configs.UnreadableError as error:
        lacking(at, f"{error}{end}")
        return
    weights(found, at, report)
    if {*_READS_MEDIA} & {*bases} and not any((found.path / name).is_file() for name in _PREPROCESSING):
        lacking(
            at,
            f"{found.path} has no {_PREPROCESSING[0]}, so how its media are prepared is unknown; put that of its "
            f"model there{end}",
        )
    if {*_READS_TEXT} & {*bases}:
        try:
            TokenizerFiles(found.path)
        except configs.UnreadableError as error:
            lacking(at, f"{error}{end}")
    blocks = _blocks(config, bases)
    _check_layers(layers, blocks, path, report)
    shown = f", {blocks} blocks" if blocks else ""
    report.note(path, f"{config.get('model_type')}{shown}")


def _blocks(config: Mapping[str, Any], bases: list[str]) -> int | None:
    """Transformer blocks of the part of a model that an encoder runs; None where its config does not say."""
    if {"HfVisionEncoder", "HfNativeEncoder", "MllamaVisionEncoder"} & {*bases}:
        config = config["vision_config"] if isinstance(config.get("vision_config"), dict) else config
    elif "HfSamEncoder" in bases:
        inner = config.get("high_res_vision_config", config.get("vision_config"))
        config = inner if isinstance(inner, dict) else config
    elif "HfAudioEncoder" in bases:
        config = config["audio_config"] if isinstance(config.get("audio_config"), dict) else config
        return configs.number(config, "encoder_layers", "num_hidden_layers")
    else:
        config = configs.llm_config(config)
    return configs.number(config, "num_hidden_layers")


def _check_layers(layers: list[int], blocks: int | None, path: yaml_lines.Path, report: Report) -> None:
    for layer in layers:
        if blocks is not None and not -blocks - 1 <= layer <= blocks:
            report.error(
                (*path, "layers"),
                f"found {layer}, and the model has {blocks} blocks: known are 0 (embeddings) to {blocks}, or "
                f"-{blocks + 1} to -1",
            )


# ---- open_clip


def _is_open_clip(model: str, args: Mapping[str, Any]) -> bool:
    return args.get("pretrained") is not None or (Path(model) / _OPEN_CLIP[0]).is_file()


def _open_clip(model: str, pretrained: Any, layers: list[int], path: yaml_lines.Path, report: Report) -> None:
    """A folder, a repository of the hub, or a model name with a tag or a file of weights."""
    here = here_or_shipped(model)
    if here is not None:
        _open_clip_folder(here, layers, path, report)
    elif not model.startswith("hf-hub:"):
        _open_clip_name(model, pretrained, path, report)
    elif (snapshot := cached(model.removeprefix("hf-hub:"), "models")) is not None:
        _open_clip_folder(Found(snapshot, "cached"), layers, path, report)
    else:
        report.warning((*path, "model"), f'"{model}" will be downloaded from the hub; not tested')


def _open_clip_folder(found: Found, layers: list[int], path: yaml_lines.Path, report: Report) -> None:
    at = (*path, "model")
    for name in _OPEN_CLIP:
        if not (found.path / name).is_file():
            say = report.warning if found.origin == "cached" else report.error
            say(at, f"open_clip folder {found.path} has no {name}")
            return
    try:
        config = configs.read_json(found.path / _OPEN_CLIP[0])
        safetensors_files.tensors(found.path / _OPEN_CLIP[1])
    except (configs.UnreadableError, safetensors_files.DamagedError) as error:
        report.error(at, str(error))
        return
    vision = (config.get("model_cfg") or {}).get("vision_cfg") or {}
    blocks = configs.number(vision, "layers")
    _check_layers(layers, blocks, path, report)
    placed = ", placed here by `mmllm train`" if found.origin == "shipped" else ""
    report.note(path, f"open_clip{f', {blocks} blocks' if blocks else ''}{placed}")


def _open_clip_name(model: str, pretrained: Any, path: yaml_lines.Path, report: Report) -> None:
    """A name of open_clip's list; its tag, unless a file of weights is given."""
    known = configs.open_clip_models()
    if known and model not in known:
        near = registry.nearest(model, known) or registry.nearest(model.replace("/", "-"), known)
        hint = f'; did you mean "{near}"?' if near else "; `open_clip.list_models()` lists the names"
        report.error((*path, "model"), f'"{model}" is neither a folder here nor a model name of open_clip{hint}')
        return
    if isinstance(pretrained, str) and pretrained.endswith(".safetensors"):
        return  # a file, checked with the other paths
    tags = configs.open_clip_tags().get(model.removesuffix("-quickgelu"), {})
    tag = str(pretrained).lower().replace("-", "_")
    if tags and tag not in tags:
        near = registry.nearest(tag, tags)
        hint = f'; did you mean "{near}"?' if near else ""
        found = f'"{pretrained}"' if pretrained is not None else "none"
        report.error((*path, "pretrained"), f"found {found}; weights of {model} in open_clip: {', '.join(tags)}{hint}")
    elif not tags.get(tag) or cached(tags[tag], "models") is None:
        report.warning(
            (*path, "model"), f"the weights of {model} ({pretrained}) are not in the hub's cache and will be downloaded"
        )
