"""One micro-batch of a stage, forward and backward, on a model without numbers: what it keeps and what it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import parts
from mmllm.planning.meter import Meter
from mmllm.types import Batch, Features

BACKWARD, GRADIENTS, HEAD = "backward", "gradients", "head and loss"


@dataclass(frozen=True)
class StepCost:
    """What a micro-batch takes beside weights and optimizer."""

    n_tokens: int
    n_labels: int
    peak: Mapping[str, int]
    """Part -> bytes at the moment when most were held; ``gradients`` as far as they were there, ``backward``: what the
    backward pass made for itself."""
    flops: Mapping[str, int]
    """Part -> floating point operations; ``backward``: of the whole backward pass."""
    features: Mapping[str, int]
    """Encoder -> values that one item's features have, over all layers that are read."""
    items: Mapping[str, int]
    """Encoder -> items of the micro-batch."""

    @property
    def activations(self) -> int:
        """Bytes at the peak without gradients."""
        return sum(self.peak.values()) - self.peak.get(GRADIENTS, 0)


def step_cost(model: MultimodalLM, batch: Batch) -> StepCost:
    """Run the micro-batch ``batch``; what learns was set before, and nothing of it stays.

    Raises:
        MmllmError: a connector or encoder looks into numbers in its forward pass, and there are none.
    """
    model.train()
    known = [*model.parameters(), *model.buffers()]
    meter = Meter([tensor.data for tensor in known])
    features: dict[str, int] = {}
    items: Counter[str] = Counter()
    with ExitStack() as stack:
        for name, module in parts(model).items():
            stack.enter_context(_counted(meter, name, module))
        for key, encoder in model.encoders.items():
            stack.enter_context(_measured(features, items, key, encoder))
        for parameter in model.parameters():
            if parameter.requires_grad:
                # a gradient is known as one only when it is put beside its weight
                handle = parameter.register_post_accumulate_grad_hook(lambda p: meter.rename(p.grad, GRADIENTS))
                stack.callback(handle.remove)
        try:
            with meter:
                with meter.part(HEAD):  # what no part's forward does: merging, the head, the loss
                    nll, extra, _ = model(batch)
                    loss = nll + extra
                with meter.part(BACKWARD):
                    loss.backward()
        except (RuntimeError, NotImplementedError, ValueError) as error:
            if isinstance(error, MmllmError):
                raise
            raise MmllmError(
                "this step cannot be planned: a part of the recipe looks into the numbers of its input to know what to "
                f"compute ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}); plan a stage without it"
            ) from error
        finally:
            for parameter in model.parameters():
                parameter.grad = None
    return StepCost(batch.n_tokens, batch.n_labels, dict(meter.peak), dict(meter.flops), features, items)


@contextmanager
def _counted(meter: Meter, name: str, part: nn.Module) -> Iterator[None]:
    """Let everything that runs inside a part count as of it, also where it is called from inside another."""
    handles = []
    for module in part.modules():
        handles.append(module.register_forward_pre_hook(lambda *_: meter.enter_part(name)))
        # also where it raises: a part that stays open would take what is not its own
        handles.append(module.register_forward_hook(lambda *_: meter.leave_part(), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _measured(found: dict[str, int], items: Counter[str], key: str, encoder: nn.Module) -> Iterator[None]:
    """Note how many items there are, and how many values the features of one have."""

    def note(module: nn.Module, inputs: Any, output: Features) -> None:
        layers = [*output.layers.values(), *output.extras.values()]
        found[key] = sum(layer.numel() for layer in layers) // max(1, len(output.mask))
        items[key] += len(output.mask)

    handle = encoder.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()
