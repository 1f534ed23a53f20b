"""``points``: files of every format, farthest points and neighbours against brute force, edges; ``document``: texts."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mmllm.connectors.encoder_adapters.any2point.tokens import nearest
from mmllm.encoders.document import DocumentEncoder
from mmllm.encoders.points.backbone import load_backbone
from mmllm.encoders.points.points import PointsEncoder
from mmllm.errors import MediaError, MmllmError
from mmllm.processors.point_files import read_points
from mmllm.processors.point_sampling import farthest_first, filled_up, on_faces, on_unit_sphere
from mmllm.testing.tiny import encoders as tiny_encoders
from tests.support.layouts import features_of

SQUARE = "0 0 0\n2 0 0\n2 2 0\n0 2 0\n"
CORNERS = torch.tensor([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], dtype=torch.float64)


def ply(form: str) -> bytes:
    """The square with a colour, in one of PLY's three forms."""
    head = (
        f"ply\nformat {form} 1.0\ncomment made here\nelement vertex 4\nproperty float x\nproperty uchar red\n"
        "property double y\nproperty float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    if form == "ascii":
        rows = "".join(f"{x} 9 {y} {z}\n" for x, y, z in CORNERS.tolist())
        return (head + rows + "4 0 1 2 3\n").encode()
    order = "<" if form == "binary_little_endian" else ">"
    rows = b"".join(struct.pack(f"{order}fBdf", x, 9, y, z) for x, y, z in CORNERS.tolist())
    return head.encode() + rows + struct.pack(f"{order}B4i", 4, 0, 1, 2, 3)


def array(**arrays: Any) -> bytes:
    """An .npz in memory."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def saved(value: np.ndarray) -> bytes:
    """An .npy in memory."""
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        SQUARE.encode(),
        b"# x y z nx\n" + SQUARE.replace(" ", ",").replace("\n", ",1\n").encode(),
        ply("ascii"),
        ply("binary_little_endian"),
        ply("binary_big_endian"),
        saved(CORNERS.numpy().astype(np.float16)),
        array(points=CORNERS.numpy(), other=np.zeros(3)),
        array(only=CORNERS.numpy()),
        f"OFF\n# a comment\n4 0 0\n{SQUARE}".encode(),
    ],
)
def test_every_format_gives_the_same_points(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cloud"
    path.write_bytes(data)
    assert torch.equal(read_points(data, 8, 0), CORNERS)
    assert torch.equal(read_points(path, 8, 0), CORNERS)


@pytest.mark.parametrize("head", ["OFF\n4 2 0\n", "OFF4 2 0\n"])
def test_a_mesh_is_sampled_uniformly_on_its_faces(head: str) -> None:
    """A triangle three times as large gets three times the points; the joined header of some of ModelNet's too."""
    corners = "0 0 0\n1 0 0\n0 1 0\n0 3 0\n"
    data = (head + corners + "3 0 1 2\n3 2 1 3\n").encode()
    found = read_points(data, 20_000, seed=3)
    assert found.shape == (20_000, 3) and torch.equal(found, read_points(data, 20_000, seed=3))
    assert not torch.equal(found, read_points(data, 20_000, seed=4))
    x, y = found[:, 0], found[:, 1]
    assert (x >= 0).all() and (y >= 0).all() and (3 * x + y <= 3 + 1e-9).all() and (found[:, 2] == 0).all()
    assert abs((x + y > 1).double().mean() - 2 / 3) < 0.01  # areas 1/2 and 1
    inner = found[x + y <= 1]
    assert torch.allclose(inner.mean(0), torch.tensor([1 / 3, 1 / 3, 0], dtype=torch.float64), atol=0.01)


def test_polygons_are_fans_of_triangles() -> None:
    found = read_points(f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3 255 0 0\n".encode(), 4000, 0)
    assert torch.allclose(found.mean(0), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), atol=0.05)
    assert (found[:, 0] > found[:, 1]).double().mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"0 0 nan\n1 1 1\n", "1 of the 2 points have a coordinate that is no finite number"),
        (b"0 0 inf\n", "no finite number"),
        (b"0 0\n", "fewer than three numbers"),
        (b"\n\n", r"shape \(0,\)"),
        (b"\x89PNG\r\n", "no point cloud that can be read"),
        (b"OFF\n5 0 0\n0 0 0\n", "5 vertices and 0 faces are announced, 1 lines follow"),
        (f"OFF\n4 1 0\n{SQUARE}3 0 1 9\n".encode(), "names other than its vertices"),
        (b"OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "faces have no area"),
        (b"OFF\n900000000 0 0\n", "900000000 vertices, over the limit of 1000000"),
        (ply("ascii")[:-40], "no point cloud that can be read"),
        (ply("binary_little_endian")[:-60], "no point cloud that can be read"),
        (b"ply\nformat ascii 1.0\nelement face 1\nend_header\n", "first element is not vertex"),
        (saved(np.zeros((4, 2))), r"shape \(4, 2\)"),
        (array(a=np.zeros((2, 3)), b=np.zeros((2, 3))), "one of them must be called points"),
        (b"PK\x03\x04 broken", "no point cloud that can be read"),
        (b"\x93NUMPY broken", "no point cloud that can be read"),
        (b"", "is empty"),
        (b"1 1 1\n" * 12_000_000, "over the limit of 67108864"),
    ],
)
def test_damaged_clouds_are_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence):
        read_points(data, 8, 0)


def test_pickled_arrays_are_refused() -> None:
    with pytest.raises(MediaError, match="no point cloud"):
        read_points(saved(np.array([{"x": 1}], dtype=object)), 8, 0)


def test_other_things_are_no_clouds(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="a dict is no point cloud"):
        read_points({}, 8, 0)
    with pytest.raises(MediaError, match="there is no file"):
        read_points(tmp_path / "nothing.off", 8, 0)


def test_farthest_points_equal_brute_force() -> None:
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(5))
    found = farthest_first(points, 25)
    chosen = [int((points.double() - points.double().mean(0)).norm(dim=1).argmax())]
    for _ in range(24):
        distances = [min(float((p - points[c]).double().norm()) for c in chosen) for p in points]
        chosen.append(max(range(40), key=lambda i: (distances[i], -i)))
    assert found.tolist() == chosen
    again = farthest_first(points[found[:12]], 12)
    assert again.tolist() == list(range(12))  # a beginning is the sampling of itself: halving needs no second pass


def test_farthest_points_at_the_edges() -> None:
    same = torch.ones(5, 3)
    assert sorted(farthest_first(same, 5).tolist()) == [0, 1, 2, 3, 4]  # duplicates: none twice
    twice = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
    assert sorted(farthest_first(twice, 4).tolist()) == [0, 1, 2, 3]
    assert len({tuple(p) for p in twice[farthest_first(twice, 2)].tolist()}) == 2
    assert farthest_first(torch.zeros(1, 3), 1).tolist() == [0]
    for n in (0, 5):
        with pytest.raises(MmllmError, match=rf"{n} of 4 points cannot be chosen"):
            farthest_first(twice, n)


def test_neighbours_equal_brute_force() -> None:
    generator = torch.Generator().manual_seed(6)
    points = torch.randn(2, 30, 3, generator=generator)
    queries = torch.randn(2, 7, 3, generator=generator)
    found = nearest(queries, points, 5)
    for n in range(2):
        for q in range(7):
            by_hand = sorted(range(30), key=lambda i: float((points[n, i] - queries[n, q]).norm()))[:5]
            assert found[n, q].tolist() == by_hand


def test_unit_sphere_and_filling_up() -> None:
    points = torch.tensor([[1e300, 0, 0], [-1e300, 0, 0], [0, 1e300, 0]], dtype=torch.float64)
    scaled = on_unit_sphere(points)
    assert scaled.norm(dim=1).max() == pytest.approx(1.0) and scaled.mean(0).abs().max() < 1e-12
    assert torch.equal(on_unit_sphere(torch.full((4, 3), 7.0)), torch.zeros(4, 3, dtype=torch.float64))
    assert torch.equal(filled_up(CORNERS, 6), CORNERS[[0, 1, 2, 3, 0, 1]])
    assert torch.equal(filled_up(CORNERS, 2), CORNERS)
    with pytest.raises(MmllmError, match="no area"):
        on_faces(torch.zeros(2, 3, 3), 5, 0)


@pytest.fixture(scope="module")
def encoder() -> PointsEncoder:
    return tiny_encoders.points()


def test_place_size_and_order_of_a_cloud_do_not_matter(encoder: PointsEncoder) -> None:
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first = encoder.processor.read(points)["points"]
    moved = encoder.processor.read(points.flip(0) * 40 + torch.tensor([5.0, -3.0, 1.0]))["points"]
    assert first.dtype == torch.int16 and first.shape == (32, 3)
    assert (first.int() - moved.int()).abs().max() <= 1
    assert first.int().abs().max() > 25_000


def test_one_point_and_large_clouds(encoder: PointsEncoder) -> None:
    assert torch.equal(encoder.processor.read(b"3 4 5\n")["points"], torch.zeros(32, 3, dtype=torch.int16))
    large = torch.randn(5000, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(encoder.processor.read(large)["points"], encoder.processor.read(large)["points"])
    features = features_of(encoder, b"3 4 5\n", large)
    assert features.concatenated().isfinite().all()
    assert features.extras["centres"].shape == (2, 8, 3) and features.extras["prefix"].shape == (2, 0, 16)


def test_coordinates_survive_half_precision(encoder: PointsEncoder) -> None:
    half = tiny_encoders.points().to(torch.bfloat16)
    inputs = encoder.processor.collate([encoder.processor.read(tiny_encoders.clouds()[0])])
    assert torch.equal(half(**inputs).extras["centres"], encoder(**inputs).extras["centres"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"points": 30, "tokens": 8}, "30 points must be 1, 2, 4, 8"),
        ({"points": 24, "tokens": 8}, "24 points must be"),
        ({"weights": "none"}, 'weights "none" is unknown'),
        ({"backbone": "smell"}, 'backbone: "smell" is unknown; known: language, image, audio'),
        ({"backbone": "audio"}, "has no sound encoder"),
        ({"layers": [5]}, "layers: 5 does not exist: this encoder has 2 blocks"),
    ],
)
def test_bad_arguments_are_named(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        PointsEncoder(model="data/mini/clip", **words)


def test_random_blocks_keep_the_positions() -> None:
    trained = PointsEncoder(model="data/mini/clip", points=32, tokens=8)
    drawn, again = (PointsEncoder(model="data/mini/clip", points=32, tokens=8, weights="random") for _ in range(2))
    assert torch.equal(trained.positions, drawn.positions) and trained.positions.shape == (24, 64)
    names = [name for name, p in trained.backbone.named_parameters() if name.endswith("weight") and "ln" not in name]
    mine, others = dict(drawn.backbone.named_parameters()), dict(trained.backbone.named_parameters())
    assert all(not torch.equal(mine[name], others[name]) for name in names)
    assert all(torch.equal(mine[name], dict(again.backbone.named_parameters())[name]) for name in names)


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WHISPER = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 40,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 40, "vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "max_source_positions": 20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "shape"),
    [
        ("language", transformers.CLIPTextConfig(**TEXT), (77, 32)),
        ("language", transformers.BertConfig(**TEXT), (512, 32)),
        ("audio", transformers.ASTConfig(**SMALL, max_length=128), (12, 12, 32)),
        ("audio", transformers.WhisperConfig(**WHISPER), (20, 32)),
        ("image", transformers.Dinov2Config(**SMALL, image_size=56, patch_size=14), (4, 4, 32)),
    ],
)
def test_backbones_of_transformers(kind: str, config: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Their tables of positions, without prefix tokens, and blocks in which every token sees every other."""
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    if kind == "image":
        transformers.BitImageProcessor().save_pretrained(tmp_path)
    backbone = load_backbone(kind, str(tmp_path), None).eval()
    assert tuple(backbone.positions.shape) == shape and len(backbone.blocks) == 2
    tables = [p for name, p in model.named_parameters() if "position" in name and "decoder" not in name]
    assert torch.equal(
        tables[0].reshape(-1, 32)[-backbone.positions[..., 0].numel() :], backbone.positions.flatten(0, -2)
    )
    x = torch.randn(2, 5, 32)
    other = x.clone()
    other[:, -1] = torch.randn(2, 32) * 3
    first, changed = backbone(x, [2])[0], backbone(other, [2])[0]
    assert first.shape == (2, 5, 32) and not torch.equal(first[:, 0], changed[:, 0])


def test_models_that_cannot_carry_points_are_named(tmp_path: Path) -> None:
    transformers.GPT2Model(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20)).save_pretrained(
        tmp_path
    )
    with pytest.raises(MmllmError, match="see only those before"):
        load_backbone("language", str(tmp_path), None)
    llama = transformers.LlamaModel(transformers.LlamaConfig(**TEXT))
    llama.save_pretrained(tmp_path / "llama")
    with pytest.raises(MmllmError, match=r"see only those before|no learned table of positions"):
        load_backbone("language", str(tmp_path / "llama"), None)
    with pytest.raises(MmllmError, match="cannot be loaded as a language backbone"):
        load_backbone("language", str(tmp_path / "nothing"), None)


@pytest.fixture(scope="module")
def reader() -> DocumentEncoder:
    return tiny_encoders.document()


def test_documents_as_files_bytes_and_text_are_the_same(reader: DocumentEncoder, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("tea 3 milk 7", encoding="utf-8-sig")
    items = [reader.processor.read(media) for media in ("tea 3 milk 7", b"tea 3 milk 7", path)]
    assert all(torch.equal(items[0]["ids"], item["ids"]) for item in items) and len(items[0]["ids"]) == 4


def test_documents_that_do_not_fit_are_errors(reader: DocumentEncoder, tmp_path: Path) -> None:
    assert reader.processor.grid(reader.processor.read("tea " * 48)) == (48,)
    for media, sentence in (
        ("tea " * 49, "49 tokens, over the limit of 48; nothing is cut"),
        ("  \n", "is empty"),
        (b"\xff\xfe", "not text in UTF-8"),
        (tmp_path / "nothing.txt", "there is no file"),
        (7, "a int is no document"),
    ):
        with pytest.raises(MediaError, match=sentence):
            reader.processor.read(media)


def test_document_states_equal_the_models_own(reader: DocumentEncoder) -> None:
    """Padded behind or alone: transformers' own hidden states of the same text."""
    inputs = [reader.processor.read(media) for media in tiny_encoders.documents()]
    features = reader(**reader.processor.collate(inputs))
    for row, one in zip(features.layers[-1], inputs, strict=True):
        own = reader.model(input_ids=one["ids"][None], output_hidden_states=True)
        normed = reader.model.norm(row[: len(one["ids"])])
        torch.testing.assert_close(normed, own.last_hidden_state[0], rtol=1e-5, atol=1e-5)


def test_only_the_first_blocks(tmp_path: Path) -> None:
    whole = DocumentEncoder(model="data/mini/lm", layers=(2,), max_tokens=32)
    short = DocumentEncoder(model="data/mini/lm", blocks=2, max_tokens=32)
    assert (whole.n_blocks, short.n_blocks) == (6, 2)
    one = short.processor.collate([short.processor.read("tea 3, milk 7")])
    torch.testing.assert_close(short(**one).layers[-1], whole(**one).layers[2])
    with pytest.raises(MmllmError, match="blocks 7 must be 1 to 6"):
        DocumentEncoder(model="data/mini/lm", blocks=7)
    with pytest.raises(MmllmError, match="more than the 2048 positions of this llama"):
        DocumentEncoder(model="data/mini/lm", max_tokens=4096)
    with pytest.raises(MmllmError, match="cannot be loaded as a text model"):
        DocumentEncoder(model=str(tmp_path))
