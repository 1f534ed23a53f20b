"""Conversations of one step that begin alike, as trees: the beginning they share once, then each one's continuation.

Between planning and reading: ``loader`` asks :func:`trees` which samples of a step belong together and
:func:`load_tree` for each tree as one stretch of a packed row. Exact: a continuation sees the prefix and itself, at the
positions it would have alone, and no label is predicted in a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from mmllm.batches.packing import fill, split
from mmllm.batches.positions import positions
from mmllm.batches.sample import Encoded, MediaInput, PlannedSample, PlannedText, load_media
from mmllm.errors import SampleError
from mmllm.messages.tokenize import Prompt
from mmllm.types import IGNORE_INDEX, SEQUENTIAL, PositionScheme, Segment

Planned = PlannedSample | PlannedText


@dataclass(frozen=True)
class Tree:
    """Samples of one step that are packed together; most trees are a single sample."""

    members: tuple[int, ...]
    """Numbers of the samples in the step."""
    shared: int
    """Tokens of their prompts that begin all of them, placeholders counted as one; 0: a single sample."""
    length: int
    """Positions it takes in a row."""


def single(plans: Sequence[Planned]) -> list[Tree]:
    """Each sample by itself."""
    return [Tree((number,), 0, planned.length) for number, planned in enumerate(plans)]


def trees(plans: Sequence[Planned], keys: Sequence[str], most: int, budget: int | None = None) -> list[Tree]:
    """Trees of a step's samples, in the order of their first members; a pure function of its arguments.

    Samples belong together that are of one dataset (``keys``), show the same media and are equal up to and with their
    last placeholder. A tree has ``most`` members at most, and ``budget`` positions where one is given.
    """
    groups: dict[object, list[int]] = {}
    for number, planned in enumerate(plans):
        groups.setdefault(_beginning(planned, keys[number]) or number, []).append(number)
    found = []
    for members in groups.values():
        for first in range(0, len(members), most):
            found += _fitting(plans, members[first : first + most], budget)
    return sorted(found, key=lambda tree: tree.members)


def dealt(
    plans: Sequence[Planned], keys: Sequence[str], *, most: int, budget: int | None, n_micro: int, world: int
) -> list[list[Tree]]:
    """The micro-batches of a step over all ranks, those of one moment beside each other: ``n_micro`` on each rank, or
    with a ``budget`` as many as its tokens make necessary. A pure function: every rank finds the same."""
    grown = single(plans) if most == 1 else trees(plans, keys, most, budget)
    lengths = [tree.length for tree in grown]
    bins = split(lengths, world * n_micro) if budget is None else fill(lengths, budget, world)
    return [[grown[number] for number in members] for members in bins]


def tree_of(plans: Sequence[Planned]) -> Tree | None:
    """All of these, which show the same media, as one tree; None where there is one, or nothing that they share."""
    if len(plans) < 2 or any(one.prompt.places != plans[0].prompt.places for one in plans):
        return None
    tree = _fitting(plans, list(range(len(plans))), None)[0]
    return tree if tree.shared else None


def _beginning(planned: Planned, key: str) -> object | None:
    """What two samples of a tree have in common; None where a sample must be by itself."""
    places = planned.prompt.places
    if not places or places[-1][0] + 1 >= _first_label(planned):
        return None
    shown = planned.shown
    if shown is None:
        return None
    return key, shown, tuple(planned.prompt.ids[: places[-1][0] + 1]), tuple(places)


def _first_label(planned: Planned) -> int:
    """Position in the prompt of the first token that is learned."""
    labels = planned.prompt.labels
    # the first position of a conversation carries no label, whoever says it
    return next((place for place, label in enumerate(labels) if label != IGNORE_INDEX and place), len(labels))


def _fitting(plans: Sequence[Planned], members: list[int], budget: int | None) -> list[Tree]:
    """One tree of these samples, or several where it would be over the budget."""
    if len(members) == 1:
        return [Tree((members[0],), 0, plans[members[0]].length)]
    shared = _shared([plans[number] for number in members])
    prefix = shared + plans[members[0]].length - len(plans[members[0]].prompt.ids)
    length = prefix + sum(plans[number].length - prefix for number in members)
    if budget is not None and length > budget:
        half = len(members) // 2
        return _fitting(plans, members[:half], budget) + _fitting(plans, members[half:], budget)
    return [Tree(tuple(members), shared, length)]


def _shared(plans: Sequence[Planned]) -> int:
    """Number of prompt tokens that all begin with, their media among them, before any state that predicts a label."""
    prompts = [planned.prompt for planned in plans]
    # the state of the last token before a label predicts it, which may be another one in each: it is no prefix
    most = min(_first_label(planned) for planned in plans) - 1
    first = prompts[0]
    for place in range(first.places[-1][0] + 1 if first.places else 0, most):
        same = all(one.ids[place] == first.ids[place] and _turn(one, place) == _turn(first, place) for one in prompts)
        if not same:
            return place
    return most


def _turn(prompt: Prompt, place: int) -> int:
    return prompt.user_turn[place] if prompt.user_turn else -1


def load_tree(
    tree: Tree,
    plans: Mapping[int, PlannedSample],
    inputs: Mapping[str, MediaInput],
    dataset: str = "",
    scheme: PositionScheme = SEQUENTIAL,
) -> Encoded:
    """Read the media once and put the tree's samples (of ``plans``, by number) end to end.

    Raises:
        SampleError: the media are unreadable.
    """
    members = [plans[number] for number in tree.members]
    first = load_media(members[0], inputs, dataset)
    if len(members) == 1:
        return first
    prefix = tree.shared + len(first.ids) - len(members[0].prompt.ids)
    ids, labels, turns = list(first.ids), list(first.labels), list(first.user_turn)
    places = [positions(first.spans, len(first.ids), scheme)]
    segments = [Segment(0, prefix), Segment(prefix, len(ids), (0, prefix))]
    for planned in members[1:]:
        start = len(ids)
        ids += planned.prompt.ids[tree.shared :]
        labels += planned.prompt.labels[tree.shared :]
        turns += planned.prompt.user_turn[tree.shared :]
        places.append(positions(first.spans, planned.length, scheme)[:, prefix:])
        segments.append(Segment(start, len(ids), (0, prefix)))
    if len(ids) != tree.length:
        raise SampleError(f"{first.name}: {len(ids)} tokens after reading the media, {tree.length} planned")
    return replace(
        first,
        ids=ids,
        labels=labels,
        user_turn=turns,
        name=f"{first.name} (and {len(members) - 1} more about the same media)",
        n_labels=sum(planned.n_labels for planned in members),
        segments=tuple(segments),
        position_ids=torch.cat(places, dim=1),
        n_conversations=len(members),
    )
