"""Rules of connectors inside the LLM, adapters and fusion layers alike."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmllm.model import trainable
from mmllm.model.decoding_state import DecodingState
from mmllm.model.model import MultimodalLM
from mmllm.testing.llm_connector_subject import Subject, loss_of, per_row, two_steps
from mmllm.testing.pieces import difference
from mmllm.testing.rules import require, require_close
from mmllm.testing.tiny.llms import tiny_llm
from mmllm.testing.tiny.models import ROWS, WITH_IMAGE
from mmllm.testing.tiny.rows import Row, batch_of, begun_alike, shortened
from mmllm.testing.tiny.weights import randomise

TEXT = (Row(2, (11,)), Row(7, (8,)))


@torch.no_grad()
def leaves_the_llm_as_it_was(subject: Subject) -> None:
    """Untrained with ``zero_init`` it changes nothing, trained it does; removed, the LLM is bit for bit what it was.

    Mend: work through the hook points of ``attach(llm)`` and return their handles as ``Handle.of([...])``; make weights
    in the first ``attach`` only; give ``select`` the output untouched where nothing is to change.
    """
    bare, model = tiny_llm(subject.family), subject.build()
    connector, batch = subject.of(model), batch_of(model, ROWS)
    start = model.logits(batch)
    if connector.zero_init:
        same = torch.equal(subject.removed(model).logits(batch), start)
        require(same, "zero_init is True, but untrained it changes the logits")
        model.handles[subject.key] = connector.attach(model.llm)
    randomise(connector)
    trained = model.logits(batch)
    require(not torch.allclose(trained, start, atol=1e-3), "with random weights the logits are those of its start")
    require(list(model.llm.state_dict()) == list(bare.state_dict()), "the LLM has other tensors than before")
    again = connector.attach(subject.removed(model).llm)
    require_close(model.logits(batch), trained, "removed and attached again", rtol=0, atol=0)
    again.remove()
    require(not torch.equal(model.logits(batch), trained), "removed, it still works")
    other = MultimodalLM(bare, {}, {}, {})
    text = batch_of(other, TEXT)
    require(torch.equal(model.logits(text), other.logits(text)), "removed, the LLM's logits of text are other ones")
    pairs = zip(model.llm.parameters(), bare.parameters(), strict=True)
    require(all(torch.equal(a, b) for a, b in pairs), "it changed the LLM's own weights")


@torch.no_grad()
def decodes_as_it_reads(subject: Subject) -> None:
    """Cached decoding gives the logits of the whole pass, with rows finishing and two decodings taking turns.

    Mend: take what a hook needs from its context, never from ``self``; a DeepFusion reads ``self.remembered(ctx)``,
    which each decoding step finds again; in such a step S is 1, and ``ctx.media_positions`` is empty.
    """
    model = subject.build()
    randomise(subject.of(model))
    batch = batch_of(model, ROWS)
    rows = per_row(model, ROWS)
    ids = batch.input_ids.split(batch.cu_seqlens.diff().tolist())

    def agree(logits: Tensor, place: int, alive: list[int]) -> None:
        expected = torch.stack([rows[row][place] for row in alive])
        require_close(logits, expected, f"position {place} of rows {alive}", atol=2e-5, rtol=1e-4)

    def fed(state: DecodingState, place: int, alive: list[int]) -> DecodingState:
        return model.decode(state, torch.tensor([int(ids[row][place]) for row in alive]))

    every, kept = list(range(len(rows))), [0, 2]
    first = model.prefill(shortened(batch, 2))
    second = model.prefill(shortened(batch, 2))
    agree(first.logits, -3, every)
    agree(second.logits, -3, every)
    first = fed(first, -2, every)
    second = model.select(second, torch.tensor(kept))
    agree(first.logits, -2, every)
    agree(fed(first, -1, every).logits, -1, every)
    second = fed(second, -2, kept)
    agree(second.logits, -2, kept)
    agree(fed(second, -1, kept).logits, -1, kept)


@torch.no_grad()
def works_where_the_llm_is_not_causal(subject: Subject) -> None:
    """Cached decoding and reading in pieces give the logits of the whole pass also where tokens of a picture see each
    other, or all of a prompt sees itself.

    Mend: take what a position may look at from the LLM's own states, not from an order of your own; or set
    ``causal_only = True``, and such models refuse the connector by name.
    """
    # a family for each of the two: one with windows and soft-caps
    if subject.family not in ("llama", "gemma2"):
        return

    def build(when: tuple[str, ...] | None = None) -> MultimodalLM:
        model = subject.build(when)
        model.llm.prefix = subject.family == "llama"
        entry = model.inputs["image"]
        entry.text = replace(entry.text, bidirectional=entry.n_tokens() != 0)
        return model

    if not subject.of(subject.build()).causal_only:
        other = replace(subject, build=build)
        decodes_as_it_reads(other)
        goes_on_where_it_says(other)


@torch.no_grad()
def goes_on_where_it_says(subject: Subject) -> None:
    """With ``goes_on`` it gives the logits of the whole pass where conversations are read in pieces beside others.

    Mend: take places of items from ``ctx.media_positions`` and ``ctx.media_tokens``, the last item from
    ``ctx.last_item``, and nothing from how long the pass is; a DeepFusion whose ``remember`` gives something else than
    tensors, their first axis the items, says in ``joined`` how those of several become one. Or leave ``goes_on`` out.
    """
    model = subject.build()
    randomise(subject.of(model))
    if subject.of(model).goes_on and model.llm.goes_on:
        found = difference(model, ROWS)
        require(found < 5e-5, f"goes_on is True, but in pieces the logits differ by {found:.2g}")


@torch.no_grad()
def keeps_conversations_apart(subject: Subject) -> None:
    """A conversation alone equals itself in a pack; with ``when`` those without media are bit for bit the bare LLM's.

    Mend: hand what changes through ``self.select(ctx, changed, output)``, which asks ``active``; use
    ``ctx.sequence_ids`` and ``ctx.last_item`` wherever a position looks at another one or at an item.
    """
    model = subject.build(when=("image",))
    randomise(subject.of(model))
    mixed = per_row(model, ROWS)
    for row, together in zip(ROWS, mixed, strict=True):
        require_close(per_row(model, (row,))[0], together, f"{row} alone and in a pack", atol=2e-5, rtol=1e-4)
    bare = per_row(subject.removed(model), ROWS)
    for number, (changed, without) in enumerate(zip(mixed, bare, strict=True)):
        same = torch.equal(changed, without)
        require(same != (number in WITH_IMAGE), f"row {number} with when: [image] {'un' if same else ''}changed")


def teaches_every_weight(subject: Subject) -> None:
    """By the second step every weight has a gradient, the LLM's have none; text alone gives zeros, not none.

    Mend: leave out layers that nothing reads; where a batch has no media, add the weights times 0.0, or ranks that
    wait for their gradients hang.
    """
    model = subject.build()
    learning = subject.learning(model)
    optimizer = two_steps(model, learning)
    silent = [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0]
    require(not silent, f"no gradient in the second step: {', '.join(silent)}")
    require(all(p.grad is None for p in model.llm.parameters()), "the LLM's own weights got gradients")
    optimizer.zero_grad()
    loss = loss_of(model, (ROWS[1],))
    require(loss.requires_grad, "the loss of a batch of text reaches none of its weights, not even with zeros")
    loss.backward()
    lost = [name for name, p in learning.items() if p.grad is None or not p.grad.isfinite().all()]
    require(not lost, f"no gradient, not even zeros, from a batch of text: {', '.join(lost)}")


def passes_do_not_meet(subject: Subject) -> None:
    """Gradients are the same with recomputed blocks, and with a second pass open before the backward of the first; with
    ``positionwise`` also where the last block runs at label positions only.

    Mend: keep what a pass finds out in ``ctx.notes`` or ``ctx.media``, not on ``self``: blocks are run again in the
    backward pass, with the context of their own forward; what is counted there must be counted once. Leave
    ``positionwise`` False where a position's change depends on others.
    """
    model = subject.build()
    learning = subject.learning(model)
    optimizer = two_steps(model, learning)

    def gradients(recompute: bool, other: bool) -> dict[str, Tensor]:
        model.llm.gradient_checkpointing(recompute)
        optimizer.zero_grad()
        torch.manual_seed(3)
        loss = loss_of(model)
        if other:
            loss_of(model, (ROWS[2],))
        loss.backward()
        return {name: p.grad.clone() for name, p in learning.items() if p.grad is not None}

    plain = gradients(False, False)
    if subject.of(model).positionwise:
        model.llm.prunes = False
        whole = gradients(False, False)
        for name in whole:
            require_close(plain[name], whole[name], f"the last block at label positions: {name}", atol=1e-6, rtol=1e-4)
    require(plain.keys() == learning.keys(), f"no gradient: {sorted(learning.keys() - plain.keys())}")
    for what, recompute, other in (
        ("recomputed blocks", True, False),
        ("another pass before the backward", False, True),
        ("another pass before the backward, with recomputed blocks", True, True),
    ):
        found = gradients(recompute, other)
        require(found.keys() == plain.keys(), f"{what}: no gradient for {sorted(plain.keys() - found.keys())}")
        for name in plain:
            require_close(found[name], plain[name], f"{what}: {name}", atol=1e-6, rtol=1e-4)


def shares_a_beginning(subject: Subject) -> None:
    """With ``shares_prefix``, conversations that begin alike give the same loss and gradients packed as one tree.

    Mend: leave ``shares_prefix`` False where a position's change rests on other text of its conversation, or a loss on
    how many tokens there are: those of the beginning are there once.
    """
    model = subject.build()
    # plain ones and one with an attention of its own; that an LLM can is checked by `model.sharing` where it is asked
    if not subject.of(model).shares_prefix or subject.family not in ("llama", "gemma2", "gpt2"):
        return
    randomise(subject.of(model))
    learning = subject.learning(model)
    model.eval()  # dropout, also in copies of the LLM's blocks, would draw other masks for fewer positions
    found = []
    for batch in begun_alike(model):
        model.zero_grad()
        nll, extra, _ = model(batch)
        (nll + extra).backward()
        found.append((nll.detach(), {name: p.grad.clone() for name, p in learning.items() if p.grad is not None}))
    (alone, expected), (shared, gradients) = found
    require_close(shared, alone, "the loss with a shared beginning", atol=0, rtol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        # of all of them: what is zero but for rounding (the bias of keys) has no size of its own
        most = max(2e-5 * float(gradient.abs().max()), 1e-6 * largest)
        require_close(gradients[name], gradient, f"with a shared beginning: {name}", atol=most, rtol=1e-4)


@torch.no_grad()
def survives_a_checkpoint(subject: Subject) -> None:
    """Saved and loaded into a fresh model, the logits are the same bits; digests of frozen parts do not know of it.

    Mend: every weight is a parameter or buffer of the connector, made in ``__init__`` or in the first ``attach``,
    under a name that does not depend on the run.
    """
    model = subject.build()
    digests = trainable.frozen_digests(model)
    randomise(subject.of(model))
    require(trainable.frozen_digests(model) == digests, "digests of frozen parts change with its weights")
    without = trainable.frozen_digests(subject.removed(subject.build()))
    require(without == digests, "digests of frozen parts change when it is removed")
    state = {name: tensor.clone() for name, tensor in trainable.trainable_state(model).items()}
    fresh = subject.build()
    with tempfile.TemporaryDirectory() as folder:
        save_file(state, Path(folder, "learned.safetensors"))
        trainable.load_trainable(fresh, load_file(Path(folder, "learned.safetensors")))
    batch = batch_of(model, ROWS)
    require(torch.equal(fresh.logits(batch), model.logits(batch)), "loaded, it gives other logits")


def reports_what_it_says(subject: Subject) -> None:
    """``has_metrics`` says whether ``metrics`` gives anything; its leaves are numbers or tensors, which add up.

    Mend: set ``has_metrics = True`` where ``metrics`` is overridden: ranks agree beforehand on exchanging them.
    """
    model = subject.build()
    ctx, _ = model.hidden(batch_of(model, ROWS))
    found = subject.of(model).metrics(ctx)
    require(subject.of(model).has_metrics or not found, f"has_metrics is False, but metrics gives {found}")
    wrong = [leaf for leaf in _leaves(found or {}) if not isinstance(leaf, int | float | Tensor)]
    require(not wrong, f"leaves of metrics that do not add up: {wrong}")


def _leaves(values: Any) -> list[Any]:
    nested = values.values() if isinstance(values, Mapping) else values
    return [values] if not isinstance(values, Mapping | list) else [leaf for one in nested for leaf in _leaves(one)]


RULES = (
    leaves_the_llm_as_it_was,
    decodes_as_it_reads,
    works_where_the_llm_is_not_causal,
    goes_on_where_it_says,
    keeps_conversations_apart,
    teaches_every_weight,
    passes_do_not_meet,
    shares_a_beginning,
    survives_a_checkpoint,
    reports_what_it_says,
)
