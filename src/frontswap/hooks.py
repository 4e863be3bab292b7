"""Backends that come and go behind a set of hooks: register, unregister, pressure, counters.

What may enter: the order of the stacks and their lives, for every door. What may not: pages (``frontswap.core``), areas
(``frontswap.area``), arrays (``frontswap.memory``).
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .backends.contract import Backend, Pressure
from .backends.layers import Filter
from .backends.stack import Spec, Stack, stacks_of
from .backends.zcache import Zcache
from .core import heap
from .core.filters import Filter as NativeFilter
from .core.hooks import Hooks
from .errors import ClosedError, DrainError, InUseError, ParameterError
from .sizes import format_size
from .times import parse_duration

if TYPE_CHECKING:
    from .area import SwapArea

MOST = 8
_log = logging.getLogger("frontswap.backends")


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What one backend or filter has done. Counters count pages, with the names of mm/frontswap.c."""

    name: str
    loads: int
    failed_loads: int  #: of pages that it had accepted: each is a page lost, or read from its slot (writethrough)
    succ_stores: int
    failed_stores: int
    invalidates: int
    refusals: dict[str, int]  #: failed_stores by reason
    own: dict[str, int]  #: a backend in Python may have more


@dataclass(frozen=True, slots=True)
class StackStatistics:
    """A stack at one moment."""

    name: str  #: of its backend
    spec: str
    curr_pages: int  #: pages that it has
    stored_bytes: int  #: the same in bytes, uncompressed
    layers: tuple[LayerStatistics, ...]  #: topmost first


@dataclass(frozen=True, slots=True)
class Relief:
    """What pressure(level) has come to."""

    level: Pressure
    left_bytes: int  #: what zcache still holds above what the level allows; it refuses stores until that has gone
    why: str  #: why that is so, or ""
    failed: tuple[str, ...]  #: backends whose pressure() raised


class Registered:
    """A stack behind hooks. Made by :meth:`Backends.register`."""

    def __init__(self, stack: Stack) -> None:
        natives = stack.native()
        self.stack = stack
        self.natives = natives
        self._layers = list(stack.layers)

    @property
    def name(self) -> str:
        """The name of its backend."""
        return self.stack.name

    def set(self, filter_name: str, **settings: Any) -> None:
        """Change settings of one of its filters; they count from the next page on.

        Raises:
            ParameterError: no such filter, no such setting, or a value that is not allowed.
        """
        for i, (layer, native) in enumerate(zip(self._layers, self.natives, strict=True)):
            if layer.name == filter_name and isinstance(layer, Filter) and isinstance(native, NativeFilter):
                unknown = set(settings) - set(layer.__dataclass_fields__)
                if unknown:
                    allowed = ", ".join(layer.__dataclass_fields__) or "nothing: it has no settings"
                    raise ParameterError(filter_name, ", ".join(sorted(unknown)), f"one of: {allowed}")
                changed = replace(layer, **settings)
                native.set(**changed.parameters())
                self._layers[i] = changed
                return
        known = ", ".join(layer.name for layer in self.stack.layers if isinstance(layer, Filter))
        raise ParameterError("filter_name", filter_name, f"a filter of this stack: {known or 'it has none'}")

    def __repr__(self) -> str:
        return f"<frontswap stack: {self.stack}>"


class Backends:
    """The backends behind one set of hooks, in the order in which they are tried. Thread-safe."""

    def __init__(
        self,
        core: Hooks,
        *,
        areas: Callable[[], list[SwapArea]] | None = None,
        why_left: Callable[[], str] = lambda: "",
    ) -> None:
        """Not for users: `Frontswap.backends` and `Memory.backends` are there.

        Args:
            core: the compiled hooks.
            areas: the swap areas that are on; None behind the memory door.
            why_left: why pages may not be able to leave a backend, for people.
        """
        self._core = core
        self._areas = areas
        self._why_left = why_left
        self._registered: list[Registered] = []
        self._closed = ""
        #: areas come and go under it too: a backend gets `init` for every area once, whoever is first
        self.lock = threading.RLock()

    def __iter__(self) -> Iterator[Registered]:
        return iter(tuple(self._registered))

    def __len__(self) -> int:
        return len(self._registered)

    def register(self, spec: Spec) -> list[Registered]:
        """Put stacks behind those that are there; pages are offered to them from now on.

        Args:
            spec: a spec string, a backend, a stack (``Limit(size="1G") / Zcache()``), or a list of these.

        Raises:
            SpecError: a part of the spec is wrong.
            ParameterError: behind the memory door: a backend in Python, whose fault would need the GIL.
            InUseError: eight are there already, or a second zcache.
        """
        stacks = stacks_of(spec)
        for stack in stacks:
            self.check(stack)
        with self.lock:
            self._check_open()
            made: list[Registered] = []
            try:
                for stack in stacks:
                    made.append(self._register(stack))  # what is made is undone when one fails
            except BaseException:
                for registered in made:
                    self.unregister(registered, deadline=60)
                raise
            return made

    def check(self, stack: Stack) -> None:
        """Refuse what can never work behind this door."""
        if self._areas is None and isinstance(stack.backend, Backend):
            raise ParameterError(
                "backends",
                str(stack),
                f"native behind the memory door: {stack.name} is written in Python and needs the GIL for each page, "
                "which the thread that faults may hold itself; it can serve swap areas (frontswap.Frontswap)",
            )
        if self._areas is not None and isinstance(stack.backend, Zcache) and stack.backend.write_budget:
            raise ParameterError(
                "zcache:write_budget",
                format_size(int(stack.backend.write_budget)),
                '"off" in front of swap areas: whose they are writes their slots',
            )
        if self._areas is None and isinstance(stack.backend, Zcache):
            stack.backend.check_for_memory(process=heap.has_begun(), swap=self._core.has_file())
        if self._areas is None and isinstance(stack.backend, Zcache) and stack.backend.dedup:
            raise ParameterError(
                "zcache:dedup",
                "on",
                '"off" behind the memory door: records leave for the disk there, each with its page',
            )

    def _register(self, stack: Stack) -> Registered:
        backend = stack.backend
        if isinstance(backend, Backend) and any(backend is other.stack.backend for other in self._registered):
            raise InUseError(f"{backend!r} is registered already")
        registered = Registered(stack)
        native = registered.natives[0]
        begun: list[SwapArea] = []
        # In the list before the core has it: an interrupt between the two must not leave a stack that nobody knows.
        self._registered.append(registered)
        try:
            if isinstance(backend, Backend):
                for area in self._areas() if self._areas else []:
                    begun.append(area)
                    backend.init(area.type, weakref.proxy(area))
            if isinstance(backend, Zcache):
                size = int(backend.size) if self._areas is None else backend.area_size
                number = self._core.register(
                    native,
                    size,
                    backend.segment,
                    backend.codec_kind,
                    backend.recompress_how,
                    backend.staging_bytes,
                    bool(backend.dedup),
                    backend.make_policy,
                )
                if number >= 0 and self._areas is None:
                    self._core.set_write_budget(int(backend.write_budget), int(backend.write_period))
            else:
                number = self._core.register(native)
            if number < 0:
                raise InUseError(
                    f"register {stack}: {MOST} backends are there already"
                    if number == -1
                    else f"register {stack}: there is a zcache already; it has one pool"
                )
        except BaseException:
            if not self._core.has(native):
                self._registered.remove(registered)
                for area in begun:
                    self._tell_end(registered, area.type)
            raise
        return registered

    def unregister(self, registered: Registered, *, deadline: float | str = 30.0) -> None:
        """Take a stack out, while pages are stored and loaded: it gets no more, and what it has goes to the slots.

        Args:
            registered: what `register` returned.
            deadline: seconds, or "500ms", "1min".

        Raises:
            DrainError: pages are left after the deadline, or no slot takes them. The stack stays, is offered pages
                as before, and can be unregistered again.
        """
        seconds = parse_duration(deadline, "deadline") / 1e9
        with self.lock:
            self._check_open()
            if registered not in self._registered:
                raise ParameterError("registered", registered, "a stack that is behind these hooks")
            left = self._core.unregister(registered.natives[0], seconds)
            if left:
                why = self._why_left()
                raise DrainError(
                    f"unregister {registered.stack}: {left} pages are left after {seconds:g} s"
                    + (f" ({why})" if why else "")
                    + "; it stays, and is offered pages as before",
                    left,
                )
            # An interrupt before this line: the core knows it no more, and the next unregister comes to here.
            self._registered.remove(registered)
            for area in self._areas() if self._areas else []:
                self._tell_end(registered, area.type)

    def _tell_end(self, registered: Registered, type: int) -> None:
        """Tell a backend in Python that an area goes. What it raises must not stop what has to follow."""
        backend = registered.stack.backend
        if isinstance(backend, Backend):
            try:
                backend.invalidate_area(type)
            except Exception:
                _log.warning("%r: invalidate_area of type %d failed", backend, type, exc_info=True)

    def init(self, area: SwapArea) -> None:
        """A new area: tell the backends in Python. What one raises stops it, and those told are told the end."""
        told: list[Registered] = []
        try:
            for registered in self._registered:
                backend = registered.stack.backend
                if isinstance(backend, Backend):
                    told.append(registered)
                    backend.init(area.type, weakref.proxy(area))
        except BaseException:
            for registered in told:
                self._tell_end(registered, area.type)
            raise

    def forget_area(self, type: int) -> None:
        """An area has gone: tell the backends in Python."""
        for registered in self._registered:
            self._tell_end(registered, type)

    def pressure(self, level: Pressure | str | int) -> Relief:
        """Say how short memory is: "none", "low", "medium" or "critical". Every backend and filter hears it.

        zcache gives a quarter, half, or all of what it may hold back, by writing its coldest pages out, and `limit`
        takes as much less; at "critical" both refuse every store until the level falls. What a backend in Python does
        is its own affair. It always ends: what cannot leave is named in the answer.
        """
        try:
            found = Pressure[level.upper()] if isinstance(level, str) else Pressure(level)
        except (KeyError, ValueError):
            raise ParameterError("level", level, '"none", "low", "medium" or "critical"') from None
        failed = []
        with self.lock:
            self._check_open()
            for registered in self._registered:
                backend = registered.stack.backend
                if isinstance(backend, Backend):
                    try:
                        backend.pressure(found)
                    except Exception as error:  # one that fails must not keep the others from hearing it
                        failed.append(f"{backend.name}: {error!r}")
            left = self._core.pressure(int(found))
        why = ""
        if left:
            why = f"{format_size(left)} of zcache cannot leave: {self._why_left() or 'pages are in use'}"
        return Relief(found, left, why, tuple(failed))

    def writethrough(self, on: bool) -> None:
        """Stores go to a backend and to the slot (frontswap_writethrough); swap areas only."""
        if self._areas is None and on:
            raise ParameterError(
                "writethrough",
                on,
                "False behind the memory door: what a process had in memory is worth nothing without it, so a second "
                "copy in its swap file would only cost a write",
            )
        self._core.writethrough(_switch(on))

    def exclusive_loads(self, on: bool) -> None:
        """A load takes the page out of its backend (tmem_exclusive_gets). Behind the memory door it is dirty then."""
        self._core.exclusive_loads(_switch(on))

    def shrink(self, pages: int, *, deadline: float | str = 60.0) -> int:
        """Partial swapoff: reduce the pages in backends to `pages` (frontswap_shrink); how many have left.

        In front of swap areas they go to their slots. Behind the memory door they come back into RAM, as long as there
        is room for them without evicting others.
        """
        if not isinstance(pages, int) or isinstance(pages, bool) or pages < 0:
            raise ParameterError("pages", pages, "a number of pages from 0 on")
        seconds = parse_duration(deadline, "deadline") / 1e9
        with self.lock:
            self._check_open()
            return self._core.shrink(pages, seconds)

    def curr_pages(self) -> int:
        """Pages that backends have (frontswap_curr_pages): exact when no store is on its way."""
        self._check_open()
        return self._core.curr_pages()

    def statistics(self) -> tuple[StackStatistics, ...]:
        """The stacks in order."""
        with self.lock:
            self._check_open()
            return tuple(self._statistics_of(registered) for registered in self._registered)

    def _statistics_of(self, registered: Registered) -> StackStatistics:
        layers = []
        for layer, native in zip(registered.stack.layers, registered.natives, strict=True):
            counted = native.counters()
            refusals = {name.removeprefix("reject_"): n for name, n in counted.items() if name.startswith("reject_")}
            plain = {name: n for name, n in counted.items() if not name.startswith("reject_")}
            own = dict(layer.statistics()) if isinstance(layer, Backend) else {}
            layers.append(LayerStatistics(name=layer.name, refusals=refusals, own=own, **plain))
        pages, size = self._core.stack_pages(registered.natives[0])
        return StackStatistics(registered.name, str(registered.stack), pages, size, tuple(layers))

    def close(self, why: str) -> None:
        """The hooks go."""
        with self.lock:
            self._closed = why
            self._registered.clear()

    def in_child(self, why: str = "") -> None:
        """In a forked child: another thread may have had the lock, and is not here. `why`: the hooks are not either."""
        self.lock = threading.RLock()
        if why:
            self._closed = why
            self._registered.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"these hooks {self._closed}")


def _switch(on: bool) -> bool:
    if not isinstance(on, bool):
        raise ParameterError("on", on, "True or False")
    return on
