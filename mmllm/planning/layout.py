"""Lays a recipe's model out without numbers: the classes, shapes and hooks of training, and no memory for weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers.initialization import meta_device_safe_creation_ops

from mmllm.errors import MmllmError
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.recipe.models import Recipe

_CPU = torch.device("cpu")


def laid_out(recipe: Recipe) -> MultimodalLM:
    """The model that training builds, on the CPU as far as it knows, its weights without content.

    They are tensors of torch's ``FakeTensorMode``. Real inputs may be given to it: what it makes of them by weights is
    without content too, what it makes of them alone (positions, places, masks) is computed as ever.

    Raises:
        MmllmError: a part cannot be made from its configuration, or asks for the content of weights while it is made.
    """
    try:
        # first on torch's meta device, which libraries know, as they lay their own models out there
        with torch.device("meta"), meta_device_safe_creation_ops():
            model = build(recipe, "meta")
            if recipe.llm.dtype == "bfloat16":
                model.bfloat16()  # as DeepSpeed makes all of it; the float32 masters are the optimizer's
    except MmllmError:
        raise
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise MmllmError(
            f"{recipe.name}: a part of this recipe looks into its weights while it is made, so it cannot be laid out "
            f"without them ({type(error).__name__}: {first}); plan a recipe without it"
        ) from error
    _on_cpu(model, FakeTensorMode(allow_non_fake_inputs=True))
    return model


def _on_cpu(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every tensor on the meta device by one that says it is on the CPU; tied ones stay tied."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        if id(tensor) not in made:
            found: Tensor = FakeTensor(mode, tensor.data, _CPU)
            learns = tensor.requires_grad
            made[id(tensor)] = nn.Parameter(found, learns) if isinstance(tensor, nn.Parameter) else found
        return made[id(tensor)]

    for module in model.modules():
        # private in torch (read in 2.15): registering them anew would change their order
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    kept[name] = fake(tensor)  # type: ignore[assignment]
