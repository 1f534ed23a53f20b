"""``hf_native``: packed pictures of unlike size have the features that transformers' own towers give each alone."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy
import pytest
import torch
import transformers as t
from PIL import Image
from transformers.models.pixtral.image_processing_pixtral import get_resize_output_image_size

from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.native.hf_native import TOWERS, HfNativeEncoder
from mmllm.encoders.outlines.outline import outline
from mmllm.errors import MediaError, MmllmError
from mmllm.inspection.views import view
from mmllm.processors.native.pixtral import PixtralPatching
from mmllm.processors.settings import settings
from mmllm.published.media.pictures import picture
from mmllm.testing import check_encoder
from mmllm.vlms.tower import NATIVE

SIZES = ((50, 30), (30, 50), (64, 64), (9, 9), (200, 40))
"""Width and height: two of one area, one at the limit, one of few patches, one that is brought down."""


def naflex_folder(folder: Path) -> str:
    """A SigLIP 2 with patches of 8 x 8, at most 40 of them, its table 4 x 4."""
    config = t.Siglip2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, num_patches=16, patch_size=8
    )
    torch.manual_seed(0)
    model = t.Siglip2VisionModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    t.Siglip2ImageProcessor(patch_size=8, max_num_patches=40).save_pretrained(folder)
    return str(folder)


def pixtral_folder(folder: Path) -> str:
    """A Pixtral with patches of 8 x 8, pictures of at most 64 pixels a side."""
    config = t.PixtralVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=8
    )
    torch.manual_seed(0)
    model = t.PixtralVisionModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    t.PixtralImageProcessor(size={"longest_edge": 64}, patch_size=8).save_pretrained(folder)
    return str(folder)


FOLDERS = {"naflex": naflex_folder, "pixtral": pixtral_folder}


def read(encoder: HfNativeEncoder, sizes: Any = SIZES) -> dict[str, torch.Tensor]:
    items = [encoder.processor.read(picture(*size)) for size in sizes]
    return encoder.processor.collate(items)


@torch.no_grad()
@pytest.mark.parametrize("kind", FOLDERS)
def test_packed_pictures_have_the_features_of_transformers_own(kind: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind](tmp_path)
    layers = (0, 1, -1, "final")
    encoder = HfNativeEncoder(model=folder, layers=layers)
    found = encoder(**read(encoder))
    own = t.AutoImageProcessor.from_pretrained(folder)
    tower = t.AutoModel.from_pretrained(folder).eval()
    words = {"patch_size": {"height": 8, "width": 8}} if kind == "pixtral" else {}
    for number, size in enumerate(SIZES):
        alone = tower(**own([picture(*size)], return_tensors="pt", **words), output_hidden_states=True)
        tokens = int(found.mask[number].sum())
        expected = (*(alone.hidden_states[layer] for layer in layers[:-1]), alone.last_hidden_state)
        for layer, state in zip(layers, expected, strict=True):
            ours = found.layers[layer][number]
            torch.testing.assert_close(ours[:tokens], state[0, :tokens], atol=1e-5, rtol=1e-5)
            assert not ours[tokens:].any(), "zeros behind a smaller picture"
    grids = found.item_grids()
    assert len(set(grids)) >= 4 and grids[0] == grids[1][::-1], "shapes are kept"
    normed = torch.equal(found.layers["final"], found.layers[-1])
    assert normed == (kind == "pixtral"), "only SigLIP norms its last block"


@torch.no_grad()
@pytest.mark.parametrize("kind", FOLDERS)
def test_zero_3_changes_nothing_and_waits_for_nobody(kind: str, tmp_path: Path) -> None:
    """It hands outputs on as other tensors of the same memory; and every rank calls every layer as often as others."""
    encoder = HfNativeEncoder(model=FOLDERS[kind](tmp_path), layers=("final",))
    expected = encoder(**read(encoder)).layers["final"]

    def handed_on(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(one if one is None else one.detach() for one in output)
        return output.detach() if isinstance(output, torch.Tensor) else type(output)(output[0].detach())

    calls: list[str] = []
    for name, module in encoder.vision.named_modules():
        module.register_forward_hook(handed_on)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    assert torch.equal(encoder(**read(encoder)).layers["final"], expected)
    of_five = list(calls)
    calls.clear()
    encoder(**read(encoder, SIZES[:1]))
    assert calls == of_five


def test_the_tower_of_a_whole_siglip(tmp_path: Path) -> None:
    """Of an image-text model the tower alone is taken, as published on the hub."""
    config = t.AutoModel.from_pretrained(naflex_folder(tmp_path)).config
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = t.Siglip2Model(t.Siglip2Config(vision_config=config, text_config={**text, "vocab_size": 16}))
    whole.save_pretrained(tmp_path)
    encoder = HfNativeEncoder(model=str(tmp_path), layers=["final"])
    assert set(encoder.vision.state_dict()) == set(whole.vision_model.state_dict())
    inputs = read(encoder, SIZES[:1])
    shape, mask = inputs["grids"], torch.ones(1, len(inputs["patches"]), dtype=torch.int32)
    with torch.no_grad():
        expected = whole.eval().vision_model(inputs["patches"][None], mask, shape).last_hidden_state
    torch.testing.assert_close(encoder(**inputs).layers["final"], expected, atol=1e-5, rtol=1e-5)


def test_a_neighbour_changes_nothing_and_everything_gets_a_gradient(tmp_path: Path) -> None:
    encoder = HfNativeEncoder(model=pixtral_folder(tmp_path))
    inputs = read(encoder)
    before = encoder(**inputs)
    other = {**inputs, "patches": inputs["patches"].clone()}
    first = int(before.mask[0].sum())
    other["patches"][first:] += 1.0
    after = encoder(**other)
    assert torch.equal(before.layers[-2][0], after.layers[-2][0])
    assert not torch.equal(before.layers[-2][1], after.layers[-2][1])
    trained = HfNativeEncoder(model=pixtral_folder(tmp_path), layers=[-1]).requires_grad_(True)
    trained(**inputs).concatenated().square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in trained.parameters())


def test_the_contract_of_encoders_holds_for_pixtral(tmp_path: Path) -> None:
    check_encoder(lambda: HfNativeEncoder(model=pixtral_folder(tmp_path)))


@torch.no_grad()
def test_connectors_inside_see_a_row_for_each_picture(tmp_path: Path) -> None:
    encoder = HfNativeEncoder(model=pixtral_folder(tmp_path), layers=[-1])
    inputs = read(encoder)
    before = encoder(**inputs)
    seen = []

    def change(context: Any, x: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(x.shape), context.layout.rows))
        mask = context.layout.mask
        assert not x[~mask].any()
        # of each picture's own mean: what packing had mixed up would show
        return x - x.sum(1, keepdim=True) / mask.sum(1)[:, None, None]

    handle = encoder.hook_points().before_mlp(1, change)
    together = encoder(**inputs)
    for number, size in enumerate(SIZES):
        alone = encoder(**read(encoder, [size])).layers[-1][0]
        torch.testing.assert_close(together.layers[-1][number, : len(alone)], alone, atol=1e-5, rtol=1e-5)
    assert seen[0] == ((len(SIZES), before.mask.shape[1], 16), (1,) * len(SIZES))
    assert not torch.allclose(together.layers[-1], before.layers[-1], atol=1e-3)
    handle.remove()
    assert torch.equal(encoder(**inputs).layers[-1], before.layers[-1])


@pytest.mark.parametrize(("longest", "patch", "merge"), [(1024, 16, 1), (1540, 14, 2), (60, 7, 3)])
def test_sizes_are_transformers_own(longest: int, patch: int, merge: int) -> None:
    draw = Random(0)
    made = PixtralPatching(None, patch, longest, merge)
    sizes = [(draw.randint(1, 3000), draw.randint(1, 3000)) for _ in range(500)]
    edges = (1, 13, 14, 15, 28, 59, 60, 61, 1023, 1024, 1025, 1540, 1541)
    for width, height in sizes + [(a, b) for a in edges for b in edges]:
        # of an array without memory
        empty = torch.empty(1).expand(3, height, width)
        rows, cols = get_resize_output_image_size(empty, longest, patch * merge)
        assert made.grid(width, height) == (rows // patch, cols // patch), (width, height)


def test_limits(tmp_path: Path) -> None:
    folder = pixtral_folder(tmp_path / "pixtral")
    (tmp_path / "naflex").mkdir()
    small = HfNativeEncoder(model=folder, longest=32, merge=2)
    item = small.processor.read(picture(200, 100))
    assert small.processor.grid(item) == (2, 4) == small.processor.grid(small.processor.measure(picture(200, 100)))
    naflex = HfNativeEncoder(model=naflex_folder(tmp_path / "naflex"), most=1000)
    # a run that was trained with other sizes is told of it
    whole = HfNativeEncoder(model=folder), HfNativeEncoder(model=str(tmp_path / "naflex"))
    for one, other in zip((small, naflex), whole, strict=True):
        assert settings(one.processor) != settings(other.processor)
    rows, cols = naflex.processor.grid(naflex.processor.measure(picture(200, 100)))
    assert rows * cols <= 15 and cols > rows
    with pytest.raises(MmllmError, match=r"^most: 9: the folder's image processor \(.*\) does not limit pictures so"):
        HfNativeEncoder(model=folder, most=9)
    with pytest.raises(MmllmError, match=r"merge: 2: Siglip2ImageProcessor.* does not keep sides to such multiples"):
        HfNativeEncoder(model=str(tmp_path / "naflex"), merge=2)
    with pytest.raises(MmllmError, match="most: 9 pixels are not one patch of 8 x 8"):
        HfNativeEncoder(model=str(tmp_path / "naflex"), most=9)
    with pytest.raises(MediaError, match="of 2 x 900 pixels is so narrow that resizing leaves no patch"):
        small.processor.measure(Image.new("RGB", (2, 900)))


def test_what_it_shows_and_refuses(tmp_path: Path) -> None:
    folder = pixtral_folder(tmp_path)
    assert set(TOWERS) == set(NATIVE)
    known = outline("hf_native", {"model": folder, "longest": 32})
    assert known is not None and (known.dim, known.n_layers) == (16, 1)
    shown = picture(60, 30)
    item = known.processor.read(shown)
    seen = view("<image>", known.processor, shown, item)
    assert seen.facts == "32 x 16 pixels in 2 x 4 patches; 2 x 4 = 8 tokens of the encoder"
    # what the tower sees is the picture, its patches in their places
    small, found = (numpy.asarray(one.resize((8, 4)), "float32") for one in (shown, seen.pictures[0][1]))
    assert numpy.abs(small - found).mean() < 6
    with pytest.raises(
        MmllmError, match="a PixtralVisionModel does not take plain pictures; use a ViT of fixed size, or hf_native"
    ):
        HfVisionEncoder(model=folder)
