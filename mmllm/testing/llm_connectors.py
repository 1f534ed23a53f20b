"""The contract of connectors inside the LLM: adapters, and fusion layers that read an encoder's features."""

from __future__ import annotations

from collections.abc import Callable

from mmllm.connectors.base import DeepFusion, LLMAdapter
from mmllm.model.model import MultimodalLM
from mmllm.testing.llm_connector_rules import RULES
from mmllm.testing.llm_connector_subject import Subject
from mmllm.testing.rules import check, named, require_kind
from mmllm.testing.tiny.models import PATCHES, with_adapter, with_fusion
from mmllm.types import Grid


def check_llm_adapter(maker: Callable[..., LLMAdapter], *, family: str = "llama") -> None:
    """Hold a connector inside the LLM to its contract: ``check_llm_adapter(partial(Mine, rank=2))``.

    It is put into a tiny LLM of 4 blocks and width 32, beside a projector of pictures. Untrained it must change no
    logit where ``zero_init`` says so, trained it must; taken out, the LLM is bit for bit what it was. Cached decoding
    equals the whole pass; conversations in a pack do not influence each other; with ``when`` text alone stays bit
    identical. By the second step every weight has a gradient, the same with recomputed blocks and with two passes open
    at once; its tensors survive a checkpoint.

    Args:
        maker: called as ``maker(llm_dim=...)``: the class itself, or a ``partial`` with small settings.
        family: of the LLM, a name of ``mmllm.testing.FAMILIES``; run it over all of them to know that no family breaks.

    Raises:
        AssertionError: it breaks a rule; the text says which, and how to mend it.
    """

    def build(when: tuple[str, ...] | None = None) -> MultimodalLM:
        return with_adapter(maker, family, when)

    _check(maker(llm_dim=32), LLMAdapter, Subject(build, "inner", family))


def check_deep_fusion(maker: Callable[..., DeepFusion], *, family: str = "llama", grid: Grid = PATCHES) -> None:
    """Hold a connector whose layers inside the LLM read features to its contract: ``check_deep_fusion(Mine)``.

    The rules are those of :func:`check_llm_adapter`: untrained, trained, removed, cached, packed, with ``when``, in
    gradients and in a checkpoint. What ``remember`` gives must be found again in each step of a decoding, and be of the
    right conversation. The features are of pictures, float[N, 16, 16].

    Args:
        maker: called as ``maker(dim=..., llm_dim=...)``: the class itself, or a ``partial`` with small settings.
        family: of the LLM, a name of ``mmllm.testing.FAMILIES``.
        grid: what it is told of the 16 patches: (4, 2, 2) for one that needs time.

    Raises:
        AssertionError: it breaks a rule; the text says which, and how to mend it.
    """

    def build(when: tuple[str, ...] | None = None) -> MultimodalLM:
        return with_fusion(maker, family, when, grid)

    _check(maker(dim=16, llm_dim=32), DeepFusion, Subject(build, "image", family))


def _check(made: object, base: type[LLMAdapter], subject: Subject) -> None:
    """All rules, if the class is of the right kind at all."""
    require_kind(made, base)
    check(f"{named(made)} in {subject.family}", RULES, subject)
