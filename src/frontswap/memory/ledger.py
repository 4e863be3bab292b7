"""One ``frontswap run`` is one budget: the ledger that all processes of its tree share.

A file of shared memory with a line for each process: what it uses, what it would use, and what it may: its claim. A
process lowers its limit first and its claim then, and raises its claim, into what nobody has claimed, before its limit.
So the claims never exceed the budget, but for the first one of a process that has just begun. Lines are changed under
flock(2), which goes with its owner; a process that has died is found by its number and the time of its start, and its
line with all that it had claimed is anybody's.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..core.watch import word_wait, word_wake
from ..machine import Machine
from .settings import MIN_LIMIT
from .startup import FOLDER, PREFIX

#: lines; who finds none is beside the budget, with the share that it would have
MOST = 1022
_HEADER = struct.Struct("=16sQQ")  # the form, the budget, a number that changes with every change
_BUDGET, _CHANGE = 16, 24  # where they stand
_LINE = struct.Struct("=QQQQQ24x")
_FORM = b"frontswap ledger"
_SIZE = 64 * (MOST + 1)
#: seconds to wait for who has it, who may have been stopped
WAIT = 2.0


@dataclass(frozen=True, slots=True)
class Line:
    """A process of the run. Sizes in bytes."""

    pid: int
    start: int  #: clock ticks since the machine was started: numbers come again
    used: int
    demand: int  #: what it has allocated: more would be of no use to it
    claim: int


def begun(machine: Machine, pid: int) -> int:
    """When a process was started, in clock ticks; 0 if it has ended."""
    # The name of the program stands in brackets, and may be anything.
    fields = machine.text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else 0


def shares(budget: int, demands: list[int]) -> list[int]:
    """Max-min fairness: who wants less than its share lends the rest to the others; what nobody wants is divided."""
    found = [0] * len(demands)
    left = budget
    order = sorted(range(len(demands)), key=demands.__getitem__)
    for done, at in enumerate(order):
        found[at] = min(demands[at], left // (len(demands) - done))
        left -= found[at]
    return [share + left // len(demands) for share in found]


class Ledger:
    """A process' view of it."""

    def __init__(self, path: str, budget: int, machine: Machine | None = None, *, make: bool = True) -> None:
        """Open it; it is made with a `budget` in bytes if it is not there (and `make`). OSError: it can be neither."""
        self.path = path
        self.machine = Machine() if machine is None else machine
        self._make = make
        self._budget = budget
        self._map: mmap.mmap | None = None
        self._inode = 0
        self._seen = -1  # the number up to which settle() has gone by all that there was
        with self._held():
            pass

    @staticmethod
    def sweep() -> None:
        """Remove what is left of runs that were killed."""
        for path in FOLDER.glob(f"{PREFIX}*"):
            try:
                if path.stat().st_uid == os.geteuid():
                    # Never made here: its run, which is about to begin, would find one that has no budget.
                    Ledger(str(path), 0, make=False).remove_if_empty()
            except OSError:  # somebody else has been faster
                continue

    # --- reading and writing -------------------------------------------------------------------------

    @contextmanager
    def _held(self) -> Iterator[mmap.mmap]:
        """Nobody else changes it meanwhile. It is opened anew each time: a program may close our descriptors."""
        until = time.monotonic() + WAIT
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if self._make else 0)
        while True:
            fd = os.open(self.path, flags, 0o600)
            try:
                while True:
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() > until:
                            raise
                        time.sleep(0.001)
                found = os.fstat(fd)
                if found.st_nlink == 0:  # its last process has removed it meanwhile
                    continue
                if found.st_size < _SIZE:
                    os.posix_fallocate(fd, 0, _SIZE)  # a page that is not there would be SIGBUS
                if self._map is None or self._inode != found.st_ino:
                    self._budget = self.budget  # somebody has removed it under us: the new one has the same
                    self._map = mmap.mmap(fd, _SIZE)
                    self._inode = found.st_ino
                if self._make and self._map[:16] != _FORM:
                    _HEADER.pack_into(self._map, 0, _FORM, self._budget, 0)
                yield self._map
                return
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)  # the mapping keeps a descriptor of its own
                os.close(fd)

    def _lines(self, at: mmap.mmap) -> dict[int, Line]:
        """Those of processes that live, by their place."""
        found = {}
        for place, (pid, start, used, demand, claim) in enumerate(_LINE.iter_unpack(at[64:_SIZE]), 1):
            if pid == 0:
                continue
            if begun(self.machine, pid) == start:
                found[place] = Line(pid, start, used, demand, claim)
            else:
                self._write(at, place, None)
        return found

    def _write(self, at: mmap.mmap, place: int, line: Line | None) -> None:
        words = (0, 0, 0, 0, 0) if line is None else (line.pid, line.start, line.used, line.demand, line.claim)
        _LINE.pack_into(at, 64 * place, *words)
        self._head(at)

    def _head(self, at: mmap.mmap, budget: int | None = None) -> None:
        """Something has changed, the budget perhaps."""
        # One store each, which pack_into() is not: it fills with zeros first, and these are read without the lock.
        words = memoryview(at).cast("Q")
        if budget is not None:
            words[_BUDGET // 8] = budget
        words[_CHANGE // 8] += 1
        word_wake(at, _CHANGE)

    @property
    def _change(self) -> int:
        return 0 if self._map is None else int(_HEADER.unpack_from(self._map)[2])

    @property
    def changed(self) -> bool:
        """True if somebody else has changed something that the last :meth:`settle` knew nothing of."""
        return self._change != self._seen

    def wait(self) -> None:
        """Until it has changed or is not there any more, or perhaps earlier. No Python runs meanwhile."""
        if self._map is not None:
            # The lower half of the number, on the machines that there are.
            word_wait(self._map, _CHANGE, self._seen & 0xFFFFFFFF, os.fsencode(self.path), self._inode)

    @property
    def budget(self) -> int:
        """Of all processes together."""
        return self._budget if self._map is None else int(_HEADER.unpack_from(self._map)[1])

    def lines(self) -> list[Line]:
        """All processes that live."""
        with self._held() as at:
            return list(self._lines(at).values())

    # --- what a process does -------------------------------------------------------------------------

    def _own(self, lines: dict[int, Line], claim: int) -> int:
        """The place of the process itself, with a line that has this claim if it had none; 0: there is no place."""
        for place, line in lines.items():
            if line.pid == os.getpid():
                return place
        place = next((place for place in range(1, MOST + 1) if place not in lines), 0)
        if place:
            lines[place] = Line(os.getpid(), begun(self.machine, os.getpid()), 0, claim, claim)
        return place

    def join(self) -> tuple[int, int]:
        """A process begins: (its limit, what it may use of that before it has to :meth:`settle`).

        Its claim holds at once, also when nothing is left: the others make room. One that has a line (it was another
        program before, or a forked child) keeps it.
        """
        with self._held() as at:
            lines = self._lines(at)
            others = sum(line.pid != os.getpid() for line in lines.values())
            share = max(self.budget // (others + 1), MIN_LIMIT)
            first = max(min(self.budget // 8, share), MIN_LIMIT)
            place = self._own(lines, first)
            if place:
                self._write(at, place, replace(lines[place], used=0, demand=first, claim=first))
        return share, first

    def settle(self, used: int, demand: int, least: int, limit: int, budget: int | None = None) -> int:
        """What the process may have now. A higher limit is claimed from now on, a lower one not before claim().

        A forked child has no line until then, and claims the `limit` that it has.
        """
        with self._held() as at:
            if budget is not None and budget != self.budget:
                self._head(at, budget)
            lines = self._lines(at)
            place = self._own(lines, limit)
            if place == 0:
                self._seen = self._change
                return max(self.budget // (len(lines) + 1), least)
            before = lines[place]
            others = [line for other, line in lines.items() if other != place]
            share = shares(self.budget, [demand, *(line.demand for line in others)])[0]
            if share > before.claim:
                free = self.budget - sum(line.claim for line in others)
                share = max(min(share, free), before.claim)
            share = max(share, least)
            # Small changes are nobody's concern: each one wakes all the others, if there are any.
            if others and abs(share - before.claim) < before.claim // 32 and share >= before.claim - before.claim // 64:
                share = max(before.claim, least)
            line = replace(before, used=used, demand=demand, claim=max(share, before.claim))
            pid = _LINE.unpack_from(at, 64 * place)[0]
            if pid == 0 or line.claim != before.claim or abs(demand - before.demand) > self.budget // 64:
                self._write(at, place, line)
            else:
                _LINE.pack_into(at, 64 * place, line.pid, line.start, used, before.demand, line.claim)
            self._seen = self._change
        return share

    def claim(self, limit: int) -> None:
        """The process has this limit from now on."""
        with self._held() as at:
            for place, line in self._lines(at).items():
                if line.pid == os.getpid() and line.claim != limit:
                    # What others have changed since settle() remains to be seen.
                    seen = not self.changed
                    self._write(at, place, replace(line, claim=limit))
                    if seen:
                        self._seen = self._change

    def used_by_others(self) -> int:
        """Bytes that the other processes use."""
        return sum(line.used for line in self.lines() if line.pid != os.getpid())

    def leave(self) -> None:
        """The process ends. The last one removes it."""
        with self._held() as at:
            for place, line in self._lines(at).items():
                if line.pid == os.getpid():
                    self._write(at, place, None)
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove it if no process is left."""
        with self._held() as at:
            if not self._lines(at):
                try:
                    os.unlink(self.path)
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise
