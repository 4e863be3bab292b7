"""The large allocations of a whole process come from one space: ``frontswap.install()`` and ``frontswap run``."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ..backends.stack import Spec
from ..core import heap
from ..errors import InUseError, ParameterError
from ..machine import Machine
from ..sizes import format_size, parse_size
from .settings import MIN_LIMIT, Settings
from .space import Space

if TYPE_CHECKING:
    from .memory import Memory

#: what a limit of "auto" leaves to the rest of the process, at least
SPARE = 128 << 20
#: addresses for allocations
ARENA = "1T"
_lock = threading.Lock()
_installed: list[Space] = []  # none, or one
_faces: dict[str, Memory] = {}  # as above


def install(
    limit: int | str = "auto",
    *,
    swap: str | os.PathLike[str] = "auto",
    backends: Spec = "zcache",
    threshold: int | str = "1M",
    overcommit: bool = False,
) -> Memory:
    """From now on every large allocation of this process comes from one Memory, whoever makes it, in all threads.

    That is what malloc and its family are asked for from ``threshold`` on: arrays of NumPy, pandas and torch, Python's
    own bytes and lists. What exists already stays where it is. It lasts until the process ends; forked children have
    it too.

    Args:
        limit: bytes of RAM for them, resident and compressed together; "auto": see :func:`auto_limit`.
        swap: directory or new file for the swap file, as for :class:`Memory`.
        backends: stacks in front of it, as for :class:`Memory`.
        threshold: requests of so many bytes and more, at least 4 KiB.
        overcommit: do not reserve disk space for what is allocated, as for :class:`Memory`.

    Raises:
        InUseError: it has been called before.
        ParameterError, SwapDirectoryError, KernelSupportError: as for :class:`Memory`.
    """
    install_space(limit, swap=swap, backends=backends, threshold=threshold, overcommit=overcommit)
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
    limit: int | str, *, swap: object, backends: Spec, threshold: int | str, overcommit: bool = False
) -> Settings:
    """The settings of a space for a whole process; ParameterError names the first one that is not allowed."""
    if parse_size(threshold, "threshold") < 4096:
        raise ParameterError("threshold", threshold, "at least 4 KiB")
    return Settings.check(
        limit=auto_limit() if limit == "auto" else limit,
        page="auto",
        backends=backends,
        allocate=None,
        arena=ARENA,
        threshold=threshold,
        swap=swap,
        overcommit=overcommit,
    )


def install_space(
    limit: int | str,
    *,
    swap: str | os.PathLike[str],
    backends: Spec,
    threshold: int | str,
    overcommit: bool = False,
) -> Space:
    """:func:`install` without NumPy."""
    with _lock:
        if _installed:
            held = format_size(_installed[0].statistics().limit_bytes)
            raise InUseError(f"install: a Memory of {held} is installed already")
        settings = checked(limit, swap=swap, backends=backends, threshold=threshold, overcommit=overcommit)
        space = Space(settings, swap)
        space.kept = "the process allocates from this Memory (frontswap.install) until it ends"
        heap.begin(space.plane, settings.threshold)
        _installed.append(space)
    return space


def auto_limit(machine: Machine | None = None) -> int:
    """The RAM that arrays of this process may have, in bytes.

    The lowest limit of its memory cgroups (memory.max, memory.high, memory.limit_in_bytes), or what the machine has
    available if that is less; without what the process uses now, and without a tenth of it, 128 MiB at least, for what
    it will use beside its arrays.

    Raises:
        ParameterError: so little is left that it must be said.
    """
    machine = Machine() if machine is None else machine
    rooms = []
    available = _kilobytes(machine, "/proc/meminfo", "MemAvailable")
    if available is not None:
        rooms.append((available, 0))
    own = _kilobytes(machine, "/proc/self/status", "RssAnon") or 0
    limits = [most for group in machine.groups() for most in (group.most, group.high) if most is not None]
    if limits:
        rooms.append((min(limits), own))
    if not rooms:
        raise ParameterError("limit", "auto", "a size: /proc/meminfo does not say how much memory there is")
    limit = min(most - used - max(most // 10, SPARE) for most, used in rooms)
    if limit < MIN_LIMIT:
        raise ParameterError(
            "limit", "auto", f"a size: beside what this process uses {format_size(max(limit, 0))} would be left for it"
        )
    return limit


def _kilobytes(machine: Machine, file: str, name: str) -> int | None:
    """A line "Name: 123 kB" in bytes."""
    number = machine.fields(file).get(name, "").split(" ")[0]
    return int(number) << 10 if number.isdigit() else None
