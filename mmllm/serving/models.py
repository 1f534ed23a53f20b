"""The models that a server offers, and to whom: the one of a run, or a set of each of several runs.

``api.py`` asks for a model by name for as long as a request of it is read and handed to the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mmllm.serving.conversation import Inputs
from mmllm.serving.decisions.calibration import UNCALIBRATED, Calibration, calibration_beside
from mmllm.serving.schema import ApiError, model_card
from mmllm.sets.library import SetBrokenError, SetBusyError
from mmllm.sets.offers import may_learn_from

if TYPE_CHECKING:
    from mmllm.generation.generator import Generator
    from mmllm.serving.keys import Key
    from mmllm.sets.library import Held, SetLibrary
    from mmllm.sets.offers import Offer, Stamp

LOG = logging.getLogger("serve")

LOOK = 1.0
"""Seconds between two looks at what is still offered."""
LOADERS = 32
"""Requests at once that may wait for a set to be loaded."""
NO_GROUP: frozenset[str] = frozenset()


def may_use(key: Key | None, name: str, groups: frozenset[str] = NO_GROUP) -> bool:
    """Return whether a request with this key may use the model ``name``, which learned from data of ``groups``.

    ``key``: None where the server has no keys; then nobody is of any group.
    """
    if key is None:
        return not groups
    return key.sees(name) and may_learn_from(groups, key.groups)


@dataclass(frozen=True)
class Leased:
    """A model that can be asked now."""

    name: str
    generator: Generator
    inputs: Inputs
    calibration: Calibration | None = UNCALIBRATED
    """Of its decisions; None: what is kept is not of these weights, so that none are given."""

    @property
    def context(self) -> int:
        """Return the length of its longest conversation in tokens."""
        return self.generator.model.llm.context


class Models(Protocol):
    """Models by name."""

    def names(self) -> list[str]:
        """Return the names of all."""
        ...

    def cards(self, key: Key | None) -> list[dict[str, Any]]:
        """Return an entry of ``/v1/models`` for each that the key may use."""
        ...

    def card(self, name: str, key: Key | None) -> dict[str, Any]:
        """Return the entry of one; ApiError 404 where there is none that the key may use."""
        ...

    def lease(self, name: str, key: Key | None) -> AbstractAsyncContextManager[Leased]:
        """Return a model, which stays until the end of an ``async with``; ApiError where it cannot be asked."""
        ...

    async def watch(self) -> None:
        """Look again and again what is still offered, until it is cancelled."""
        ...

    def close(self) -> None:
        """End what it has running."""
        ...


class OneModel:
    """The model of one run."""

    def __init__(
        self,
        generator: Generator,
        name: str,
        groups: frozenset[str] = NO_GROUP,
        calibration: Calibration | None = UNCALIBRATED,
    ) -> None:
        """``groups``: of whose data it learned; ``calibration``: of its decisions."""
        self.groups = groups
        self.served = Leased(name, generator, Inputs.of(generator), calibration)
        self.created = int(time.time())

    def names(self) -> list[str]:
        """Return its name."""
        return [self.served.name]

    def cards(self, key: Key | None) -> list[dict[str, Any]]:
        """Return its entry, where the key may use it."""
        if not may_use(key, self.served.name, self.groups):
            return []
        served = self.served
        return [model_card(served.name, self.created, served.context, list(served.inputs.keys))]

    def card(self, name: str, key: Key | None) -> dict[str, Any]:
        """Return its entry; ApiError 404 for another name, or where the key may not use it."""
        found = self.cards(key)
        if name != self.served.name or not found:
            raise _unknown(name, f"this server has {self.served.name!r}" if found else "this key may use none")
        return found[0]

    @asynccontextmanager
    async def lease(self, name: str, key: Key | None) -> AsyncIterator[Leased]:
        """Return the model."""
        self.card(name, key)
        yield self.served

    async def watch(self) -> None:
        """Look after nothing: it stays as it is."""

    def close(self) -> None:
        """End nothing."""


class SetModels:
    """A model for each set of a library."""

    def __init__(self, library: SetLibrary) -> None:
        self.library = library
        self.created = int(time.time())
        self._loaders = ThreadPoolExecutor(LOADERS, "sets")
        self._modalities: dict[Stamp, list[str]] = {}
        self._calibrations: dict[Stamp, Calibration | None] = {}

    async def watch(self) -> None:
        """Take what is offered no more out of memory, and end its requests, within a second."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await asyncio.to_thread(self.library.check_offers)
            except Exception:  # the next time it may go
                LOG.exception("what is offered could not be looked at")

    def close(self) -> None:
        """Load nothing any more."""
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def names(self) -> list[str]:
        """Return the names of all that may be offered to somebody."""
        return list(self.library.offers.names())

    def _offers(self, key: Key | None) -> Iterator[Offer]:
        for name in self.library.offers.names():
            offer = self.library.offers.find(name)
            if offer is not None and may_use(key, name, offer.groups):
                yield offer

    def _offer(self, name: str, key: Key | None) -> Offer:
        """Return what is offered by a name; one that the key may not use looks like one that does not exist."""
        offer = self.library.offers.find(name)
        if offer is None or not may_use(key, name, offer.groups):
            raise _unknown(name, "GET /v1/models lists those that you may use")
        return offer

    def cards(self, key: Key | None) -> list[dict[str, Any]]:
        """Return an entry for each set, with the LLM that it is over as its parent."""
        return [self._card(offer) for offer in self._offers(key)]

    def card(self, name: str, key: Key | None) -> dict[str, Any]:
        """Return the entry of one."""
        return self._card(self._offer(name, key))

    def _card(self, offer: Offer) -> dict[str, Any]:
        held = self.library.held(offer.name)
        held = held if held is not None and held.offer.stamp == offer.stamp else None
        if held is not None:
            self._modalities[offer.stamp] = list(Inputs.of(held.generator).keys)
        context = self.library.engine.sets[0].model.llm.context if held is None else held.generator.llm.context
        return model_card(
            offer.name,
            self.created,
            offer.recipe.llm.context or context,
            self._modalities.get(offer.stamp),
            parent=offer.parent,
            set=None if held is None else _summary(held),
        )

    @asynccontextmanager
    async def lease(self, name: str, key: Key | None) -> AsyncIterator[Leased]:
        """Return a set, which is loaded where it is not in memory."""
        offer = self._offer(name, key)
        loop = asyncio.get_running_loop()
        lease = self.library.lease(offer)
        try:
            held = await loop.run_in_executor(self._loaders, lease.__enter__)
        except SetBusyError as error:
            raise ApiError(429, str(error), code="model_busy", headers={"Retry-After": "2"}) from error
        except SetBrokenError as error:
            message = f"The model {name!r} cannot be loaded; the server's log says why."
            raise ApiError(503, message, code="model_unavailable", headers={"Retry-After": "60"}) from error
        try:
            calibration = await loop.run_in_executor(self._loaders, self._calibration, held.offer)
            yield Leased(name, held.generator, Inputs.of(held.generator), calibration)
        finally:
            # it may let other sets go, which waits for the end of a step
            await asyncio.shield(loop.run_in_executor(self._loaders, lease.__exit__, None, None, None))

    def _calibration(self, offer: Offer) -> Calibration | None:
        """Return what is kept beside a set, read once."""
        if offer.stamp not in self._calibrations:
            self._calibrations[offer.stamp] = calibration_beside(offer.run)
        return self._calibrations[offer.stamp]


def _summary(held: Held) -> dict[str, Any]:
    """Return what a set in memory is: the number and bytes of its tensors, and its digest."""
    learned = held.run.learned
    return {"tensors": learned.n_tensors, "bytes": learned.n_bytes, "digest": learned.digest}


def _unknown(name: str, hint: str) -> ApiError:
    return ApiError(404, f"The model {name[:100]!r} does not exist; {hint}.", code="model_not_found", param="model")
