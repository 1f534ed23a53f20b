"""The contract of adapters inside the blocks of frozen encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmllm.connectors.base import EncoderAdapter
from mmllm.encoders.base import Encoder
from mmllm.hooks import EncoderContext
from mmllm.testing.rules import check, named, require, require_close, require_kind
from mmllm.testing.tiny import encoders
from mmllm.testing.tiny.weights import randomise

KEY = "image"
Stage = tuple[tuple[str, ...] | None, str]
"""(data key of each of the three items, how the names of the weights begin that learn)."""


def check_encoder_adapter(
    maker: Callable[..., EncoderAdapter],
    encoder: Encoder | None = None,
    media: Sequence[Any] | None = None,
    *,
    stages: Sequence[Stage] = ((None, ""),),
    silent: Callable[[str], bool] = lambda name: False,
) -> None:
    """Hold an adapter inside encoders to its contract: ``check_encoder_adapter(partial(Mine, width=4))``.

    It is put into the blocks of an encoder. Untrained it must change no feature where ``zero_init`` says so, trained it
    must; taken out, the encoder is bit for bit what it was. Items do not influence each other. By the second step every
    weight has a gradient and none of the encoder's has one. Its weights stay in float32 in a bfloat16 encoder, whose
    features stay in bfloat16.

    Args:
        maker: called as ``maker(llm_dim=...)``: the class itself, or a ``partial`` with small settings.
        encoder: small, frozen, with hook points; default: a DINOv2 of 3 blocks and width 16. It is left as it was.
        media: three items for it that differ, as its processor reads them; default: pictures.
        stages: which weights learn, one group after the other, and of which data entries the items then are: for
            adapters of which a stage trains a part. Default: all at once.
        silent: names of weights that this encoder's items give no gradient.

    Raises:
        AssertionError: it breaks a rule; the text says which, and how to mend it.
    """
    tiny = encoders.TINY["hf_vision"]
    frozen = tiny.make() if encoder is None else encoder
    read = [frozen.processor.read(item) for item in (tiny.media() if media is None else media)]
    made = maker(llm_dim=32)
    require_kind(made, EncoderAdapter)
    check(f"{named(made)} in {named(frozen)}", RULES, Subject(maker, frozen, read, tuple(stages), silent))


@dataclass(frozen=True)
class Subject:
    """An adapter under test, and the encoder it is put into."""

    maker: Callable[..., EncoderAdapter]
    encoder: Encoder
    items: Sequence[Mapping[str, Tensor]]
    """Three, as the processor read them."""
    stages: tuple[Stage, ...]
    silent: Callable[[str], bool]

    def inputs(self, numbers: Sequence[int] = (0, 1, 2)) -> dict[str, Tensor]:
        """Collated inputs of some of the items."""
        return self.encoder.processor.collate([self.items[number] for number in numbers])

    def look(self, numbers: Sequence[int] = (0, 1, 2), names: tuple[str, ...] | None = None) -> Tensor:
        """Features of some of the items, padding at zero; ``names``: of which data entries they are."""
        with self.encoder.scope.open(EncoderContext(dataset_names=names)):
            features = self.encoder(**self.inputs(numbers))
        return features.concatenated() * features.mask[..., None]

    @contextmanager
    def adapted(self, encoder: Encoder | None = None) -> Iterator[EncoderAdapter]:
        """The adapter in the encoder (or in a copy of it), as a model puts it there; taken out at the end."""
        place = self.encoder if encoder is None else encoder
        torch.manual_seed(3)
        connector = self.maker(llm_dim=32).bind("adapter")
        handle = connector.attach(place, KEY)
        place.adapters[:] = [connector]
        try:
            yield connector.requires_grad_(False).eval()
        finally:
            handle.remove()
            place.adapters[:] = []


def leaves_the_encoder_as_it_was(subject: Subject) -> None:
    """Untrained with ``zero_init`` it changes nothing, trained it does; removed, the encoder is bit for bit the same.

    Mend: work through the hook points of ``attach(encoder, key)`` and return their handles as ``Handle.of([...])``;
    make the weights of an encoder in its first ``attach`` only.
    """
    bare = subject.look()
    tensors = {key: value.clone() for key, value in subject.encoder.state_dict().items()}
    with subject.adapted() as connector:
        same = torch.equal(subject.look(), bare)
        require(
            same == connector.zero_init, f"zero_init {connector.zero_init}, untrained {'un' if same else ''}changed"
        )
        randomise(connector, buffers=True)
        opened = subject.look()
        require(opened.isfinite().all(), "with random weights features are not finite")
        require((opened - bare).abs().max() > 1e-3, "with random weights the features are those without it")
    require(torch.equal(subject.look(), bare), "removed, the features are other ones")
    again = connector.attach(subject.encoder, KEY)
    require(torch.equal(subject.look(), opened), "attached again, the features are other ones")
    again.remove()
    require(torch.equal(subject.look(), bare), "removed again, the features are other ones")
    after = subject.encoder.state_dict()
    require(list(after) == list(tensors), "the encoder has other tensors than before")
    require(all(torch.equal(after[key], value) for key, value in tensors.items()), "it changed the encoder's weights")


def keeps_items_apart(subject: Subject) -> None:
    """Features of an item do not depend on the others in the batch, nor on padding behind it.

    Mend: no statistics over rows of different items; take from ``ctx.layout`` which rows are of one item, and which
    tokens are real.
    """
    with subject.adapted() as connector:
        randomise(connector, buffers=True)
        together = subject.look()
        for number in range(3):
            alone = subject.look((number,))[0]
            own = together[number, : len(alone)]
            require_close(own, alone, f"item {number} in a batch and alone", rtol=1e-4, atol=1e-4)


def teaches_every_weight(subject: Subject) -> None:
    """By the second step every weight that learns has a finite gradient, and the encoder's own have none.

    Mend: leave out layers that nothing reads, and those behind the last layer that is read of the encoder.
    """
    with subject.adapted() as connector:
        weights = torch.randn(subject.look().shape, generator=torch.Generator().manual_seed(2))
        for names, prefix in subject.stages:
            learning = {key: p for key, p in connector.named_parameters() if key.startswith(prefix)}
            require(bool(learning), f'no weight whose name begins with "{prefix}"')
            connector.requires_grad_(False).train()
            for parameter in learning.values():
                parameter.requires_grad_(True)
            optimizer = torch.optim.SGD(learning.values(), lr=1e-3)
            for _ in range(2):
                optimizer.zero_grad()
                (subject.look(names=names) * weights).sum().backward()
                optimizer.step()
            lost = [key for key, p in learning.items() if p.grad is None or not p.grad.isfinite().all()]
            require(not lost, f"no finite gradient: {', '.join(lost)}")
            still = [key for key, p in learning.items() if not _gradient(p).any() and not subject.silent(key)]
            require(not still, f"gradients of zero in the second step: {', '.join(still)}")
        require(all(p.grad is None for p in subject.encoder.parameters()), "the encoder's own weights got gradients")


def fits_a_half_precision_encoder(subject: Subject) -> None:
    """A bfloat16 encoder takes it: its own weights stay in float32, the features in bfloat16.

    Mend: compute in float32 and return ``.to(x.dtype)``; make weights in ``attach`` with their default dtype.
    """
    half = deepcopy(subject.encoder).bfloat16()
    given = {key: value.bfloat16() if value.is_floating_point() else value for key, value in subject.inputs().items()}
    bare = half(**given).concatenated()
    with subject.adapted(half) as connector:
        other = [key for key, p in connector.named_parameters() if p.dtype != torch.float32]
        require(not other, f"weights that are not float32: {', '.join(other)}")
        start = half(**given).concatenated()
        require(start.dtype == torch.bfloat16, f"features in {start.dtype}")
        require(torch.equal(start, bare) == connector.zero_init, f"zero_init {connector.zero_init} does not hold")
        randomise(connector, buffers=True)
        opened = half(**given).concatenated()
        require(opened.isfinite().all(), "with random weights features are not finite")
        require(not torch.equal(opened, bare), "with random weights the features are those without it")
    require(torch.equal(half(**given).concatenated(), bare), "removed, the features are other ones")


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


RULES = (
    leaves_the_encoder_as_it_was,
    keeps_items_apart,
    teaches_every_weight,
    fits_a_half_precision_encoder,
)
