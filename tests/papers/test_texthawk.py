"""``texthawk``: its four parts against the paper's equations, restated patch by patch; tiles; what it refuses."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.projectors.texthawk.positions import ScalablePositions, places
from mmllm.connectors.projectors.texthawk.resampling import ResamplingLayer
from mmllm.connectors.projectors.texthawk.texthawk import TextHawkConnector
from mmllm.errors import MmllmError
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.testing import check_projector
from mmllm.testing.tiny.weights import randomise
from mmllm.types import Cut, Features, Message, Sample, Tiling
from tests.support.equations import affine, gelu, norm
from tests.support.parts import tiny_llm_folder
from tests.support.stand_ins import vision_folder
from tests.support.two_steps import two_steps

DIM, LLM, WIDTH, HEADS = 6, 10, 8, 2


def made(layers: int = 1, **words: Any) -> TextHawkConnector:
    torch.manual_seed(0)
    words = {"width": WIDTH, "heads": HEADS, "depth": 2, "layers": layers, **words}
    connector = TextHawkConnector(dim=DIM * layers, llm_dim=LLM, **words)
    randomise(connector)
    return connector.eval()


def of(grid: tuple[int, ...], layers: int = 1, cuts: list[Cut] | None = None) -> Features:
    generator = torch.Generator().manual_seed(1)
    n = 2 if cuts is None else len(cuts)
    found = {number: torch.randn(n, math.prod(grid), DIM, generator=generator) for number in range(layers)}
    extras = {} if cuts is None else {"cut": torch.tensor([cut.numbers() for cut in cuts])}
    return Features(found, torch.ones(n, math.prod(grid), dtype=torch.bool), grid, None, extras)


# ---- the equations, one patch and one head at a time


def slerp(spe: ScalablePositions, axis: int, t: float) -> Tensor:
    """e(t) of one axis, head by head."""
    found = []
    for head in range(HEADS):
        d = WIDTH // HEADS
        e0, e1 = (spe.ends[axis, end, head * d : (head + 1) * d] for end in (0, 1))
        e0, e1 = e0 / e0.norm(), e1 / e1.norm()
        theta = math.acos(float(e0 @ e1))
        s = spe.scale[axis, head]
        found.append(s * (math.sin((1 - t) * theta) * e0 + math.sin(t * theta) * e1) / math.sin(theta))
    return torch.cat(found)


def at(spe: ScalablePositions, row: float, col: float) -> Tensor:
    return slerp(spe, 0, row) + slerp(spe, 1, col)


def proposed(connector: TextHawkConnector, x: Tensor, rows: int, cols: int) -> Tensor:
    """QPN of one tile float[rows * cols, W], regions of 2 x 2."""
    net: Any = connector.queries
    hidden = affine(gelu(affine(x, net.mlp[0])), net.mlp[2])
    found = []
    for row in range(0, rows, 2):
        for col in range(0, cols, 2):
            four = [hidden[(row + i) * cols + col + j] for i in (0, 1) for j in (0, 1)]
            found.append(affine(torch.stack(four).amax(0), net.output))
    return torch.stack(found)


def attended(layer: ResamplingLayer, z: Tensor, x: Tensor, placed: Tensor | float) -> Tensor:
    """One resampling layer on one tile."""
    values = norm(x, layer.norm_features)
    query, key = affine(norm(z, layer.norm_queries), layer.to_query), affine(values + placed, layer.to_key)
    value, heads = affine(values, layer.to_value), []
    for q, k, v in zip(query.chunk(HEADS, -1), key.chunk(HEADS, -1), value.chunk(HEADS, -1), strict=True):
        heads.append((q @ k.T / math.sqrt(WIDTH / HEADS)).softmax(-1) @ v)
    z = z + affine(torch.cat(heads, -1), layer.attended)
    feed: Any = layer.feed
    return z + affine(gelu(affine(norm(z, feed[0]), feed[1])), feed[3])


def reference(connector: TextHawkConnector, x: list[Tensor], rows: int, cols: int, spe: Any) -> Tensor:
    """One tile, float[rows * cols, DIM] of each level; ``spe(row, col)`` of the middle of a region, in patches."""
    read = [affine(layer, linear) for layer, linear in zip(x, connector.inputs, strict=True)]  # type: ignore[arg-type]
    z = proposed(connector, read[connector.levels[0]], rows, cols)
    placed = torch.stack([spe(row + 0.5, col + 0.5) for row in range(rows) for col in range(cols)])
    z = z + torch.stack([spe(row, col) for row in range(1, rows, 2) for col in range(1, cols, 2)])
    for layer, level in zip(connector.resampling, connector.levels, strict=True):
        assert isinstance(layer, ResamplingLayer)
        z = attended(layer, z, read[level], placed)
    z = norm(z, connector.norm)
    wide, found = cols // 2, []
    for row in range(0, rows // 2, connector.rearrange[0]):
        for col in range(0, wide, connector.rearrange[1]):
            near = [(row + i, col + j) for i in range(connector.rearrange[0]) for j in range(connector.rearrange[1])]
            found.append(affine(torch.cat([z[i * wide + j] for i, j in near]), connector.output))
    return torch.stack(found)


# ---- each part, and all of them


@torch.no_grad()
def test_positions_go_along_the_sphere() -> None:
    torch.manual_seed(0)
    spe = ScalablePositions(WIDTH, HEADS)
    t = torch.linspace(0, 1, 7)
    found = spe(t, t.flip(0))
    for one, row, col in zip(found, t.tolist(), t.flip(0).tolist(), strict=True):
        torch.testing.assert_close(one, at(spe, row, col), atol=1e-5, rtol=1e-5)
    spe.ends[1] = 0.0  # of the column nothing is left: the row's alone
    spe.scale[1] = 0.0
    spe.scale[0, 1] = 3.0
    alone = spe(t, t).unflatten(-1, (HEADS, -1))
    ends = torch.nn.functional.normalize(spe.ends[0].unflatten(-1, (HEADS, -1)), dim=-1) * spe.scale[0][:, None]
    torch.testing.assert_close(alone[[0, -1]], ends)  # at 0 and 1 the two ends themselves
    torch.testing.assert_close(alone.norm(dim=-1), torch.tensor([2.0, 3.0]).expand(7, 2))


@pytest.mark.parametrize("factor", [1.0, -2.0])
def test_equal_and_opposite_ends_give_finite_positions_and_gradients(factor: float) -> None:
    torch.manual_seed(0)
    spe = ScalablePositions(WIDTH, HEADS)
    with torch.no_grad():
        spe.ends[:, 1] = factor * spe.ends[:, 0]
    t = torch.linspace(0, 1, 5)
    found = spe(t, t)
    found.square().sum().backward()
    assert found.isfinite().all() and spe.ends.grad is not None and spe.ends.grad.isfinite().all()


@torch.no_grad()
def test_it_is_the_papers_on_a_picture() -> None:
    connector, given = made(), of((4, 8))
    assert connector.out_grid((4, 8)) == (1, 2)
    expected = [
        reference(connector, [x], 4, 8, lambda row, col: at(connector.positions, row / 4, col / 8))
        for x in given.layers[0]
    ]
    torch.testing.assert_close(connector(given), torch.stack(expected), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_layers_read_the_levels_that_they_are_told() -> None:
    connector, given = made(3, levels=[2, 1, 0, 0], depth=4, rearrange=(1, 2)), of((4, 4), 3)
    expected = [
        reference(connector, list(x), 4, 4, lambda row, col: at(connector.positions, row / 4, col / 4))
        for x in zip(*given.layers.values(), strict=True)
    ]
    torch.testing.assert_close(connector(given), torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "cuts",
    [
        [Cut(Tiling(2, 3), 9, 9), Cut(Tiling(3, 2), 9, 9)],  # as many tiles, another shape; the view of all behind
        [Cut(Tiling(1, 1, True), 9, 9)],  # the view in front, of one tile
        [Cut(Tiling(1, 1), 9, 9)],  # one tile that is the view
        [Cut(Tiling(2, 1, True), 9, 9)],
    ],
)
@pytest.mark.parametrize("kind", ["patch", "cell"])
@torch.no_grad()
def test_a_tiles_patches_have_their_places_in_the_picture(cuts: list[Cut], kind: str) -> None:
    connector, given = made(positions=kind), of((cuts[0].tiling.n, 4, 4), cuts=cuts)
    found = connector(given)
    assert found.shape == (len(cuts), cuts[0].tiling.n, LLM)
    for item, cut in enumerate(cuts):
        shape = cut.tiling
        corners = [(row, col) for row in range(shape.rows) for col in range(shape.cols)]
        spots = [(row, col, shape.rows, shape.cols) for row, col in corners]
        view = [(0, 0, 1, 1)] if shape.whole else []
        spots = [*view, *spots] if shape.first else [*spots, *view]
        for tile, (row, col, rows, cols) in enumerate(spots):

            def spe(i: float, j: float, row: int = row, col: int = col, rows: int = rows, cols: int = cols) -> Tensor:
                i, j = (i, j) if kind == "patch" else (2.0, 2.0)
                return at(connector.positions, (row + i / 4) / rows, (col + j / 4) / cols)

            x = given.layers[0][item, tile * 16 : tile * 16 + 16]
            torch.testing.assert_close(
                found[item, tile : tile + 1], reference(connector, [x], 4, 4, spe), atol=1e-4, rtol=1e-4
            )


@torch.no_grad()
def test_without_cuts_each_frame_is_a_whole_picture() -> None:
    row, col = places(of((3, 2, 2)), 2, 2, "patch")
    assert row[0].tolist() == [0.25, 0.25, 0.75, 0.75] * 3 and col[0].tolist() == [0.25, 0.75] * 6


@torch.no_grad()
def test_learned_queries_and_no_positions() -> None:
    connector, given = made(queries="learned", source_grid=(4, 4), positions="none"), of((4, 4))
    z, x = connector.queries.queries, affine(given.layers[0], connector.inputs[0])  # type: ignore[arg-type]
    for item, found in zip(x, connector(given), strict=True):
        one = z
        for layer in connector.resampling:
            one = attended(layer, one, item, 0.0)  # type: ignore[arg-type]
        expected = affine(norm(one, connector.norm).flatten(), connector.output)
        torch.testing.assert_close(found, expected[None], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_patch_that_the_mask_excludes_is_not_read() -> None:
    connector, given = made(queries="learned", source_grid=(4, 4)), of((4, 4))
    given.mask[:, 3] = False
    before = connector(given)
    given.layers[0][:, 3] += 5.0
    torch.testing.assert_close(connector(given), before, atol=0, rtol=0)


@pytest.mark.parametrize(
    "words",
    [
        {"resample": (4, 4), "rearrange": (1, 1)},
        {"queries": "learned", "source_grid": (4, 4)},
        {"positions": "cell"},
        {"positions": "none"},
    ],
)
def test_the_contract_holds_with_each_part_switched_off(words: dict[str, Any]) -> None:
    check_projector(partial(TextHawkConnector, depth=2, heads=2, width=8, **words))


def test_the_contract_holds_with_levels() -> None:
    check_projector(partial(TextHawkConnector, layers=2, levels=(1, 1, 0), depth=3, heads=2, width=8), layers=(-1, -2))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"heads": 3}, r"heads \(3\) must divide the width \(8\)"),
        ({"depth": 0}, "depth: 0 must be at least 1"),
        ({"resample": (2,)}, r"resample: \[2\] must be \[rows, cols\]"),
        ({"queries": "none"}, "queries: 'none' is unknown; known: proposed, learned"),
        ({"positions": "tile"}, "positions: 'tile' is unknown; known: patch, cell, none"),
        ({"queries": "learned"}, "found queries: learned without source_grid"),
        ({"source_grid": (4, 4)}, "found queries: proposed with source_grid"),
        ({"levels": (0,)}, r"levels: found \[0\]; name for each of the 2 resampling layers"),
        ({"layers": 2}, "levels: found none; name for each"),
        ({"layers": 2, "levels": (1, 1)}, r"levels: found \[1, 1\].*each of them at least once"),
    ],
)
def test_what_it_refuses(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        made(**{"layers": 1, **words})


def test_grids_it_refuses() -> None:
    with pytest.raises(MmllmError, match="makes a token of 4 x 4 patches"):
        made().out_grid((4, 6))
    with pytest.raises(MmllmError, match="needs a grid of rows and columns"):
        made().out_grid((7,))
    with pytest.raises(MmllmError, match=r"queries for a grid of \[4, 4\].*8 x 8"):
        made(queries="learned", source_grid=(4, 4)).out_grid((8, 8))


def test_full_size_recipe_with_stand_ins(tmp_path: Path) -> None:
    """Tiles of 224 pixels of two pages, 16 tokens each and 16 of the view of all; LoRA and the LLM learn too."""
    llm = tiny_llm_folder(tmp_path, "qwen2", max_position_embeddings=4096, num_hidden_layers=4)
    (tmp_path / "vision").mkdir()
    tower = vision_folder(tmp_path / "vision", "siglip", 224, blocks=27)
    places = [f"llm.path={llm}", "llm.dtype=float32", f"encoders.image.image.model={tower}"]
    recipe = load_recipe(folder() / "texthawk.yaml", [*places, "connectors.image.heads=4"])
    model = build(recipe, "cpu")
    prompter, encoded = Prompter(model.llm.tokenizer, model.places), []
    for name, size, tiles in (("wide", (448, 224), 3), ("tall", (224, 672), 4)):
        talk = (Message("user", "<image>\nwhat is it?"), Message("assistant", "a page"))
        sample = Sample(name, talk, {"image": (Image.new("RGB", size, "white"),)})
        encoded.append(encode(sample, prompter, model.inputs, model.llm.context, train=True))
        assert [span.length for span in encoded[-1].spans] == [tiles * 16]
    for stage in recipe.stages.values():
        set_trainable(model, stage.train)
        _, silent = two_steps(model, collate(encoded, model.inputs))
        assert silent == []
