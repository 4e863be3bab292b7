"""A limit of "auto" follows what is left for the arrays: of the memory cgroups above the process, and of the machine.

Whatever the process, its neighbours in the cgroup and the machine use beside our pages is theirs; a tenth (128 MiB at
least) is kept free for what they will use before we have looked again; the rest is the limit. It shrinks as soon as it
is too large, and grows slowly, when it has been too small for a while and nobody waits for memory.

Each look is a Step: what was read, what was decided, and why. docs/pressure.md is the manual. What must not wait for
the interpreter's lock is core/brake.py's affair, which is told here what to look at.
"""

from __future__ import annotations

import _thread
import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ..core.control import Brake, Source
from ..errors import FrontswapError, ParameterError
from ..machine import PSI, TRIGGER, Group, Machine
from ..sizes import format_size
from .ledger import Ledger
from .settings import MIN_LIMIT
from .space import Space
from .steps import Reading, Step, Why

#: what a limit of "auto" leaves to the rest of the process, at least
SPARE = 128 << 20
#: seconds between two looks, which cost some milliseconds
PERIOD = 1.0
#: and between two glances, at the growth alone: small objects of Python reach 600 MB/s, and have a spare of 128 MiB
GLANCE = 0.1
#: bytes of growth that are worth a look
GROWTH = SPARE // 8
#: seconds without a change before it grows, or before what was refused is tried again
REST = 5.0
#: the part of the time in which somebody waited for memory (PSI "some"), from which on it shrinks further
STALLED = 0.10
#: and up to which it may grow
CALM = 0.01
#: steps that are remembered
REMEMBERED = 256


def spare(memory: int) -> int:
    """What is kept free of so many bytes."""
    return max(memory // 10, SPARE)


def limit_of(group: Group) -> int | None:
    """The lower one of its limits, if it has any."""
    return min((most for most in (group.most, group.high) if most is not None), default=None)


def look(machine: Machine, charged: int, groups: list[Group], at: float = 0.0, stalled: float = 0.0) -> Reading | None:
    """What there is; None if the machine does not say how much memory it has. `charged`: what is charged to the limit.

    A page that was never touched is charged before the arena is registered, but no memory: so ours are never more than
    the process has.
    """
    own = _kilobytes(machine, "/proc/self/status", "RssAnon")
    ours = charged if own is None else min(charged, own)
    outside = 0 if own is None else own - ours
    rooms = []
    available = _kilobytes(machine, "/proc/meminfo", "MemAvailable")
    if available is not None:
        # Pages of ours are not available, but it is for us to say what becomes of them.
        rooms.append((available + ours - spare(available + ours), "the machine"))
    for group in groups:
        most = limit_of(group)
        if most is not None:
            cache = machine.cache(group)
            others = outside if cache is None else max(group.used - cache - ours, outside)
            rooms.append((most - spare(most) - others, group.path))
    if not rooms:
        return None
    allowed, by = min(rooms)
    return Reading(at, ours, outside, allowed, by, stalled)


def sources(machine: Machine, groups: list[Group], ours: int) -> list[Source]:
    """What the brake looks at: the figures of :func:`look`."""
    found = []
    available = _kilobytes(machine, "/proc/meminfo", "MemAvailable")
    if available is not None:
        kept = spare(available + ours)
        found.append(Source(b"", b"", os.fsencode(machine.path("/proc/meminfo")), b"MemAvailable ", 1024, 0, kept))
    for group in groups:
        most = limit_of(group)
        if most is not None:
            names = "".join(f"{name} " for name in group.cached).encode()
            bound, used, numbers = (
                os.fsencode(machine.path(name)) for name in (group.bound, group.usage, group.numbers)
            )
            found.append(Source(bound, used, numbers, names, 1, most, spare(most)))
    return found


def auto_limit(machine: Machine | None = None) -> int:
    """The RAM that arrays of this process may have, in bytes, before there are any.

    The lowest limit of its memory cgroups (memory.max, memory.high, memory.limit_in_bytes) without what is used there,
    page cache apart, or what the machine has available if that is less; without a tenth of it, 128 MiB at least.

    Raises:
        ParameterError: so little is left that it must be said.
    """
    machine = Machine() if machine is None else machine
    found = look(machine, 0, machine.groups())
    if found is None:
        raise ParameterError("limit", "auto", "a size: /proc/meminfo does not say how much memory there is")
    if found.allowed < MIN_LIMIT:
        left = format_size(max(found.allowed, 0))
        raise ParameterError("limit", "auto", f"a size: beside what is in use already {left} would be left for it")
    return found.allowed


def decide(reading: Reading, limit: int, least: int, most: int, rested: float) -> tuple[int, Why]:
    """The limit from now on, and why; `rested`: seconds since the last change.

    It moves only if it is wrong by a 64th downwards, or an eighth upwards: the figures swing a little by themselves.
    """
    room = min(max(reading.allowed, least), most)
    if room < limit - max(limit // 64, 1 << 20):
        return room, "shrink"
    if reading.stalled >= STALLED and rested >= 1.0:
        # There is room by the figures, and others wait for memory all the same. Half of the room is ours in any case:
        # the machine's pressure may be somebody else's affair.
        lower = max(limit - limit // 16, room // 2, least)
        if lower < limit:
            return lower, "stalled"
    elif room > limit + limit // 8 and reading.stalled <= CALM and rested >= REST:
        return min(room, limit + max((room - limit) // 4, limit // 16)), "grow"
    return limit, "steady"


class Follower:
    """Has the limit of a space follow. :meth:`tick` is one look; a thread makes them once it is worth it."""

    def __init__(
        self,
        space: Space,
        machine: Machine | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        auto: bool = True,
        ledger: Ledger | None = None,
    ) -> None:
        """For a space whose limit is what :func:`auto_limit` said (`auto`), or a share of what the ledger has."""
        self.space = space
        self.auto = auto
        self.ledger = ledger
        #: it begins to look when so much is allocated
        self.first = space.settings.limit // 2
        self.machine = Machine() if machine is None else machine
        self.clock = clock
        self.brake = Brake(space.plane)
        self._forget()

    def _forget(self) -> None:
        #: the last steps that changed something or were refused, and the last one of all
        self.space.steps = self.steps = deque[Step](maxlen=REMEMBERED)
        self.last: Step | None = None
        self._changed = self.clock() - REST
        self._refused = self.clock() - REST
        self._waited: tuple[float, int] | None = None  # when, and microseconds of waiting until then
        self._stalled = 0.0
        self._looked = self.clock() - PERIOD
        self._groups: list[Group] = []  # those with a limit
        self._seen: list[int] = []
        self._sources: list[Source] = []  # as the brake was told
        self._calls, self._pulls = self.brake.calls(), self.brake.pulls()  # of the kernel, and of the brake
        self._pulled = self.clock() - REST
        self._limit = self.space.settings.limit  # after the last look
        #: it has all of a size that was told: the ledger alone can bring something new
        self.settled = False
        self._end = threading.Event()
        self._running = False

    # --- one look ------------------------------------------------------------------------------------

    def due(self) -> bool:
        """True if it is time for a look, or worth one.

        Much more is used, by the process or in its groups, or somebody has changed the ledger.
        """
        if self.clock() - self._looked >= PERIOD:
            return True
        if self.ledger is not None and self.ledger.changed:
            return True
        return any(now > then + GROWTH for now, then in zip(self._glance(), self._seen, strict=False))

    def _glance(self) -> list[int]:
        found = [self.machine.used(group) or 0 for group in self._groups]
        return [self.machine.resident(), *found]

    def tick(self) -> Step | None:
        """Look, and change the limit if that is due; None if there is nothing to go by."""
        now = self._looked = self.clock()
        self.settled = False
        settings = self.space.settings
        before = limit = settings.limit
        least = max(MIN_LIMIT, self.space.plane.least_limit())
        why: Why = "steady"
        error = ""
        try:
            whole = before if self.ledger is None else self.ledger.budget
            if self.auto:
                found = self._look(now)
                if found is None:
                    return None
                reading = found
                self._see_brake(reading, before)
                whole, why = decide(reading, whole, least, settings.limit_most, now - self._changed)
            else:
                reading = Reading(now, self.space.plane.charged(), 0, whole, "the run", 0.0)
            limit = whole if self.ledger is None else self._share(self.ledger, whole, least)
            if limit > before:
                limit = min(limit, self.space.limit_most())
                why = "steady" if limit == before else why
            share = limit
        except OSError:  # somebody keeps the ledger: the next time
            return None
        if limit != before and why == "steady":
            why = "share"
        # A share may come back at once, and who has just been short of memory may be so again.
        if limit > before and now - self._pulled < REST:
            limit, why = before, "steady"
        if limit != before and now - self._refused < REST:
            limit, why = before, "steady"
        if limit != before:
            try:
                self.space.resize(limit)
                self._changed = now
            except FrontswapError as refusal:
                limit, why, error = before, "refused", str(refusal)
                self._refused = now
        if self.ledger is not None:
            with suppress(OSError):  # what it has claimed is not less
                self.ledger.claim(limit)
            self.settled = not self.auto and limit == share >= whole
        self._limit = limit
        self.last = Step(reading, before, limit, why, error)
        if why != "steady":
            self.steps.append(self.last)
        return self.last

    def _look(self, now: float) -> Reading | None:
        groups = self.machine.groups()
        self._groups = [group for group in groups if limit_of(group) is not None]
        self._seen = self._glance()
        charged = self.space.plane.charged()
        self._tell_brake(groups, charged)
        found = look(self.machine, charged, groups, now, self._stall(now, groups))
        if found is not None:
            calls = self.brake.calls()
            found = replace(found, called=calls - self._calls)
            self._calls = calls
        if found is None or self.ledger is None:
            return found
        # What the other processes of the run have of the budget is not somebody else's.
        others = self.ledger.used_by_others()
        self.brake.told(others)
        return replace(found, allowed=found.allowed + others)

    def _tell_brake(self, groups: list[Group], ours: int) -> None:
        """What to look at, if that is not what it was told before: it opens all files anew for it."""
        found = sources(self.machine, groups, ours)
        if len(found) == len(self._sources) and all(
            replace(new, spare=old.spare) == old and abs(new.spare - old.spare) <= old.spare // 8
            for new, old in zip(found, self._sources, strict=True)
        ):
            return
        self._sources = found
        path = self.machine.path
        own = [os.fsencode(path(group.pressure)) for group in groups if group.version == 2][:1]
        level = (b"", b"")
        for group in groups:
            if group.version == 1 and limit_of(group) is not None:
                level = os.fsencode(path(group.pressure)), os.fsencode(path(group.control))
                break
        psi = [*own, os.fsencode(path(PSI))]
        self.brake.set(found, psi, TRIGGER, level, MIN_LIMIT, GROWTH)

    def _see_brake(self, reading: Reading, limit: int) -> None:
        """What it has done since the last look is a step, too, and the time in which nothing grows begins anew."""
        pulls = self.brake.pulls()
        if pulls != self._pulls:
            self._pulls = pulls
            self._changed = self._pulled = reading.at
            self.steps.append(Step(reading, self._limit, limit, "brake"))

    def _share(self, ledger: Ledger, whole: int, least: int) -> int:
        wanted = max(min(self.space.plane.wanted(), whole), least)
        limit = self.space.settings.limit
        return ledger.settle(self.space.plane.charged(), wanted, least, limit, whole if self.auto else None)

    def _stall(self, now: float, groups: list[Group]) -> float:
        """The part of the time in which somebody waited for memory, measured over a second and more."""
        found = self.machine.stalls(groups)
        if found is None:
            return 0.0
        average, total = found
        if self._waited is None:
            self._stalled, self._waited = average, (now, total)
        elif now - self._waited[0] >= 1.0:
            before, waited = self._waited
            self._stalled = min((total - waited) / 1e6 / (now - before), 1.0)
            self._waited = (now, total)
        return self._stalled

    # --- the thread ----------------------------------------------------------------------------------

    def arm(self) -> None:
        """Begin to look once half of the limit is allocated, or what the ledger says.

        Before that nothing is lost: what the process uses beside its arrays may grow by as much, and by the spare. And
        a thread is something that others see: Python warns of fork() where there is one.
        """
        if self.auto:
            self._tell_brake(self.machine.groups(), self.space.plane.charged())
            self.brake.begin(self.first)
        self._watch()
        os.register_at_fork(after_in_child=self.in_child)
        atexit.register(self.stop)

    def _start(self, wait: float = 0.0) -> None:
        if not self._running and not self._end.is_set():
            # Not of `threading`, which would show it to the program. It does not keep the program from ending.
            try:
                _thread.start_new_thread(self._run, (wait,))
                self._running = True
            except RuntimeError:  # there are too many: with the next large allocation perhaps
                self._watch()

    def _watch(self) -> None:
        self.space.plane.watch(self.first, self._start)

    def _run(self, wait: float) -> None:
        end = self._end
        end.wait(wait)
        news = False
        while not end.is_set():
            if news or self.due():
                self.tick()
            # So Python does not run beside the program: some programs count the references of small numbers.
            if self.ledger is not None and self.settled:
                self.ledger.wait()
            elif self.auto:
                news = self.brake.wait(GLANCE)
            else:
                end.wait(GLANCE)

    def stop(self) -> None:
        """No more looks from now on; one that is on its way is finished."""
        self.space.plane.watch(0, None)
        self._end.set()
        if self.auto:
            self.brake.wake()
        if self.ledger is not None:
            with suppress(OSError):
                self.ledger.leave()

    def in_child(self) -> None:
        """In a forked child, where the thread is not: it goes on with one of its own."""
        running, stopped = self._running, self._end.is_set()
        self._forget()
        if self.auto and not stopped:
            self.brake.begin(self.first)
        if stopped:
            self._end.set()
        elif running:
            # Not at once: it may be about to become another program, which has no part in this.
            self._start(GLANCE)
        else:
            self._watch()


def _kilobytes(machine: Machine, file: str, name: str) -> int | None:
    """A line "Name: 123 kB" in bytes."""
    number = machine.fields(file).get(name, "").split(" ")[0]
    return int(number) << 10 if number.isdigit() else None
