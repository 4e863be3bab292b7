"""What the demonstration measures of itself: the pager's counters and the kernel's view, over time and per phase."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .. import Memory

INTERVAL = 0.1  # seconds between samples
PAGE = 64 << 10  # of all arrays here, so that counts of pages are bytes
PROC = Path("/proc/self")


@dataclass(frozen=True)
class Sample:
    """One look at the pager's counters and at the process."""

    seconds: float
    allocated: int
    resident: int
    pool: int
    stored: int
    swapped: int
    faults: int
    refaults: int
    moved: int  # bytes that left RAM through frontswap, and that came back
    rss: int

    @property
    def in_ram(self) -> int:
        """What the limit is for."""
        return self.resident + self.pool


@dataclass
class Phase:
    """One step of the job: `end` stands still when it is over."""

    name: str
    begin: Sample
    end: Sample
    done: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end.seconds - self.begin.seconds


def status_bytes(field: str, proc: Path = PROC) -> int:
    """Read a size from /proc/self/status, `VmRSS` or `VmHWM`."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", (proc / "status").read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"{proc}/status has no line {field}")
    return int(match[1]) * 1024


@dataclass(frozen=True)
class Rss:
    """What the process had in RAM, all of it: interpreter, libraries, limit."""

    before: int
    peak: int
    source: str


class PeakRss:
    """Finds the highest resident set size from now on, as the kernel saw it where it says so."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._before = status_bytes("VmRSS", proc)
        try:
            (proc / "clear_refs").write_text("5")
            self._older = 0
        except OSError:
            self._older = status_bytes("VmHWM", proc)

    def read(self, sampled: int) -> Rss:
        """Give the peak and where it is from; `sampled` is the highest of our own samples.

        Where the mark cannot be reset (clear_refs needs a kernel with CONFIG_PROC_PAGE_MONITOR) and an older peak
        is higher than all since, only our samples know.
        """
        mark = status_bytes("VmHWM", self._proc)
        if mark > self._older:
            return Rss(self._before, mark, "the kernel's VmHWM")
        return Rss(self._before, sampled, f"sampled every {INTERVAL} s")


class Meter:
    """Takes samples in a thread of its own; phases are marked by the thread that works.

    The samples are a list that only grows, by whole entries: readers need no lock.
    """

    def __init__(self, memory: Memory) -> None:
        self.limit = memory.statistics().limit_bytes
        self.phases: list[Phase] = []
        self.samples: list[Sample] = []
        self._memory = memory
        self._started = time.perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="frontswap-demo-meter", daemon=True)
        self.sample()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.sample()

    def sample(self) -> Sample:
        """Look once."""
        s = self._memory.statistics()
        sample = Sample(
            seconds=time.perf_counter() - self._started,
            allocated=s.allocated_bytes,
            resident=s.resident_bytes,
            pool=s.pool_bytes,
            stored=s.stored_bytes,
            swapped=s.swapped_bytes,
            faults=s.faults,
            refaults=s.refaults,
            moved=(s.evicted_dirty + s.loads + s.slot_loads) * PAGE,
            rss=status_bytes("VmRSS"),
        )
        self.samples.append(sample)
        return sample

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Mark what is done inside as one phase."""
        begin = self.sample()
        phase = Phase(name, begin, begin)
        self.phases.append(phase)
        yield
        phase.end = self.sample()
        phase.done = True

    def most_allocated(self) -> int:
        """Give the highest sample of what was allocated."""
        return max(sample.allocated for sample in self.samples)
