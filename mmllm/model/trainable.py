"""Parts of a model that learn, what a checkpoint must hold of them, and digests of the frozen ones."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmllm.connectors.base import Connector
from mmllm.errors import CheckpointError, RecipeError
from mmllm.hooks.shards import whole
from mmllm.llms.causal_lm import CausalLM
from mmllm.llms.partitioned import is_partitioned
from mmllm.model.model import MultimodalLM

TOKENS = "llm.tokens"
"""The part that new tokens are, which stands in the LLM's module and learns without it."""
CHUNK = 2**24
"""Elements hashed at a time: a digest needs no second copy of the weights."""


@dataclass(frozen=True)
class PartRow:
    """One line of the table shown when a stage starts."""

    name: str
    """Name as under ``train:``: ``llm``, ``llm.tokens``, ``encoders.<key>`` or ``connectors.<key>``."""
    modules: str
    """Class of the part."""
    n_params: int
    n_trainable: int
    lr: float | None
    """Peak learning rate; None where frozen."""


def parts(model: MultimodalLM) -> dict[str, nn.Module]:
    """Name -> module of every part, in the order data flows.

    The new tokens in the LLM's module are a part of their own; a connector with another's weights is none.
    """
    named: dict[str, nn.Module] = {f"encoders.{key}": module for key, module in model.encoders.items()}
    own = {key: module for key, module in model.connectors.items() if key not in model.shares}
    named |= {f"connectors.{key}": module for key, module in own.items()}
    if model.llm.tokens is not None:
        named[TOKENS] = model.llm.tokens
    return named | {"llm": model.llm}


def _part_of(name: str, known: Collection[str]) -> str | None:
    """The part that a name under ``train:`` is, or lies in."""
    # `llm.tokens` stands before `llm`, which it does not belong to
    return next((part for part in known if f"{name}.".startswith(f"{part}.")), None)


def _own(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a part's tensors that are not of a part inside it."""
    inner = "tokens." if isinstance(module, CausalLM) else None
    return {name: tensor for name, tensor in tensors.items() if inner is None or not name.startswith(inner)}


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return _own(module, dict(module.named_parameters()))  # type: ignore[return-value]


def part_rows(model: MultimodalLM) -> list[PartRow]:
    """A row per part with nothing learning, as after loading."""
    return [PartRow(name, _class(module), _n_params(module), 0, None) for name, module in parts(model).items()]


def set_trainable(model: MultimodalLM, train: Mapping[str, float]) -> list[PartRow]:
    """Let the parts named in ``train`` (name -> peak learning rate) learn, and freeze all else; a row per part.

    Raises:
        RecipeError: a name that is no part, or a part that has nothing to learn.
    """
    known = parts(model)
    # first, as it may raise: a wrong name leaves the model as it was
    wanted_parameters = {name: list(learning(model, name).values()) for name in train}
    model.requires_grad_(False)
    rows = []
    for name, module in known.items():
        chosen = [pair for pair in wanted_parameters.items() if _part_of(pair[0], known) == name]
        n_params = _n_params(module)
        if not chosen:
            rows.append(PartRow(name, _class(module), n_params, 0, None))
        for wanted, parameters in chosen:
            for parameter in parameters:
                parameter.requires_grad_(True)
            n_learning = sum(_count(parameter) for parameter in parameters)
            n_shown = n_params if wanted == name else n_learning
            rows.append(PartRow(wanted, _class(module), n_shown, n_learning, train[wanted]))
        for parameter in _parameters(module).values():
            # one left by an earlier stage would hold memory, and a frozen parameter with a gradient counts as an error
            if not parameter.requires_grad:
                parameter.grad = None
    skip_if_zero(model)
    return rows


def learning(model: MultimodalLM, name: str) -> dict[str, nn.Parameter]:
    """The parameters that ``name`` under ``train:`` means: a part's, or those inside it whose name begins so.

    ``connectors.image`` is the whole connector, ``connectors.image.gates`` its parameters below ``gates``.

    Raises:
        RecipeError: a name that is no part, or nothing in it that could learn.
    """
    known = parts(model)
    part = _part_of(name, known)
    if part is None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RecipeError(f"train: {name!r} is no part of this model; its parts are {', '.join(known)}{hint}")
    own = _parameters(known[part])
    if not own:
        raise RecipeError(f"train: {name!r} ({_class(known[part])}) has no weights that could learn; leave it out")
    inner = name[len(part) + 1 :]
    found = {key: parameter for key, parameter in own.items() if not inner or f"{key}.".startswith(f"{inner}.")}
    if not found:
        firsts = ", ".join(dict.fromkeys(key.split(".")[0] for key in own))
        raise RecipeError(f"train: {part} ({_class(known[part])}) has nothing called {inner!r}; it has {firsts}")
    return found


def skip_if_zero(model: MultimodalLM) -> None:
    """Let updates inside the LLM that are frozen and still zero cost nothing."""
    for connector in model.connectors.values():
        assert isinstance(connector, Connector)
        connector.skip_if_zero()


def learned_parts(model: MultimodalLM) -> list[str]:
    """Names of the parts whose tensors a checkpoint holds: connectors, new tokens, and whatever else a stage trains."""
    known = parts(model)
    names = [name for name in known if name == TOKENS or name.startswith("connectors.")]
    # of all stages, not of the current one: what an earlier stage learned must be in a later one's checkpoint too
    stages = model.recipe.stages.values() if model.recipe is not None else ()
    trained = {_part_of(name, known) for stage in stages for name in stage.train}
    return names + [name for name in known if name not in names and name in trained]


def trainable_state(model: MultimodalLM) -> dict[str, torch.Tensor]:
    """Learned tensors by their name in ``model.named_parameters()`` / ``named_buffers()``; not copied.

    Under ZeRO-3 they are this rank's shards: gather first.
    """
    return dict(_learned(model))


def load_trainable(model: MultimodalLM, tensors: Mapping[str, torch.Tensor], later: Collection[str] = ()) -> None:
    """Copy learned tensors in place; exactly those of :func:`trainable_state` must be given.

    ``later``: parts that only stages after the tensors' own train; they stay as they are where none are given.

    Raises:
        CheckpointError: a name too many or too few, or another shape.
    """
    own = trainable_state(model)
    if later:
        waiting = tuple(f"{part}." for part in later)
        own = {name: tensor for name, tensor in own.items() if name in tensors or not name.startswith(waiting)}
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    for names, what in ((missing, "lacks"), (extra, "has, but this recipe's model has not,")):
        if names:
            raise CheckpointError(f"the checkpoint {what} {len(names)} learned tensors, the first is {names[0]}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{name} is {tuple(tensors[name].shape)} in the checkpoint and {tuple(tensor.shape)} in this recipe's "
                "model; evaluate and resume with the recipe it was trained with"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            # in place: optimizers, hooks and tied names keep the tensor they know
            tensor.copy_(tensors[name])
    skip_if_zero(model)


def frozen_digests(model: MultimodalLM, wanted: Collection[str] = ()) -> dict[str, str]:
    """Part that no stage trains (or of ``wanted``) -> sha256 over names, dtypes, shapes and bytes of its tensors.

    Where a part is partitioned (ZeRO-3), every rank has to call it: each of its weights is gathered in turn.
    """
    known = parts(model)
    return {name: _digest(known[name]) for name in (wanted or frozen_parts(model))}


def weights_digest(module: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of a part's tensors; one of :func:`frozen_digests`."""
    return _digest(module)


def frozen_parts(model: MultimodalLM, wanted: Collection[str] = ()) -> list[str]:
    """Names of the parts that no stage trains, and those of ``wanted`` that the model has."""
    learned = learned_parts(model)
    return [name for name in parts(model) if name in wanted or name not in learned]


def _learned(model: MultimodalLM) -> Iterator[tuple[str, torch.Tensor]]:
    known = parts(model)
    for part in learned_parts(model):
        yield from ((f"{part}.{name}", tensor) for name, tensor in _tensors(known[part]))


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers by name, tied ones once."""
    state = _own(module, module.state_dict(keep_vars=True))
    seen: set[int] = set()
    for name, tensor in state.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach()


def _digest(module: nn.Module) -> str:
    total = hashlib.sha256()
    # sorted: the order in which a library registers its layers is no part of what the weights are
    kept = module.state_dict(keep_vars=True)
    for name in sorted(name for name, _ in _tensors(module)):
        with whole([kept[name]]):
            tensor = kept[name].detach()
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            for piece in tensor.contiguous().flatten().split(CHUNK):
                # as bytes, since NumPy has no bfloat16
                total.update(piece.cpu().view(torch.uint8).numpy().data)
    return total.hexdigest()


def partitioned_parts(model: MultimodalLM) -> list[str]:
    """Names of the parts of whose weights this rank holds its share alone."""
    return [name for name, module in parts(model).items() if is_partitioned(module)]


def _n_params(module: nn.Module) -> int:
    return sum(_count(parameter) for parameter in _parameters(module).values())


def _count(parameter: nn.Parameter) -> int:
    """Elements; under ZeRO-3, where the tensor itself is empty, of the whole parameter."""
    return int(parameter.ds_numel) if hasattr(parameter, "ds_numel") else parameter.numel()


def _class(module: nn.Module) -> str:
    """Class shown in the table; of the LLM that of the wrapped model."""
    inner = module.model if hasattr(module, "decoder_name") else module
    return type(inner).__name__
