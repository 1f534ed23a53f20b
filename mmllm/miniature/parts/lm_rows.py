"""Training rows of the miniature LM: a described matter, then many short question/answer turns, as token positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from types import MappingProxyType

from tokenizers import Tokenizer

from mmllm.miniature.parts.tokenizer import ASSISTANT, END, SYSTEM, USER
from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.words import PLACES

Position = tuple[int, ...]
OTHER_WEIGHT = 0.1
MAX_WORDS = 4
EVEN: Mapping[str, float] = MappingProxyType({})


@dataclass
class Row:
    """One training row: at each position the token ids that share it (one, or the words of a fact), and its weight."""

    positions: list[Position]
    weights: list[float]

    def add(self, ids: Sequence[int], weight: float) -> None:
        """Appends ordinary one-token positions."""
        self.positions.extend((i,) for i in ids)
        self.weights.extend(weight for _ in ids)


class RowWriter:
    """Writes rows as token positions; tokenises each piece of text once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.ids: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=200_000)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False).ids)
        )

    def turns(self, row: Row, asks: Sequence[Ask], opened: bool, weights: Mapping[str, float] = EVEN) -> Row:
        """Adds the question/answer turns; opened says that the first user turn already holds the description.

        weights gives the weight of answers to some kinds of questions; that of others is 1.
        """
        for index, ask in enumerate(asks):
            if index or not opened:
                row.add(self.ids(USER), 0.0)
            row.add(self.ids(ask.question) + self.ids(END) + self.ids(ASSISTANT), OTHER_WEIGHT)
            row.add(self.ids(ask.answer) + self.ids(END), weights.get(ask.kind, 1.0))
        return row

    def plain(self, rng: Random, matter: Described, varied: float, weights: Mapping[str, float] = EVEN) -> Row:
        """The description as text; varied in 0..1 is the chance of each change of its form."""
        facts = list(matter.facts)
        if matter.matter == "scene" and rng.random() < 0.3:
            free = [place for place in PLACES if place not in {fact[0] for fact in facts}]
            facts += [(place, "nothing") for place in rng.sample(free, rng.randint(1, 4))]
            facts.sort(key=lambda fact: PLACES.index(fact[0]))
        if not matter.ordered and rng.random() < 0.3 + 0.4 * varied:
            rng.shuffle(facts)
        separator = rng.choice((", ", "; ", "\n", " ")) if rng.random() < varied else ", "
        if matter.matter == "scene" and separator != " " and rng.random() < 0.15 * varied:
            facts = [fact[1:] + fact[:1] for fact in facts]
        row = Row([], [])
        if rng.random() < 0.1 * varied:
            row.add(self.ids(SYSTEM) + self.ids("answer the question") + self.ids(END), 0.0)
        row.add(self.ids(USER), 0.0)
        for index, fact in enumerate(facts):
            row.add(self.ids((separator if index else "") + " ".join(fact)), OTHER_WEIGHT)
        row.add(self.ids("\n"), OTHER_WEIGHT)
        return self.turns(row, matter.asks, opened=True, weights=weights)

    def merged(self, rng: Random, matter: Described, weights: Mapping[str, float] = EVEN) -> Row:
        """The description with the words of one fact sharing one position (their embeddings are summed)."""
        row = Row([], [])
        row.add(self.ids(USER), 0.0)
        for words in cells(rng, matter):
            ids = [self.ids(" " + word)[0] for word in words[:MAX_WORDS]]
            row.positions.append(tuple(ids))
            row.weights.append(0.0)
        row.add(self.ids("\n"), 0.0)
        return self.turns(row, matter.asks, opened=True, weights=weights)

    def repeated(self, rng: Random, matter: Described) -> Row:
        """Facts, then the same facts in another order: every value is a lookup, so that lookups form early."""
        row, again = Row([], []), list(matter.facts)
        rng.shuffle(again)
        row.add(self.ids(USER), 0.0)
        for part, facts in enumerate((matter.facts, again)):
            for fact in facts:
                row.add(self.ids(" " + fact[0]), 0.0)
                row.add(self.ids(" " + " ".join(fact[1:])), float(part))
        return row


def cells(rng: Random, matter: Described) -> list[tuple[str, ...]]:
    """Groups of words as an image's grid could give them: per fact, or sixteen cells in reading order."""
    style = rng.random()
    if matter.matter == "scene":
        if style < 0.3:
            facts = list(matter.facts)
            if style < 0.1:
                rng.shuffle(facts)
            return facts
        at = {fact[0]: fact for fact in matter.facts}
        return [at.get(place, (place, "nothing")) for place in PLACES]
    if matter.matter in ("large", "digit"):
        if style < 0.3:
            return list(matter.facts)
        covered = set(rng.sample(range(16), rng.randint(1, 16)))
        return [matter.facts[0] if index in covered else ("nothing",) for index in range(16)]
    if matter.matter == "document":
        if style < 0.3:
            return list(matter.facts)
        kind, rows = matter.facts[0], matter.facts[1:]
        grid = [_of_row(rng, key, value, column) for key, value in rows for column in range(4)]
        grid += [("nothing",)] * (16 - len(grid))
        grid[rng.randrange(16)] += kind
        return [kind, *grid] if style < 0.65 else [words + kind for words in grid]
    return list(matter.facts)


def _of_row(rng: Random, key: str, value: str, column: int) -> tuple[str, ...]:
    """Words of one of a row's four cells: the key in the left half, the value in the right, or both."""
    if rng.random() < 0.5:
        return (key, value)
    return (key,) if column < 2 else (value,)
