"""One measured process: `python -m bench.child JOB RESULT_FD`, started by run.py.

Everything that is no part of the work is done before it joins its memory cgroup (imports, the mapped source, the
table of places to touch), so the group holds the array and whatever keeps it, and nothing else. Every byte is
checked, outside of what is timed."""

import ctypes
import dataclasses
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import open_source
from bench.keepers import Keeper, Packing, keeper
from bench.native import Loops, Words, words

SCANS = 3
PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Job:
    """What run.py wants done."""

    keeper: str
    settings: dict[str, Any]
    steps: tuple[str, ...]
    dtype: str
    size: int
    checksum: int
    flip: int
    touches: int
    touch_seconds: int
    seed: int
    library: str
    source_fd: int
    procs: str


class WrongBytes(Exception):
    """What was read back is not what was stored."""


class Work:
    """The steps, by name; each returns what it measured."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.loops = Loops(Path(job.library))
        self.source: Words = open_source(job.source_fd, job.size)
        rng = np.random.default_rng(job.seed)
        # a random word of a random page; other pages for writes, or reads would have brought them in
        self.places: dict[str, Words] = {
            step: rng.integers(0, job.size // 8, job.touches, dtype=np.uint64) for step in ("random", "random-write")
        }
        self.nanoseconds: Words = np.ones(job.touches, np.uint64)
        self.flipped = 0  # what differs from the source in each word
        self.array: NDArray[Any]
        self.data: Words

    def make(self, holder: Keeper) -> None:
        self.holder = holder
        self.array = holder.make(self.job.size // np.dtype(self.job.dtype).itemsize, self.job.dtype)
        self.data = words(self.array)

    def drop(self) -> None:
        """Let go of the array."""
        del self.data, self.array

    def fill(self) -> dict[str, float]:
        return self._timed(lambda: self.loops.fill(self.data, self.source))

    def scan(self) -> dict[str, float]:
        def scans() -> None:
            for _ in range(SCANS):
                self._expect(self.loops.scan(self.data) == self.job.checksum, "a scan's checksum")

        return self._timed(scans, passes=SCANS)

    def rmw(self) -> dict[str, float]:
        measured = self._timed(lambda: self.loops.rmw(self.data, self.job.flip))
        self.flipped ^= self.job.flip
        return measured

    def random(self) -> dict[str, float]:
        self.holder.before_random()
        measured, done, total = self._touch("random", flip=0)
        picked = self.source[self.places["random"][:done]] ^ np.uint64(self.flipped)
        self._expect(total == int(picked.sum(dtype=np.uint64)), "the sum of the random touches")
        return measured

    def random_write(self) -> dict[str, float]:
        self.holder.before_random()
        measured, done, _ = self._touch("random-write", flip=self.job.flip)
        # the same again takes the changes back, and everything can be compared in the end
        self.loops.touch(self.data, self.places["random-write"][:done], self.nanoseconds, flip=self.job.flip)
        return measured

    def sort(self) -> dict[str, float]:
        before = self.loops.mix(self.source)
        measured = self._timed(self.array.sort)
        at = self.loops.unsorted(self.array if self.job.dtype == "f8" else self.data)
        self._expect(at < 0, f"the order at element {at}")
        self._expect(self.loops.mix(self.data) == before, "the sum of the sorted array")
        return measured

    def memory(self) -> dict[str, float]:
        """Everything out, and what keeps it."""
        assert isinstance(self.holder, Packing)
        return self.holder.push_out()

    def compare(self) -> None:
        """Every byte, after everything."""
        at = self.loops.differ(self.data, self.source, flip=self.flipped)
        self._expect(at < 0, f"the word at byte {at * 8}")

    def overhead(self) -> dict[str, float]:
        """The same touches where no page is ever missing: what the measuring itself costs."""
        resident: Words = np.ones((4 << 20) // 8, np.uint64)
        places = self.places["random"] % np.uint64(resident.size)
        done, _ = self.loops.touch(resident, places, self.nanoseconds)
        return spread(self.nanoseconds[:done])

    def _touch(self, step: str, *, flip: int) -> tuple[dict[str, float], int, int]:
        begun = _cpu_seconds()
        done, total = self.loops.touch(
            self.data, self.places[step], self.nanoseconds, self.job.touch_seconds, flip=flip
        )
        cpu = _cpu_seconds() - begun
        return {**spread(self.nanoseconds[:done]), "touches": done, "cpu_seconds": cpu}, done, total

    def _timed(self, work: Callable[[], object], passes: int = 1) -> dict[str, float]:
        begun, cpu = time.perf_counter(), _cpu_seconds()
        work()
        seconds, cpu = time.perf_counter() - begun, _cpu_seconds() - cpu
        return {"seconds": seconds, "gb_per_s": passes * self.job.size / seconds / 1e9, "cpu_seconds": cpu}

    def _expect(self, right: bool, what: str) -> None:
        if not right:
            raise WrongBytes(f"{what} is wrong")


def warm_up(size: int) -> None:
    """Touch memory and give it back, so that the host backs what is measured: what a guest leaves free for a
    moment a host may take away (free page reporting), and the first touch then costs 10 us a page."""
    memory = np.empty(size, np.uint8)
    memory[::4096] = 1


def spread(nanoseconds: Words) -> dict[str, float]:
    """Mean and percentiles, in microseconds."""
    p50, p99 = np.percentile(nanoseconds, (50, 99))
    return {"mean_us": float(nanoseconds.mean()) / 1e3, "p50_us": float(p50) / 1e3, "p99_us": float(p99) / 1e3}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)  # all threads
    return used.ru_utime + used.ru_stime


def perform(job: Job) -> dict[str, Any]:
    """Do the job; the result is what run.py puts into the record."""
    work = Work(job)
    result: dict[str, Any] = {"overhead": work.overhead(), "steps": {}, "samples": {}}
    holder = keeper(job.keeper, **job.settings)
    warm_up(job.size)
    Path(job.procs).write_text(str(os.getpid()))
    work.make(holder)
    for name in job.steps:
        step: Callable[[], dict[str, float]] = getattr(work, name.replace("-", "_"))
        result["steps"][name] = step()
        result["samples"][name] = holder.sample()
    if "sort" not in job.steps:
        work.compare()
    work.drop()
    holder.close()
    return result


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the bench
    encoded = json.loads(sys.argv[1])
    job = Job(**{**encoded, "steps": tuple(encoded["steps"])})
    try:
        result = perform(job)
    except WrongBytes as wrong:
        result = {"wrong": str(wrong)}
    with os.fdopen(int(sys.argv[2]), "w") as out:
        json.dump(result, out)


if __name__ == "__main__":
    main()
