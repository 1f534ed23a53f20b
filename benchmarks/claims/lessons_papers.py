"""Lessons on scenes on paper of three colours, with a line that says which expert sees it; for ``lessons``."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Literal

from PIL import ImageDraw

from benchmarks.claims.blind import FRAMES
from benchmarks.claims.lesson import Lesson, Make
from mmllm.miniature.tasks.images import DESCRIBE
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.questions import about_scene
from mmllm.miniature.world.render import draw_scene
from mmllm.miniature.world.scenes import SIZE, scene

Said = Literal["own", "all", "another", "none"]
"""What the line names: the paper's expert; there is no line, so that all are open; one of the others; no expert."""


def papers(said: Said, rng: Random, held_out: bool) -> Lesson:
    """What color is the circle? Scenes of two or three things; the same for each ``said`` but for the line."""
    while True:
        things = scene(rng, rng.randint(2, 3), held_out)
        kinds = {"color_of": 1.0, "shape_of": 1.0, "part_at": 1.0}
        described = about_scene(rng, things, 1 if held_out else 5, kinds=kinds)
        if described.asks:
            break
    own, another = rng.sample(list(FRAMES), 2)
    image = draw_scene(rng, things)
    ImageDraw.Draw(image).rectangle((0, 0, SIZE - 1, SIZE - 1), outline=FRAMES[own])
    line = {"own": f"experts: {own}\n", "all": "", "another": f"experts: {another}\n", "none": "experts: none\n"}[said]
    asks = list(described.asks) if held_out else [Ask("describe", DESCRIBE, described.caption), *described.asks]
    first = asks[0]
    return Lesson([Ask(first.kind, line + first.question, first.answer), *asks[1:]], image)


PAPERS: dict[str, Make] = {
    "papers": partial(papers, "own"),
    "papers_all": partial(papers, "all"),
    "papers_another": partial(papers, "another"),
    "papers_none": partial(papers, "none"),
}
"""Task of the claims -> what makes its lessons."""
