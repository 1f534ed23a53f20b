"""Curriculum of the miniature LM: its rows at each moment of training, from bare recall to whole scenes."""

from __future__ import annotations

from random import Random

from mmllm.miniature.parts.lm_rows import Row, RowWriter
from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.documents import about_document, document
from mmllm.miniature.world.questions import SCENE_KINDS, about_large, about_scene
from mmllm.miniature.world.scenes import large, scene
from mmllm.miniature.world.text import digit, graph, recall, skill, sounds

# When (share of the training done) each kind of scene question begins.
BEGINS = {
    "at": 0.0,
    "part_at": 0.0,
    "where": 0.03,
    "color_of": 0.05,
    "shape_of": 0.05,
    "count": 0.08,
    "presence": 0.08,
    "relation": 0.2,
    "box": 0.2,
}
# From LATE on lookups are known, and what is left gets more room: presence, counting, relations. A negated question
# turns the answer over, so presence and its negation in equal shares cancel out and neither is learned; hence few
# negated questions first, then more.
LATE = 0.45
LATE_KINDS = {
    "at": 3.0,
    "part_at": 0.8,
    "color_of": 0.8,
    "shape_of": 0.8,
    "where": 2.0,
    "count": 4.0,
    "presence": 7.0,
    "relation": 2.0,
    "box": 0.8,
}
LATE_WEIGHTS = {"presence": 4.0, "negated": 4.0, "count": 4.0, "relation": 4.0, "parity": 3.0}
LATE_WEIGHTS |= {"large_presence": 4.0, "large_negated": 4.0}
SHARES = {"scene": 0.50, "document": 0.24, "large": 0.07, "digit": 0.03, "recall": 0.05, "sound": 0.03, "graph": 0.03}


def negated_share(done: float) -> float | None:
    """Share of negated questions among those about presence at the moment; None is the templates' own half."""
    if done < LATE:
        return None
    return 0.08 if done < 0.6 else 0.25 if done < 0.75 else 0.5


def scene_matter(rng: Random, done: float, turns: int, held_out: bool = False) -> Described:
    """A scene with questions, as large and as varied as the moment allows; some descriptions hold boxes."""
    most = min(6, 2 + int(done / 0.025))
    late = done >= LATE and not held_out
    things = scene(rng, rng.randint(1, most) if rng.random() < (0.8 if late else 0.4) else most, held_out)
    kinds = {kind: weight for kind, weight in (LATE_KINDS if late else SCENE_KINDS).items() if done >= BEGINS[kind]}
    if done >= 0.2 and rng.random() < 0.1:
        kinds = {"box": 5.0, "where": 1.0, "at": 1.0}
        described = about_scene(rng, things, turns, boxes=True, kinds=kinds)
        facts = tuple((*thing.words, *(str(number) for number in thing.box)) for thing in things)
        return Described("boxes", facts, described.asks, described.caption)
    share = None if held_out else negated_share(done)
    described = about_scene(rng, things, turns, boxes=False, kinds=kinds, negated_share=share)
    if done >= 0.1 and rng.random() < 0.1:
        asks = (Ask("describe", "describe the image.", described.caption), *described.asks[1:])
        return Described("scene", described.facts, asks, described.caption)
    return described


def document_matter(rng: Random, done: float, turns: int, held_out: bool = False) -> Described:
    """A document with questions; sometimes its description is asked for."""
    kind, rows = document(rng, held_out)
    described = about_document(rng, kind, rows, turns)
    if done >= 0.1 and rng.random() < 0.1:
        asks = (Ask("doc_describe", "describe the image.", described.caption), *described.asks[1:])
        return Described("document", described.facts, asks, described.caption, ordered=True)
    return described


def matter_of(rng: Random, name: str, done: float, turns: int, held_out: bool = False) -> Described:
    """One described matter of a named sort."""
    if name == "scene":
        return scene_matter(rng, done, turns, held_out)
    if name == "document":
        return document_matter(rng, done, turns, held_out)
    if name == "large":
        return about_large(rng, large(rng, held_out), 5, None if held_out else negated_share(done))
    if name == "digit":
        return digit(rng, rng.randint(0, 9), 3)
    if name == "recall":
        return recall(rng, rng.randint(2, 4 + int(8 * min(1.0, done * 4))), turns)
    return sounds(rng, 4) if name == "sound" else graph(rng, 4)


def lesson(rng: Random, writer: RowWriter, done: float, turns: int) -> Row:
    """One training row for the moment done (0..1)."""
    if rng.random() < (0.5 if done < 0.02 else 0.02):
        return writer.repeated(rng, recall(rng, rng.randint(3, 12), 0))
    if rng.random() < 0.05:
        return writer.turns(Row([], []), skill(rng, turns), opened=False)
    names = list(SHARES)
    weights = [SHARES[name] * (4.0 if name == "recall" and done < 0.1 else 1.0) for name in names]
    matter = matter_of(rng, rng.choices(names, weights)[0], done, turns)
    varied = min(1.0, max(0.0, (done - 0.3) / 0.3))
    weights_of = LATE_WEIGHTS if done >= LATE else {}
    if matter.matter != "boxes" and done >= 0.15 and rng.random() < 0.25:
        return writer.merged(rng, matter, weights_of)
    return writer.plain(rng, matter, varied, weights_of)
