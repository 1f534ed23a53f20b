"""A model that keeps features: equal to live encoders, computed once, never stale, hits and misses mixed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError, MmllmError
from mmllm.features import contents
from mmllm.features.batching import collated
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.feature_cache import cache_as_said, cache_features, open_features
from mmllm.model.inputs import Input
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.processors.base import Item
from mmllm.recipe.stage_sections import Cache
from mmllm.testing.tiny.encoders import TINY
from mmllm.testing.tiny.models import copied_vision
from mmllm.types import Batch, Message, Sample, Stored
from tests.support.assemblies import tiny_assembly
from tests.support.parts import tiny_llm

EQUAL = 2e-3
"""Most that fp16 storage may change a loss."""


class Counted:
    """How often an encoder's forward and its processor's ``read`` are called."""

    def __init__(self, encoder: Encoder) -> None:
        self.forwards = self.reads = 0
        encoder.register_forward_pre_hook(self._forward)
        self._read = encoder.processor.read
        encoder.processor.read = self._reading  # type: ignore[method-assign]

    def _forward(self, *_: object) -> None:
        self.forwards += 1

    def _reading(self, media: Any) -> Item:
        self.reads += 1
        return self._read(media)

    def counts(self) -> tuple[int, int]:
        """Of forwards and reads since the last call."""
        found = self.forwards, self.reads
        self.forwards = self.reads = 0
        return found


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture of noise."""
    noise = torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Four files."""
    found = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(found):
        picture(number).save(path)
    return found


def sample(name: str, *images: Any, **media: Sequence[Any]) -> Sample:
    """A conversation about these pictures."""
    given = {"image": images, **media}
    marks = "".join(f"<{key}>" * len(items) for key, items in given.items())
    turns = (Message("user", f"{marks}What is this, {name}?"), Message("assistant", "A sign."))
    return Sample(name, turns, given)


def batch_of(model: MultimodalLM, samples: Sequence[Sample]) -> Batch:
    """As the loader makes it."""
    prompter = Prompter(model.llm.tokenizer, list(model.inputs))
    return collate([encode(one, prompter, model.inputs, 512, train=True) for one in samples], model.inputs)


def loss(model: MultimodalLM, samples: Sequence[Sample]) -> Tensor:
    """Summed over the samples."""
    with torch.no_grad():
        return model(batch_of(model, samples))[0]


def model_of(encoder: Encoder, family: str = "llama") -> MultimodalLM:
    """A tiny LLM that sees an encoder's items through an MLP; a key of their own for pictures."""
    torch.manual_seed(3)
    llm = tiny_llm(family)
    connector = MlpConnector(dim=encoder.dim * len(encoder.layers), llm_dim=llm.dim)
    key = encoder.modality
    return MultimodalLM(llm, {key: encoder}, {key: connector}, {key: key}).requires_grad_(False).eval()


@pytest.mark.parametrize("name", TINY)
def test_6_kept_features_are_those_of_the_live_encoder(name: str, tmp_path: Path) -> None:
    """Every encoder, items of different sizes, hits and misses in one batch: what the connector gets is the same."""
    encoder, media = TINY[name].make(), TINY[name].media()
    inner = Input(encoder.modality, {"x": encoder}, MlpConnector(dim=encoder.dim, llm_dim=8))
    live = [encoder(**inner.collate([inner.read(one)])["x"]) for one in media]
    together = encoder(**inner.collate([inner.read(one) for one in media])["x"])
    cache = open_features({"x": encoder}, tmp_path, "float32")
    inner.caches = cache.encoders
    one = cache.encoders["x"]
    for shown in ([1], [0, 1, 1], [2, 0, 1], [0, 1, 2]):
        items = [inner.read(media[number]) for number in shown]
        with torch.no_grad():
            found = one.features(inner.collate(items)["x"], lambda inputs: encoder(**inputs))
        assert found.item_grids() == tuple(live[number].item_grids()[0] for number in shown)
        assert [layout.grid for item in items for layout in inner.layout(item)] == list(found.item_grids())
        for place, number in enumerate(shown):
            only = found.only(torch.tensor([place]), found.item_grids()[place])
            for layer, value in live[number].layers.items():
                assert torch.equal(only.layers[layer], value), (shown, place)
            assert bool(only.mask.all()) and int(found.mask[place].sum()) == only.mask.numel()
    assert one.n_computed == 3
    # the last batch as the encoder gives it: padding and extras too
    assert (found.grid, found.grids, found.layers.keys()) == (together.grid, together.grids, together.layers.keys())
    assert torch.equal(found.mask, together.mask) and found.extras.keys() == together.extras.keys()
    for extra, value in together.extras.items():
        assert torch.equal(found.extras[extra], value) and found.extras[extra].dtype == value.dtype
    times = [encoder.processor.seconds(encoder.processor.read(item)) for item in media]
    assert [one.seconds(item["x"]) for item in items] == times
    measured = [inner.measure(item) for item in media]  # of files by name alone, else by the processor
    assert [inner.layout(item) for item in measured] == [inner.layout(item) for item in items]
    assert [one.seconds(item["x"]) for item in measured] == times


def test_6_cached_features_give_the_loss_of_live_encoders(tmp_path: Path, pictures: list[Path]) -> None:
    """float32: bit for bit at this size, in the first epoch and after; float16: within 2e-3. One picture twice."""
    samples = [sample("a", pictures[0], page=[pictures[1]]), sample("b", pictures[2], pictures[2]), sample("c")]
    live = loss(tiny_assembly(), samples)
    for dtype in ("float32", "float16", "bfloat16"):
        kept = tiny_assembly()
        cache_features(kept, tmp_path / "store", dtype)
        first, again = loss(kept, samples), loss(kept, samples)
        assert torch.equal(first, again), dtype  # a miss is a hit to the last bit
        assert torch.equal(first, live) or dtype != "float32"
        assert abs(first - live) / live < (EQUAL if dtype == "float16" else 10 * EQUAL)


def test_a_second_model_on_the_same_data_calls_no_encoder_and_opens_no_picture(
    tmp_path: Path, pictures: list[Path]
) -> None:
    samples = [sample(str(number), path) for number, path in enumerate(pictures)]
    first, other = model_of(tiny_encoder_copy()), model_of(tiny_encoder_copy(), "gemma2")
    cache = cache_features(first, tmp_path / "store")
    counted = Counted(first.encoders["image"])  # type: ignore[arg-type]
    loss(first, samples)
    assert counted.counts() == (4, 5)  # the first picture is read twice, to see that nothing is drawn at random
    cache.commit()
    cache_features(other, tmp_path / "store")
    counted = Counted(other.encoders["image"])  # type: ignore[arg-type]
    text = sample("text only")
    set_trainable(other, {"connectors.image": 1.0})
    for shown in (samples, [samples[3], text, samples[0]]):
        summed, _, _ = other.train()(batch_of(other, shown))
        summed.backward()
    assert counted.counts() == (0, 0)
    other(batch_of(other, [text]))[0].backward()  # of a blank picture, once
    other(batch_of(other, [text]))[0].backward()
    assert counted.counts() == (1, 0)


def test_a_server_reads_what_is_kept_and_keeps_nothing_of_its_own(tmp_path: Path, pictures: list[Path]) -> None:
    def answers(model: MultimodalLM) -> list[str]:
        asked = [Sample("q", (Message("user", "<image>What is it?"),), {"image": (one,)}) for one in shown]
        return [answer.text for answer in Generator(model).generate(asked, 4)]

    encoder = tiny_encoder_copy()
    shown = [pictures[0].read_bytes(), pictures[3].read_bytes()]
    first = model_of(encoder)
    expected = answers(first)
    cache = cache_features(first, tmp_path / "kept", "float32")
    batch_of(first, [sample("a", pictures[0])])
    loss(first, [sample("a", pictures[0])])
    cache.commit()
    before = sorted(path.name for path in (tmp_path / "kept").rglob("*.safetensors"))
    second = model_of(encoder)
    served = cache_as_said(second, Cache(dir=str(tmp_path / "kept"), dtype="float32"), adds=False)
    assert served is not None and before
    assert answers(second) == expected and served.n_computed == 1
    served.commit()
    assert sorted(path.name for path in (tmp_path / "kept").rglob("*.safetensors")) == before


def test_an_accelerator_computes_several_at_once_and_only_what_is_not_there(
    tmp_path: Path, pictures: list[Path]
) -> None:
    """Groups as the loader of a GPU makes them: each item is kept by itself, one that is there stays as it is."""
    encoder = tiny_encoder_copy()
    one = open_features({"x": encoder}, tmp_path, "float32").encoders["x"]
    counted = Counted(encoder)
    for shown, forwards in (([0], 1), ([1, 0, 2, 1, 3], 2), ([3, 2, 1, 0], 0)):
        inputs = collated([one.read(pictures[number]) for number in shown], encoder.processor.collate, 2)
        with torch.no_grad():
            found = one.features(inputs, lambda given: encoder(**given))
        assert counted.counts()[0] == forwards, shown
        for place, number in enumerate(shown):
            live = encoder(**encoder.processor.collate([encoder.processor.read(pictures[number])]))
            torch.testing.assert_close(found.layers[-2][place], live.layers[-2][0], rtol=1e-5, atol=1e-5)
        counted.counts()
    assert one.n_computed == 4


def tiny_encoder_copy() -> Encoder:
    """With a processor of its own, too: tests count its reads."""
    encoder = copied_vision()
    return encoder


def test_a_changed_picture_is_a_miss(tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Same name, size and time of change; and one whose file was hashed long ago is not read again."""
    model, live = model_of(tiny_encoder_copy()), model_of(tiny_encoder_copy())
    cache = cache_features(model, tmp_path / "store", "float32")
    pictures[0].with_suffix(".bmp").write_bytes(b"")
    path = pictures[0].with_suffix(".bmp")
    values = []
    monkeypatch.setattr(contents, "TICK", -(10**18))  # as if files had been left alone for long
    for number in (1, 2):
        picture(number).save(path)
        os.utime(path, ns=(10**18, 10**18))
        values.append(loss(model, [sample("a", path)]))
        assert torch.equal(values[-1], loss(live, [sample("a", path)]))
    assert not torch.equal(*values) and cache.n_computed == 2
    hashed: list[Path] = []
    real = contents._hashed
    monkeypatch.setattr(contents, "_hashed", lambda file: [hashed.append(file), real(file)][1])
    assert torch.equal(loss(model, [sample("a", path)]), values[1]) and hashed == []
    monkeypatch.setattr(model.inputs["image"].processors["image"], "measure", None)  # a plan opens no file either
    assert [span.grid for span in model.inputs["image"].layout(model.inputs["image"].measure(path))] == [(4, 4)]
    cache.commit()
    again = model_of(tiny_encoder_copy())
    cache_features(again, tmp_path / "store", "float32")
    assert torch.equal(loss(again, [sample("a", path)]), values[1]) and hashed == []
    cache_features(again, tmp_path / "store", "float32", verify=True)
    assert torch.equal(loss(again, [sample("a", path)]), values[1]) and hashed == [path]


def test_a_file_that_changed_just_now_is_hashed_each_time(tmp_path: Path, pictures: list[Path]) -> None:
    """Its times may be those of another change within the same tick of the clock."""
    digests = contents.ContentDigests(tmp_path / "contents")
    content = TINY["hf_vision"].make().processor.content(pictures[0])
    assert content is not None and digests.known(content) is None
    digests.of(content)
    assert digests.known(content) is None


def test_a_picture_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, pictures: list[Path]) -> None:
    """What was read of the new one would be kept as the old one's."""
    model = model_of(tiny_encoder_copy())
    cache = cache_features(model, tmp_path / "store", "float32")
    processor = model.inputs["image"].processors["image"]
    real, numbers = processor.read, iter(range(10, 99))

    def changing(media: Any) -> Item:
        picture(next(numbers)).save(pictures[0])
        return real(media)

    processor.deterministic = True
    cache.encoders["image"]._tried = True
    processor.read = changing  # type: ignore[method-assign]
    with pytest.raises(MediaError, match="changes while it is read"):
        model.inputs["image"].read(pictures[0])
    assert len(cache.encoders["image"].store) == 0


class Packed(Stored):
    """An item inside a larger file."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def load(self) -> bytes:
        """The bytes."""
        return self.data


def test_an_item_is_what_it_holds_however_it_is_given(tmp_path: Path, pictures: list[Path]) -> None:
    """A path, its bytes and an item of a larger file are one; an opened picture is its pixels, upright."""
    model = model_of(tiny_encoder_copy())
    cache = cache_features(model, tmp_path / "store")
    data = pictures[0].read_bytes()
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes(data)
    for media in (pictures[0], str(copy), data, Packed(data)):
        loss(model, [sample("a", media)])
    assert cache.n_computed == 1
    opened = Image.open(io.BytesIO(data))
    loss(model, [sample("a", opened)])
    loss(model, [sample("a", picture(0))])
    assert cache.n_computed == 2
    turned = picture(0)
    turned.getexif()[274] = 6
    loss(model, [sample("a", turned)])
    assert cache.n_computed == 3


@pytest.mark.parametrize("how", ["weights", "layers", "size", "dtype", "eps"])
def test_other_encoders_have_other_features(how: str, tmp_path: Path) -> None:
    """What shapes features and is no part of the item: a store is never read by another."""
    first = tiny_encoder_copy()
    folder = open_features({"x": first}, tmp_path).encoders["x"].store.folder
    assert open_features({"y": tiny_encoder_copy()}, tmp_path).encoders["y"].store.folder == folder
    other, dtype = tiny_encoder_copy(), "float16"
    with torch.no_grad():
        if how == "weights":
            next(other.parameters()).add_(1e-3)
        elif how == "layers":
            other.layers = (-1,)
        elif how == "size":
            other.processor.max_pixels = 7  # type: ignore[attr-defined]
        elif how == "eps":
            next(m for m in other.modules() if isinstance(m, nn.LayerNorm)).eps = 1e-3
        else:
            dtype = "bfloat16"
    assert open_features({"x": other}, tmp_path, dtype).encoders["x"].store.folder != folder


def test_what_cannot_be_kept_is_refused(tmp_path: Path, pictures: list[Path]) -> None:
    """An encoder that learns, connectors inside it, random augmentation, numbers that float16 cannot hold."""
    model = model_of(tiny_encoder_copy())
    encoder = model.encoders["image"]
    assert isinstance(encoder, Encoder)
    set_trainable(model, {"encoders.image": 1.0})
    with pytest.raises(MmllmError, match=r"features of encoders.image cannot be kept, as it learns; .* without image"):
        cache_features(model, tmp_path)
    model.requires_grad_(False)
    encoder.adapters.append(nn.Linear(2, 2))
    with pytest.raises(MmllmError, match="as Linear works inside it"):
        cache_features(model, tmp_path)
    encoder.adapters.clear()
    with pytest.raises(MmllmError, match='dtype "int8" is unknown; known: float32, bfloat16, float16'):
        cache_features(model, tmp_path, "int8")
    with pytest.raises(MmllmError, match='"page" is no encoder of this model; known: image'):
        cache_features(model, tmp_path, encoders=["page"])
    processor = encoder.processor
    processor.deterministic = False
    with pytest.raises(MmllmError, match="its processor draws at random"):
        cache_features(model, tmp_path)
    del processor.deterministic
    cache_features(model, tmp_path)
    real = processor.read
    processor.read = lambda media: {"pixels": real(media)["pixels"] + torch.rand(())}  # type: ignore[method-assign]
    with pytest.raises(MmllmError, match=r"the processor of encoders.image draws at random \(augmentation\)"):
        loss(model, [sample("a", pictures[0])])


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path, pictures: list[Path]) -> None:
    model = model_of(tiny_encoder_copy())
    with torch.no_grad():
        for module in model.encoders["image"].modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(1e6)
    cache_features(model, tmp_path, "float16")
    with pytest.raises(MmllmError, match=r"encoders.image gives features of up to .*, which float16 cannot hold"):
        loss(model, [sample("a", pictures[0])])
    cache_features(model, tmp_path, "bfloat16")
    loss(model, [sample("a", pictures[0])])


def test_features_of_an_encoder_that_began_to_learn_are_not_used(tmp_path: Path, pictures: list[Path]) -> None:
    model = model_of(tiny_encoder_copy())
    cache_features(model, tmp_path)
    loss(model, [sample("a", pictures[0])])
    set_trainable(model, {"encoders.image": 1.0})
    with pytest.raises(MmllmError, match=r"encoders.image learns, or a connector inside it"):
        loss(model, [sample("a", pictures[0])])


def test_an_unreadable_picture_is_still_named(tmp_path: Path) -> None:
    model = model_of(tiny_encoder_copy())
    cache_features(model, tmp_path)
    for media, said in ((tmp_path / "none.png", "does not exist"), (b"no picture", "cannot be opened")):
        with pytest.raises(MediaError, match=said):
            model.inputs["image"].read(media)
