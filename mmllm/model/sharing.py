"""Refuses parts that give conversations which share their beginning another result than each alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmllm.connectors.base import Connector, DeepFusion, Projector
from mmllm.errors import RecipeError
from mmllm.hooks.passes import text_context
from mmllm.llms.partitioned import gathering
from mmllm.llms.self_check import TOLERANCE
from mmllm.model.model import MultimodalLM
from mmllm.types import Segment

PREFIX, CONTINUATIONS = 4, (3, 2)
"""Tokens of the check."""


def check_sharing(model: MultimodalLM, where: str) -> None:
    """Look at every connector, and run a tree of tokens through the LLM; ``where``: the stage in the recipe.

    Raises:
        RecipeError: names the part that cannot.
    """
    check_declared(model, where)
    with gathering(model.llm.model):  # with ZeRO-3 each rank may hold its part of the LLM alone
        same = _tree_equals_alone(model)
    if not same:
        raise RecipeError(
            f"{where}.share_prefix: {type(model.llm.model).__name__} gives another result for conversations that share "
            "their beginning than for each alone; leave share_prefix out"
        )


def check_declared(model: MultimodalLM, where: str) -> None:
    """The part of :func:`check_sharing` that needs no weights: what LLM and connectors say of themselves."""
    if model.llm.prefix:
        raise RecipeError(
            f"{where}.share_prefix: with llm.attention prefix what conversations share sees what each goes on with, so "
            "it differs from one to the other; leave share_prefix out"
        )
    for key, connector in model.connectors.items():
        if not _shares(connector):
            raise RecipeError(
                f"{where}.share_prefix: connectors.{key} ({type(connector).__name__}) looks at more of a conversation "
                "than its media, so conversations that share their beginning would differ from each alone; leave "
                "share_prefix out"
            )


def _shares(connector: object) -> bool:
    assert isinstance(connector, Connector)
    reads_text = isinstance(connector, Projector | DeepFusion) and connector.reads_text
    return connector.shares_prefix and not reads_text and not connector.reads_user_turn


def _shown(model: MultimodalLM, conversations: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Placeholder -> bool[B]: as if all conversations had media, so that what works where there are (`when`) does.

    None of those that are read inside the LLM: there is nothing to read.
    """
    read = {key for key, one in model.connectors.items() if isinstance(one, DeepFusion)}
    full = torch.ones(conversations, dtype=torch.bool, device=device)
    return {key: torch.zeros_like(full) if key in read else full for key in model.inputs}


@torch.no_grad()
def _tree_equals_alone(model: MultimodalLM) -> bool:
    """Whether the states of continuations are the same with a shared prefix; connectors that work inside included."""
    llm = model.llm
    ids = (torch.arange(PREFIX + sum(CONTINUATIONS), device=llm.device) * 7 + 3) % llm.vocab_size
    begin, *rest = ids.split((PREFIX, *CONTINUATIONS))
    lengths = [PREFIX + length for length in CONTINUATIONS]
    bounds = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32, device=llm.device)
    alone = text_context(torch.cat([torch.cat([begin, one]) for one in rest]), bounds)
    alone = replace(alone, has_media=_shown(model, len(rest), llm.device))
    expected = [part[PREFIX:] for part in llm(llm.embed(alone.input_ids[0], alone), alone).split(lengths)]
    segments = [Segment(0, PREFIX)]
    for length in CONTINUATIONS:
        segments.append(Segment(segments[-1].end, segments[-1].end + length, (0, PREFIX)))
    tree = text_context(ids, torch.tensor([0, len(ids)], dtype=torch.int32, device=llm.device))
    places = torch.cat([torch.arange(PREFIX), *(torch.arange(PREFIX, PREFIX + n) for n in CONTINUATIONS)])
    seen = _shown(model, 1, llm.device)
    tree = replace(tree, position_ids=places.to(llm.device)[None, None], segments=tuple(segments), has_media=seen)
    found = llm(llm.embed(ids, tree), tree)[PREFIX:]
    wanted = torch.cat(expected).float()
    return bool((found.float() - wanted).abs().max() <= TOLERANCE[llm.dtype] * wanted.abs().max())
