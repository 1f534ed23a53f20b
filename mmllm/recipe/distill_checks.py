"""Whether the LLM of a stage with ``distill`` can be its own teacher: it reads text as if nothing had been added; part
of ``checks``."""

from __future__ import annotations

from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.recipe.messages import Problems
from mmllm.recipe.models import Recipe, Stage
from mmllm.recipe.yaml_lines import Path


def check_distill(recipe: Recipe, stage: Stage, path: Path, problems: Problems) -> None:
    """The LLM is frozen and whole on every rank, what works inside it rests on text, conversations stand alone."""
    if stage.distill is None:
        return
    at = (*path, "distill")
    for name in stage.train:
        if name.partition(".")[0] == "llm":
            problems.add(at, f"the teacher is the frozen LLM, and this stage trains {name}; keep one of the two")
    for key, part in recipe.connectors.items():
        if part.when is None and _inside(part.type):
            problems.add(
                at,
                f"connectors.{key} works inside the LLM on text too, so the teacher would not be the frozen LLM; write "
                f"connectors.{key}.when: the placeholders of the conversations it is for",
            )
    if stage.share_prefix is not None:
        problems.add(at, "the teacher reads each conversation alone; leave share_prefix out")
    if stage.zero == 3:
        problems.add(at, "the teacher's pass needs whole weights, which zero: 3 splits; use 2 or less")


def _inside(type: str) -> bool:
    try:
        return part_arguments.works_inside(type)
    except registry.UnknownName:
        return False  # already noted with the arguments
