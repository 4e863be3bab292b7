"""A space: a limit with its data plane, its backends and its swap file, without a face.

:class:`Memory` puts NumPy arrays in front of one, ``frontswap run`` the large allocations of a process. Nothing here
imports NumPy: a script that runs under frontswap may want to set things up before it does.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .. import causes
from ..core.plane import REFUSED_LESS, REFUSED_PINNED, REFUSED_REGISTRATION, Plane, protection_access
from ..errors import ClosedError, InUseError, KernelSupportError, OutOfMemoryError, ParameterError, PinError
from ..hooks import Backends
from ..sizes import format_size
from ..swap import SwapFile
from .settings import Settings
from .statistics import Statistics
from .steps import Step

_living: weakref.WeakSet[Space] = weakref.WeakSet()


class Space:
    """What is behind a Memory. Its parts are for this package: ``settings``, ``plane``, ``swap``, ``backends``."""

    def __init__(self, settings: Settings, swap: str | os.PathLike[str] | None) -> None:
        """Make it; raises what :class:`Memory` does."""
        self._settings = settings
        self._closed = ""
        self.swap = None if swap is None else SwapFile(swap, 10 * settings.segment)
        try:
            self.plane = _plane(settings, self.swap)
        except BaseException:
            if self.swap is not None:
                self.swap.close()
            raise
        self.backends = Backends(self.plane, why_left=self._why_left)
        try:
            self.backends.register(settings.stacks)
        except BaseException:
            self.plane.close()
            if self.swap is not None:
                self.swap.close()
            raise
        #: the last changes of a limit that follows, the oldest first: memory/pressure.py
        self.steps: Sequence[Step] = ()
        #: why it must not be closed, "" if it may
        self.kept = ""
        #: called when it is closed, before the plane goes
        self.at_close: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        _living.add(self)

    @property
    def settings(self) -> Settings:
        """Those of this moment: the brake (core/brake.py) lowers the limit without a word."""
        found = self._settings
        if not self._closed:
            limit = self.plane.limit()
            if limit < found.limit:
                found = found.resized(limit, 0, found.limit)
        return found

    def statistics(self) -> Statistics:
        """Counters and gauges of this moment."""
        self.check_open()
        return Statistics(**self.plane.counters())

    def limit_most(self) -> int:
        """What the limit may be raised to, in bytes.

        The RAM of the machine, or what it was made with if that is more; where pages are protected (no userfaultfd), as
        far as there are mappings for its smallest page.
        """
        return min(self.settings.limit_most, max(self.plane.limit_most(), self.settings.limit))

    def resize(self, limit: int | str) -> None:
        """Change the limit, in bytes. Raised, it holds at once; lowered, what is above it leaves now.

        When it returns what is used fits, unless something cannot leave for the moment: that goes with the next faults.
        What is allocated, the swap file and the largest page of the arrays stay as they are.

        Args:
            limit: at least 16 MiB, and twice what is set aside for the pages in use; at most :meth:`limit_most`.

        Raises:
            ParameterError: it is not allowed; without a swap file also if less than what is allocated would fit.
            PinError: more than half of it is pinned.
            OutOfMemoryError: the disk cannot back what would not fit any more.
            KernelSupportError: all that is allocated has fitted until now, and its pages cannot be followed; or pages
                are protected, and somebody else has taken the mappings for them meanwhile.
        """
        with self._lock:
            self.check_open()
            settings = self.settings.resized(limit, self.plane.least_limit(), self.limit_most())
            refused = self.plane.resize(settings.limit, settings.page_most, settings.allocate)
            if refused == 0:
                self._settings = settings
                return
        if refused == REFUSED_LESS:
            held = self.plane.counters()["allocated_bytes"]
            raise ParameterError(
                "limit", limit, f"more than what is allocated, {format_size(held)}: without a swap file it has to fit"
            )
        if refused == REFUSED_PINNED:
            raise PinError(f"limit: more than half of {format_size(settings.limit)} is pinned")
        if refused < REFUSED_REGISTRATION and self.swap is not None:
            why = self.swap.cannot_grow(refused, "a higher limit, or free arrays first")
            raise OutOfMemoryError(f"limit: what does not fit in {format_size(settings.limit)} cannot be backed: {why}")
        with registering():
            raise OSError(refused % REFUSED_REGISTRATION, os.strerror(refused % REFUSED_REGISTRATION))

    def close(self, *, force: bool = False) -> None:
        """Give everything back. Closing twice is no error.

        Args:
            force: also while arrays live: touching them afterwards ends the process with SIGSEGV.

        Raises:
            InUseError: arrays live, and ``force`` is not given.
        """
        with self._lock:
            if self._closed:
                return
            if self.kept:
                raise InUseError(f"close: {self.kept}")
            held = self.plane.counters()["allocated_bytes"]
            if held and not force:
                raise InUseError(
                    f"close: arrays of {format_size(held)} still live in this Memory; delete them, or force=True"
                )
            self._closed = "has been closed"
            self.backends.close("have been closed")
            for end in self.at_close:
                end()
            self.plane.close()
            if self.swap is not None:
                self.swap.close()

    def check_open(self) -> None:
        """Raise ClosedError once it has been closed."""
        if self._closed:
            raise ClosedError(f"this Memory {self._closed}")

    def in_child(self) -> None:
        """In a forked child: locks that another thread may have had, and the threads, which are not here."""
        self._lock = threading.Lock()
        if self._closed or self.plane.revive():
            self.backends.in_child()
        else:
            self._closed = "was being closed when this process was forked"
            for end in self.at_close:
                end()
            self.backends.in_child("belong to the parent process of a fork")

    def _why_left(self) -> str:
        if self.swap is None:
            return "without a swap file pages have nowhere to go"
        return "the swap file does not take them" if self.statistics().slot_errors else ""


def _plane(settings: Settings, swap: SwapFile | None) -> Plane:
    """The data plane, or a KernelSupportError that says what to do."""
    try:
        return Plane(
            limit=settings.limit,
            limit_most=settings.limit_most,
            arena=settings.arena,
            segment=settings.segment,
            max_page=settings.max_page,
            page=settings.page,
            contexts=settings.contexts,
            file=-1 if swap is None else swap.fd,
            direct=swap is not None and swap.direct,
            directory=b"" if swap is None else os.fsencode(os.path.realpath(swap.directory)),
            allocate=settings.allocate,
            overcommit=settings.overcommit,
            faults=settings.faults,
            limit_later=settings.limit_later,
            mappings_most=settings.mappings,
            move=settings.move,
            huge=settings.huge,
            splits_any=settings.splits_any,
            early=settings.early,
            keep=swap,
        )
    except MemoryError as error:
        raise OutOfMemoryError(f"{error}: {causes.addresses(settings.arena)}") from error
    except OSError as error:
        raise _refused(error) from error


def _refused(error: OSError) -> KernelSupportError:
    """What the kernel refuses, with what helps."""
    number = error.errno or 0
    instead = protection_access() if causes.without_userfaultfd(number) else 0
    also = ""
    if instead:
        why = causes.proc_mem(instead)
        also = f"; and pages cannot be protected instead: {why.what}: {why.meaning}"
    return KernelSupportError(error.errno, f"{causes.userfaultfd(number)}{also} [{error}]")


@contextmanager
def registering() -> Iterator[None]:
    """A call that needs the arena registered; a KernelSupportError, or OutOfMemoryError, says what is in the way."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutOfMemoryError(f"the disk of the swap file has no room for what is allocated [{error}]") from error
        raise _refused(error) from error


def living_spaces() -> list[Space]:
    """Those of this process that are not closed."""
    return [space for space in _living if not space._closed]


def _all_in_child() -> None:
    for space in list(_living):
        space.in_child()


os.register_at_fork(after_in_child=_all_in_child)
