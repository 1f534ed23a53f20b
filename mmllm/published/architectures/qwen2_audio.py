"""Qwen2-Audio (Chu et al. 2024, arXiv 2407.10759): one window of sound, frames averaged by two, one linear layer."""

from __future__ import annotations

from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words


def sections(source: Source) -> Sections:
    """The tower's last state, and ``mlp``; longer sound, which its processor would cut, is refused."""
    extractor = source.processor.feature_extractor
    longest = extractor.n_samples / extractor.sampling_rate
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
