"""Weights of connectors that are computed from data before a run's first step: ``norm: calibrated``, ``start: words``
and ``start: scaled``; ``stage.py`` calls it. Encoders run, the LLM only embeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.batches.collate import collate
from mmllm.batches.mixture import Mixture
from mmllm.batches.sample import Encoded, encode
from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import CalibratedNorm
from mmllm.datasets.opening import open_dataset
from mmllm.errors import MmllmError, RecipeError, SampleError
from mmllm.hooks import ForwardContext
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.model.start import Started
from mmllm.model.word_regression import WordRegression
from mmllm.recipe.computed_checks import trains
from mmllm.recipe.models import ComponentSpec, Recipe
from mmllm.recipe.starts import Start
from mmllm.training import distributed
from mmllm.types import Message, Sample, identity

ITEMS = 256
"""Items that norms and scales are set from."""
WORD_ITEMS = 2000
"""Items whose words a layer is fitted to."""
ROWS = 4096
"""Rows of the LLM's embeddings whose mean length is taken."""


def computed_starts(model: MultimodalLM, recipe: Recipe, started: Mapping[str, Started]) -> list[str]:
    """Set what the recipe says is computed; a sentence for each connector. What ``started`` has filled stays.

    Every rank computes the same from the same items.

    Raises:
        RecipeError: too few items, or a connector that cannot be set so.
    """
    said = []
    for key, part in recipe.connectors.items():
        start = part.start if part.start is not None and part.start.by is not None else None
        connector = model.connectors[key]
        norms = [module for module in connector.modules() if isinstance(module, CalibratedNorm)]
        read = _was_read(key, started)
        if read and start is not None:
            raise RecipeError(f"connectors.{key}.start: `start` of the recipe has filled it already; keep one of them.")
        if read or (not norms and start is None):
            continue
        if not isinstance(connector, Projector) or connector.reads_text or connector.questions is not None:
            what = "start" if start is not None else "norm"
            raise RecipeError(
                f"connectors.{key}.{what}: it is computed from items alone, and {type(connector).__name__} is no "
                "projector that reads nothing else; remove the word."
            )
        try:
            said.append(f"connectors.{key}: " + "; ".join(_Computed(model, recipe, key, part, connector).all(norms)))
        except MmllmError as error:
            raise RecipeError(f"connectors.{key}: {error}") from error
    return said


def _was_read(key: str, started: Mapping[str, Started]) -> bool:
    whole = started.get("start")
    taken = whole is not None and any(name.startswith(f"connectors.{key}.") for name in whole.taken)
    return taken or f"connectors.{key}.start" in started


class _Computed:
    """One connector, and the items that it is set from."""

    def __init__(
        self, model: MultimodalLM, recipe: Recipe, key: str, part: ComponentSpec, connector: Projector
    ) -> None:
        self.model, self.recipe, self.key, self.connector = model, recipe, key, connector
        self.start = part.start if part.start is not None and part.start.by is not None else None
        self.stage = next((name for name, stage in recipe.stages.items() if trains(stage, key)), None)
        if self.stage is None:
            raise MmllmError("its weights are computed before it learns, and no stage trains it; name it under train.")
        self.prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)

    def all(self, norms: list[CalibratedNorm]) -> Iterator[str]:
        """Set norms, then the last layer; a clause for each."""
        if norms:
            yield f"norm set from {self._calibrate(norms):,} items"
        if self.start is not None:
            layer = self._last_layer()
            yield self._fit(self.start, layer) if self.start.by == "words" else self._scale(self.start, layer)

    def _calibrate(self, norms: list[CalibratedNorm]) -> int:
        rows: list[list[Tensor]] = [[] for _ in norms]
        n_items = 0
        for encoded, _ in self._items(ITEMS):
            n_items += 1
            calls: list[list[Tensor]] = [[] for _ in norms]
            with ExitStack() as hooks:
                for norm, given in zip(norms, calls, strict=True):
                    hooks.callback(norm.register_forward_pre_hook(_keep_in(given)).remove)
                self._pass(encoded)
            for kept, given in zip(rows, calls, strict=True):
                kept += [torch.cat(given)] if given else []
        for norm, kept in zip(norms, rows, strict=True):
            norm.calibrate(kept)
        return n_items

    def _last_layer(self) -> nn.Linear:
        """The linear layer whose output is the connector's."""
        calls: list[tuple[nn.Linear, Tensor]] = []
        encoded, _ = next(self._items(1))
        with ExitStack() as hooks:
            for layer in self.connector.modules():
                if isinstance(layer, nn.Linear):
                    hook = layer.register_forward_hook(lambda layer, _, output: calls.append((layer, output)))
                    hooks.callback(hook.remove)
            tokens = self._pass(encoded)[1]
        for layer, output in reversed(calls):
            if output.shape[-1] == tokens.shape[-1] and torch.equal(output.flatten(0, -2), tokens):
                return layer
        assert self.start is not None
        raise MmllmError(
            f"start: {self.start.by} sets a last linear layer, and what {type(self.connector).__name__} gives comes "
            "out of none; use mlp, pool or resampler, or leave start out."
        )

    def _fit(self, start: Start, layer: nn.Linear) -> str:
        fit, n_items = WordRegression(layer), 0
        given: list[Tensor] = []
        hook = layer.register_forward_pre_hook(_keep_in(given))
        try:
            for encoded, answer in self._items(start.items or WORD_ITEMS):
                given.clear()
                ctx, tokens = self._pass(encoded)
                fit.add(torch.cat(given), self._targets(answer, len(tokens), ctx))
                n_items += 1
        finally:
            hook.remove()
        share = fit.solve()
        return f"last layer fitted to the words of {n_items:,} answers, {100 * share:.0f} % of their variance explained"

    def _targets(self, answer: str, n_tokens: int, ctx: ForwardContext) -> Tensor:
        """What the tokens of an item should be, float[n_tokens, D]: words in their order, spread over the tokens.

        Where there are more words than tokens, a token stands for several, by their sum, as long as one.
        """
        words = [self._embedded(word, number, ctx) for number, word in enumerate(answer.split())]
        bounds = [round(place * len(words) / n_tokens) for place in range(n_tokens + 1)]
        found = []
        for place, (first, last) in enumerate(pairwise(bounds)):
            some = words[first:last] or [words[min(place * len(words) // n_tokens, len(words) - 1)]]
            found.append(torch.stack(some).sum(0) / len(some) ** 0.5)
        return torch.stack(found)

    def _embedded(self, word: str, number: int, ctx: ForwardContext) -> Tensor:
        """The LLM's embedding of a word, float[D]; of several tokens their mean."""
        tokenizer = self.model.llm.tokenizer
        texts = (word, f" {word}") if number else (f" {word}", word)
        # with the blank that stands before a word in a text, unless the tokenizer cuts it off
        ids = min((tokenizer(text, add_special_tokens=False).input_ids for text in texts), key=len)
        embeds: Tensor = self.model.llm.embed(torch.tensor(ids, device=self.model.device), ctx).float().mean(0)
        return embeds

    def _scale(self, start: Start, layer: nn.Linear) -> str:
        tokens, ctx = [], None
        for encoded, _ in self._items(start.items or ITEMS):
            ctx, made = self._pass(encoded)
            tokens.append(made.float())
        assert ctx is not None
        if len({len(one) for one in tokens}) == 1:
            stacked = torch.stack(tokens)
            apart = (stacked - stacked.mean(0)).norm(dim=-1).mean()
        else:
            joined = torch.cat(tokens)
            apart = (joined - joined.mean(0)).norm(dim=-1).mean()
        n_rows = self.model.llm.model.get_input_embeddings().num_embeddings
        ids = torch.linspace(0, n_rows - 1, min(ROWS, n_rows), device=self.model.device).long()
        length = self.model.llm.embed(ids, ctx).float().norm(dim=-1).mean()
        if not float(apart) > 0:
            raise MmllmError("start: scaled: its tokens are the same for all items; look at the data.")
        with torch.no_grad():
            layer.weight.mul_(length / apart)
            if layer.bias is not None:
                layer.bias.zero_()
        return f"last layer scaled by {float(length / apart):.3g} over {len(tokens):,} items"

    @torch.no_grad()
    def _pass(self, encoded: Encoded) -> tuple[ForwardContext, Tensor]:
        """Context of the pass, and the item's tokens float[T, D] as the connector gives them."""
        given: list[Tensor] = []
        hook = self.connector.register_forward_hook(lambda _, __, output: given.append(output))
        try:
            batch = collate([encoded], self.model.inputs, self.model.llm.positions)
            ctx, _ = self.model.embed(batch.to(self.model.device))
        finally:
            hook.remove()
        return ctx, torch.cat([one.flatten(0, -2) for one in given])

    def _items(self, n_items: int) -> Iterator[tuple[Encoded, str]]:
        """Different items in the order of an epoch, each alone in a conversation, and the answer about it.

        Raises:
            MmllmError: there are fewer than two.
        """
        found = 0
        for pair in islice(self._different(), n_items):
            found += 1
            yield pair
        if found < min(2, n_items):
            raise MmllmError(
                f"it is set from items of <{self.key}>, and the data of stage {self.stage} show {found or 'none'} that "
                "can be read."
            )

    def _different(self) -> Iterator[tuple[Encoded, str]]:
        met: set[Any] = set()
        for sample in self._samples():
            answer = next((message.text for message in sample.messages if message.role == "assistant"), "")
            if not sample.media.get(self.key) or not answer.split():
                continue
            item = sample.media[self.key][0]
            known = (identity(item) or id(item), answer)
            if known in met:
                continue
            met.add(known)
            messages = (Message("user", f"<{self.key}>"), Message("assistant", answer))
            try:
                one = Sample(sample.name, messages, {self.key: (item,)})
                yield encode(one, self.prompter, self.model.inputs, self.recipe.llm.context, train=True), answer
            except SampleError:
                continue  # counted and named where it is trained on

    def _samples(self) -> Iterator[Sample]:
        assert self.stage is not None
        weights = dict(self.recipe.stages[self.stage].data)
        if self.start is not None and self.start.data is not None:
            weights = dict.fromkeys(self.start.data, 1.0)
        datasets = {key: open_dataset(self.recipe, key) for key in weights}
        seed = distributed.derive_seed(self.recipe.seed, list(self.recipe.stages).index(self.stage))
        order = Mixture(datasets, weights, seed, batch=1, epochs=1)
        for step in range(order.n_steps):
            for name, index in order.step(step):
                try:
                    yield datasets[name][index]
                except SampleError:
                    continue


def _keep_in(rows: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that keeps what a module is given, float[..., D], as rows."""
    return lambda _, args: rows.append(args[0].flatten(0, -2))
