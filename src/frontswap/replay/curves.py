"""Miss ratio curves: a trace through policies at several sizes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from ..errors import ParameterError
from ..policies import Policy, Simulation, find, names, next_uses
from ..policies.belady import Belady
from .traces import Trace

# in percent of the distinct pages: closer where curves are steep
GRID = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)
OPTIMUM, MEASURE = "belady", "lru"  # what all are compared with
PART = 1 << 20  # records between two looks whether it shall stop
Watch = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it. ``misses`` and ``evictions``: by policy, for each of ``sizes`` (pages)."""

    trace: str
    references: int
    pages: int
    cold: int
    sizes: tuple[int, ...]
    misses: dict[str, tuple[int, ...]]
    evictions: dict[str, tuple[int, ...]]

    def miss_ratios(self, policy: str) -> list[float]:
        """Misses for each reference."""
        return [misses / self.references for misses in self.misses[policy]]

    def share(self, policy: str, measure: str = OPTIMUM) -> list[float | None]:
        """Hits for each hit of another policy; None where that has none."""
        return [
            (self.references - ours) / (self.references - theirs) if theirs < self.references else None
            for ours, theirs in zip(self.misses[policy], self.misses[measure], strict=True)
        ]


def parse_policies(text: str | None) -> list[str]:
    """Names, separated by commas; None: all. The optimum and LRU are always among them: the measures."""
    wanted = names() if text is None else [name.strip().lower() for name in text.split(",")]
    for name in wanted:
        find(name)
    return [name for name in names() if name in {*wanted, OPTIMUM, MEASURE}]


def parse_sizes(text: str | None, pages: int) -> list[int]:
    """Numbers of pages, and parts of the distinct ``pages`` as "10%", separated by commas. None: GRID."""
    parts = [f"{percent}%" for percent in GRID] if text is None else text.split(",")
    return sorted({_size(part.strip(), pages) for part in parts})


def _size(text: str, pages: int) -> int:
    try:
        if text.endswith("%"):
            size = max(round(float(text[:-1]) / 100 * pages), 1 if float(text[:-1]) > 0 else 0)
        else:
            size = int(text)
    except (ValueError, OverflowError):
        size = 0
    if not 1 <= size < 2**31 - 256:
        raise ParameterError("sizes", text, 'a number of pages from 1 on, or a part of all pages above 0, as "10%"')
    return size


def replay(trace: Trace, policies: Sequence[str], sizes: Sequence[int], watch: Watch = lambda _: None) -> Replay:
    """Run the trace through each policy at each size, as many at a time as there are processors.

    ``sizes``: in pages. ``watch`` is told, from several threads, how many records more have been run. ParameterError:
    a policy that is not there.
    """
    uses = next_uses(trace.pages, trace.count, trace.removed) if OPTIMUM in policies else None
    stop = threading.Event()

    def run(name: str, size: int) -> tuple[int, int, int]:
        simulation = Simulation(make_policy(name, trace.count, size, uses))
        for at in range(0, len(trace.pages), PART):
            if stop.is_set():
                break
            part = slice(at, at + PART)
            simulation.feed(trace.pages[part], None if trace.removed is None else trace.removed[part])
            watch(len(trace.pages[part]))
        return simulation.misses, simulation.cold, simulation.evictions

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            jobs = {(name, size): pool.submit(run, name, size) for name in policies for size in sizes}
            wait(jobs.values(), return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # what goes on after an error, or Ctrl-C, is of no use
    done = {key: job.result() for key, job in jobs.items()}
    return Replay(
        trace.name,
        trace.references,
        trace.count,
        next(iter(done.values()))[1],
        tuple(sizes),
        {name: tuple(done[name, size][0] for size in sizes) for name in policies},
        {name: tuple(done[name, size][2] for size in sizes) for name in policies},
    )


def make_policy(name: str, pages: int, size: int, uses: Any) -> Policy:
    """A policy with room for ``size`` of ``pages``. ``uses``: next_uses() of the trace, for the optimum alone."""
    return Belady(pages, size, uses) if name == OPTIMUM else find(name)(pages, size)
