"""The contract of every adapter inside encoders, in encoders of every library that has blocks to work inside."""

from __future__ import annotations

import pytest

from mmllm.testing import check_encoder_adapter
from mmllm.testing.encoder_adapters import Stage
from mmllm.testing.tiny.encoder_adapters import TINY
from tests.support.adapted import ADAPTERS, ENCODERS, FAKES, SETTINGS, encoder, inputs_of, registered, variant
from tests.support.layouts import layout_of

PAIRS = [(name, kind) for name in (*FAKES, *registered()) for kind in ADAPTERS]
PAIRS += [(name, kind) for name in ("clips", "wav2vec2", "open_clip") for kind in SETTINGS]


def test_the_walk_covers_the_adapters_and_the_encoders() -> None:
    assert set(ADAPTERS) >= {
        "ted_adapter", "adaptformer", "vl_adapter", "conformer_adapter", "mixture_of_adapters", "audio_adapter_fusion",
    }  # fmt: skip
    assert set(registered()) >= {"hf_vision", "open_clip", "frames", "hf_audio"}


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_encoder_adapter(name: str, kind: str) -> None:
    layout = layout_of(encoder(name), inputs_of(name))
    if kind.startswith("ted_adapter") and len(layout.grid) != 2:
        pytest.skip("ted_adapter works on frames of rows and columns")
    still = max(layout.rows) == 1  # between the rows of a picture there is no change over time
    check_encoder_adapter(
        SETTINGS.get(kind) or TINY[kind],
        encoder(name),
        ENCODERS[name].media(),
        stages=stages(kind),
        silent=lambda weight: still and "difference" in weight,
    )


def stages(kind: str) -> list[Stage]:
    """All weights at once, or first the tasks' adapters and then what mixes them, which knows no task."""
    if not kind.startswith("audio_adapter_fusion"):
        return [(None, "")]
    first: Stage = (("captions", "instruct", "captions"), "adapters.")
    return [first] if kind.endswith("uniform") else [first, (None, "alpha.")]


def test_a_uniform_mixture_has_nothing_to_learn() -> None:
    fusion = variant("audio_adapter_fusion uniform")
    fusion.attach(encoder("open_clip"), "image").remove()
    assert not list(fusion.get_submodule("alpha").parameters())
