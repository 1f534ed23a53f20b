"""Questions about scenes and large shapes, with their answers; kinds are what gates and benchmarks report by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.scenes import Thing
from mmllm.miniature.world.words import COLOURS, PLACES, SHAPES

PLURALS = {"circle": "circles", "rectangle": "rectangles", "triangle": "triangles", "star": "stars", "cross": "crosses"}
# The 24 templates of easy-VQA: {c} a colour, {s} a shape; the flag says that "yes" means absent.
COLOUR_YES_NO = (
    ("is a {c} shape present?", False),
    ("is there a {c} shape?", False),
    ("does the image contain a {c} shape?", False),
    ("is there a {c} shape in the image?", False),
    ("does the image not contain a {c} shape?", True),
    ("is there not a {c} shape?", True),
    ("is there not a {c} shape in the image?", True),
    ("is no {c} shape present?", True),
)
SHAPE_YES_NO = (
    ("is a {s} present?", False),
    ("is there a {s}?", False),
    ("does the image contain a {s}?", False),
    ("is there a {s} in the image?", False),
    ("does the image not contain a {s}?", True),
    ("is there not a {s}?", True),
    ("is there not a {s} in the image?", True),
    ("is no {s} present?", True),
)
COLOUR_OF = (
    "what color is the shape?",
    "what color is the {s}?",
    "what is the color of the {s}?",
    "what is the color of the shape?",
)
SHAPE_OF = (
    "what shape is in the image?",
    "what shape does the image contain?",
    "what shape is present?",
    "what is the {c} shape?",
)
PAIR_YES_NO = (("is there a {c} {s}?", False), ("is there not a {c} {s}?", True))
RELATIONS = ("left of", "right of", "above", "below")


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _presence(rng: Random, things: Sequence[Thing], easy: bool, negated_share: float | None) -> Ask:
    want = rng.random() < 0.5
    templates: Sequence[tuple[str, bool]]
    shapes = SHAPES[:3] if easy else SHAPES
    which = rng.choice(("colour", "shape") if easy else ("colour", "shape", "pair"))
    if which == "colour":
        here = {thing.colour for thing in things}
        words = {"c": rng.choice([c for c in COLOURS if (c in here) == want] or COLOURS)}
        present, templates = words["c"] in here, COLOUR_YES_NO
    elif which == "shape":
        here = {thing.shape for thing in things}
        # all or none of the shapes may be there: then any of them
        words = {"s": rng.choice([s for s in shapes if (s in here) == want] or shapes)}
        present, templates = words["s"] in here, SHAPE_YES_NO
    else:
        pairs = {(thing.colour, thing.shape) for thing in things}
        colour, shape = rng.choice(sorted(pairs))
        if not want and rng.random() < 0.5:
            colour = rng.choice(COLOURS)
        elif not want:
            shape = rng.choice(shapes)
        words, present, templates = {"c": colour, "s": shape}, (colour, shape) in pairs, PAIR_YES_NO
    if negated_share is not None:
        negated = rng.random() < negated_share
        templates = tuple(pair for pair in templates if pair[1] == negated)
    template, negated = rng.choice(templates)
    return Ask("negated" if negated else "presence", template.format(**words), _yes(present != negated))


def _single(things: Sequence[Thing], attribute: str) -> list[Thing]:
    counts = Counter(getattr(thing, attribute) for thing in things)
    return [thing for thing in things if counts[getattr(thing, attribute)] == 1]


def _unique(things: Sequence[Thing]) -> list[Thing]:
    counts = Counter((thing.colour, thing.shape) for thing in things)
    return [thing for thing in things if counts[(thing.colour, thing.shape)] == 1]


def _relation(rng: Random, things: Sequence[Thing]) -> Ask | None:
    unique = _unique(things)
    if len(unique) < 2:
        return None
    one, two = rng.sample(unique, 2)
    word = rng.choice(RELATIONS)
    a, b = (one.place[0], two.place[0]) if word in RELATIONS[:2] else (one.place[1], two.place[1])
    if a == b:
        return None
    truth = a < b if word in ("left of", "above") else a > b
    question = f"is the {one.colour} {one.shape} {word} the {two.colour} {two.shape}?"
    return Ask("relation", question, _yes(truth))


def cell_box(place: str) -> tuple[int, int, int, int]:
    """The whole cell as a box in 0..99: what one can say of an object's box from its place alone."""
    column, row = "abcd".index(place[0]), int(place[1]) - 1
    return (25 * column, 25 * row, 25 * column + 24, 25 * row + 24)


def box_text(box: tuple[int, int, int, int]) -> str:
    """The answer form of a box: "[x1,y1,x2,y2]"."""
    return "[" + ",".join(str(number) for number in box) + "]"


def scene_ask(
    rng: Random, things: Sequence[Thing], kind: str, boxes: bool, negated_share: float | None = None
) -> Ask | None:
    """One question of a kind about a scene, or None where this scene does not allow that kind."""
    thing = rng.choice(things)
    if kind == "at":
        if rng.random() < 0.1:
            place = rng.choice([p for p in PLACES if p not in {t.place for t in things}])
            return Ask(kind, f"what is at {place}?", "nothing")
        return Ask(kind, f"what is at {thing.place}?", f"{thing.colour} {thing.shape}")
    if kind == "part_at":
        word, answer = rng.choice((("color", thing.colour), ("shape", thing.shape)))
        return Ask(kind, f"what {word} is at {thing.place}?", answer)
    if kind == "color_of":
        single = _single(things, "shape")
        return (
            Ask(kind, rng.choice(COLOUR_OF[1:3]).format(s=(t := rng.choice(single)).shape), t.colour)
            if single
            else None
        )
    if kind == "shape_of":
        single = _single(things, "colour")
        return Ask(kind, f"what is the {(t := rng.choice(single)).colour} shape?", t.shape) if single else None
    if kind in ("where", "box"):
        unique = _unique(things)
        if not unique:
            return None
        thing = rng.choice(unique)
        if kind == "where":
            return Ask(kind, f"where is the {thing.colour} {thing.shape}?", thing.place)
        box = thing.box if boxes else cell_box(thing.place)
        return Ask(kind, f"box of the {thing.colour} {thing.shape}?", box_text(box), box)
    if kind == "count":
        if rng.random() < 0.15:
            return Ask(kind, "how many shapes?", str(len(things)))
        if rng.random() < 0.5:
            shape = thing.shape if rng.random() < 0.75 else rng.choice(SHAPES)
            return Ask(kind, f"how many {PLURALS[shape]}?", str(sum(t.shape == shape for t in things)))
        colour = thing.colour if rng.random() < 0.75 else rng.choice(COLOURS)
        return Ask(kind, f"how many {colour} shapes?", str(sum(t.colour == colour for t in things)))
    return _relation(rng, things) if kind == "relation" else _presence(rng, things, False, negated_share)


SCENE_KINDS = {
    "at": 5.0,
    "part_at": 1.5,
    "color_of": 1.5,
    "shape_of": 1.5,
    "where": 3.0,
    "count": 2.0,
    "presence": 2.5,
    "relation": 0.8,
    "box": 1.2,
}


def caption(things: Sequence[Thing]) -> str:
    """The canonical description, in reading order: "a1 red circle, b3 blue star"."""
    return ", ".join(" ".join(thing.words) for thing in things)


def about_scene(
    rng: Random,
    things: Sequence[Thing],
    n: int,
    boxes: bool = True,
    kinds: dict[str, float] | None = None,
    negated_share: float | None = None,
) -> Described:
    """A scene with n questions; boxes says whether box answers are tight (pixels known) or the whole cell.

    negated_share is the share of negated ones among yes/no questions about presence; None leaves it to the templates.
    """
    weights = SCENE_KINDS if kinds is None else kinds
    asks: list[Ask] = []
    # at most so many tries: a small scene may not have n different questions
    for _ in range(4 * n):
        kind = rng.choices(list(weights), list(weights.values()))[0]
        ask = scene_ask(rng, things, kind, boxes, negated_share)
        if ask is not None and ask.question not in {a.question for a in asks}:
            asks.append(ask)
        if len(asks) == n:
            break
    return Described("scene", tuple(thing.words for thing in things), tuple(asks), caption(things))


def about_large(rng: Random, thing: Thing, n: int, negated_share: float | None = None) -> Described:
    """A large single shape with n questions in the words of easy-VQA."""
    asks: list[Ask] = []
    for _ in range(n):
        kind = rng.random()
        words = {"c": thing.colour, "s": thing.shape}
        if kind < 0.3:
            asks.append(Ask("large_color", rng.choice(COLOUR_OF).format(**words), thing.colour))
        elif kind < 0.6:
            asks.append(Ask("large_shape", rng.choice(SHAPE_OF).format(**words), thing.shape))
        else:
            ask = _presence(rng, [thing], True, negated_share)
            asks.append(Ask(f"large_{ask.kind}", ask.question, ask.answer))
    fact = ("large", thing.colour, thing.shape)
    return Described("large", (fact,), tuple(asks), " ".join(fact))
