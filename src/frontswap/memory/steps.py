"""What a limit that follows goes by, and what becomes of it: docs/pressure.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Why = Literal["steady", "shrink", "stalled", "grow", "share", "refused", "brake"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What there is at a moment. Sizes in bytes."""

    at: float  #: seconds, by the clock of who looks
    ours: int  #: pages and records of the arrays, the reserve with them
    outside: int  #: what the process uses beside them (RssAnon)
    allowed: int  #: what the arrays may have; may be less than nothing
    by: str  #: who allows no more: a path of a cgroup, "the machine", or "the run" if it has been told a size
    stalled: float  #: part of the last second in which somebody waited for memory, 0 to 1
    called: int = 0  #: how often the kernel has called since the last look: a PSI trigger, a cgroup's pressure level


@dataclass(frozen=True, slots=True)
class Step:
    """A look, and what came of it."""

    reading: Reading
    before: int
    limit: int  #: from now on
    why: Why
    error: str = ""  #: what was in the way of a limit that is "refused"
