"""AdaptVision as a recipe: tiles and tokens by the paper's rule, four patches in a row to a token, marks that learn."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe
from mmllm.types import Features, Message, Sample
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import vision_folder
from tests.support.two_steps import two_steps

SIZES = ((336, 336), (100, 30), (640, 480), (337, 20), (2000, 1990), (300, 4000), (4000, 700))


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, MultimodalLM]:
    """The recipe with nothing changed but where its frozen parts lie, in float32; and its model."""
    tmp = tmp_path_factory.mktemp("adaptvision")
    llm = tiny_llm_folder(tmp, "qwen2", max_position_embeddings=4096, num_hidden_layers=2)
    (tmp / "vision").mkdir()
    tower = vision_folder(tmp / "vision", "clip", 336, blocks=2)
    places = [f"llm.path={llm}", "llm.dtype=float32", f"encoders.image.image.model={tower}"]
    recipe = load_recipe(folder() / "adaptvision.yaml", places)
    return recipe, build(recipe, "cpu")


def tiles(width: int, height: int) -> tuple[int, int]:
    """(rows, cols) of the paper: m = min(ceil(long / 336), 3) tiles along the longer side, the other brought along."""
    m = min(math.ceil(max(width, height) / 336), 3)
    other = math.ceil(min(width, height) * m / max(width, height) - 1e-9)
    return (other, m) if width >= height else (m, other)


def asked(model: MultimodalLM, size: tuple[int, int]) -> Encoded:
    talk = (Message("user", "<image>\nwhat is it?"), Message("assistant", "a page"))
    sample = Sample(f"{size}", talk, {"image": (Image.new("RGB", size, "white"),)})
    prompter = Prompter(model.llm.tokenizer, model.places)
    return encode(sample, prompter, model.inputs, model.llm.context, train=True)


def test_each_tile_has_its_mark_and_144_tokens(assembled: tuple[Recipe, MultimodalLM]) -> None:
    """144 of the view of all, then 145 for each tile, row by row, behind its mark <r,c>."""
    _, model = assembled
    tokenizer = model.llm.tokenizer
    for size in SIZES:
        rows, cols = tiles(*size)
        encoded = asked(model, size)
        view, *cut = encoded.spans
        assert view.length == 144 and [span.length for span in cut] == [144] * (rows * cols), size
        marks = [encoded.ids[span.start - 1] for span in cut]
        names = [f"<{row},{col}>" for row in range(1, rows + 1) for col in range(1, cols + 1)]
        assert tokenizer.convert_ids_to_tokens(marks) == names, size
        assert cut[-1].start + cut[-1].length - view.start == 144 + 145 * rows * cols


@torch.no_grad()
def test_four_patches_in_a_row_become_a_token_by_a_linear_map(assembled: tuple[Recipe, MultimodalLM]) -> None:
    _, model = assembled
    connector = model.connectors["image"]
    x = torch.randn(1, 2 * 576, connector.dim, generator=torch.Generator().manual_seed(0))  # type: ignore[call-overload]
    found = connector(Features({-2: x}, torch.ones(1, 2 * 576, dtype=torch.bool), (2, 24, 24)))
    (linear,) = (one for one in connector.modules() if isinstance(one, torch.nn.Linear))
    expected = x.reshape(2 * 144, 4 * x.shape[-1]) @ linear.weight.T + linear.bias
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


def test_all_that_its_stages_name_learns(assembled: tuple[Recipe, MultimodalLM]) -> None:
    recipe, model = assembled
    batch = collate([asked(model, size) for size in ((2000, 1990), (100, 30))], model.inputs)
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        _, silent = two_steps(model, batch)
        assert silent == []
