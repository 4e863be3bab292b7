"""The brake (core/brake.py) as the control plane sees it. Sizes in bytes, names of files as bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import cython
from cython.cimports.frontswap.core.brake import (
    CALLED_BY_LEVEL,
    CALLED_BY_PSI,
    UNKNOWN,
    brake_set,
    brake_turn,
    cut_of,
    level_of,
)
from cython.cimports.frontswap.core.hooks import Hooks
from cython.cimports.frontswap.core.layout import C_BRAKES, MAX_SOURCES, SOURCE_NAME, brake_p, pager_p, source_p
from cython.cimports.frontswap.core.uapi import (
    block_signals,
    int64_t,
    load64,
    loadi,
    restore_signals,
    sigset_t,
    sleep_on,
    store64,
    wake,
)
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy


@dataclass(frozen=True)
class Source:
    """What may run short: a memory cgroup, or the machine. Free is `most`, less what is used, and what `free` says."""

    bound: bytes  #: a file with a limit, which holds if it is less than `most` by then; b"": there is none
    used: bytes  #: a file with the number of bytes that are used; b"": there is none
    free: bytes  #: a file of lines "name number"
    names: bytes  #: those of them that count, each with a blank behind it
    unit: int  #: bytes that these numbers count
    most: int
    spare: int  #: what is to be left


def name_into(to, name, most):
    """Copy a name with its 0; False: it is too long, and there is none."""
    n: cython.Py_ssize_t = len(name)
    found: cython.p_const_char = name
    to[0] = 0
    if n >= most:
        return False
    memcpy(to, found, n + 1)
    return True


def decision(left: int, spare: int) -> tuple[int, int]:
    """What the brake does when so much is free and `spare` should be: (bytes off the limit, level of pressure)."""
    return cut_of(left, spare), level_of(left, spare)


class Brake:
    """The brake of a plane: told what to look at here, it works by itself."""

    def __cinit__(self, plane: Hooks):
        self.plane = plane

    def pager(self):
        return self.plane.pager()

    def set(
        self,
        sources: Sequence[Source],
        psi: Sequence[bytes],
        trigger: bytes,
        level: tuple[bytes, bytes],
        least: int,
        growth: int,
    ) -> None:
        """What to look at from now on; a thread that is there does so at its next look.

        What has too long a name, or is one too many, is left to Python.

        Args:
            sources: what may run short.
            psi: files of pressure stall information; the first of two that takes the trigger is listened to.
            trigger: what to write there.
            level: cgroup v1's memory.pressure_level and cgroup.event_control, or empty names.
            least: of a limit.
            growth: what others have taken is news from so many bytes on.
        """
        pg: pager_p = self.pager()
        s: source_p
        signals: sigset_t
        wanted: brake_p = cython.cast(brake_p, calloc(1, cython.sizeof(pg.brake)))
        if wanted == cython.NULL:
            raise MemoryError("frontswap: no memory for the brake")
        try:
            for one in sources:
                if wanted.wanted_count == MAX_SOURCES:
                    break
                s = cython.address(wanted.wanted[wanted.wanted_count])
                s.unit = one.unit
                s.most = one.most
                s.spare = one.spare
                if (
                    name_into(s.bound, one.bound, SOURCE_NAME)
                    and name_into(s.used, one.used, SOURCE_NAME)
                    and name_into(s.free, one.free, SOURCE_NAME)
                    and name_into(s.names, one.names, 128)
                ):
                    wanted.wanted_count += 1
            if len(psi) > 0:
                name_into(wanted.psi[0], psi[0], SOURCE_NAME)
            if len(psi) > 1:
                name_into(wanted.psi[1], psi[1], SOURCE_NAME)
            name_into(wanted.trigger, trigger, 64)
            if not name_into(wanted.control_file, level[1], SOURCE_NAME):
                level = (b"", b"")
            name_into(wanted.level_file, level[0], SOURCE_NAME)
            wanted.least = least
            wanted.growth = growth
            with cython.nogil:
                # A handler that faults would wait at a gate that a fork has closed, and the fork for us.
                block_signals(cython.address(signals))
                brake_set(pg, wanted)
                restore_signals(cython.address(signals))
        finally:
            free(wanted)

    def begin(self, allocated: int) -> None:
        """Have the thread begin once so many bytes are allocated; 0: it does not any more."""
        store64(cython.address(self.pager().brake.begin), allocated)

    def told(self, others: int) -> None:
        """What other processes of the run use: this one takes its part off its limit, and they take theirs."""
        store64(cython.address(self.pager().brake.others), others)

    def wait(self, seconds: float) -> bool:
        """Sleep until there is news, or so long; True if there is. No Python runs meanwhile."""
        pg: pager_p = self.pager()
        nanoseconds: int64_t = cython.cast(int64_t, seconds * 1e9)
        with cython.nogil:
            sleep_on(cython.address(pg.brake.news), nanoseconds)
        found: int64_t = load64(cython.address(pg.brake.notes))
        new: cython.bint = found != self.heard
        self.heard = found
        return new

    def wake(self) -> None:
        """End wait()."""
        wake(cython.address(self.pager().brake.news))

    def turn(self) -> None:
        """One look of the thread's, where it does not run: for tests."""
        pg: pager_p = self.pager()
        signals: sigset_t
        with cython.nogil:
            block_signals(cython.address(signals))
            brake_turn(pg)
            restore_signals(cython.address(signals))

    def calls(self) -> int:
        """How often the kernel has called."""
        return load64(cython.address(self.pager().brake.calls))

    def pulls(self) -> int:
        """How often it has lowered the limit."""
        return load64(cython.address(self.pager().counters[C_BRAKES]))

    def called_by(self) -> tuple[str, ...]:
        """Who wakes it, of "psi" and "pressure_level"; nobody before its thread runs, and where the kernel does not."""
        by: cython.int = self.pager().brake.called_by
        names = (("psi", by & CALLED_BY_PSI), ("pressure_level", by & CALLED_BY_LEVEL))
        return tuple(name for name, flag in names if flag)

    def running(self) -> bool:
        """True if its thread is there."""
        return loadi(cython.address(self.pager().brake.running)) != 0

    def free(self) -> list[int | None]:
        """What its last look has found free of each source; None: it does not say."""
        b: brake_p = cython.address(self.pager().brake)
        return [None if b.free[i] == UNKNOWN else b.free[i] for i in range(b.count)]
