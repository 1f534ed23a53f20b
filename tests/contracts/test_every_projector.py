"""The contract every projector of the registry keeps."""

from __future__ import annotations

import pytest

from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.testing import check_projector
from mmllm.testing.tiny.projectors import TINY
from mmllm.testing.tiny.record import plain_projector

NAMES = [name for name in registry.table("connectors") if part_arguments.kinds(name) == {"Projector"}]


@pytest.mark.parametrize("name", NAMES)
def test_every_projector(name: str) -> None:
    tiny = TINY.get(name) or plain_projector(name)
    check_projector(
        tiny, grids=[tiny.grid] * tiny.encoders, extras=tiny.extras, llm_width=16 if name == "identity" else 24
    )
