"""Pictures of unlike size whose tiles are stitched: packed, kept, trained and answered as each of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode, plan
from mmllm.connectors.base import Projector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.connectors.stitching import Stitch
from mmllm.errors import RecipeError
from mmllm.generation.generator import Generator
from mmllm.generation.packed import Packed
from mmllm.messages.tokenize import Prompter
from mmllm.model.feature_cache import cache_features
from mmllm.model.item_text import ItemText
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.recipe.item_texts import TileText
from mmllm.testing.tiny import encoders
from mmllm.testing.tiny.llms import tiny_llm
from mmllm.types import Message, Sample

SIZES = ((90, 40), (40, 90), (64, 64), (20, 20), (300, 9), (33, 70))
"""Width and height; tiles are 32 pixels."""
RESOLUTIONS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


def model_of(pool: bool = False, several: str = "cut", **stitch: Any) -> MultimodalLM:
    """A tiny LLM that sees 4 x 4 tokens (pooled: 2 x 2) of each tile, stitched."""
    encoder, llm = encoders.tiles(rule="resolutions", resolutions=RESOLUTIONS, several=several), tiny_llm()
    torch.manual_seed(5)
    widths = {"dim": encoder.dim, "llm_dim": llm.dim}
    connector: Projector = PoolConnector(**widths, grid=[2, 2]) if pool else MlpConnector(**widths)
    connector.stitch = Stitch(llm_dim=llm.dim, **stitch)
    return MultimodalLM(llm, {"image": encoder}, {"image": connector}, {"image": "image"}).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, found = tmp_path_factory.mktemp("pictures"), []
    for number, (width, height) in enumerate(SIZES):
        noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(number))
        found.append(folder / f"{number}.png")
        Image.fromarray(noise.to(torch.uint8).numpy()).save(found[-1])
    return found


def samples(pictures: Sequence[Any]) -> list[Sample]:
    """Six pictures in four conversations, one of them of text."""
    shown = [pictures[:1], pictures[1:4], [], pictures[4:]]
    return [
        Sample(
            f"s{number}",
            (Message("user", f"{'<image>' * len(some)}What is this, {number}?"), Message("assistant", "A red sign.")),
            {"image": tuple(some)} if some else {},
        )
        for number, some in enumerate(shown)
    ]


def encoded(model: MultimodalLM, pictures: Sequence[Any]) -> list[Encoded]:
    prompter = Prompter(model.llm.tokenizer, model.places)
    return [encode(one, prompter, model.inputs, 2048, train=True) for one in samples(pictures)]


@pytest.mark.parametrize(("pool", "words"), [(False, {}), (True, {"newline": "end"}), (False, {"most": 1})])
def test_packed_is_unpacked_in_loss_and_gradients(pool: bool, words: dict[str, Any], pictures: list[Path]) -> None:
    model = model_of(pool, **words)
    rows = encoded(model, pictures)
    assert len({len(row.ids) for row in rows}) == 4, "unlike lengths"
    set_trainable(model, {"connectors.image": 1e-2})
    found = []
    for split in ([rows], [rows[:2], rows[2:]], [[row] for row in rows]):
        model.zero_grad()
        loss = sum(model(collate(some, model.inputs))[0] for some in split)
        loss.backward()  # type: ignore[union-attr]
        gradients = {
            name: one.grad.clone() for name, one in model.connectors.named_parameters() if one.grad is not None
        }
        assert set(gradients) == {f"image.{name}" for name in model.connectors["image"].state_dict()}
        found.append((loss, gradients))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0], atol=1e-5, rtol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=1e-6, rtol=1e-4)


def test_a_batch_without_pictures_reaches_the_newline() -> None:
    model = model_of()
    set_trainable(model, {"connectors.image": 1e-2})
    text = [row for row in encoded(model, [Image.new("RGB", size) for size in SIZES]) if not row.media]
    model.train()(collate(text, model.inputs))[0].backward()
    stitch = model.connectors["image"].stitch
    assert isinstance(stitch, Stitch) and stitch.newline is not None and stitch.newline.grad is not None


@torch.no_grad()
def test_kept_features_are_stitched_alike(pictures: list[Path], tmp_path: Path) -> None:
    model, kept = model_of(), model_of()
    batch = collate(encoded(model, pictures), model.inputs)
    expected = model(batch)[0]
    for turn in range(2):
        cache = cache_features(kept, tmp_path, "float32")
        again = collate(encoded(kept, pictures), kept.inputs)
        torch.testing.assert_close(again.media_positions, batch.media_positions)
        torch.testing.assert_close(kept(again)[0], expected, atol=1e-6, rtol=1e-6)
        assert cache.n_computed == (0 if turn else len(pictures))
        cache.commit()
    prompter = Prompter(kept.llm.tokenizer, kept.places)
    lengths = [plan(one, prompter, kept.inputs, 2048, train=True).length for one in samples(pictures)]
    assert lengths == batch.cu_seqlens.diff().tolist(), "planned from the header and the kept grid"


def test_answers_beside_others_are_those_alone(pictures: list[Path]) -> None:
    """In pieces, over keys and values that were read before, whatever else is being answered."""
    model = model_of(pool=True)
    asked = [Sample(one.name, one.messages[:1], one.media) for one in samples(pictures)]
    later = (*asked[1].messages, Message("assistant", "A."), Message("user", "Why?"))
    asked.append(Sample("again", later, asked[1].media))
    alone = []
    for one in asked:
        generator = Generator(model)
        generator.end_ids = frozenset()
        alone.append(generator.generate([one], 6)[0].text)
    together = Generator(model)
    together.end_ids = frozenset()
    assert isinstance(together.engine.way, Packed)
    for _ in range(2):
        assert [answer.text for answer in together.generate(asked, 6)] == alone
    assert len(set(alone)) > 1


def test_a_second_picture_changes_how_the_first_is_read(pictures: list[Path], tmp_path: Path) -> None:
    """``several: whole``: in packed rows, in kept features and where keys and values of a conversation go on."""
    model = model_of(several="whole")
    one, both = ask(pictures[:1]), ask(pictures[:2])
    prompter = Prompter(model.llm.tokenizer, model.places)
    rows = [encode(sample, prompter, model.inputs, 2048, train=False) for sample in (one, both)]
    assert [[span.grid for span in row.spans] for row in rows] == [[(4, 4), (4, 11)], [(4, 4), (1,), (4, 4), (1,)]]
    with torch.no_grad():
        expected = model.logits(collate(rows, model.inputs))
        for _ in range(2):
            cache = cache_features(model, tmp_path, "float32")
            again = [encode(sample, prompter, model.inputs, 2048, train=False) for sample in (one, both)]
            torch.testing.assert_close(model.logits(collate(again, model.inputs)), expected, atol=1e-5, rtol=1e-5)
            cache.commit()
    assert cache.n_computed == 0
    generator = Generator(model_of(several="whole"))
    generator.end_ids = frozenset()
    turn = (*one.messages, Message("assistant", "A."), Message("user", "<image>And this?"))
    asked = [one, both, Sample("more", turn, both.media), one]
    found = [generator.generate([sample], 5)[0].text for sample in asked]
    for sample, text in zip(asked, found, strict=True):
        fresh = Generator(generator.model)
        fresh.end_ids = frozenset()
        assert fresh.generate([sample], 5)[0].text == text


def ask(pictures: Sequence[Any]) -> Sample:
    """A question about these pictures."""
    return Sample("asked", (Message("user", f"{'<image>' * len(pictures)}What?"),), {"image": tuple(pictures)})


def test_what_cannot_be_stitched_is_refused() -> None:
    plain, llm = encoders.hf_vision(), tiny_llm()

    def made(encoder: Any, text: ItemText | None = None, **words: Any) -> None:
        connector = MlpConnector(dim=encoder.dim, llm_dim=llm.dim)
        connector.stitch = Stitch(llm_dim=llm.dim, **words)
        texts = {} if text is None else {"image": text}
        MultimodalLM(llm, {"image": encoder}, {"image": connector}, {"image": "image"}, texts=texts)

    with pytest.raises(RecipeError, match=r"connectors.image: `stitch` puts tiles together, and its encoder cuts no"):
        made(plain)
    squashing = encoders.tiles()
    with pytest.raises(RecipeError, match="rule: closest_ratio adds none; write unpad: false, or rule: resolutions"):
        made(squashing)
    made(squashing, unpad=False)
    with pytest.raises(RecipeError, match="text cannot stand in it; remove `tiles`, `rows`, `times` and `steps`, or"):
        made(squashing, ItemText(tiles=TileText()), unpad=False)
