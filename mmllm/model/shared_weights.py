"""``connectors.KEY: {shares: OTHER}``: two placeholders whose connectors have one set of weights.

LLaVA's video models bring pictures and frames to the LLM through one projector. The model calls it before anything is
attached.
"""

from __future__ import annotations

from mmllm.connectors.base import Connector, LLMAdapter
from mmllm.errors import RecipeError


def share(connector: Connector, owner: Connector, where: str, whose: str) -> None:
    """Let ``connector`` hold the very tensors of ``owner``; ``where``, ``whose``: their places in the recipe.

    Raises:
        RecipeError: their tensors differ in name or shape, or one of them works inside the LLM.
    """
    start = f"{where}: it shares the weights of {whose}, but "
    for key, one in ((where, connector), (whose, owner)):
        if isinstance(one, LLMAdapter):
            raise RecipeError(f"{start}{key} works inside the LLM, where each has its own; leave `shares` out.")
    own, given = connector.state_dict(keep_vars=True), owner.state_dict(keep_vars=True)
    lacking = sorted(own.keys() ^ given.keys())
    if lacking:
        has, has_not = (where, whose) if lacking[0] in own else (whose, where)
        raise RecipeError(f"{start}{has} has {lacking[0]}, and {has_not} has not; give them settings alike.")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise RecipeError(
                f"{start}its {name} is {list(own[name].shape)} and that one's {list(tensor.shape)}; encoders, layers "
                "and settings must be as wide."
            )
        parent, _, leaf = name.rpartition(".")
        module = connector.get_submodule(parent)
        # assigned in the module's own table, whichever it is in: parameters and buffers alike
        table = module._parameters if leaf in module._parameters else module._buffers
        table[leaf] = tensor
