"""`python -m bench.pool`: how dense the compressed pool is while pages are rewritten, and what reaches the disk.

Needs no root. Each measurement is a process of its own, and compares every byte in the end."""

import ctypes
import dataclasses
import mmap
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench import command, native, sheet
from bench.__main__ import directory
from bench.data import Source, kind, open_source
from bench.metadata import MIB, settled
from bench.native import Loops, Words, words
from bench.proc import field
from bench.sheet import Sheet, number

DENSE = 0.9  # of the RAM that the pool takes, at least, are records that a page needs
WRITTEN = 1.05  # times what the records of the pages are that left, at most
HEADER = 16  # bytes of a record that are no compressed data: core/layout.pxd
PAGES = (4096, 64 << 10)
TURNS = 32  # samples in a run; the second half is what counts
CHURN_NOTES = """\
A limit of {limit} MiB. The array is filled, and then {times} times as many random pages as it has are overwritten with
what another page has, and as many words of random pages read. After each {turns}nd part of that the pool is looked at;
medians of the second half. "pool": its bytes in RAM. "live / pool": of these, what a page needs, by the
statistics. "live / RAM": of all that is resident of the pool's addresses (mincore), with open segments and what waits
to be used again; "least": the worst sample. The goal is {dense:.0%}. "moved": bytes that the cleaner moved, for
each byte of new records. "us": per access, faults and all. "written": what the process wrote to disks in this
half (/proc/self/io) for each page that was evicted dirty, in terms of the mean record; with the goal of {written}."""
WRITEBACK_NOTES = """\
A limit of {limit} MiB, an array that is filled once, {size} MiB. "left": pages whose records are in the swap file when
nothing moves any more. "compressed": these records without their headers (16 bytes). "written": what the process
wrote to disks until then (/proc/self/io), headers, dead space and padding and all. The goal is {written} of what is
compressed. zswap decompresses what it writes back: 4096 bytes for each page."""


@dataclass(frozen=True)
class Churn:
    """One run of rewriting."""

    kind: str
    page: int
    size: int
    limit: int
    swap: str | None
    times: int
    library: str


@dataclass(frozen=True)
class Fill:
    """One run of filling."""

    kind: str
    page: int
    size: int
    limit: int
    swap: str
    library: str


Run = Churn | Fill


@dataclass(frozen=True)
class Sample:
    """The pool at one moment."""

    live: int
    pool: int
    ram: int


def resident(address: int, length: int) -> int:
    """Bytes of these addresses that are in RAM."""
    pages = np.empty(length // mmap.PAGESIZE, np.uint8)
    library = ctypes.CDLL(None, use_errno=True)
    if library.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_void_p(pages.ctypes.data)):
        raise OSError(ctypes.get_errno(), f"mincore: {os.strerror(ctypes.get_errno())}")
    return int(np.count_nonzero(pages & 1)) * mmap.PAGESIZE


def disk_writes() -> int:
    """Bytes that this process has had written to disks."""
    return field(Path("/proc/self/io"), "write_bytes")


def filled(run: Run, loops: Loops) -> tuple[Any, NDArray[Any], Words]:
    """A Memory with an array that is filled, and what is in it."""
    import frontswap

    with Source(run.kind, run.size, seed=1, loops=loops) as source:
        expected: Words = open_source(source.fd, run.size).copy()
    memory = frontswap.Memory(limit=run.limit, swap=run.swap, allocate=None if run.swap else run.size)
    dtype = kind(run.kind).dtype
    array = memory.empty((run.size // np.dtype(dtype).itemsize,), dtype, page=run.page)
    loops.fill(words(array), expected)
    return memory, array, expected


def compare(loops: Loops, array: NDArray[Any], expected: Words) -> None:
    """Every byte."""
    at = loops.differ(words(array), expected)
    if at >= 0:
        raise RuntimeError(f"wrong bytes: the word at byte {at * 8}")


def churn(run: Churn) -> dict[str, Any]:
    """Rewrite and read at random; what the pool was like meanwhile."""
    loops = Loops(Path(run.library))
    memory, array, expected = filled(run, loops)
    data, count, step = words(array), run.size // run.page, run.page // 8
    rng = np.random.default_rng(2)
    pool = memory._plane.extents()["pool"]
    nanoseconds: Words = np.ones(run.times * count // TURNS, np.uint64)
    samples, before, wrote, seconds = [], memory.statistics(), disk_writes(), 0.0
    for turn in range(TURNS):
        if turn == TURNS // 2:
            before, wrote, seconds = memory.statistics(), disk_writes(), 0.0
        reads: Words = rng.integers(0, data.size, nanoseconds.size, dtype=np.uint64)
        begun = time.perf_counter()
        for to, source in rng.integers(0, count, (nanoseconds.size, 2)).tolist():
            piece = expected[to * step : (to + 1) * step]
            piece[:] = expected[source * step : (source + 1) * step]
            data[to * step : (to + 1) * step] = piece
        _, total = loops.touch(data, reads, nanoseconds)
        seconds += time.perf_counter() - begun
        if total != int(expected[reads].sum(dtype=np.uint64)):
            raise RuntimeError("wrong bytes: the sum of what was read")
        now = memory.statistics()
        samples.append(Sample(now.pool_live_bytes, now.pool_bytes, resident(*pool)))
    wrote = disk_writes() - wrote
    compare(loops, array, expected)
    evicted = now.evicted_dirty - before.evicted_dirty
    record = now.pool_live_bytes / max(1, now.stored_bytes // run.page)
    del array, data
    memory.close()
    steady = samples[TURNS // 2 :]
    return {
        **dataclasses.asdict(run),
        "pool_bytes": statistics.median(one.pool for one in steady),
        "live_of_pool": statistics.median(one.live / one.pool for one in steady),
        "live_of_ram": statistics.median(one.live / one.ram for one in steady),
        "least": min(one.live / one.ram for one in steady),
        "moved": (now.cleaned_bytes - before.cleaned_bytes) / (evicted * record) if evicted else 0.0,
        "us": seconds * 1e6 / (TURNS - TURNS // 2) / nanoseconds.size / 2,
        "written": wrote / (evicted * record) if evicted else 0.0,
        "samples": [dataclasses.astuple(one) for one in samples],
    }


def fill(run: Fill) -> dict[str, Any]:
    """Fill an array; what was written to the disk for the pages that are there then."""
    loops = Loops(Path(run.library))
    wrote = disk_writes()
    memory, array, expected = filled(run, loops)
    settled(memory)
    wrote = disk_writes() - wrote
    found = memory.statistics()
    left = (run.size - found.resident_bytes - found.stored_bytes - found.swap_buffer_bytes) // run.page
    compare(loops, array, expected)
    del array
    memory.close()
    compressed = found.swapped_bytes - HEADER * left
    return {
        **dataclasses.asdict(run),
        "left": left,
        "compressed_bytes": compressed,
        "written_bytes": wrote,
        "ratio": wrote / compressed,
    }


def judged(value: float, *, met: bool) -> str:
    """A number that has a goal."""
    return f"{value:.3f} {'met' if met else 'missed'}"


def churn_sheet(found: list[dict[str, Any]]) -> Sheet:
    """A row for each run."""
    rows = []
    for one in found:
        where = "swap file" if one["swap"] else "nothing"
        dense = judged(one["live_of_ram"], met=one["live_of_ram"] >= DENSE)
        written = judged(one["written"], met=one["written"] <= WRITTEN) if one["swap"] else "-"
        rows.append(
            (
                f"{one['kind']}, {one['size'] // MIB} MiB",
                sheet.size(one["page"]),
                where,
                number(one["pool_bytes"] / MIB),
                f"{one['live_of_pool']:.3f}",
                dense,
                f"{one['least']:.3f}",
                number(one["moved"]),
                number(one["us"]),
                written,
            )
        )
    head = ("data", "page", "behind it", "pool MiB", "live / pool", "live / RAM", "least", "moved", "us", "written")
    notes = CHURN_NOTES.format(
        limit=found[0]["limit"] // MIB, times=found[0]["times"], turns=TURNS, dense=DENSE, written=WRITTEN
    )
    return Sheet("Utilisation of the pool at steady churn", head, rows, notes, found)


def fill_sheet(found: list[dict[str, Any]]) -> Sheet:
    """A row for each run."""
    rows = [
        (
            one["kind"],
            sheet.size(one["page"]),
            f"{one['left']:,}",
            number(one["compressed_bytes"] / MIB),
            number(one["written_bytes"] / MIB),
            judged(one["ratio"], met=one["ratio"] <= WRITTEN),
        )
        for one in found
    ]
    notes = WRITEBACK_NOTES.format(limit=found[0]["limit"] // MIB, size=found[0]["size"] // MIB, written=WRITTEN)
    head = ("data", "page", "pages left", "compressed MiB", "written MiB", "written / compressed")
    return Sheet("Writeback: what is written for a page that leaves", head, rows, notes, found)


def runs(folder: str, library: str, *, quick: bool) -> tuple[list[Churn], list[Fill]]:
    """What is measured: data that fits in the pool, or does not, with a disk and without one."""
    unit = MIB if quick else 4 * MIB
    limit, times = 32 * unit, 2 if quick else 6
    shapes = (("float64", 96, folder), ("mixed", 128, folder), ("mixed", 48, None))
    churns = [
        Churn(name, page, size * unit, limit, swap, times, library) for name, size, swap in shapes for page in PAGES
    ]
    fills = [
        Fill(name, page, 128 * unit, 16 * unit, folder, library)
        for name in ("float64", "mixed", "text", "float32-noise")
        for page in PAGES
    ]
    return churns, fills


def said(console: Console, run: Run) -> Run:
    """Say that it begins."""
    console.print(f"{type(run).__name__.lower()}: {run.kind}, {sheet.size(run.page)}", markup=False, highlight=False)
    return run


def main() -> int:
    """Exit code 1: a goal is missed. A wrong byte is an exception."""
    parser = command.parser("pool", __doc__, "a quarter of the size, a third of the churn")
    parser.add_argument(
        "--dir", type=directory, default=Path("/var/tmp"), help="for the swap file (default %(default)s)"
    )
    chosen = parser.parse_args()

    def measure(console: Console, folder: Path) -> tuple[list[Sheet], int]:
        churns, fills = runs(str(chosen.dir.resolve()), str(native.build(folder)), quick=chosen.quick)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
            sheets = [
                churn_sheet([fresh.apply(churn, (said(console, run),)) for run in churns]),
                fill_sheet([fresh.apply(fill, (said(console, run),)) for run in fills]),
            ]
        return sheets, int(any(text.endswith(sheet.BAD) for made in sheets for row in made.rows for text in row))

    return command.run("pool", chosen, chosen.dir, measure)


if __name__ == "__main__":
    sys.exit(main())
