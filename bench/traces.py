"""Synthetic traces of pages, the same on every machine and for ever: docs/replay.md shows them, tests count in them.

NumPy's generators may change with its version, so the random numbers are our own (splitmix64).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.uint32]


def noise(count: int, seed: int) -> NDArray[np.uint64]:
    """Random words."""
    x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def zipf(pages: int, count: int, seed: int = 1) -> Pages:
    """The k-th most popular page is used in proportion to 1/k; popularity has nothing to do with the number."""
    reach = np.cumsum(1 / np.arange(1, pages + 1))
    rank = np.searchsorted(reach, (noise(count, seed) >> np.uint64(11)) / 2.0**53 * reach[-1], side="right")
    used: Pages = np.argsort(noise(pages, seed + 1), kind="stable").astype(np.uint32)[rank]
    return used


def loop(pages: int, count: int, seed: int = 1) -> Pages:
    """From the first page to the last, and again. (At half as many pages of room it is a loop at twice the RAM.)"""
    return (np.arange(count) % pages).astype(np.uint32)


def scan(pages: int, count: int, seed: int = 1) -> Pages:
    """A scan of nine tenths of the pages; every second reference is to one of the hot tenth, at random."""
    hot = pages // 10
    made = (hot + np.arange(count) // 2 % (pages - hot)).astype(np.uint32)
    made[1::2] = noise(count // 2, seed) % np.uint64(hot)
    return made


def phases(pages: int, count: int, seed: int = 1) -> Pages:
    """Three phases, each zipf over a third of the pages that the others do not use."""
    part, length = pages // 3, count // 3
    return np.concatenate([zipf(part, length, seed + 10 * phase) + np.uint32(part * phase) for phase in range(3)])


def late_loop(pages: int, count: int, seed: int = 1) -> Pages:
    """A quarter is zipf over half of the pages, all the rest a loop over the other half."""
    part, length = pages // 2, count // 4
    return np.concatenate([zipf(part, length, seed), loop(pages - part, count - length) + np.uint32(part)])


def uniform(pages: int, count: int, seed: int = 1) -> Pages:
    """Each page as often as any other, at random."""
    return (noise(count, seed) % np.uint64(pages)).astype(np.uint32)


TRACES: dict[str, Callable[[int, int], Pages]] = {
    "zipf": zipf,
    "loop": loop,
    "scan with a hot set": scan,
    "phase change": phases,
    "loop after zipf": late_loop,
    "random": uniform,
}
