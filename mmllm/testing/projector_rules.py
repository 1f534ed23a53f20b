"""Rules of projectors: tokens known in number and in order, items apart, every weight and patch used."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch

from mmllm.testing.projector_subject import Subject, answer, context, moved, takes, unread_patches, without_gradient
from mmllm.testing.rules import require, require_close
from mmllm.testing.tiny.record import none
from mmllm.testing.tiny.weights import randomise
from mmllm.testing.token_order import keeps_its_time, keeps_raster_order


def knows_its_tokens(subject: Subject) -> None:
    """``out_grid`` tells before any forward which tokens an item gets: as many as ``forward`` gives, all finite.

    The loader makes room for them in the text on the CPU. Mend: let ``out_grid`` return the grid of the tokens, with
    two axes (1, n) where they are in no order; ``n_tokens`` is its product.
    """
    for grids in subject.clips():
        projector = subject.make()
        grid = projector.out_grid(*grids)
        require(
            isinstance(grid, tuple) and 1 <= len(grid) <= 3 and all(type(n) is int for n in grid),
            f"out_grid{grids} is {grid!r}, expected 1 to 3 whole numbers",
        )
        require(projector.n_tokens(*grids) == prod(grid), f"n_tokens {projector.n_tokens(*grids)} for a grid of {grid}")
        out = answer(projector, subject.features(3, grids))
        expected = (3, prod(grid), subject.llm_width)
        require(out.shape == expected, f"forward gives {tuple(out.shape)}, expected {expected} for grids {grids}")
        require(out.isfinite().all(), f"values that are not finite for grids {grids}")


def keeps_items_apart(subject: Subject) -> None:
    """An item's tokens do not depend on the others in the batch.

    Mend: no statistics over the first axis N (BatchNorm), no reshape that mixes it with tokens.
    """
    projector, given = subject.make(), subject.features()
    together = answer(projector, given)
    for n in range(3):
        alone = answer(projector, [one.only(torch.tensor([n]), one.grid) for one in given])
        require_close(together[n : n + 1], alone, f"item {n} in a batch and alone", rtol=1e-5, atol=1e-6)


def takes_padding(subject: Subject) -> None:
    """With ``accepts_padding`` items of different grids come at once, and what is behind an item's tokens is not read.

    Mend: respect ``features.mask`` and ``features.item_grids()``, and give each item's own tokens first; or leave
    ``accepts_padding`` False, then ``forward`` is called for each grid by itself.
    """
    projector = subject.make()
    sizes = [tuple((max(1, grid[0] - less), *grid[1:]) for grid in subject.grids) for less in (0, 1, 2)]
    if not projector.accepts_padding or subject.extras is not none or not all(takes(projector, one) for one in sizes):
        return
    given = [
        replace(
            one,
            mask=torch.arange(prod(grid)) < torch.tensor([prod(size[index]) for size in sizes])[:, None],
            grids=tuple(size[index] for size in sizes),
        )
        for index, (one, grid) in enumerate(zip(subject.features(), subject.grids, strict=True))
    ]
    together = answer(projector, given)
    for n, size in enumerate(sizes):
        alone = answer(projector, [one.only(torch.tensor([n]), size[index]) for index, one in enumerate(given)])
        own = together[n : n + 1, : alone.shape[1]]
        require_close(own, alone, f"an item of {size} among larger ones and alone", rtol=1e-5, atol=1e-6)


def teaches_every_weight(subject: Subject) -> None:
    """In a training pass every weight gets a gradient, from the tokens or from what it adds to the loss.

    Mend: leave out layers that nothing reads. A weight without gradient stays as it was drawn, and ranks that wait for
    its gradient hang.
    """
    projector = subject.make().train()
    if not list(projector.parameters()):
        return
    without = without_gradient(projector, subject)
    if without and any(not parameter.any() for parameter in projector.parameters()):
        # behind what starts at zero the first step gives no gradient; the second does
        torch.optim.SGD(projector.parameters(), lr=0.1).step()
        without = without_gradient(projector, subject)
    require(not without, f"no gradient for {', '.join(without)}")


def reads_every_patch(subject: Subject) -> None:
    """Gradients reach every patch of the features, of every encoder.

    Mend: a patch that no token is made of is lost silently; refuse grids of which a part would be left over.
    """
    projector = subject.make()
    unread = unread_patches(projector, subject)
    if any(unread):  # its last layer may start at zero
        randomise(projector)
        unread = unread_patches(projector, subject)
    for number, places in enumerate(unread):
        require(not places, f"encoder {number}: no gradient at [item, patch] {places[:8]}")


def is_the_same_in_train_and_eval(subject: Subject) -> None:
    """The same tokens in train and in eval mode.

    Mend: no dropout and no running statistics unless a setting asks for them; check it with them off.
    """
    projector = subject.make()
    train, test = (answer(projector.train(mode), subject.features()) for mode in (True, False))
    require(torch.equal(train, test), f"they differ by up to {(train - test).abs().max():.2g}")


def stays_in_its_dtype(subject: Subject) -> None:
    """Weights and features in bfloat16 give tokens in bfloat16.

    Mend: make tensors with ``x.new_zeros`` or ``.to(x.dtype)``; a buffer or table in float32 turns the rest into it.
    """
    given = [
        replace(one, layers={key: layer.bfloat16() for key, layer in one.layers.items()}) for one in subject.features()
    ]
    out = answer(subject.make().bfloat16(), given)
    require(out.dtype == torch.bfloat16, f"{out.dtype}")


def adds_no_loss_of_another_pass(subject: Subject) -> None:
    """``extra_loss`` and ``metrics`` are of the pass that they are given: none of one that it took no part in.

    Mend: keep what ``forward`` finds out in ``ctx.notes``, never on ``self``: passes may be open side by side.
    """
    projector = subject.make().train()
    answer(projector, subject.features())
    fresh = context(3, subject.llm_width)
    require(projector.extra_loss(fresh) is None, f"extra_loss of a new pass is {projector.extra_loss(fresh)}")
    require(not projector.metrics(fresh), f"metrics of a new pass are {projector.metrics(fresh)}")


def lays_tokens_out_in_raster_order(subject: Subject) -> None:
    """A token's place in ``out_grid`` follows its patch's place in the encoder's grid, where tokens are of regions.

    The LLM's positions, boxes and time marks rest on it. Mend: flatten maps row after row, and frames before rows;
    return from ``out_grid`` the axes in which the tokens lie, (1, n) where they lie in none.
    """
    for grids in subject.clips() if subject.raster else ():
        for index in range(len(grids)):
            keeps_raster_order(moved(subject, grids, index), grids[index], subject.make().out_grid(*grids))


def keeps_time_in_its_grid(subject: Subject) -> None:
    """A projector whose tokens differ between frames has time as the first of three axes of ``out_grid``, or the only.

    Without it a clip gets one time mark for all of its tokens. Mend: return (time, rows, cols), or (time, 1, n) for n
    tokens per step; or refuse a grid with time by an MmllmError.
    """
    for grids in subject.clips() if subject.raster else ():
        for index, grid in enumerate(grids):
            if len(grid) == 3 or (len(grid) == 1 and "edges" not in subject.extras(1)):
                keeps_its_time(moved(subject, grids, index), grid, subject.make().out_grid(*grids))


RULES = (
    knows_its_tokens,
    keeps_items_apart,
    takes_padding,
    teaches_every_weight,
    reads_every_patch,
    is_the_same_in_train_and_eval,
    stays_in_its_dtype,
    adds_no_loss_of_another_pass,
    lays_tokens_out_in_raster_order,
    keeps_time_in_its_grid,
)
