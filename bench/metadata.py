"""`python -m bench.metadata`: what the pager keeps per page beside the record, and what a huge arena costs.

Seen from outside: the process's own RSS, less what the statistics call resident and pool. The difference between
two sizes of array cancels everything that does not grow with the pages, and is what is judged. How much of it is the
page table alone says the same array in pages of 8 KiB: it has the same addresses. Needs no root and no cgroup."""

import dataclasses
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.proc import field

MIB = 1 << 20
PAGE = 4096
LIMIT = 128 * MIB
SIZE = 2048 * MIB
SHAPES = ((SIZE, PAGE), (SIZE, 2 * PAGE), (SIZE // 4, PAGE))  # bytes, page
ARENA = "1T"
MOST_PER_PAGE = 24
MOST_FOR_ARENA = 16 * MIB
REST = 40.0  # seconds in which nothing has been packed anew: see rested()
TOUCHED = 4096  # pages touched, far apart, in the huge arena


def status(name: str) -> int:
    """One of the sizes that the kernel tells of this process, in bytes."""
    return field(Path("/proc/self/status"), name) << 10


def rss() -> int:
    """All memory of this process that is in RAM."""
    return status("VmRSS")


def page_tables() -> int:
    """What the kernel keeps for it, which is in no RSS."""
    return status("VmPTE")


@dataclasses.dataclass(frozen=True)
class Overhead:
    """RAM of a memory door that holds `pages` pages, beyond what is resident and what is in the pool."""

    pages: int
    bytes: int


def per_page(many: Overhead, few: Overhead) -> float:
    """Bytes that one more page costs."""
    return (many.bytes - few.bytes) / (many.pages - few.pages)


def overhead(size: int, page: int) -> Overhead:
    """Fill an array that is mostly out, and see what is used beside the pages."""
    import frontswap

    before = rss()
    memory = frontswap.Memory(limit=LIMIT)
    largest = memory.ones((MIB,), "u1", page=2 * PAGE)  # the buffers of faults grow with the largest page
    array = memory.empty((size // 8,), "f8", page=page)
    step = 4 * MIB // 8
    values = np.arange(step) * 0.5
    for at in range(0, array.size, step):
        array[at : at + step] = values
    used = settled(memory) - before
    del array, largest
    memory.close()
    return Overhead(size // page, used)


def settled(memory: Any) -> int:
    """RSS without resident pages and pool, once background work has come to rest."""
    last = -1
    while True:
        statistics = memory.statistics()
        now: int = rss() - statistics.resident_bytes - statistics.pool_bytes
        if now == last:
            return now
        last = now
        time.sleep(0.2)


def rested(memory: Any) -> None:
    """Wait until nothing is packed anew any more: that begins when records have been there for half a minute."""
    last, since = -1, time.monotonic()
    while time.monotonic() < since + REST:
        now = memory.statistics().recompressed_pages
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.5)


def arena() -> dict[str, int]:
    """Reserve a huge arena, and touch a few pages of it far apart from each other."""
    import frontswap

    before, tables = rss(), page_tables()
    memory = frontswap.Memory(limit=LIMIT, arena=ARENA, overcommit=True)
    reserved = rss() - before
    array = memory.empty((1 << 39,), "u1", page=PAGE)
    allocated = rss() - before
    array[:: array.size // TOUCHED] = 1
    touched = rss() - before
    result = {"reserved": reserved, "allocated": allocated, "touched": touched, "page_tables": page_tables() - tables}
    del array
    memory.close()
    return result


def measure() -> dict[str, Any]:
    """Both checks, with the verdicts; each measurement in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
        many, few, small = fresh.starmap(overhead, SHAPES, chunksize=1)
        huge = fresh.apply(arena)
    each = per_page(many, small)
    return {
        "bytes_per_page": each,
        "bytes_per_page_met": each <= MOST_PER_PAGE,
        "page_table_bytes_per_page": per_page(many, few),
        "fixed_bytes": round(small.bytes - each * small.pages),
        "arena": ARENA,
        **{f"arena_{name}_bytes": value for name, value in huge.items()},
        "arena_met": huge["reserved"] <= MOST_FOR_ARENA,
    }


def main() -> int:
    result = measure()
    print(json.dumps(result, indent=1))
    return 0 if result["bytes_per_page_met"] and result["arena_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
