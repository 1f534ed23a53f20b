"""The contract of encoders and of the processors that read their media."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError
from mmllm.processors.base import Processor
from mmllm.testing.processor_rules import RULES as PROCESSOR_RULES
from mmllm.testing.processor_rules import Subject
from mmllm.testing.rules import check, named, require, require_close, require_error, require_kind
from mmllm.testing.tiny import encoders as tiny
from mmllm.types import Layer

MEDIA: dict[str, Callable[[], Sequence[Any]]] = {
    "image": tiny.pictures,
    "audio": tiny.sounds,
    "graph": tiny.graphs,
    "video": tiny.clips,
    "points": tiny.clouds,
    "document": tiny.documents,
}
"""Modality -> three items that differ."""


def tiny_encoder(name: str = "hf_vision") -> Encoder:
    """A small random encoder by its name in the registry, always the same: 3 blocks of width 16.

    Raises:
        KeyError: no tiny one of this name.
    """
    return tiny.TINY[name].make()


def check_encoder(maker: Callable[[], Encoder], media: Sequence[Any] | None = None) -> None:
    """Hold an encoder and its processor to their contract: ``check_encoder(lambda: Mine(model=folder))``.

    Features must have the grid and width that were announced, with each item's tokens first and padding masked; what is
    measured must agree with what is read; items must not influence each other. The encoder must be frozen and stay in
    eval mode, but give gradients to weights that a stage trains; be the same each time it is made; store each weight
    once; read the same when pickled; take a blank item; give the layers asked for, in order; and work in bfloat16. What
    cannot be read must be a MediaError.

    Args:
        maker: makes it, small and with weights that are the same each time.
        media: three items that differ, as its processor reads them; default: some of its modality.

    Raises:
        AssertionError: it breaks a rule; the text says which, and how to mend it.
    """
    encoder = maker()
    require_kind(encoder, Encoder)
    require_kind(getattr(encoder, "processor", None), Processor)
    items = MEDIA[encoder.modality]() if media is None else media
    require(len(items) == 3, f"{len(items)} media items; give three")
    check(named(encoder), RULES, Subject(maker, encoder, items))


def has_the_announced_shape(subject: Subject) -> None:
    """Features are float[N, T, dim] for each of ``layers``; T is the largest item's, each item's own tokens come first.

    Mend: let ``processor.grid`` say of an item that was read what ``forward`` makes of it, and mask what is behind it.
    """
    encoder, items = subject.encoder, subject.read()
    grids = tuple(subject.processor.grid(item) for item in items)
    features = encoder(**subject.processor.collate(items))
    lengths = [prod(grid) for grid in grids]
    longest = max(lengths)
    require(features.item_grids() == grids, f"grids {features.item_grids()}, announced were {grids}")
    require(features.grid in grids, f"grid {features.grid} of none of the items")
    require(list(features.layers) == list(encoder.layers), f"layers {list(features.layers)}, not {encoder.layers}")
    for index, layer in features.layers.items():
        expected = (len(items), longest, encoder.dim)
        require(layer.shape == expected, f"layer {index} is {tuple(layer.shape)}, expected {expected}")
    require(features.mask.dtype == torch.bool, f"the mask is {features.mask.dtype}")
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    require(torch.equal(features.mask, real), f"the mask does not hold the first {lengths} tokens of the items")
    wide = (len(items), longest, encoder.dim * len(encoder.layers))
    require(features.concatenated().shape == wide, f"concatenated {tuple(features.concatenated().shape)}, not {wide}")
    for name, value in features.extras.items():
        require(len(value) == len(items), f"extras {name}: {len(value)} entries for {len(items)} items")


def keeps_items_apart(subject: Subject) -> None:
    """Features of an item are the same alone and in a batch, and differ between items.

    Mend: give the model the mask of padded inputs, or run items of one length at a time.
    """
    items = subject.read()
    features = subject.features()
    together = [row[mask] for row, mask in zip(features.concatenated(), features.mask, strict=True)]
    alone = [subject.encoder(**subject.processor.collate([item])).concatenated()[0] for item in items]
    require_close(together, alone, "in a batch and alone", rtol=1e-5, atol=1e-5)
    same = together[0].shape == together[1].shape and torch.allclose(together[0], together[1], atol=1e-3)
    require(not same, "the first two items differ, but their features do not")


def is_frozen(subject: Subject) -> None:
    """No weight learns, no module is in train mode whatever is asked, features carry no gradient.

    Mend: end ``__init__`` with ``self.freeze()``; run the model under ``torch.set_grad_enabled(self.learns())``.
    """
    encoder = subject.maker()
    encoder.train()
    require(not any(module.training for module in encoder.modules()), "modules are in train mode after train()")
    learning = [name for name, p in encoder.named_parameters() if p.requires_grad]
    require(not learning, f"weights that learn: {learning[:5]}")
    require(not subject.features(encoder).concatenated().requires_grad, "features carry a gradient")


def learns_where_a_stage_trains_it(subject: Subject) -> None:
    """With weights that require gradients, as ``train: {encoders.image: ...}`` asks for, they get some; if it has any.

    Mend: no ``torch.no_grad`` or ``inference_mode`` of its own; ``self.learns()`` says whether gradients are needed.
    """
    encoder = subject.maker()
    encoder.requires_grad_(True)
    if next(encoder.parameters(), None) is None:
        return
    features = subject.features(encoder).concatenated()
    require(features.requires_grad, "features carry no gradient")
    features.square().sum().backward()
    require(
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters()), "no weight got a gradient"
    )


def is_the_same_each_time(subject: Subject) -> None:
    """Made twice it gives the same features, bit for bit.

    Mend: load every weight; one that is drawn at random at each start makes checkpoints useless.
    """
    features, again = subject.features().concatenated(), subject.features(subject.maker()).concatenated()
    require(torch.equal(features, again), f"they differ by up to {(features - again).abs().max():.2g}")


def stores_each_weight_once(subject: Subject) -> None:
    """No two entries of ``state_dict`` share their memory.

    Mend: hold a module under one name only; safetensors refuses shared tensors, and digests would count them twice.
    """
    seen: dict[int, str] = {}
    for name, value in subject.encoder.state_dict().items():
        if value.numel():
            other = seen.setdefault(value.data_ptr(), name)
            require(other == name, f"{name} and {other} are the same tensor")


def gives_the_layers_asked_for(subject: Subject) -> None:
    """``layers`` follow one rule: 0 is what enters the first block, k what leaves block k, -1 the last; as ordered.

    Where it ``gives_final``, ``final`` may stand among them (unless ``final_alone``), and changes none of the others.
    Mend: index hidden states by ``self.resolve(self.n_blocks)``.
    """
    encoder = subject.encoder
    blocks, before = getattr(encoder, "n_blocks", 0), encoder.layers
    if not blocks:
        return
    asked: tuple[Layer, ...] = (blocks, 0, -1, -blocks - 1, 1)
    asked = ("final", *asked) if encoder.gives_final and not encoder.final_alone else asked
    encoder.layers = asked
    try:
        layers = subject.features().layers
    finally:
        encoder.layers = before
    require(tuple(layers) == asked, f"asked for {asked}, got {tuple(layers)}")
    require(torch.equal(layers[blocks], layers[-1]), f"layers {blocks} and -1 differ")
    require(torch.equal(layers[0], layers[-blocks - 1]), f"layers 0 and {-blocks - 1} differ")
    require(not torch.allclose(layers[0], layers[1], atol=1e-4), "layers 0 and 1 are the same")


def names_layers_that_do_not_exist(subject: Subject) -> None:
    """A layer beyond the blocks is an MmllmError that names it and says how many blocks there are.

    Mend: call ``self.resolve(self.n_blocks)`` in ``__init__`` and in ``forward``.
    """
    encoder = subject.encoder
    blocks, before = getattr(encoder, "n_blocks", 0), encoder.layers
    blank = subject.processor.collate([subject.processor.blank()])
    for layers in ((blocks + 1,), (-blocks - 2,), (0, blocks + 14)) if blocks else ():
        encoder.layers = layers
        try:
            sentence = f"layers: {layers[-1]} does not exist: this encoder has {blocks} blocks"
            require_error(MmllmError, lambda: encoder(**blank), f"layers {layers}", sentence)
        finally:
            encoder.layers = before


def works_in_half_precision(subject: Subject) -> None:
    """With weights in bfloat16 it takes items as they are read, and gives features in bfloat16.

    Mend: bring inputs to the weights' dtype, ``next(self.parameters()).dtype``, at the start of ``forward``.
    """
    half = subject.maker().to(torch.bfloat16)
    dtype = subject.features(half).concatenated().dtype
    require(dtype == torch.bfloat16, f"{dtype}")


RULES = (
    has_the_announced_shape,
    keeps_items_apart,
    is_frozen,
    learns_where_a_stage_trains_it,
    is_the_same_each_time,
    stores_each_weight_once,
    gives_the_layers_asked_for,
    names_layers_that_do_not_exist,
    works_in_half_precision,
    *PROCESSOR_RULES,
)
