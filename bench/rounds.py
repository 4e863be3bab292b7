"""Two sides measured in turn, and what may be said of them: medians with their intervals, and minima."""

import math
import mmap
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 20  # rounds, whatever the time

Work = Callable[[int], object]  # gets the number of the round


@dataclass(frozen=True)
class Interval:
    """A median, and where it lies with a probability of 95%."""

    low: float
    median: float
    high: float

    def text(self, digits: int) -> str:
        """Write it."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def interval(values: Sequence[float]) -> Interval:
    """The median with its interval by ranks, whatever the distribution (binomial, by its normal approximation)."""
    ordered, n = sorted(values), len(values)
    away = 0.98 * math.sqrt(n)
    return Interval(
        ordered[max(0, math.floor(n / 2 - away))],
        statistics.median(ordered),
        ordered[min(n - 1, math.ceil(n / 2 + away) - 1)],
    )


@dataclass(frozen=True)
class Pair:
    """Microseconds per page of both sides, a number for each round."""

    base: list[float]
    ours: list[float]

    def ratio(self) -> Interval:
        """Ours in terms of the base, in the same round: above 1 it costs that much more."""
        return interval([ours / base for ours, base in zip(self.ours, self.base, strict=True)])

    def ratio_of_minima(self) -> float:
        """The same of the quietest rounds."""
        return min(self.ours) / min(self.base)

    def difference(self) -> Interval:
        """Ours less the base, in the same round."""
        return interval([ours - base for ours, base in zip(self.ours, self.base, strict=True)])

    def record(self) -> dict[str, Any]:
        """What the JSON keeps: intervals as (low, median, high), and every round."""
        return {
            "ratio": astuple(self.ratio()),
            "ratio_of_minima": self.ratio_of_minima(),
            "difference_us": astuple(self.difference()),
            "base_us": self.base,
            "ours_us": self.ours,
        }


def alternate(base: Work, ours: Work, pages: int, seconds: float) -> Pair:
    """Run both sides on `pages` pages a round for `seconds`; each comes first in every second round."""
    base(0)
    ours(0)
    taken: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    turn = 0
    while turn < LEAST or time.perf_counter() < until:
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            before = time.perf_counter_ns()
            (base, ours)[side](turn)
            taken[side].append((time.perf_counter_ns() - before) / 1000 / pages)
        turn += 1
    return Pair(*taken)


def buffer(size: int) -> NDArray[np.uint8]:
    """Page-aligned memory, all of it present, as O_DIRECT wants it."""
    made = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    made[:] = 1
    return made
