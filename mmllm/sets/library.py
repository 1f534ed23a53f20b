"""Which sets are in memory: loaded when first asked for, let go for others' room, replaced when their run changes.

A request holds a lease of its set until the engine has it; what it asked for is then what answers it, whatever
happens to the name meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mmllm.checkpoints.load import Trust
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.generation.read_media import ReadItems
from mmllm.sets.engine import SetGoneError, SetsEngine
from mmllm.sets.frozen_parts import FrozenParts
from mmllm.sets.loading import LoadedRun, load_set
from mmllm.sets.offers import Offer, Offers, Stamp

LOG = logging.getLogger("serve")

AGAIN = 30.0
"""Seconds after which a set that could not be loaded is tried again though nothing of it has changed."""


class SetBusyError(MmllmError):
    """A set cannot be asked now; later it can."""


class SetBrokenError(MmllmError):
    """A set cannot be loaded; the log says why."""


@dataclass(eq=False)
class Held:
    """A set in memory."""

    offer: Offer
    run: LoadedRun
    generator: Generator
    leases: int = 0


class SetLibrary:
    """Sets by their names. Any thread may ask for one."""

    def __init__(
        self,
        offers: Offers,
        sizes: Sizes,
        n_bytes: int,
        waiting: int = 8,
        overrides: Sequence[str] = (),
        trust: Trust | None = None,
    ) -> None:
        """Set up.

        Args:
            offers: what there is.
            sizes: of the engine.
            n_bytes: of learned weights that are kept; those that were given one by one stay whatever they take.
            waiting: requests of one set that may be read or wait at a time.
            overrides: for every run.
            trust: in every run.
        """
        self.offers, self.n_bytes, self.waiting = offers, n_bytes, waiting
        self.engine = SetsEngine(sizes)
        self.parts = FrozenParts()
        self.loads = self.removals = 0
        """How often a set was loaded, and let go."""
        self._overrides, self._trust = overrides, trust
        self._known = ReadItems(sizes.media_bytes)
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._leaving: list[Held] = []
        """Those that no name leads to any more, and that requests may still be answered by."""
        self._pinned: set[str] = set()
        self._broken: dict[str, tuple[Stamp, float]] = {}
        self._loading: dict[str, threading.Lock] = {}
        self._asked: dict[str, int] = {}
        self._reserved = 0
        self._lock = threading.RLock()

    def pin(self, offer: Offer) -> Held:
        """Load a run and keep it in memory; errors as ``load_set`` has them."""
        self._pinned.add(offer.name)
        held = self._load(offer)
        with self._lock:
            self._held[offer.name] = held
        return held

    @property
    def used(self) -> int:
        """Bytes of the learned weights in memory, and of those on their way."""
        with self._lock:
            return self._reserved + sum(one.run.learned.n_bytes for one in (*self._held.values(), *self._leaving))

    def held(self, name: str) -> Held | None:
        """A set, where it is in memory."""
        return self._held.get(name)

    @contextmanager
    def lease(self, offer: Offer) -> Iterator[Held]:
        """A set for as long as a request of it is read and handed to the engine; it is loaded where it is not there.

        Raises:
            SetBusyError: as many of its requests wait as may, or there is no room for it now.
            SetBrokenError: it cannot be loaded.
        """
        with self._lock:
            held = self._held.get(offer.name)
            waits = 0 if held is None else self.engine.waiting(held.run.learned)
            if self._asked.get(offer.name, 0) + waits >= self.waiting:
                raise SetBusyError(f"{self.waiting} requests of {offer.name} wait already, as many as may.")
            self._asked[offer.name] = self._asked.get(offer.name, 0) + 1
        try:
            held = self._leased(offer)
            try:
                yield held
            finally:
                with self._lock:
                    held.leases -= 1
        finally:
            with self._lock:
                self._asked[offer.name] -= 1
                if not self._asked[offer.name]:
                    del self._asked[offer.name]
            self.sweep()

    def _leased(self, offer: Offer) -> Held:
        found = self._current(offer)
        if found is not None:
            return found
        with self._lock:
            loading = self._loading.setdefault(offer.name, threading.Lock())
        with loading:
            found = self._current(offer)  # somebody else may have loaded it meanwhile
            if found is not None:
                return found
            stamp, when = self._broken.get(offer.name, ((), 0.0))
            if stamp == offer.stamp and time.monotonic() < when + AGAIN:
                raise SetBrokenError(f"{offer.name} cannot be loaded")
            reserved = self._make_room(offer)
            try:
                held = self._load(offer)
            except Exception as error:  # whatever is wrong with it is its own requests' matter alone
                self._broken[offer.name] = (offer.stamp, time.monotonic())
                LOG.error("%s cannot be loaded: %s", offer.name, error, exc_info=not isinstance(error, MmllmError))
                raise SetBrokenError(f"{offer.name} cannot be loaded") from error
            finally:
                with self._lock:
                    self._reserved -= reserved
            with self._lock:
                old = self._held.pop(offer.name, None)
                if old is not None:
                    self._leaving.append(old)
                held.leases += 1
                self._held[offer.name] = held
            return held

    def _current(self, offer: Offer) -> Held | None:
        with self._lock:
            held = self._held.get(offer.name)
            if held is None or held.offer.stamp != offer.stamp:
                return None
            self._held.move_to_end(offer.name)
            held.leases += 1
            return held

    def _load(self, offer: Offer) -> Held:
        run = load_set(offer.run, offer.name, self.engine, self.parts, self._overrides, self._trust)
        self.loads += 1
        made = Generator(
            run.learned.model, self.engine.sizes, run.recipe.serve.system, self.engine, run.learned, self._known
        )
        return Held(offer, run, made)

    def _make_room(self, offer: Offer) -> int:
        """Let sets used longest ago go until this one fits, and reserve its bytes; SetBusyError where those that are
        left are in use."""
        needed = offer.n_bytes
        if needed > self.n_bytes:
            raise SetBusyError(f"{offer.name} takes {needed} bytes, and serve.sets_memory is {self.n_bytes}.")
        self.sweep()
        while True:
            with self._lock:
                if self.used + needed <= self.n_bytes:
                    self._reserved += needed
                    return needed
                names = [name for name, one in self._held.items() if name not in self._pinned and self._is_free(one)]
                if not names:
                    raise SetBusyError(f"There is no room for {offer.name} now: all sets in memory are being asked.")
                leaving = self._held.pop(names[0])
                self._leaving.append(leaving)
            self.sweep()

    def _is_free(self, held: Held) -> bool:
        return not held.leases and not self.engine.is_asked(held.run.learned)

    def sweep(self) -> None:
        """Let go of sets that were replaced or sent away, once nobody is answered by them."""
        with self._lock:
            gone = [one for one in self._leaving if self._is_free(one)]
            self._leaving = [one for one in self._leaving if one not in gone]
        for one in gone:
            with self.engine.between_steps():
                # looked at again: while steps run, a request on its way from waiting to running may be overlooked
                free = not self.engine.is_asked(one.run.learned)
                if free:
                    self.engine.remove(one.run.learned)
            with self._lock:
                if free:
                    self.removals += 1
                else:
                    self._leaving.append(one)

    def check_offers(self) -> list[str]:
        """Take sets out of memory whose run is offered no more, such as those of a withdrawn group, and end their
        requests; the names."""
        with self._lock:
            every = [*self._held.values(), *self._leaving]
            gone = [one for one in every if not self._is_offered(one)]
            self._held = OrderedDict((name, one) for name, one in self._held.items() if one not in gone)
            self._leaving = [one for one in self._leaving if one not in gone]
        for one in gone:
            with self.engine.between_steps():
                self.engine.remove(one.run.learned, SetGoneError(f"The model {one.offer.name!r} does not exist."))
            self.removals += 1
            LOG.warning("%s is offered no more and was taken out of memory (%s)", one.offer.name, one.offer.run)
        if gone:
            with self.engine.between_steps():
                # what was read with their weights as well
                self.engine.forget()
        return [one.offer.name for one in gone]

    def _is_offered(self, held: Held) -> bool:
        if self.offers.is_withdrawn(held.offer.groups):
            return False
        # one that a newer run replaced goes by itself, when its last request is answered
        return held in self._leaving or self.offers.find(held.offer.name) is not None
