"""Swap areas and the hooks in front of them: the frontswap interface for who brings pages himself.

A block device, a host's daemon or a test stores pages here by (type, offset); the memory door has the same hooks under
its page faults. The path of a page is in ``frontswap.core``; see docs/frontswap.md. NumPy is imported when it is asked
for: a server of block devices does without, and is smaller by 8 MiB.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import fields
from numbers import Integral
from typing import TYPE_CHECKING

from .backends.contract import Pressure
from .backends.stack import Spec, stacks_of
from .core.area import Areas
from .counters import AreaStatistics, HooksStatistics
from .errors import ClosedError, InUseError, OutOfMemoryError, ParameterError
from .hooks import Backends, Registered, Relief
from .sizes import format_size, parse_page, parse_size
from .swap import Slots, SwapFile, reserve
from .times import parse_duration

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .batches import Results
    from .core.area import ReadableBuffer, WriteableBuffer

#: pages of all areas behind one set of hooks
MOST_PAGES = 1 << 28
MOST_WEIGHT = 10000
_LARGEST = 2**63 - 1
_living: weakref.WeakSet[Frontswap] = weakref.WeakSet()


class Frontswap:
    """The hooks of swap areas, and the backends behind them.

    ``store`` offers a page to the backends in order; what all refuse goes to the page's slot. Many threads may use it
    at once. A forked child does not have it: pages stay the parent's.
    """

    def __init__(self, backends: Spec = None, *, workers: int = 0) -> None:
        """Make hooks without areas.

        Args:
            backends: stacks to register: "limit:size=1GiB / zcache", objects, or a list of these. None: none yet.
            workers: operations that run at the same time, others wait; 0: seven, or four for a single processor.
                Each takes four pages of RAM of the largest page size in use.
        """
        if not isinstance(workers, int) or isinstance(workers, bool) or not 0 <= workers <= 7:
            raise ParameterError("workers", workers, "0 to 7")
        stacks = stacks_of(backends)
        self._closed = ""
        self._areas: dict[int, SwapArea] = {}
        self._core = Areas(contexts=workers or min(7, 4 * (os.cpu_count() or 1)), pages=MOST_PAGES)
        #: register, unregister, pressure, statistics
        self.backends = Backends(self._core, areas=lambda: list(self._areas.values()), why_left=self._why_left)
        _living.add(self)
        try:
            self.backends.register(stacks)
        except BaseException:
            self._core.close()
            raise

    # --- areas -----------------------------------------------------------------------------------

    def swapon(
        self,
        pages: int | None = None,
        *,
        size: int | str | None = None,
        page: int | str = 4096,
        swap: str | os.PathLike[str] | Slots | None = "auto",
        overcommit: bool = False,
        dtype: npt.DTypeLike | None = None,
        most_pages: int | None = None,
        quota: int | str | None = None,
        weight: int | None = None,
    ) -> SwapArea:
        """A new :class:`SwapArea` in front of these hooks; its parameters stand there."""
        return SwapArea(
            self,
            pages,
            size=size,
            page=page,
            swap=swap,
            overcommit=overcommit,
            dtype=dtype,
            most_pages=most_pages,
            quota=quota,
            weight=weight,
        )

    def init(self, type: int) -> None:
        """frontswap_init: an area is on. swapon and register do it; calling it again changes nothing.

        Raises:
            ParameterError: there is no such area.
        """
        self._area(type)

    @property
    def areas(self) -> tuple[SwapArea, ...]:
        """The areas that are on."""
        return tuple(self._areas.values())

    def _area(self, type: int) -> SwapArea:
        self._check_open()
        if type not in self._areas:
            raise ParameterError("type", type, "the type of a swap area that is on")
        return self._areas[type]

    # --- the hooks -------------------------------------------------------------------------------

    def store(self, type: int, offset: int, page: ReadableBuffer) -> bool:
        """Keep a page. True: a backend has it. False: all refused it, or there is none, and it is in its slot.

        Args:
            type: of the area.
            offset: of the page in its area, in pages.
            page: its bytes, contiguous; not copied by the hooks, and not to be changed meanwhile.

        Raises:
            ParameterError: no such area, no such page, or a buffer that is not one page.
            SlotError: refused, and its slot cannot be written. Until it is stored again, loading it is an error too.
        """
        return self._core.store(type, 0, offset, page)

    def load(self, type: int, offset: int, into: WriteableBuffer) -> bool:
        """Fill `into` with a page. True: a backend had it. False: it comes from its slot, or was never stored: zeros.

        Raises:
            PageLostError: the backend that accepted it does not give it back, or gives back other bytes. `into` is
                undefined then, and the page stays lost until it is stored again or invalidated.
            ExclusiveLoadError: an exclusive load took it.
            SlotError: its slot cannot be read.
        """
        return self._core.load(type, 0, offset, into)

    def invalidate_page(self, type: int, offset: int) -> bool:
        """The page is of no use any more: it reads as zeros. True if a backend had it."""
        return self._core.invalidate_page(type, 0, offset)

    def invalidate_area(self, type: int) -> None:
        """No page of the area is of any use any more. The area stays on."""
        self._core.invalidate_area(type, 0)

    def store_many(self, type: int, offsets: npt.ArrayLike, pages: ReadableBuffer) -> Results:
        """Store pages that lie one after the other in `pages`.

        For each, in the order given: 1 it is in a backend, 0 in its slot, or -errno: its slot cannot be written, and
        unless a backend has it (writethrough) it is lost. From the moment of the call a load of any of them waits
        for these bytes, and never sees those of before.
        """
        from . import batches  # with NumPy

        return batches.store_many(self._core, type, 0, offsets, pages)

    def load_many(self, type: int, offsets: npt.ArrayLike, into: WriteableBuffer) -> Results:
        """Load pages one after the other into `into`.

        For each: 1 from a backend, 0 from its slot or never stored, or -errno: -EIO lost, -ENOENT taken by an
        exclusive load; its part of `into` is undefined then.
        """
        from . import batches  # with NumPy

        return batches.load_many(self._core, type, 0, offsets, into)

    def invalidate_many(self, type: int, offsets: npt.ArrayLike) -> Results:
        """Invalidate pages. For each: 1 a backend had it, else 0."""
        from . import batches  # with NumPy

        return batches.invalidate_many(self._core, type, 0, offsets)

    # --- modes, shrink ---------------------------------------------------------------------------

    def writethrough(self, on: bool) -> None:
        """Stores go to a backend and to the slot, so that the backend may lose them (frontswap_writethrough)."""
        self.backends.writethrough(on)

    def exclusive_loads(self, on: bool) -> None:
        """A load takes the page out of its backend; who loaded it has the only copy (tmem_exclusive_gets)."""
        self.backends.exclusive_loads(on)

    def shrink(self, pages: int, *, deadline: float | str = 60.0) -> int:
        """Partial swapoff: reduce the pages in backends to `pages` by moving them to their slots (frontswap_shrink).

        Returns how many have moved: fewer than asked for where an area has no slots, or after the deadline.
        """
        return self.backends.shrink(pages, deadline=deadline)

    def curr_pages(self) -> int:
        """Pages that backends have, in all areas: exact when no store is on its way (frontswap_curr_pages)."""
        return self.backends.curr_pages()

    def frontswap_map(self, type: int) -> npt.NDArray[np.bool_]:
        """For each page of an area: is it in a backend? The map of this moment (one bit a page inside)."""
        return self._area(type).frontswap_map

    def register(self, spec: Spec) -> list[Registered]:
        """Shorthand for ``backends.register``."""
        return self.backends.register(spec)

    def unregister(self, registered: Registered, *, deadline: float | str = 30.0) -> None:
        """Shorthand for ``backends.unregister``."""
        self.backends.unregister(registered, deadline=deadline)

    def pressure(self, level: Pressure | str | int) -> Relief:
        """Shorthand for ``backends.pressure``."""
        return self.backends.pressure(level)

    # --- state -----------------------------------------------------------------------------------

    def statistics(self) -> HooksStatistics:
        """Counters and gauges of this moment."""
        with self.backends.lock:
            self._check_open()
            counted = self._core.hook_counters()
            pool, limit, staged = self._core.pool()
            return HooksStatistics(
                **{field.name: counted[field.name] for field in fields(HooksStatistics) if field.name in counted},
                curr_pages=self._core.curr_pages(),
                refusals={n.removeprefix("reject_"): counted[n] for n in counted if n.startswith("reject_")},
                pool_bytes=pool,
                pool_live_bytes=self._core.pool_live(),
                pool_limit_bytes=limit,
                staged_bytes=staged,
                areas=tuple(area.statistics() for area in self._areas.values()),
                backends=self.backends.statistics(),
            )

    def close(self, *, force: bool = False) -> None:
        """Give everything back. Closing twice is no error.

        Raises:
            InUseError: areas are on, and `force` is not given.
        """
        with self.backends.lock:
            if self._closed:
                return
            if self._areas and not force:
                raise InUseError(f"close: {len(self._areas)} swap areas are on; swapoff() them, or force=True")
            for area in list(self._areas.values()):
                area.swapoff()
            self._closed = "have been closed"
            self.backends.close(self._closed)
            self._core.close()

    def __enter__(self) -> Frontswap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(force=True)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"these hooks {self._closed}")

    def _abandon(self) -> None:
        self._closed = "belong to the parent process of a fork"
        self._core.abandon()
        self.backends.in_child(self._closed)

    def _why_left(self) -> str:
        without = [area.type for area in self._areas.values() if not area.has_slots]
        return f"areas without slots (swap=None): {', '.join(map(str, without))}" if without else ""


class SwapArea:
    """A swap area: pages of one size at offsets from 0, each with a slot of its own (rule 2).

    ``area.store(offset, page)`` is ``hooks.store(area.type, offset, page)``, and so on.
    """

    def __init__(
        self,
        hooks: Frontswap,
        pages: int | None = None,
        *,
        size: int | str | None = None,
        page: int | str = 4096,
        swap: str | os.PathLike[str] | Slots | None = "auto",
        overcommit: bool = False,
        dtype: npt.DTypeLike | None = None,
        most_pages: int | None = None,
        quota: int | str | None = None,
        weight: int | None = None,
    ) -> None:
        """Swap on.

        Args:
            hooks: the hooks in front of it.
            pages: how many pages, or
            size: bytes, a multiple of the page size.
            page: bytes of a page, 4096 to 2 MiB and a power of two.
            swap: directory (or new file) for the slots; "auto": TMPDIR or /var/tmp; None: no slots. Then a page that
                every backend refuses is lost, loudly, and no backend can be drained. Or slots that are open already,
                with room for all pages: the area closes them.
            overcommit: do not reserve the disk space of the slots.
            dtype: of what is in the pages, if it is known: the codec need not find out.
            most_pages: pages that it may be resized to. None: as many as it has. They cost nothing until they are used,
                but all areas behind these hooks have 2**28 together.
            quota: bytes of zcache's pool that its pages may take at most; what is coldest of them goes to its slot
                before others come, and what does not fit is refused. None: no quota.
            weight: 0 to 10000, of its share when the pool is full. None: 1, and unless another area is given one the
                coldest pages of all areas leave, whosesoever they are. 0: its pages leave after all others.

        Raises:
            ParameterError: a value that is not allowed.
            SwapDirectoryError: the slots cannot be there.
            OutOfMemoryError: the disk cannot back them (rule 2), or too many pages in all.
            InUseError: 63 areas are on.
        """
        self.page = parse_page(page)  #: bytes of a page
        self.pages = _pages(pages, size, self.page)  #: pages, of which offsets count
        self.most_pages = self.pages if most_pages is None else _pages(most_pages, None, self.page)
        if self.most_pages < self.pages:
            raise ParameterError("most_pages", most_pages, f"at least the pages that it has, {self.pages}")
        self._overcommit = overcommit
        self.quota = None if quota is None else parse_size(quota, "quota")  #: bytes, or None
        self.weight = parse_weight(weight)  #: of its share, or None
        typesize = 0 if dtype is None else _typesize(dtype)
        self._hooks = hooks
        self._stopped = ""
        hooks._check_open()
        self._swap: Slots | None = SwapFile(swap, 0) if isinstance(swap, str | os.PathLike) else swap
        try:
            if isinstance(self._swap, SwapFile):
                self._reserve(self._swap, 0, self.pages)
            with hooks.backends.lock:
                hooks._check_open()
                handle = hooks._core.swapon(
                    self.pages,
                    self.most_pages,
                    self.page,
                    self._swap,
                    -1 if self._swap is None else self._swap.fd,
                    self._swap is not None and self._swap.direct,
                    0 if self._swap is None else self._swap.zeroing,
                    typesize if typesize in (1, 2, 4, 8, 16) else 0,
                    -1 if self.quota is None else self.quota,
                    -1 if self.weight is None else self.weight,
                )
                if handle == -1:
                    raise InUseError("swapon: 63 areas are on behind these hooks already")
                if handle < 0:
                    raise OutOfMemoryError(f"swapon: more than {MOST_PAGES} pages in all behind these hooks")
                self.type = handle & 0xFF  #: its number
                self._serial = handle >> 8
                try:
                    hooks.backends.init(self)
                except BaseException:
                    hooks._core.swapoff(self.type)
                    raise
                hooks._areas[self.type] = self
        except BaseException:
            if self._swap is not None:
                self._swap.close()
            raise

    def _reserve(self, swap: SwapFile, old: int, pages: int) -> None:
        """Room for the slots from `old` pages on."""
        try:
            if self._overcommit:
                os.ftruncate(swap.fd, pages * self.page)
            else:
                reserve(swap.fd, old * self.page, pages * self.page)
        except OSError as error:
            os.ftruncate(swap.fd, old * self.page)
            raise OutOfMemoryError(
                f"{'resize' if old else 'swapon'}: the slots need {format_size(pages * self.page)}: "
                f"{swap.cannot_grow(error.errno or 0, 'or overcommit=True')}"
            ) from error

    def resize(self, pages: int) -> None:
        """Give it another number of pages; those that it has stay, and new ones read as zeros.

        Operations go on meanwhile; when it loses pages they wait for a moment. Slots that were given have room for
        `pages` before, and may lose it afterwards: that is their owner's affair.

        Raises:
            ParameterError: more than `most_pages`.
            InUseError: pages that it would lose are in use, or operations on the area left it no moment in ten
                seconds. Nothing has changed.
            OutOfMemoryError: the disk cannot back the slots. Nothing has changed.
        """
        wanted = _pages(pages, None, self.page)
        if wanted > self.most_pages:
            raise ParameterError("pages", pages, f"at most {self.most_pages}, for which there is room since swapon")
        hooks = self._hooks
        with hooks.backends.lock:
            if hooks._areas.get(self.type) is not self:
                raise ClosedError("this swap area is off")
            ours = self._swap if isinstance(self._swap, SwapFile) else None
            if ours is not None and wanted > self.pages:
                self._reserve(ours, self.pages, wanted)
            used = hooks._core.resize(self.type, self._serial, wanted)
            if used < 0:
                raise InUseError("resize: operations on the area that do not end are in its way")
            if used:
                raise InUseError(f"resize: {used} pages from page {wanted} on are in use")
            if ours is not None and wanted < self.pages:
                os.ftruncate(ours.fd, wanted * self.page)
            self.pages = wanted

    @property
    def has_slots(self) -> bool:
        """False with swap=None."""
        return self._swap is not None

    @property
    def hooks(self) -> Frontswap:
        """The hooks in front of it."""
        return self._hooks

    def store(self, offset: int, page: ReadableBuffer) -> bool:
        """See :meth:`Frontswap.store`."""
        return self._hooks._core.store(self.type, self._serial, offset, page)

    def load(self, offset: int, into: WriteableBuffer) -> bool:
        """See :meth:`Frontswap.load`."""
        return self._hooks._core.load(self.type, self._serial, offset, into)

    def invalidate_page(self, offset: int) -> bool:
        """See :meth:`Frontswap.invalidate_page`."""
        return self._hooks._core.invalidate_page(self.type, self._serial, offset)

    def invalidate_area(self) -> None:
        """See :meth:`Frontswap.invalidate_area`."""
        self._hooks._core.invalidate_area(self.type, self._serial)

    def store_many(self, offsets: npt.ArrayLike, pages: ReadableBuffer) -> Results:
        """See :meth:`Frontswap.store_many`."""
        from . import batches  # with NumPy

        return batches.store_many(self._hooks._core, self.type, self._serial, offsets, pages)

    def load_many(self, offsets: npt.ArrayLike, into: WriteableBuffer) -> Results:
        """See :meth:`Frontswap.load_many`."""
        from . import batches  # with NumPy

        return batches.load_many(self._hooks._core, self.type, self._serial, offsets, into)

    def invalidate_many(self, offsets: npt.ArrayLike) -> Results:
        """See :meth:`Frontswap.invalidate_many`."""
        from . import batches  # with NumPy

        return batches.invalidate_many(self._hooks._core, self.type, self._serial, offsets)

    @property
    def frontswap_map(self) -> npt.NDArray[np.bool_]:
        """See :meth:`Frontswap.frontswap_map`."""
        from . import batches  # with NumPy

        return batches.map_of(self._hooks._core, self.type, self._serial, self.pages)

    def curr_pages(self) -> int:
        """Pages of this area that backends have."""
        return self.statistics().curr_pages

    def slots_have(self, first: int, pages: int) -> None:
        """The slots of these pages have bytes that count, from an earlier life of what they are on."""
        self._hooks._core.slots_have(self.type, self._serial, first, pages)

    def used_pages(self) -> int:
        """Pages that were stored and not invalidated: in a backend, in a slot, or lost."""
        return self._hooks._core.used_pages(self.type, self._serial)

    def stop(self, reason: str) -> None:
        """Send nothing to the backends any more: stores go to the slots. What the backends have stays there.

        For backends that know that the next pages are not worth sending, and for people. Loads are as before.
        """
        if not isinstance(reason, str) or not reason:
            raise ParameterError("reason", reason, "a few words that statistics and logs can show")
        self._hooks._core.set_stopped(self.type, self._serial, True)
        self._stopped = reason

    def resume(self) -> None:
        """Offer pages to the backends again."""
        self._hooks._core.set_stopped(self.type, self._serial, False)
        self._stopped = ""

    @property
    def stopped(self) -> str:
        """The reason given to stop(), or ""."""
        return self._stopped

    def set_quota(self, quota: int | str | None, *, deadline: float | str = 60.0) -> int:
        """Another quota, or None: no quota. What it has above a lower one leaves, as of :meth:`reclaim`.

        Returns the bytes that it has then.
        """
        most = None if quota is None else parse_size(quota, "quota")
        parse_duration(deadline, "deadline")
        self._share(most, self.weight)
        return self.reclaim(_LARGEST if most is None else most, deadline=deadline)

    def set_weight(self, weight: int | None) -> None:
        """Another weight, or None."""
        self._share(self.quota, parse_weight(weight))

    def _share(self, quota: int | None, weight: int | None) -> None:
        with self._hooks.backends.lock:
            self._hooks._core.set_shares(
                self.type, self._serial, -1 if quota is None else quota, -1 if weight is None else weight
            )
            self.quota, self.weight = quota, weight

    def reclaim(self, to: int | str = 0, *, deadline: float | str = 60.0) -> int:
        """Have its coldest pages leave zcache for their slots, until they take no more than `to` bytes of it.

        What `memory.reclaim` is to a cgroup; `shrink` is for all areas and all backends. Pages are what they were for
        who loads or stores them meanwhile.

        Args:
            to: bytes that may stay.
            deadline: seconds, or "500ms", "1min".

        Returns the bytes that they take then: more than `to` where slots cannot be written or are not there, others
        store meanwhile, or after the deadline.
        """
        most = parse_size(to, "to")
        seconds = parse_duration(deadline, "deadline") / 1e9
        return self._hooks._core.reclaim(self.type, self._serial, most, seconds)

    def statistics(self) -> AreaStatistics:
        """Counters of this moment."""
        return AreaStatistics(
            type=self.type,
            page=self.page,
            pages=self.pages,
            quota_bytes=-1 if self.quota is None else self.quota,
            weight=1 if self.weight is None else self.weight,
            **self._hooks._core.area_counters(self.type, self._serial),
        )

    def swapoff(self) -> None:
        """The area goes with all its pages. Waits for operations on their way. Twice is no error."""
        hooks = self._hooks
        with hooks.backends.lock:
            if hooks._areas.get(self.type) is not self:
                return
            # Each step is taken whatever happens at the one before: an interrupt of the user's, say.
            try:
                hooks._core.swapoff(self.type)
            finally:
                del hooks._areas[self.type]
                try:
                    hooks.backends.forget_area(self.type)
                finally:
                    if self._swap is not None:
                        self._swap.close()

    def __repr__(self) -> str:
        return f"<frontswap area {self.type}: {self.pages} pages of {format_size(self.page)}>"


def _typesize(dtype: npt.DTypeLike) -> int:
    import numpy as np

    return np.dtype(dtype).itemsize


def _pages(pages: int | None, size: int | str | None, page: int) -> int:
    if (pages is None) == (size is None):
        raise ParameterError("pages", pages, "given, or size= instead of it, and not both")
    if size is not None:
        found = parse_size(size, "size")
        if found == 0 or found % page:
            raise ParameterError("size", size, f"a multiple of the page size, {format_size(page)}")
        pages = found // page
    if not isinstance(pages, Integral) or isinstance(pages, bool) or not 0 < pages <= MOST_PAGES:
        raise ParameterError("pages" if size is None else "size", pages, f"1 to {MOST_PAGES} pages")
    return int(pages)


def parse_weight(weight: int | None, parameter: str = "weight") -> int | None:
    """A weight of an area's share, as of cgroups; None is none.

    Raises:
        ParameterError: it is not a number from 0 to 10000.
    """
    if weight is not None and (
        not isinstance(weight, Integral) or isinstance(weight, bool) or not 0 <= weight <= MOST_WEIGHT
    ):
        raise ParameterError(parameter, weight, f"0 to {MOST_WEIGHT}")
    return None if weight is None else int(weight)


def living_hooks() -> list[Frontswap]:
    """Those of this process that are not closed."""
    return [hooks for hooks in _living if not hooks._closed]


def _abandon_all() -> None:
    for hooks in list(_living):
        hooks._abandon()


os.register_at_fork(after_in_child=_abandon_all)
