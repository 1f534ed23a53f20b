"""Taking hold of encoder blocks: what changes, in which layout, where norms come first or last; undone bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from mmllm.encoders.hook_points import BlockHooks
from mmllm.errors import MmllmError
from mmllm.hooks import EncoderContext, Handle, Scope
from tests.support.encoder_blocks import MODELS, Model


@pytest.fixture(params=sorted(MODELS), scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    """Each of the tiny models; hidden states of it were asked for before any connector comes."""
    torch.manual_seed(0)
    made = MODELS[request.param]()
    made.run(made.given)
    return made


def _zero(_: EncoderContext, x: Tensor, *__: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _same(inside: BlockHooks) -> list[Handle]:
    """Every hook on the middle block, none changing anything."""
    return [
        inside.before_block(1, lambda _, x: x),
        inside.after_block(1, lambda _, x, y: y),
        inside.before_attention(1, lambda _, x: x),
        inside.after_attention(1, lambda _, x, y: y),
        inside.before_mlp(1, lambda _, x: x),
        inside.after_mlp(1, lambda _, x, y: y),
        inside.add_before_block(1, _zero),
        inside.add_before_mlp(1, _zero),
        inside.add_after_mlp(1, _zero),
    ]


def test_hooks_that_change_nothing_are_an_identity_and_are_batch_first(model: Model) -> None:
    plain = model.run(model.given)
    shapes: list[tuple[int, ...]] = []

    def look(ctx: EncoderContext, x: Tensor, *_: Tensor) -> Tensor:
        assert ctx is model.context
        shapes.append(tuple(x.shape))
        return torch.zeros_like(x)

    handles = [*_same(model.inside), model.inside.add_before_mlp(1, look), model.inside.add_after_mlp(1, look)]
    assert torch.equal(model.run(model.given), plain)
    for handle in reversed(handles):
        handle.remove()
    assert len(shapes) == 2 and all(shape[0] == 2 and shape[2] == 16 for shape in shapes)


HOOKS = ("before_block", "after_block", "before_attention", "after_attention", "before_mlp", "after_mlp",
         "add_before_block", "add_before_mlp", "add_after_mlp")  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_changes_what_leaves_and_its_removal_is_exact(model: Model, hook: str) -> None:
    plain = model.run(model.given)
    change: dict[str, Any] = {"b": lambda _, x: 2 * x, "a": lambda _, x, y: 2 * y + 1}
    takes_two = hook.startswith("after") or hook == "add_after_mlp"
    # the last block: nothing after it could hide that transformers recorded its output without the change
    handle = getattr(model.inside, hook)(2, change["a" if takes_two else "b"])
    changed = model.run(model.given)
    handle.remove()
    assert not torch.equal(changed, plain) and changed.isfinite().all()
    assert torch.equal(model.run(model.given), plain)


def test_what_is_added_before_the_mlp_goes_through_mlp_and_residual(model: Model) -> None:
    """Against the block's own parts, called by hand on the stream that is read off a plain run."""
    inside, push = model.inside, torch.linspace(-1, 1, 16)
    streams: list[Tensor] = []

    def read(_: EncoderContext, x: Tensor) -> Tensor:
        streams.append(x)
        return torch.zeros_like(x)

    handle = inside.add_before_mlp(2, read)
    plain = model.run(model.given)
    handle.remove()
    assert torch.allclose(_mlp_part(inside, streams[0]), plain, atol=1e-5)  # so the stream is the right one
    handle = inside.add_before_mlp(2, lambda _, x: push.expand_as(x))
    pushed = model.run(model.given)
    handle.remove()
    assert torch.allclose(_mlp_part(inside, streams[0] + push), pushed, atol=1e-5)


def test_what_is_added_after_the_mlp_is_scaled_by_nothing(model: Model) -> None:
    inside, push = model.inside, torch.linspace(-1, 1, 16)
    streams: list[Tensor] = []
    handle = inside.add_before_mlp(2, lambda _, x: (streams.append(x), torch.zeros_like(x))[1])
    model.run(model.given)
    handle.remove()
    handle = inside.add_after_mlp(2, lambda _, stream, normed: push + 0 * normed + stream - streams[0])
    pushed = model.run(model.given)
    handle.remove()
    assert torch.allclose(_mlp_part(inside, streams[0], push), pushed, atol=1e-5)


def _mlp_part(inside: BlockHooks, stream: Tensor, push: Tensor | None = None) -> Tensor:
    """What block 2 makes of the stream between its attention and its MLP, by its own layers."""
    block, parts = inside.block(2), inside.parts(2)
    inner = dict(block.named_children())

    def mlp(x: Tensor) -> Tensor:
        if "intermediate" in inner:
            y = parts.mlp_last(inner["intermediate"](x))
        elif "fc1" in inner:
            y = parts.mlp_last(nn.functional.gelu(inner["fc1"](x)))
        else:
            y = parts.mlp_first(x)
            y = y if parts.mlp_last is parts.mlp_first else parts.mlp_last(y)
        return y if push is None else y + push

    if "intermediate" in inner or _post_norm(inside):
        return parts.norm_mlp(stream + mlp(stream))
    return stream + mlp(parts.norm_mlp(stream))


def _post_norm(inside: BlockHooks) -> bool:
    return type(inside.block(2)).__name__ in ("Wav2Vec2EncoderLayer", "HubertEncoderLayer")


def test_attention_gets_changed_queries_keys_and_values(model: Model) -> None:
    """An attention over tokens that are all the same gives each token the same."""
    handle = model.inside.before_attention(2, lambda _, x: torch.ones_like(x))
    seen: list[Tensor] = []
    look = model.inside.after_attention(2, lambda _, x, y: (seen.append(y), y)[1])
    model.run(model.given)
    handle.remove()
    look.remove()
    assert torch.allclose(seen[0], seen[0][:1, :1].expand_as(seen[0]), atol=1e-6)


def test_blocks_and_indices_that_are_not_there() -> None:
    inside = BlockHooks([nn.GELU()], 4, Scope())
    with pytest.raises(MmllmError, match="block 1: this encoder has 1 blocks"):
        inside.before_block(1, lambda _, x: x)
    with pytest.raises(MmllmError, match="a GELU holds nothing"):
        inside.after_mlp(0, lambda _, x, y: y)


def test_blocks_of_another_flow_are_refused_not_misread() -> None:
    """BEiT scales its branches by weights of the block; timm's ResPostBlock norms a branch before it is added."""
    beit = transformers.BeitConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    block = next(m for m in transformers.BeitModel(beit).modules() if type(m).__name__ == "BeitLayer")
    with pytest.raises(MmllmError, match="BeitLayer holds lambda_1"):
        BlockHooks([block], 16, Scope()).parts(0)
    post = BlockHooks([timm.models.vision_transformer.ResPostBlock(16, 2)], 16, Scope())
    sentence = "the norms of a ResPostBlock stand after its attention and MLP"
    for handle in (post.add_before_mlp(0, _zero), post.add_after_mlp(0, _zero)):
        with post.scope.open(EncoderContext()), pytest.raises(MmllmError, match=sentence):
            post.blocks[0](torch.randn(1, 3, 16))
        handle.remove()
