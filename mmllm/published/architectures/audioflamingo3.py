"""Audio Flamingo 3 (Goel et al. 2025, arXiv 2507.08128): windows of sound, frames averaged by two, and an MLP."""

from __future__ import annotations

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's last state, and ``mlp``; longer sound, which its processor would cut, is refused."""
    window = source.processor.feature_extractor.chunk_length
    longest = float(source.processor.max_audio_len // window * window)
    return Sections(
        {"audio": {"type": "hf_audio", "model": source.path, "layers": ["final"], "max_seconds": longest}},
        {
            "audio": {
                **projector_words(source.path, source.config),
                "from": "audio",
                "token": source.token(source.config.audio_token_id),
            }
        },
    )
