"""Blocks behind the deepest layer do not run, and what is read is bit for bit what the whole model gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmllm.connectors.encoder_adapters.adaptformer import AdaptformerConnector
from mmllm.encoders.base import Encoder
from mmllm.testing.tiny.encoders import TINY
from mmllm.types import Layer


def blocks_of(encoder: Any) -> list[nn.Module]:
    """The three blocks of a tiny encoder."""
    if getattr(encoder, "text", None) is not None:
        return list(encoder.text.model.layers)
    return list(encoder.hook_points().blocks)


def ran(encoder: Encoder, given: dict[str, torch.Tensor]) -> tuple[list[int], torch.Tensor]:
    """Numbers of the blocks that run, and the features."""
    seen: list[int] = []
    hooks = [
        block.register_forward_hook(lambda *_, number=number: seen.append(number))
        for number, block in enumerate(blocks_of(encoder))
    ]
    features = encoder(**given).concatenated()
    for hook in hooks:
        hook.remove()
    return seen, features


CASES: dict[tuple[Layer, ...], int] = {(0,): 0, (1,): 1, (-3, 1): 1, (-2,): 2, (2, 0): 2, (-1,): 3, (0, "final"): 3}
"""Layers -> how many of three blocks run."""


# the final of hf_sam stands alone: tests/unit/encoders/image/test_hf_sam.py
RUN = [name for name, one in TINY.items() if one.has_blocks and one.numbered and name != "hf_sam"]


@pytest.mark.parametrize("name", RUN)
def test_blocks_behind_the_deepest_layer_do_not_run(name: str) -> None:
    encoder = TINY[name].make(layers=(0, 1, 2, 3, "final"))
    given = encoder.processor.collate([encoder.processor.read(item) for item in TINY[name].media()])
    names, whole = list(encoder.state_dict()), encoder(**given).layers
    assert len(blocks_of(encoder)) == 3
    for layers, count in CASES.items():
        encoder.layers = layers
        seen, features = ran(encoder, given)
        assert seen == list(range(count)), layers
        expected = [whole[layer] if layer == "final" else whole[layer % 4] for layer in layers]
        assert torch.equal(features, torch.cat(expected, dim=-1)), layers
        assert list(encoder.state_dict()) == names and len(blocks_of(encoder)) == 3


def test_no_norm_or_head_behind_the_deepest_layer_runs() -> None:
    """SigLIP's head attends to all patches and costs as much as a block of few tokens; nothing reads it."""
    encoder: Any = TINY["hf_vision"].make(layers=(3,))
    seen: list[str] = []
    encoder.vision.layernorm.register_forward_hook(lambda *_: seen.append("norm"))
    given = encoder.processor.collate([encoder.processor.read(item) for item in TINY["hf_vision"].media()])
    without = encoder(**given).concatenated()
    assert seen == []
    encoder.layers = (3, "final")
    assert torch.equal(encoder(**given).layers[3], without) and seen == ["norm"]


def test_weights_that_are_partitioned_are_let_go_by_a_forward_that_ends() -> None:
    """ZeRO-3 gathers and releases around each module's forward: there nothing breaks out of one."""
    encoder: Any = TINY["hf_vision"].make(layers=(0,))
    given = encoder.processor.collate([encoder.processor.read(item) for item in TINY["hf_vision"].media()])
    seen, features = ran(encoder, given)
    for weight in encoder.parameters():
        weight.ds_id = 1
    assert seen == [] and ran(encoder, given)[0] == [0]
    assert torch.equal(ran(encoder, given)[1], features)


def test_all_blocks_are_there_again_after_a_pass_that_fails() -> None:
    encoder: Any = TINY["hf_vision"].make(layers=(1,))

    def broken(*_: object) -> None:
        raise ValueError("broken")

    handle = blocks_of(encoder)[0].register_forward_hook(broken)
    with pytest.raises(ValueError, match="broken"):
        encoder(pixels=torch.zeros(1, 3, 32, 32))
    handle.remove()
    assert len(blocks_of(encoder)) == 3


def test_an_adapter_in_the_deepest_block_still_works() -> None:
    encoder = TINY["hf_vision"].make(layers=(2,))
    given = encoder.processor.collate([encoder.processor.read(item) for item in TINY["hf_vision"].media()])
    _, before = ran(encoder, given)
    adapter = AdaptformerConnector(llm_dim=8).bind("inside", None)
    encoder.adapters.append(adapter)
    handle = adapter.attach(encoder, "image")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.5)
    seen, after = ran(encoder, given)
    assert seen == [0, 1] and not torch.allclose(after, before, atol=1e-3)
    after.sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    handle.remove()
    encoder.adapters.remove(adapter)
    assert torch.equal(ran(encoder, given)[1], before)
