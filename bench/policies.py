"""`python -m bench.policies`: zcache in front of a swap area, by policy: what it costs, how often it has the page."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.environment import environment
from bench.traces import TRACES, noise, uniform
from frontswap import Frontswap, SwapArea
from frontswap.policies import Simulation, find, next_uses
from frontswap.policies.belady import Belady

NAMES = ("age", "lru", "s3fifo", "lirs", "duel")
PAGES = 12_000
POOL = 4 << 20
RECORDS = 60_000
ROUNDS = 3
SHOWN = ("zipf", "loop", "scan with a hot set", "loop after zipf")
SPEC = f"zcache:size={POOL >> 20}M,codec=lz4,recompress=off,policy="
Pages = NDArray[np.uint64]


def some_pages() -> Pages:
    """Pages of 4 KiB, half noise, each with a number in it: all records are equally long, as in a simulator."""
    made = np.zeros((PAGES, 512), np.uint64)
    made[:, :256] = noise(256, 1)
    made[:, 128] = noise(PAGES, 2) | np.uint64(0x0101010101010101)
    return made


def per_page(do: Callable[[int], object], offsets: Iterator[int] | range) -> float:
    """Microseconds of one call."""
    began, count = time.perf_counter(), 0
    for offset in offsets:
        do(offset)
        count += 1
    return (time.perf_counter() - began) / count * 1e6


def costs(name: str, pages: Pages) -> tuple[float, float, float]:
    """Microseconds a page: a fill of all, a scan of all, and random loads, each with twice what fits or more."""
    found = np.empty(512, np.uint64)
    with Frontswap(SPEC + name) as hooks:
        area = hooks.swapon(PAGES)
        fill = per_page(lambda offset: area.store(offset, pages[offset]), range(PAGES))
        scan = per_page(lambda offset: area.load(offset, found), range(PAGES))
        random = per_page(lambda offset: area.load(offset, found), iter(uniform(PAGES, PAGES).tolist()))
    return fill, scan, random


def hit(area: SwapArea, offset: int, pages: Pages, found: NDArray[np.uint64]) -> bool:
    """A reference: load it, and store what the pool did not have."""
    held = area.load(offset, found)
    if not held:
        area.store(offset, pages[offset])
    return held


def hits(name: str, trace: NDArray[np.uint32], pages: Pages) -> float:
    """Percent of the references that the pool answered."""
    found = np.empty(512, np.uint64)
    with Frontswap(SPEC + name) as hooks:
        area = hooks.swapon(PAGES)
        return 100 * sum(hit(area, offset, pages, found) for offset in trace.tolist()) / len(trace)


def simulated(name: str, trace: NDArray[np.uint32], room: int) -> float:
    """The same without bytes."""
    policy = Belady(PAGES, room, next_uses(trace, PAGES)) if name == "belady" else find(name)(PAGES, room)
    simulation = Simulation(policy)
    simulation.feed(trace)
    return 100 - 100 * simulation.misses / len(trace)


@click.command()
def main() -> None:
    """Print tables in Markdown."""
    out = Console(soft_wrap=True, highlight=False)
    pages = some_pages()
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in NAMES}
    for _ in range(ROUNDS):
        for name in NAMES:  # in turn: what else the machine does meets all of them
            taken[name].append(costs(name, pages))
    out.print("| policy | fill, us a page | scan | random |")
    out.print("| --- | --- | --- | --- |")
    for name in NAMES:
        cells = [f"{statistics.median(times):.1f}" for times in zip(*taken[name], strict=True)]
        out.print(f"| {name} | {' | '.join(cells)} |")
    room = (POOL - POOL // 8) // 2112
    out.print(f"\n| trace | {' | '.join(NAMES)} | lirs, simulated | belady, simulated |")
    out.print("| --- |" + " --- |" * (len(NAMES) + 2))
    for trace in SHOWN:
        used = TRACES[trace](PAGES, RECORDS)
        cells = [f"{hits(name, used, pages):.1f}" for name in NAMES]
        cells += [f"{simulated(name, used, room):.1f}" for name in ("lirs", "belady")]
        out.print(f"| {trace} | {' | '.join(cells)} |")
    here = environment(Path.cwd())
    out.print(f"\n{here['date']}, {here['cpu']}, load {here['load before']}, Linux {here['kernel']}")


if __name__ == "__main__":
    main()
