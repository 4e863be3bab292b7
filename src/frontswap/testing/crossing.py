"""Memories that begin below their limit and cross it while threads read and write: every byte is checked.

``python -m frontswap.testing.crossing`` does so until its time is over. Each round is a Memory of its own, drawn from a
seed: arrays of several page sizes in which parts are written, parts only read and parts never touched; some are freed
again before anything is registered; then an allocation, an advice or a pin has the arena registered, and pages leave.
Exit status 1 after any wrong byte.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

import frontswap

from . import hammer

MiB = 1 << 20
LIMITS = (16 * MiB, 24 * MiB, 64 * MiB, 288 * MiB)  # huge pages leave in one piece from 256 MiB on
PAGES = (4096, 16384, 65536, 262144, 2 * MiB)


@dataclass
class Visited:
    """An array, and which of its granules have been written."""

    array: npt.NDArray[np.uint64]
    salt: int
    known: npt.NDArray[np.uint8] = field(init=False)
    stop: ctypes.c_int32 = field(default_factory=lambda: ctypes.c_int32(0))
    threads: list[threading.Thread] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = np.zeros(len(self.array) // 512, "u1")

    def start(self, threads: int, seed: int) -> None:
        """Let threads visit it."""
        for thread in range(threads):
            self.threads.append(threading.Thread(target=self._visit, args=(thread, threads, seed + thread)))
            self.threads[-1].start()

    def _visit(self, thread: int, threads: int, seed: int) -> None:
        found = hammer.visit(
            self.array.ctypes.data,
            len(self.known),
            self.known.ctypes.data,
            thread,
            threads,
            self.salt,
            seed,
            ctypes.addressof(self.stop),
        )
        if found["granule"] >= 0:
            self.problems.append(f"WRONG BYTES in granule {found['granule']} of {len(self.known)}, thread {thread}")

    def end(self) -> list[str]:
        """Stop the threads and look at everything; what is wrong."""
        self.stop.value = 1
        while self.threads:
            self.threads.pop().join()
        self.stop.value = 0
        bad = hammer.check_visited(self.array.ctypes.data, len(self.known), self.known.ctypes.data, self.salt)
        if bad >= 0:
            self.problems.append(f"WRONG BYTES at the end in granule {bad} of {len(self.known)}")
        return self.problems


def play(seed: int, limit: int | None = None, threads: int = 4) -> tuple[list[str], frontswap.Statistics]:
    """One round: what was wrong, and the statistics at its end."""
    rng = random.Random(seed)
    limit = limit or rng.choice(LIMITS)
    problems: list[str] = []
    swap = "auto" if rng.random() < 0.8 else None
    memory = frontswap.Memory(limit, swap=swap, allocate=None if swap else limit * 4)
    left = limit // 2  # with pages of any size
    pages = [page for page in PAGES if page <= limit // 128]

    def new(size: int) -> Visited:
        page = rng.choice([None, *pages])
        return Visited(memory.empty(size // 8, "u8", page=page), rng.getrandbits(40))

    arrays = []
    for _ in range(rng.randrange(2, 6)):
        size = rng.randrange(1, max(2, left // 2 // 4096)) * 4096
        if size + 2 * MiB > left:
            break
        left -= size + 2 * MiB  # whole pages
        arrays.append(new(size))
    for array in arrays:
        array.start(threads if array is arrays[0] else 1, rng.getrandbits(40))
    time.sleep(rng.random() / 20)
    if len(arrays) > 2 and rng.random() < 0.5:  # freed before anything is registered: the next one reads zeros there
        problems += arrays.pop().end()
    if rng.random() < 0.3:
        problems += arrays[-1].end()
        memory.advise(arrays[-1].array, "dontneed")
        arrays[-1].known[:] = 0
        arrays[-1].start(1, rng.getrandbits(40))
    if memory.statistics().registered:
        problems.append("registered below the limit")
    how = rng.randrange(4)
    part = arrays[-1].array[: rng.randrange(1, len(arrays[-1].array) + 1)]
    if how == 0:
        memory.advise(part, "cold")
    elif how == 1:
        with memory.pin(part[: limit // 32]):
            arrays.append(new(limit))
            arrays[-1].start(1, rng.getrandbits(40))
            time.sleep(rng.random() / 50)
    else:
        arrays.append(new(limit))
        arrays[-1].start(1, rng.getrandbits(40))
    del part
    if not memory.statistics().registered:
        problems.append("not registered above the limit")
    for _ in range(rng.randrange(1, 6)):
        array = rng.choice(arrays)
        low = rng.randrange(len(array.array))
        memory.advise(array.array[low:], "cold" if rng.random() < 0.7 else "willneed")
        time.sleep(rng.random() / 50)
        if rng.random() < 0.4:
            arrays.append(new(rng.randrange(1, limit // 8192) * 4096))
            arrays[-1].start(1, rng.getrandbits(40))
        if rng.random() < 0.3 and len(arrays) > 1:
            problems += arrays.pop(rng.randrange(len(arrays))).end()
    for array in arrays:
        problems += array.end()
    found = memory.statistics()
    arrays.clear()
    del array
    after = memory.statistics()
    if after.allocated_bytes or after.resident_bytes or after.pool_live_bytes or after.swapped_bytes:
        problems.append(f"not everything was given back: {after}")
    memory.close()
    if found.poisoned or found.used_bytes + found.reserve_bytes > limit + found.reserve_bytes // 2:
        problems.append(f"poisoned {found.poisoned}, used {found.used_bytes} of {limit}")
    return problems, found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m frontswap.testing.crossing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; each is one more")
    options = parser.parse_args()
    seed = first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 20)
    end = time.monotonic() + options.seconds
    evicted = huge = 0
    while time.monotonic() < end:
        problems, found = play(seed)
        evicted += found.evicted_dirty
        huge += found.evicted_huge
        if problems:
            print(f"seed {seed}: " + "\n  ".join(problems))
            return 1
        seed += 1
    print(f"{seed - first} rounds from seed {first}: {evicted:,} pages left, {huge:,} huge pages in one piece")
    return 0


if __name__ == "__main__":
    sys.exit(main())
