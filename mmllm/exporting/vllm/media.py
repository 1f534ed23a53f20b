"""Pictures in front of an LLM, without the LLM: processor, frozen encoders and projector of a run, in a folder.

The folder ``media`` beside the LLM's weights holds a recipe of these parts, local encoders as they are, and what was
learned; digests of all weights are compared when it is opened. Nothing here imports vLLM.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmllm.checkpoints.code_trust import check_code
from mmllm.checkpoints.load import find_run
from mmllm.connectors.base import Projector
from mmllm.encoders.base import Encoder
from mmllm.encoders.float32_buffers import float32_buffers
from mmllm.errors import CheckpointError
from mmllm.exporting.weights import release
from mmllm.model.build import build_connector, build_encoders
from mmllm.model.inputs import Input, Item
from mmllm.model.model import MultimodalLM, run_encoder
from mmllm.model.project import project
from mmllm.model.trainable import learned_parts, weights_digest
from mmllm.recipe.load import dump, parse
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import PLACES

FOLDER = "media"
"""Folder beside the LLM's weights."""
RECIPE, LEARNED, DIGESTS = "recipe.yaml", "learned.safetensors", "digests.json"
"""Files in it: parts, tensors ``connectors.<key>...`` and ``encoders.<key>...``, part -> digest of its weights."""


class Media(nn.Module):
    """What makes tokens of pictures, for one placeholder."""

    def __init__(self, entry: Input) -> None:
        super().__init__()
        self.entry = entry
        self.encoders = nn.ModuleDict(entry.encoders)
        self.connectors = nn.ModuleDict({entry.key: entry.connector})

    @classmethod
    def of(cls, model: str) -> Self:
        """Open the part of an exported folder, or of what was pushed to the hub under this name; errors as ``open``."""
        return cls.open(find_run(model) / FOLDER)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what :meth:`write` wrote, in float32 on the CPU.

        Raises:
            MmllmError: a part is missing, is another one than was exported, or is code that is not installed.
        """
        check_code(folder, trusted=False)
        missing = [name for name in (RECIPE, LEARNED, DIGESTS) if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} has no {missing[0]}; give a folder that mmllm export --to vllm wrote")
        file = folder / RECIPE
        recipe = parse(file.read_text(encoding="utf-8"), file=str(file), folders=[folder], stages=False)
        told = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        encoders = build_encoders(recipe, "cpu")
        (key,) = recipe.connectors
        with torch.random.fork_rng(devices=[]):  # it is drawn before what was learned is put into it
            connector = build_connector(recipe, key, encoders, told["llm_dim"])
        assert isinstance(connector, Projector)
        self = cls(Input(key, {name: encoders[name] for name in recipe.connectors[key].encoders}, connector))
        self.load_state_dict(load_file(folder / LEARNED), strict=False)  # encoders that did not learn are not in it
        found = self._digests()
        other = [name for name, digest in told["weights"].items() if found[name] != digest]
        if other:
            raise CheckpointError(
                f"{folder}: the weights of {other[0]} are others than those that were exported; put the old ones back, "
                "or export the run again"
            )
        return self.requires_grad_(False).eval()

    @staticmethod
    def write(recipe: Recipe, model: MultimodalLM, folder: Path) -> None:
        """Write the parts of a run that has one placeholder; its encoders are in float32."""
        folder.mkdir()
        (key,) = model.inputs
        media = Media(model.inputs[key])
        _write_recipe(recipe, key, folder)
        learned = {f"connectors.{key}.", *(f"{part}." for part in learned_parts(model) if part.startswith("encoders."))}
        tensors = {name: tensor.contiguous() for name, tensor in media.state_dict().items()}
        kept = {name: tensor for name, tensor in tensors.items() if name.startswith(tuple(learned))}
        save_file(kept, folder / LEARNED)
        told = {"llm_dim": model.llm.dim, "weights": media._digests()}
        (folder / DIGESTS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def _digests(self) -> dict[str, str]:
        parts = {**{f"encoders.{key}": one for key, one in self.encoders.items()}, "connector": self.connectors}
        return {name: weights_digest(part) for name, part in parts.items()}

    def without_weights(self) -> Self:
        """Give the weights' memory back: it still reads pictures, and counts their tokens."""
        release(self)
        return self

    def cast(self, dtype: torch.dtype) -> Self:
        """Let the encoders compute in ``dtype``; the connector stays in float32, as in training."""
        with float32_buffers(*self.entry.encoders.values()):
            self.encoders.to(dtype)
        return self

    @property
    def n_tokens(self) -> int:
        """Tokens of a picture, whatever it shows."""
        found = self.entry.n_tokens()
        assert found is not None  # others are not exported
        return found

    def read(self, picture: Any) -> dict[str, Tensor]:
        """Inputs of one picture by ``<encoder>.<word>``, without batch axis. MediaError where it cannot be read."""
        item = self.entry.read(picture)
        return {f"{key}.{word}": tensor for key, words in item.items() for word, tensor in words.items()}

    @torch.inference_mode()
    def forward(self, pictures: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Tokens float32[N, n_tokens, D] of N pictures as :meth:`read` gives them."""
        collated = self.entry.collate([_nested(picture) for picture in pictures])
        features = [run_encoder(one, _placed(one, collated[key])) for key, one in self.entry.encoders.items()]
        # such connectors read nothing of the pass: who does is not exported
        tokens, _ = project(self.entry.connector, features, ctx=None)  # type: ignore[arg-type]
        return tokens.unflatten(0, (len(pictures), -1))


def _nested(picture: Mapping[str, Tensor]) -> Item:
    """Encoder -> word -> tensor."""
    found: Item = {}
    for name, tensor in picture.items():
        key, _, word = name.partition(".")
        found.setdefault(key, {})[word] = tensor
    return found


def _placed(encoder: Encoder, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs where the encoder takes them: some are read as numbers, on the CPU."""
    return {word: one.cpu() if encoder.on_host(word) else one for word, one in inputs.items()}


def _write_recipe(recipe: Recipe, key: str, folder: Path) -> None:
    """A recipe of the encoders and the connector of ``key``; what lies on this machine is copied beside it."""
    words = yaml.safe_load(dump(recipe))
    connector = {word: value for word, value in words["connectors"][key].items() if word != "start"}
    encoders = {name: words["encoders"][name] for name in recipe.connectors[key].encoders}
    parts = {"connectors": {key: connector}, "encoders": encoders}
    for section in parts.values():
        for name, part in section.items():
            section[name] = _beside(part, folder, name)
    # the LLM lies in the folder around this one; nothing here opens it
    found = {"name": recipe.name, "seed": recipe.seed, "llm": {"path": "..", "dtype": "float32"}, **parts}
    (folder / RECIPE).write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")


def _beside(value: Any, folder: Path, name: str, word: str = "") -> Any:
    """A part's words with every file and folder that they name copied into ``folder``."""
    if isinstance(value, dict):
        return {one: _beside(inner, folder, name, one) for one, inner in value.items()}
    if word not in PLACES or not isinstance(value, str) or not Path(value).exists():
        return value
    here = Path(value)
    there = folder / f"{name}-{word}{here.suffix if here.is_file() else ''}"
    if here.is_dir():
        shutil.copytree(here, there)
    else:
        shutil.copyfile(here, there)
    return there.name
