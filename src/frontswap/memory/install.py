"""The large allocations of a whole process come from one space: ``frontswap.install()`` and ``frontswap run``."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ..backends.stack import Spec
from ..core import heap
from ..errors import InUseError, ParameterError
from ..sizes import format_size, parse_page, parse_size
from .ledger import Ledger
from .pressure import Follower, auto_limit
from .settings import MIN_SEGMENT, Settings
from .space import Space

if TYPE_CHECKING:
    from .memory import Memory

#: addresses for allocations
ARENA = "1T"
_lock = threading.Lock()
_installed: list[Space] = []  # none, or one
_faces: dict[str, Memory] = {}  # as above
_followers: list[Follower] = []  # as above; of a limit that is "auto"


def install(
    limit: int | str = "auto",
    *,
    swap: str | os.PathLike[str] = "auto",
    backends: Spec = "zcache",
    threshold: int | str = "1M",
    page: int | str = "auto",
    overcommit: bool = False,
) -> Memory:
    """From now on every large allocation of this process comes from one Memory, whoever makes it, in all threads.

    That is what malloc and its family are asked for from ``threshold`` on: arrays of NumPy, pandas and torch, Python's
    own bytes and lists. What exists already stays where it is. It lasts until the process ends; forked children have
    it too.

    Args:
        limit: bytes of RAM for them, resident and compressed together; "auto": what
            is left for them, of the cgroup or of the machine, also later: see docs/run.md.
        swap: directory or new file for the swap file, as for :class:`Memory`.
        backends: stacks in front of it, as for :class:`Memory`.
        threshold: requests of so many bytes and more, at least 4 KiB.
        page: unit of eviction, 4 KiB to 256 KiB and a power of two, or "auto": by the size of each allocation, 64 KiB
            for what is large. For a program that jumps at random in what does not fit, as in hash tables, "4K" is
            several times faster; for one that goes through its memory in order it is slower.
        overcommit: do not reserve disk space for what is allocated, as for :class:`Memory`.

    Raises:
        InUseError: it has been called before.
        ParameterError, SwapDirectoryError, KernelSupportError: as for :class:`Memory`.
    """
    install_space(limit, swap=swap, backends=backends, threshold=threshold, page=page, overcommit=overcommit)
    memory = installed()
    assert memory is not None
    return memory


def installed() -> Memory | None:
    """The Memory that the large allocations of this process come from, if there is one."""
    from .memory import Memory

    # Without the lock, which a forked child might find taken: of two faces made at once one is kept.
    if _installed and not _faces:
        _faces.setdefault("", Memory.over(_installed[0]))
    return _faces.get("")


def checked(
    limit: int | str,
    *,
    swap: object,
    backends: Spec,
    threshold: int | str,
    page: int | str,
    overcommit: bool = False,
    later: int = 0,
) -> Settings:
    """The settings of a space for a whole process; ParameterError names the first one that is not allowed."""
    if parse_size(threshold, "threshold") < 4096:
        raise ParameterError("threshold", threshold, "at least 4 KiB")
    if page != "auto" and parse_page(page, '"auto" or ') > MIN_SEGMENT:
        raise ParameterError("page", page, f"at most {format_size(MIN_SEGMENT)}: of a small share of a run, too")
    return Settings.check(
        limit=auto_limit() if limit == "auto" else limit,
        page=page,
        backends=backends,
        allocate=None,
        arena=ARENA,
        threshold=threshold,
        swap=swap,
        overcommit=overcommit,
        later=later,
        process=True,
    )


def install_space(
    limit: int | str,
    *,
    swap: str | os.PathLike[str],
    backends: Spec,
    threshold: int | str,
    page: int | str,
    overcommit: bool = False,
    ledger: Ledger | None = None,
) -> Space:
    """:func:`install` without NumPy; with a `ledger`: as one of a run, of which `limit` is the budget."""
    with _lock:
        if _installed:
            held = format_size(_installed[0].statistics().limit_bytes)
            raise InUseError(f"install: a Memory of {held} is installed already")
        share, first = limit, 0
        try:
            if ledger is not None:
                share, first = ledger.join()
        except OSError:  # somebody has it and has been stopped: a limit of its own then
            ledger = None
        try:
            # It may come to have all that the others do not need.
            later = 0 if ledger is None else ledger.budget
            settings = checked(
                share,
                swap=swap,
                backends=backends,
                threshold=threshold,
                page=page,
                overcommit=overcommit,
                later=later,
            )
            space = Space(settings, swap)
        except BaseException:
            if ledger is not None:
                ledger.leave()
            raise
        space.kept = "the process allocates from this Memory (frontswap.install) until it ends"
        heap.begin(space.plane, settings.threshold)
        _installed.append(space)
        if limit == "auto" or ledger is not None:
            follower = Follower(space, auto=limit == "auto", ledger=ledger)
            follower.first = first or follower.first
            follower.arm()
            _followers.append(follower)
    return space
