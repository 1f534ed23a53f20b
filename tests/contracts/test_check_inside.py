"""Connectors inside an LLM or an encoder that break one rule of their contract are told which; sound ones pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.base import DeepFusion, EncoderAdapter, LLMAdapter
from mmllm.hooks import Handle
from mmllm.testing import check_deep_fusion, check_encoder_adapter, check_llm_adapter
from mmllm.types import Features


class Sound(LLMAdapter):
    """A linear layer beside the MLP of block 1; what is broken derives from it."""

    zero_init = True

    def __init__(self, *, llm_dim: int) -> None:
        super().__init__(llm_dim=llm_dim)
        self.layers = nn.ModuleDict()

    def attach(self, llm: Any) -> Handle:
        if not self.layers:
            self.layers["add"] = nn.Linear(llm.hidden_dim, llm.hidden_dim, bias=False)
            nn.init.zeros_(self.layers["add"].weight)
        return self.hooked(llm)

    def hooked(self, llm: Any) -> Handle:
        return Handle.of([llm.after_mlp(1, self.change)])

    def change(self, ctx: Any, x: Tensor, output: Tensor) -> Tensor:
        return self.select(ctx, output + self.layers["add"](x), output)


class IsNotZero(Sound):
    def attach(self, llm: Any) -> Handle:
        handle = super().attach(llm)
        nn.init.ones_(self.layers["add"].weight)
        return handle


class Stays(Sound):
    def hooked(self, llm: Any) -> Handle:
        llm.after_mlp(1, self.change)
        return Handle.of([])


class IsNowhere(Sound):
    def hooked(self, llm: Any) -> Handle:
        return Handle.of([])


class TouchesTheLLM(Sound):
    def hooked(self, llm: Any) -> Handle:
        with torch.no_grad():
            llm.model.get_input_embeddings().weight[0] = 1.0
        return super().hooked(llm)


class IgnoresWhen(Sound):
    def change(self, ctx: Any, x: Tensor, output: Tensor) -> Tensor:
        return output + self.layers["add"](x)


class MixesConversations(Sound):
    def change(self, ctx: Any, x: Tensor, output: Tensor) -> Tensor:
        return self.select(ctx, output + self.layers["add"](x.mean(dim=1, keepdim=True)), output)


class HasSpareWeights(Sound):
    def __init__(self, *, llm_dim: int) -> None:
        super().__init__(llm_dim=llm_dim)
        self.spare = nn.Linear(2, 2)


class ForgetsText(Sound):
    def change(self, ctx: Any, x: Tensor, output: Tensor) -> Tensor:
        return super().change(ctx, x, output) if bool(ctx.has_media["image"].any()) else output


class KeepsAPass(Sound):
    """What the first block reads is kept on the connector, for the third."""

    def hooked(self, llm: Any) -> Handle:
        return Handle.of([llm.before_block(0, self.look), llm.after_mlp(2, self.change)])

    def look(self, ctx: Any, x: Tensor) -> Tensor:
        self.seen = x.detach().square().mean()
        return x

    def change(self, ctx: Any, x: Tensor, output: Tensor) -> Tensor:
        return self.select(ctx, output + self.layers["add"](x) * self.seen, output)


class ReportsUnasked(Sound):
    def metrics(self, ctx: Any) -> dict[str, int]:
        return {"n": 1}


class ReportsText(Sound):
    has_metrics = True

    def metrics(self, ctx: Any) -> dict[str, str]:
        return {"n": "one"}


BROKEN = {
    "zero_init is True, but untrained it changes the logits": IsNotZero,
    "removed and attached again": Stays,
    "with random weights the logits are those of its start": IsNowhere,
    "it changed the LLM's own weights": TouchesTheLLM,
    "row 1 with when: [image] changed": IgnoresWhen,
    "alone and in a pack": MixesConversations,
    "no gradient in the second step: spare.weight, spare.bias": HasSpareWeights,
    "the loss of a batch of text reaches none of its weights": ForgetsText,
    "another pass before the backward, with recomputed blocks": KeepsAPass,
    "has_metrics is False, but metrics gives {'n': 1}": ReportsUnasked,
    "leaves of metrics that do not add up: ['one']": ReportsText,
}
"""What the error says -> adapter."""


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_sound_adapter_passes(family: str) -> None:
    check_llm_adapter(Sound, family=family)


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_adapter_is_told_what_is_wrong(text: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_llm_adapter(BROKEN[text])
    message = str(caught.value)
    assert text in message.replace("unchanged", "-") and "Mend: " in message
    assert message.startswith(f"{BROKEN[text].__name__} in llama breaks ")


class Fusion(DeepFusion):
    """The mean of the last picture is added beside the MLP of block 1."""

    zero_init = True

    def __init__(self, *, dim: int, llm_dim: int) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        self.enter = nn.Linear(dim, llm_dim)
        self.gate = nn.Parameter(torch.zeros(1))

    def remember(self, features: Features) -> Tensor:
        return self.enter(features.concatenated().mean(dim=1))

    def attach(self, llm: Any) -> Handle:
        return Handle.of([llm.after_mlp(1, self.change)])

    def change(self, ctx: Any, x: Tensor, output: Tensor) -> Tensor:
        states, zero = self.recalled(ctx), (self.gate * self.enter.weight.sum() * self.enter.bias.sum()) * 0.0
        if states is None:
            return output + zero
        item = ctx.last_item[self.key]
        changed = output + self.gate * states[item.clamp(min=0)] + zero
        return self.select(ctx, torch.where(item[..., None] >= 0, changed, output + zero), output + zero)

    def recalled(self, ctx: Any) -> Tensor | None:
        found: Tensor | None = self.remembered(ctx)
        return found


class KeepsItsMemory(Fusion):
    """Of the latest pass on the connector, which another one writes over."""

    memory: Tensor | None = None

    def remember(self, features: Features) -> Tensor:
        self.memory = super().remember(features)
        return self.memory

    def recalled(self, ctx: Any) -> Tensor | None:
        return self.memory


def test_fusion_layers() -> None:
    check_deep_fusion(Fusion)
    check_deep_fusion(Fusion, family="gemma3", grid=(4, 2, 2))
    with pytest.raises(AssertionError, match=r"(?s)KeepsItsMemory in llama breaks .*Mend: keep what a pass finds out"):
        check_deep_fusion(KeepsItsMemory)
    with pytest.raises(AssertionError, match=r"Sound does not derive from mmllm\.connectors\.base\.DeepFusion"):
        check_deep_fusion(lambda dim, llm_dim: Sound(llm_dim=llm_dim))  # type: ignore[arg-type,return-value]


class Beside(EncoderAdapter):
    """A linear layer beside the MLP of block 0."""

    zero_init = True

    def __init__(self, *, llm_dim: int) -> None:
        super().__init__(llm_dim=llm_dim)
        self.layers = nn.ModuleDict()

    def attach(self, encoder: Any, key: str) -> Handle:
        points = encoder.hook_points()
        if key not in self.layers:
            self.layers[key] = nn.Linear(points.dim, points.dim, bias=False)
            nn.init.zeros_(self.layers[key].weight)
        return self.hooked(points, key)

    def hooked(self, points: Any, key: str) -> Handle:
        return points.after_mlp(0, lambda ctx, x, output: output + self.added(self.layers[key], x).to(output.dtype))

    def added(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x.float())


class StaysBeside(Beside):
    def hooked(self, points: Any, key: str) -> Handle:
        super().hooked(points, key)
        return Handle.of([])


class MixesItems(Beside):
    def added(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x.float().mean(dim=0, keepdim=True))


class HasSpareBeside(Beside):
    def attach(self, encoder: Any, key: str) -> Handle:
        self.layers["spare"] = nn.Linear(2, 2)
        return super().attach(encoder, key)


class FollowsTheEncoder(Beside):
    def attach(self, encoder: Any, key: str) -> Handle:
        handle = super().attach(encoder, key)
        self.layers.to(next(encoder.parameters()).dtype)
        return handle

    def added(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (StaysBeside, "removed, the features are other ones"),
        (MixesItems, "in a batch and alone"),
        (HasSpareBeside, "no finite gradient: layers.spare.weight, layers.spare.bias"),
        (FollowsTheEncoder, "weights that are not float32"),
    ],
)
def test_a_broken_encoder_adapter_is_told_what_is_wrong(kind: type[EncoderAdapter], text: str) -> None:
    check_encoder_adapter(Beside)
    with pytest.raises(AssertionError) as caught:
        check_encoder_adapter(kind)
    assert text in str(caught.value) and "Mend: " in str(caught.value)
