"""The soak's forks: children and grandchildren of a process whose threads go on writing; each accounts for its bytes.

A fork takes no single moment of memory that other threads write: the child must find every counter at what it was known
to be before the fork, or above, and not above what it was known to be after. The parent writes both down in memory that
both share. Of its own copy a child knows every word from then on.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import random
import signal
import threading
import time
import traceback
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import frontswap

from . import hammer

Counters = npt.NDArray[np.uint64]

ALIVE = 3  #: children at a time
WORDS = hammer.GRANULE // 8


@dataclass(frozen=True)
class Copy:
    """A process' copy of the array that the hammers share."""

    memory: frontswap.Memory
    array: Counters
    salt: int
    hammers: int

    def counters(self, granules: int) -> Counters:
        """The counters of the first granules, one row for each hammer."""
        words = self.array[: granules * WORDS].reshape(granules, WORDS)
        return words[:, : self.hammers * 8 : 8].T.copy()

    def check_between(self, least: Counters, most: Counters) -> None:
        """AssertionError if a counter is out of its bounds: but a hammer may have the last step of one before it."""
        found = self.counters(least.shape[1])
        early = found == least - 1
        wrong = np.argwhere((found > most) | ((found < least) & (~early | (early.sum(axis=1) > 1)[:, None])))
        if len(wrong):
            row, at = map(int, wrong[0])
            raise AssertionError(
                f"{len(wrong)} counters are wrong; that of hammer {row} in granule {at} is {found[row, at]}, "
                f"not {least[row, at]} to {most[row, at]}"
            )

    def check_patterns(self, granules: int) -> None:
        """AssertionError if a word that nobody writes is wrong."""
        bad = hammer.check(self.array.ctypes.data, granules, self.salt)
        if bad >= 0:
            raise AssertionError(f"the pattern of granule {bad} is wrong")

    def write(self, granules: int, seed: int, seconds: float) -> None:
        """Two threads hammer the first granules, others come and go in an array of their own; then all is compared."""
        shadow = self.counters(granules)
        stop = ctypes.c_int32(0)
        found: list[dict[str, int]] = []

        def run(thread: int) -> None:
            at = shadow[thread].ctypes.data
            base, flag = self.array.ctypes.data, ctypes.addressof(stop)
            found.append(hammer.hammer(base, granules, at, thread, self.salt, seed + thread, flag))

        threads = [threading.Thread(target=run, args=(thread,)) for thread in range(2)]
        for thread in threads:
            thread.start()
        own = self.memory.empty(1 << 18, "u8")
        hammer.fill(own.ctypes.data, len(own) // WORDS, seed)
        time.sleep(seconds)
        stop.value = 1
        for thread in threads:
            thread.join()
        for report in found:
            if report["granule"] >= 0:
                raise AssertionError(f"a hammer of a forked process found {report}")
        if len(found) != len(threads) or hammer.check(own.ctypes.data, len(own) // WORDS, seed) >= 0:
            raise AssertionError("an array of a forked process is wrong, or a hammer of it has ended")
        if not np.array_equal(self.counters(granules), shadow):
            raise AssertionError("a write of a forked process is lost")


class Child:
    """One forked process, with those that it forks: all of them say in one pipe that they begin and that they end."""

    def __init__(self, copy: Copy, least: Counters, seed: int, patience: float) -> None:
        rng = random.Random(seed)
        # The first ones only: all would be a pass of seconds beside eight threads.
        self.granules = (len(copy.array) // WORDS) >> rng.choice((0, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8))
        self.least = least[:, : self.granules]
        self.seed = seed
        self.deadline = int(120 * patience)
        self.killed = rng.random() < 0.1
        self._shared = mmap.mmap(-1, self.least.nbytes)
        self._most = np.frombuffer(self._shared, "u8").reshape(self.least.shape)
        self._known, known = os.pipe()
        self._read, self._write = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(known)
            self._run(copy, rng)
        os.close(self._write)
        self._known_write = known

    def tell(self, most: Counters) -> None:
        """In the parent, after the fork: no counter of the child can be above these."""
        self._most[:] = most[:, : self.granules]
        os.close(self._known_write)

    def _run(self, copy: Copy, rng: random.Random) -> None:
        """In the child, to its end."""
        try:
            self._say("begins")
            # Not dump_traceback_later(): it waits for the parent's watchdog, which no fork brings along.
            faulthandler.register(signal.SIGALRM, chain=True)
            signal.alarm(self.deadline)
            os.read(self._known, 1)  # the parent has told
            if rng.random() < 0.5:
                copy.check_between(self.least, self._most)
            if rng.random() < 0.25:
                copy.check_patterns(self.granules)
            grandchild = rng.random() < 0.5
            first = grandchild and rng.random() < 0.5  # its parent ends first
            if grandchild and os.fork() == 0:
                self._say("begins")
                rng.seed(self.seed + 1)
                first = False
            if not first:
                copy.write(self.granules, rng.getrandbits(40), rng.random() / 4)
            self._say("ends")
            os._exit(0)
        except BaseException as error:  # to the pipe, whatever it is: nobody else hears of it
            self._say(f"{traceback.format_exc()[-1500:]} {error!r:.1500}")
        finally:
            os._exit(1)

    def _say(self, what: str) -> None:
        os.write(self._write, f"{os.getpid()} {what}\0".encode())  # less than PIPE_BUF, so in one piece

    def end(self) -> tuple[int, str]:
        """Wait for all of them: how many there were, and what went wrong or ""."""
        if self.killed:
            os.kill(self.process, signal.SIGKILL)
        with open(self._read, "rb") as file:
            said = file.read().decode(errors="replace").split("\0")[:-1]
        _, status = os.waitpid(self.process, 0)
        os.close(self._known)
        begun = {line.split()[0] for line in said if line.endswith(" begins")}
        ended = {line.split()[0] for line in said if line.endswith(" ends")}
        wrong = [line for line in said if not line.endswith((" begins", " ends"))]
        missing = begun - ended - ({str(self.process)} if self.killed else set())
        if wrong or missing or (status and not self.killed):
            return len(begun), f"fork {self.seed}: status {status}, not ended {sorted(missing)}; " + "; ".join(wrong)
        return len(begun), ""


def storm(copy: Copy, shadow: Counters, stop: ctypes.c_int32, seed: int, patience: float) -> tuple[int, str]:
    """Fork until `stop` is set; how many processes there were, and the first thing that went wrong or "".

    ``shadow`` is what the hammers of this process count in. They add there first and in the array then.
    """
    rng = random.Random(seed)
    children: list[Child] = []
    processes = 0
    trouble = ""
    least = np.zeros_like(shadow)
    while not stop.value and not trouble:
        child = Child(copy, least, rng.getrandbits(40), patience)
        child.tell(shadow)
        children.append(child)
        if len(children) == ALIVE:
            count, trouble = children.pop(rng.randrange(ALIVE)).end()
            processes += count
        # What the shadow has now is in the array at the next turn, but for one step of a hammer that waits meanwhile.
        least = shadow.copy()
        time.sleep(rng.random() / 10)
    for child in children:
        count, more = child.end()
        processes += count
        trouble = trouble or more
    return processes, trouble
