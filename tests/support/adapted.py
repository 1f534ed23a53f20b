"""What the tests of adapters inside encoders walk: every adapter with its settings, and encoders of many libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace

import torch
from torch import Tensor

from mmllm import registry
from mmllm.connectors.base import EncoderAdapter
from mmllm.connectors.encoder_adapters.adaptformer import AdaptformerConnector
from mmllm.connectors.encoder_adapters.audio_adapter_fusion import AudioAdapterFusionConnector
from mmllm.connectors.encoder_adapters.conformer_adapter import ConformerAdapterConnector
from mmllm.connectors.encoder_adapters.mixture_of_adapters import MixtureOfAdaptersConnector
from mmllm.connectors.encoder_adapters.ted_adapter import TedAdapterConnector
from mmllm.connectors.encoder_adapters.vl_adapter import VlAdapterConnector
from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError
from mmllm.recipe import part_arguments
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.encoder_adapters import TINY
from tests.support.fake_encoders import FAKES

LLM = SimpleNamespace(dim=32)
ADAPTERS = [name for name in registry.table("connectors") if part_arguments.kinds(name) == {"EncoderAdapter"}]
"""Registered connectors that work inside encoders and nowhere else."""
TASKS = {"one": ["captions"], "two": ["instruct"]}
SETTINGS: dict[str, Callable[[], EncoderAdapter]] = {
    "ted_adapter enhancement": partial(TedAdapterConnector, llm_dim=32, width=4, difference=False),
    "ted_adapter difference": partial(TedAdapterConnector, llm_dim=32, width=4, enhancement=False, places="mlp"),
    "adaptformer normed": partial(AdaptformerConnector, llm_dim=32, width=4, scale=1.0, reads="normed", dropout=0.0),
    "adaptformer top half": partial(AdaptformerConnector, llm_dim=32, width=4, dropout=0.0, blocks="top half"),
    "vl_adapter own": partial(VlAdapterConnector, llm_dim=32, reduction=4, share="none", blocks=[0, 2]),
    "vl_adapter drawn": partial(VlAdapterConnector, llm_dim=32, reduction=4, start="drawn"),
    "conformer_adapter layer norm": partial(ConformerAdapterConnector, llm_dim=32, reduction=4, kernel=3, norm="layer"),
    "mixture_of_adapters medium": partial(MixtureOfAdaptersConnector, llm_dim=32, width=4, gate="medium"),
    "mixture_of_adapters one": partial(MixtureOfAdaptersConnector, llm_dim=32, width=4, experts=1, own=0),
    "audio_adapter_fusion uniform": partial(
        AudioAdapterFusionConnector, llm_dim=32, tasks=TASKS, width=4, alpha="uniform"
    ),
    "audio_adapter_fusion attention": partial(
        AudioAdapterFusionConnector, llm_dim=32, tasks=TASKS, width=4, alpha="attention"
    ),
}


def variant(name: str) -> EncoderAdapter:
    """A new one; its weights come with ``attach``."""
    made = SETTINGS[name]() if name in SETTINGS else TINY[name].make(0, LLM)
    assert isinstance(made, EncoderAdapter)
    return made


ENCODERS = {**FAKES, **tiny_encoders.TINY}


@cache
def registered() -> tuple[str, ...]:
    """Encoders of the registry whose blocks a connector can work inside."""
    found = []
    for name in sorted(registry.table("encoders")):
        try:
            tiny_encoders.TINY[name].make().hook_points().parts(0)
        except MmllmError:
            continue
        found.append(name)
    return tuple(found)


@cache
def encoder(name: str) -> Encoder:
    """A random one read after its last block; always the same object: adapters must leave it as it was."""
    torch.manual_seed(0)
    made = ENCODERS[name].make()
    made.layers = (-1,)
    return made


@cache
def items_of(name: str) -> list[dict[str, Tensor]]:
    """Its three tiny items, read."""
    return [encoder(name).processor.read(media) for media in ENCODERS[name].media()]


def inputs_of(name: str, numbers: Sequence[int] = (0, 1, 2)) -> dict[str, Tensor]:
    """Collated inputs of some of them."""
    return encoder(name).processor.collate([items_of(name)[number] for number in numbers])
