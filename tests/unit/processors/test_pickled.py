"""Processors of models in their real size are small when pickled, and read the same in another process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from tokenizers import Tokenizer, models, pre_tokenizers

from mmllm.processors.audio import AudioProcessor
from mmllm.processors.audio_front_ends import AstFrontEnd, FrontEnd, WaveFrontEnd, WhisperFrontEnd
from mmllm.processors.base import Item, Processor
from mmllm.processors.document import DocumentProcessor
from mmllm.processors.graph import GraphProcessor, NodeTexts
from mmllm.processors.image import HfTransform, ImageProcessor
from mmllm.processors.points import PointsProcessor
from mmllm.processors.tokenizer import ModelTokenizer
from mmllm.processors.video import VideoProcessor, VideoReading
from mmllm.testing.tiny import encoders as tiny_encoders

# transformers' own extractor of AST warns of its own settings
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")
LIMIT = 100_000
MEDIA = {
    "image": tiny_encoders.pictures,
    "video": tiny_encoders.clips,
    "audio": tiny_encoders.sounds,
    "graph": tiny_encoders.graphs,
    "points": tiny_encoders.clouds,
    "document": tiny_encoders.documents,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    """A loaded tokenizer of 150,000 words, as many as Qwen's has pieces."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = {word: n for n, word in enumerate(["[UNK]", "tea", "milk", *(f"word{n}" for n in range(150_000))])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    found = ModelTokenizer(str(folder))
    assert len(pickle.dumps(found.loaded)) > 10 * LIMIT
    return found


def siglip() -> ImageProcessor:
    """SigLIP so400m of 384 pixels."""
    size = (384, 384)
    own = transformers.SiglipImageProcessor(size={"height": 384, "width": 384})
    return ImageProcessor(HfTransform(own, size, "squash", True), size=size, patch=(14, 14))


def clip() -> ImageProcessor:
    """open_clip's ViT-L-14-336."""
    transform = image_transform_v2(PreprocessCfg(size=336, resize_mode="squash"), is_train=False)
    return ImageProcessor(transform, size=(336, 336), patch=(14, 14))


def clips() -> VideoProcessor:
    """Eight frames of a clip through SigLIP."""
    words = {"frames": 8, "fps": None}
    reading = VideoReading(**words, backend="pyav", timeout=30, max_pixels=10**7, max_seconds=60)  # type: ignore[arg-type]
    return VideoProcessor(siglip(), reading, **words)  # type: ignore[arg-type]


def sound(front_end: FrontEnd) -> AudioProcessor:
    return AudioProcessor(front_end, window=front_end.own_window)


def whisper() -> AudioProcessor:
    """Whisper large v3: 128 mel bands."""
    return sound(WhisperFrontEnd(transformers.WhisperFeatureExtractor(feature_size=128), 1500))


def ast() -> AudioProcessor:
    """The audio spectrogram transformer of 10.24 seconds."""
    return sound(AstFrontEnd(transformers.ASTFeatureExtractor(), 12, 101, 10))


def wav2vec() -> AudioProcessor:
    """wav2vec 2.0 large."""
    extractor = transformers.Wav2Vec2FeatureExtractor()
    return sound(WaveFrontEnd(extractor, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)))


def points() -> PointsProcessor:
    return PointsProcessor(points=1024, tokens=128)


PLAIN: dict[str, Callable[[], Processor]] = {
    made.__name__: made for made in (siglip, clip, clips, whisper, ast, wav2vec, points)
}
WITH_TEXT = ("document", "graph")


def processor(name: str, tokenizer: ModelTokenizer) -> Processor:
    if name in PLAIN:
        return PLAIN[name]()
    if name == "document":
        return DocumentProcessor(tokenizer, max_tokens=4096)
    return GraphProcessor(
        texts=NodeTexts(tokenizer, 256, False), digest="0" * 64, dim=4096, layers=[32], fanout=[10, 10],
        max_nodes=512, max_edges=100_000, sample=None, seed=0,
    )  # fmt: skip


def same(one: Item, other: Item) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", [*PLAIN, *WITH_TEXT])
def test_a_processor_that_has_read_is_small_and_its_copy_reads_the_same(name: str, tokenizer: ModelTokenizer) -> None:
    made = processor(name, tokenizer)
    media = MEDIA[made.modality]()
    items = [made.read(one) for one in media]
    packed = pickle.dumps(made)
    assert len(packed) < LIMIT / 20
    copy = pickle.loads(packed)
    for one, item in zip(media, items, strict=True):
        assert same(copy.read(one), item)
        assert copy.grid(copy.measure(one)) == made.grid(item) and copy.seconds(item) == made.seconds(item)
    assert same(copy.blank(), made.blank()) and copy.fixed_grid() == made.fixed_grid()


def test_a_folder_of_graphs_that_was_opened_stays_behind(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('"tea and milk"\n' * 9000)
    np.save(tmp_path / "edges.npy", np.array([[0, 1]] * 9000))
    made = processor("graph", tokenizer)
    item = made.read(f"{tmp_path}#1")
    packed = pickle.dumps(made)
    assert len(packed) < LIMIT / 20 and same(pickle.loads(packed).read(f"{tmp_path}#1"), item)


def read_there(packed: bytes, media: list[object]) -> list[Item]:
    """In another process."""
    made = pickle.loads(packed)
    return [made.read(one) for one in media]


@pytest.mark.slow
def test_a_process_of_its_own_reads_the_same(tokenizer: ModelTokenizer) -> None:
    """Started anew, with nothing of this one: it loads its tokenizer and starts its decoders."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for name in (*PLAIN, *WITH_TEXT):
            made = processor(name, tokenizer)
            media = MEDIA[made.modality]()
            there = pool.submit(read_there, pickle.dumps(made), media).result(timeout=120)
            assert all(same(item, made.read(one)) for one, item in zip(media, there, strict=True))
