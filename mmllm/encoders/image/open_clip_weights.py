"""What open_clip's published weights were trained with, and what a local file of weights is used with.

Called by ``open_clip.py`` before it loads; a file of weights itself says nothing of pixels or activation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from mmllm.errors import MmllmError

NO_TAG = "none"
"""Word for a file of weights that are nobody's published ones."""


@dataclass(frozen=True)
class Training:
    """How weights were trained, as far as the encoder must do the same; how pictures are resized is its ``fit``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    quick_gelu: bool | None
    """None: the tower is timm's, which has an activation of its own."""

    def __str__(self) -> str:
        said = f"mean {list(self.mean)}, std {list(self.std)}, {self.interpolation}"
        return said if self.quick_gelu is None else f"{said}, {'QuickGELU' if self.quick_gelu else 'GELU'}"

    @property
    def pixels(self) -> dict[str, Any]:
        """Its words of open_clip's ``preprocess_cfg``."""
        return {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}


def published(model: str) -> dict[str, Training]:
    """Tag -> training, of all published weights of a model name of open_clip."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    return {tag: _training(model, open_clip.get_pretrained_cfg(model, tag)) for tag in tags}


def defaults(model: str) -> Training:
    """What open_clip uses weights with that say nothing: OpenAI's pixels, the activation of the architecture."""
    return _training(model, {"quick_gelu": declares_quick_gelu(model)})


def declares_quick_gelu(model: str) -> bool:
    """Whether the architecture of this name has QuickGELU, as the names that end on ``-quickgelu`` do."""
    return bool(open_clip.get_model_config(model).get("quick_gelu", False))


def needs_quick_gelu(model: str, tag: str | None) -> bool:
    """Whether the published weights ``tag`` were trained with QuickGELU, be it that the model name says GELU.

    open_clip only warns of this (``ViT-L-14-336`` with ``openai`` is such a pair) and goes on with wrong activations.

    Raises:
        MmllmError: there are none, or they need GELU where the architecture has QuickGELU.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise MmllmError(f'open_clip model "{model}" has no pretrained "{tag}"; known: {", ".join(tags) or "none"}.')
    weights = bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False))
    if declares_quick_gelu(model) and not weights:
        raise MmllmError(f'open_clip "{model}" uses QuickGELU but its weights "{tag}" were trained with GELU.')
    return weights


def of_file(model: str, tag: str | None, quick_gelu: bool | None) -> Training:
    """What weights in a local file of this architecture are used with.

    Args:
        model: name of open_clip.
        tag: of the published weights that the file holds, or ``none``.
        quick_gelu: the activation, where the recipe says it.

    Raises:
        MmllmError: nobody says how they were trained, and open_clip's defaults are not how all published weights of
            that name were.
    """
    plain, known = defaults(model), published(model)
    if tag == NO_TAG:
        return plain
    if tag is not None:
        needs_quick_gelu(model, tag)
        return known[tag]
    if quick_gelu is not None:  # said, so no published weights need to agree on it
        plain, known = _with(plain, quick_gelu), {name: _with(one, quick_gelu) for name, one in known.items()}
    unsaid = not known and plain.quick_gelu is False and quick_gelu is None
    if unsaid or any(one != plain for one in known.values()):
        raise MmllmError(_question(model, plain, known))
    return plain


def _question(model: str, plain: Training, known: dict[str, Training]) -> str:
    """The sentence that asks for a tag or an activation."""
    if not known:
        return (
            f'open_clip "{model}": a file of weights does not say which activation they were trained with, and no '
            "published ones of this name do; write quick_gelu: true (OpenAI's CLIP and its kin) or false."
        )
    groups: dict[Training, list[str]] = {}
    for tag, training in known.items():
        groups.setdefault(training, []).append(tag)
    tags = "; ".join(f"{' or '.join(names)} ({training})" for training, names in groups.items())
    return (
        f'open_clip "{model}": a file of weights does not say how they were trained, and published ones of this name '
        f"differ from open_clip's defaults; name the tag that the file holds, tag: {tags}; or tag: {NO_TAG} for the "
        f"defaults ({plain})."
    )


def _with(training: Training, quick_gelu: bool) -> Training:
    """The same with the activation that was said; timm's towers have none to choose."""
    chosen = None if training.quick_gelu is None else quick_gelu
    return Training(training.mean, training.std, training.interpolation, chosen)


def _training(model: str, words: dict[str, Any]) -> Training:
    pixels = merge_preprocess_dict(asdict(PreprocessCfg()), words)
    timm = "timm_model_name" in open_clip.get_model_config(model)["vision_cfg"]
    quick = None if timm else bool(words.get("quick_gelu", False))
    return Training(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["interpolation"], quick)


@contextmanager
def no_weights_expected() -> Iterator[None]:
    """Keep open_clip from warning, by the root logger, of the weights that are left out on purpose."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded for model")

    logging.getLogger().addFilter(other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(other)
