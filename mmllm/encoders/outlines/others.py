"""Outlines of encoders of sound, documents, graphs and points; ``outline.py`` chooses between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmllm.encoders.outlines.record import Outline


def hf_audio(
    model: str,
    layers: Sequence[int | str] = (-1,),
    window: float | None = None,
    fixed: bool = False,
    whole_windows: bool = False,
    max_seconds: float | None = None,
    frequencies: str = "mean",
    timeout: float | None = None,
) -> Outline:
    """Outline of ``HfAudioEncoder``: its model is laid out on torch's meta device, which holds no numbers."""
    import torch
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    from mmllm.encoders.audio.loading import kind_of, tower_of
    from mmllm.processors.audio import AudioProcessor, window_samples
    from mmllm.processors.sound_files import MAX_SECONDS, TIMEOUT
    from mmllm.vlms.tower import load_tower

    extractor = AutoFeatureExtractor.from_pretrained(model)
    with torch.device("meta"):
        published = load_tower(model, "audio")
        if published is None:
            net, kind, _ = kind_of(AutoModel.from_config(AutoConfig.from_pretrained(model)), model)
        else:
            net, kind = published, tower_of(published)
    heard = kind(net, extractor)
    if window is not None:
        heard.shorten(window)
    if "final" in layers:
        heard.front_end.pooled(heard.pool)
    processor = AudioProcessor(
        heard.front_end,
        window=window_samples(model, heard.front_end, window),
        fixed=fixed,
        keep=frequencies == "keep" and bool(heard.front_end.raster),
        whole=whole_windows,
        max_seconds=max_seconds or MAX_SECONDS,
        timeout=timeout or TIMEOUT,
    )
    return Outline(processor, heard.dim, len(layers))


def waveform(
    samples: int = 640,
    rate: int = 16_000,
    normalise: str = "rms",
    eps: float = 1e-6,
    max_seconds: float | None = None,
    timeout: float | None = None,
) -> Outline:
    """Outline of ``WaveformEncoder``."""
    from mmllm.processors.sound_files import MAX_SECONDS, TIMEOUT
    from mmllm.processors.waveform import WaveformProcessor

    processor = WaveformProcessor(
        samples=samples, rate=rate, max_seconds=max_seconds or MAX_SECONDS, timeout=timeout or TIMEOUT
    )
    return Outline(processor, samples, 1)


def document(
    model: str,
    layers: Sequence[int | str] = (-1,),
    max_tokens: int = 1024,
    blocks: int | None = None,
    max_bytes: int | None = None,
) -> Outline:
    """Outline of ``DocumentEncoder``, by its tokenizer."""
    from mmllm.processors.document import MAX_BYTES, DocumentProcessor
    from mmllm.processors.tokenizer import ModelTokenizer

    tokenizer = ModelTokenizer(model)
    assert tokenizer.loaded  # a missing one is told now
    processor = DocumentProcessor(tokenizer, max_tokens=max_tokens, max_bytes=max_bytes or MAX_BYTES)
    return Outline(processor, _width(model), len(layers))


def text_graph(
    model: str | None = None,
    width: int | None = None,
    layers: Sequence[int | str] = (-1,),
    pool: str = "last",
    max_tokens: int = 256,
    cut: bool = False,
    fanout: Sequence[int] = (10, 10),
    max_nodes: int = 512,
    max_edges: int = 100_000,
    sample: int | None = None,
    seed: int = 0,
) -> Outline | None:
    """Outline of ``TextGraphEncoder``; its processor looks for no states that were made before."""
    from mmllm.processors.graph import GraphProcessor, NodeTexts
    from mmllm.processors.tokenizer import ModelTokenizer

    if (model is None) == (width is None):
        return None
    texts = None if model is None else NodeTexts(ModelTokenizer(model), max_tokens, cut)
    dim = int(width or 0) if model is None else _width(model)
    # whose states a folder may hold is known by the text model's weights; without them its texts are read
    processor = GraphProcessor(
        texts=texts, digest="", dim=dim, layers=(0,), fanout=fanout, max_nodes=max_nodes, max_edges=max_edges,
        sample=sample, seed=seed,
    )  # fmt: skip
    return Outline(processor, dim, len(layers))


def points(
    model: str,
    backbone: str = "language",
    pretrained: str | None = None,
    points: int = 1024,
    tokens: int = 128,
    layers: Sequence[int | str] = (-1,),
    weights: str = "pretrained",
    seed: int = 0,
    max_points: int | None = None,
    max_bytes: int | None = None,
) -> Outline | None:
    """Outline of ``PointsEncoder``, whose processor asks nothing of the model."""
    from mmllm.processors.point_files import MAX_BYTES, MAX_POINTS
    from mmllm.processors.points import PointsProcessor

    file = Path(model) / "open_clip_config.json"
    if pretrained is not None or file.is_file():
        own = _open_clip_config(model, file)
        if own is None:
            return None
        dim = int(own["vision_cfg" if backbone == "image" else "text_cfg"]["width"])
    else:
        dim = _width(model, {"language": "text_config", "image": "vision_config"}.get(backbone))
    processor = PointsProcessor(
        points=points, tokens=tokens, seed=seed, max_points=max_points or MAX_POINTS, max_bytes=max_bytes or MAX_BYTES
    )
    return Outline(processor, dim, len(layers))


def _open_clip_config(model: str, file: Path) -> dict[str, Any] | None:
    """Configuration of a folder, or of a model that open_clip knows by name."""
    import open_clip

    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        return found
    return open_clip.get_model_config(model)


def _width(model: str, part: str | None = None) -> int:
    """Width of the hidden states of a model of transformers, or of one ``part`` of it where it has that."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return int((getattr(config, part) if part is not None and part in config.sub_configs else config).hidden_size)
