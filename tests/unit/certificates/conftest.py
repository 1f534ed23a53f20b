"""One tiny model beside its bare language model, shared by tests of certificates: whoever changes it puts it back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mmllm.certificates.attached import hooks_of
from mmllm.certificates.bare import load_bare
from mmllm.certificates.changes import Change, hooks_that_change, parts_that_differ
from mmllm.certificates.passes import watched
from mmllm.checkpoints.digest_cache import DigestCache, frozen
from mmllm.checkpoints.store import LEARNED, Manifest, commit, replace_text
from mmllm.model.build import build
from mmllm.model.input_digests import input_digests
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import skip_if_zero, trainable_state
from mmllm.recipe.load import digest, dump, load_recipe
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import shaping
from tests.support.parts import tiny_llm_folder
from tests.support.training import tiny_recipe

WORDS = ("connectors.lora={type: lora, rank: 2, targets: [q_proj], when: [image]}",)


@dataclass
class Pair:
    """A model and the language model of its folder."""

    recipe: Recipe
    model: MultimodalLM
    bare: Any
    tokenizer: Any

    @property
    def llm(self) -> Any:
        """The model of transformers in use."""
        return self.model.llm.model

    def parts(self) -> list[Change]:
        """What is found of weights, modules, code, words."""
        return parts_that_differ(self.recipe, self.model, self.bare, self.tokenizer)

    def hooks(self) -> list[Change]:
        """What is found of hooks."""
        return list(hooks_that_change(self.model, hooks_of(self.model), watched(self.model, 0)))


def made(folder: Path, *words: str) -> Pair:
    """A Qwen3 of two blocks with tied embeddings, pictures and a LoRA of random weights."""
    path, place = tiny_recipe(folder), tiny_llm_folder(folder, "qwen3")
    config = AutoConfig.from_pretrained(place)
    config.num_hidden_layers, config.layer_types = 2, config.layer_types[:2]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    recipe = load_recipe(path, [f"llm.path={place}", *words])
    model = build(recipe, "cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.connectors.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    skip_if_zero(model)
    bare, tokenizer, _ = load_bare(recipe.llm, model.llm.dtype, model.llm.device)
    return Pair(recipe, model, bare, tokenizer)


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The shared one; its LoRA works where there are pictures."""
    return made(tmp_path_factory.mktemp("pair"), *WORDS)


@pytest.fixture(scope="package")
def run(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared model as a run, as training leaves one."""
    folder = tmp_path_factory.mktemp("certified") / "run"
    folder.mkdir()
    replace_text(folder / "recipe.yaml", dump(pair.recipe))
    stage = list(pair.recipe.stages)[-1]
    head = Manifest(
        stage=stage,
        step=1,
        final=True,
        world=1,
        recipe=digest(pair.recipe),
        frozen=frozen(pair.model, pair.recipe, DigestCache(None)),
        shaping=shaping(pair.recipe, stage),
        inputs=input_digests(pair.model),
    )
    learned = {name: one.detach().clone() for name, one in trainable_state(pair.model).items()}
    (folder / "stages" / stage).mkdir(parents=True)
    commit(folder / "stages" / stage, head, {LEARNED: learned}, keep=1)
    return folder
