"""Refuses parts that give conversations which share their beginning another result than each alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mmllm.connectors.base import Connector, DeepFusion, Projector
from mmllm.errors import RecipeError
from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import text_context
from mmllm.llms.causal_lm import CausalLM
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
        # what reads items inside the LLM has none to read here; all else works as it does where media are shown
        shows = not any(isinstance(connector, DeepFusion) for connector in model.connectors.values())
        same = _tree_equals_alone(model.llm, dict.fromkeys(model.inputs, shows))
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


@torch.no_grad()
def _tree_equals_alone(llm: CausalLM, shows: Mapping[str, bool]) -> bool:
    """Whether the states of continuations are the same with a shared prefix; connectors that work inside included.

    ``shows``: placeholder -> whether connectors with `when` are to take these conversations for ones that show it.
    """

    def context(row: torch.Tensor, bounds: torch.Tensor) -> ForwardContext:
        found = text_context(row, bounds)
        every = torch.ones(len(bounds) - 1, dtype=torch.bool, device=llm.device)
        return replace(found, has_media={key: every & shown for key, shown in shows.items()})

    ids = (torch.arange(PREFIX + sum(CONTINUATIONS), device=llm.device) * 7 + 3) % llm.vocab_size
    begin, *rest = ids.split((PREFIX, *CONTINUATIONS))
    lengths = [PREFIX + length for length in CONTINUATIONS]
    bounds = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32, device=llm.device)
    alone = context(torch.cat([torch.cat([begin, one]) for one in rest]), bounds)
    expected = [part[PREFIX:] for part in llm(llm.embed(alone.input_ids[0], alone), alone).split(lengths)]
    segments = [Segment(0, PREFIX)]
    for length in CONTINUATIONS:
        segments.append(Segment(segments[-1].end, segments[-1].end + length, (0, PREFIX)))
    tree = context(ids, torch.tensor([0, len(ids)], dtype=torch.int32, device=llm.device))
    places = torch.cat([torch.arange(PREFIX), *(torch.arange(PREFIX, PREFIX + n) for n in CONTINUATIONS)])
    tree = replace(tree, position_ids=places.to(llm.device)[None, None], segments=tuple(segments))
    found = llm(llm.embed(ids, tree), tree)[PREFIX:]
    wanted = torch.cat(expected).float()
    return bool((found.float() - wanted).abs().max() <= TOLERANCE[llm.dtype] * wanted.abs().max())
