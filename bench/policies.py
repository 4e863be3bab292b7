"""`python -m bench.policies`: zcache by policy: what it costs, how often it has the page.

In front of a swap area, and behind the memory door. `--only area` or `--only memory` does one of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.environment import environment
from bench.traces import TRACES, noise, uniform
from frontswap import Frontswap, Memory, SwapArea
from frontswap.policies import Simulation, find, next_uses
from frontswap.policies.belady import Belady

NAMES = ("age", "lru", "s3fifo", "lirs", "duel")
PAGES = 12_000
POOL = 4 << 20
RECORD = 2112  # bytes
LIMIT = 48 << 20
MEMORY_PAGES = 24_000
MEMORY_RECORDS = 200_000
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


@dataclass(frozen=True)
class Behind:
    """What a Memory did with the second half of a trace."""

    hits: float  #: percent of the references that needed no read of the disk
    written: float  #: MiB that went to the disk meanwhile
    seconds: float
    pages: int  #: in RAM at the end, resident or compressed


def behind(name: str, trace: NDArray[np.uint32], pages: Pages) -> Behind:
    """References to the pages of an array in a Memory, a word of each."""
    memory = Memory(LIMIT, page=4096, backends=f"zcache:recompress=off,policy={name}")
    array = memory.empty((MEMORY_PAGES, 512), np.uint64)
    for first in range(0, MEMORY_PAGES, PAGES):
        array[first : first + PAGES] = pages[: MEMORY_PAGES - first]
    memory.advise(array, "random")  # no readahead: who hits is counted
    half = len(trace) // 2
    for page in trace[:half].tolist():
        array[page, 128]
    before, began = memory.statistics(), time.perf_counter()
    for page in trace[half:].tolist():
        array[page, 128]
    seconds, after = time.perf_counter() - began, memory.statistics()
    found = Behind(
        100 - 100 * (after.slot_loads - before.slot_loads) / (len(trace) - half),
        (after.written_back_bytes - before.written_back_bytes) / (1 << 20),
        seconds,
        after.resident_bytes // 4096 + after.pool_live_bytes // RECORD,
    )
    del array
    memory.close()
    return found


def simulated(name: str, trace: NDArray[np.uint32], room: int, pages: int = PAGES, warm: int = 0) -> float:
    """The same without bytes; of what comes after the first `warm` references."""
    policy = Belady(pages, room, next_uses(trace, pages)) if name == "belady" else find(name)(pages, room)
    simulation = Simulation(policy)
    simulation.feed(trace[:warm])
    before = simulation.misses
    simulation.feed(trace[warm:])
    return 100 - 100 * (simulation.misses - before) / (len(trace) - warm)


@click.command()
@click.option("--only", type=click.Choice(["area", "memory"]))
def main(only: str | None) -> None:
    """Print tables in Markdown."""
    out = Console(soft_wrap=True, highlight=False)
    pages = some_pages()
    if only != "memory":
        in_front_of_an_area(out, pages)
    if only != "area":
        behind_the_memory_door(out, pages)
    here = environment(Path.cwd())
    out.print(f"\n{here['date']}, {here['cpu']}, load {here['load before']}, Linux {here['kernel']}")


def behind_the_memory_door(out: Console, pages: Pages) -> None:
    """Hits, and what was written for them."""
    out.print(f"\n| trace | {' | '.join(NAMES)} | belady, simulated |")
    out.print("| --- |" + " --- |" * (len(NAMES) + 1))
    for trace in (*SHOWN[:-1], "phase change", "random"):
        used = TRACES[trace](MEMORY_PAGES, MEMORY_RECORDS)
        taken = [behind(name, used, pages) for name in NAMES]
        cells = [f"{one.hits:.1f} ({one.written:.0f} MiB, {one.seconds:.1f} s)" for one in taken]
        room = max(one.pages for one in taken)
        cells.append(f"{simulated('belady', used, room, MEMORY_PAGES, len(used) // 2):.1f} of {room}")
        out.print(f"| {trace} | {' | '.join(cells)} |")


def in_front_of_an_area(out: Console, pages: Pages) -> None:
    """What it costs there, and hits."""
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in NAMES}
    for _ in range(ROUNDS):
        for name in NAMES:  # in turn: what else the machine does meets all of them
            taken[name].append(costs(name, pages))
    out.print("| policy | fill, us a page | scan | random |")
    out.print("| --- | --- | --- | --- |")
    for name in NAMES:
        cells = [f"{statistics.median(times):.1f}" for times in zip(*taken[name], strict=True)]
        out.print(f"| {name} | {' | '.join(cells)} |")
    room = (POOL - POOL // 8) // RECORD
    out.print(f"\n| trace | {' | '.join(NAMES)} | lirs, simulated | belady, simulated |")
    out.print("| --- |" + " --- |" * (len(NAMES) + 2))
    for trace in SHOWN:
        used = TRACES[trace](PAGES, RECORDS)
        cells = [f"{hits(name, used, pages):.1f}" for name in NAMES]
        cells += [f"{simulated(name, used, room):.1f}" for name in ("lirs", "belady")]
        out.print(f"| {trace} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
