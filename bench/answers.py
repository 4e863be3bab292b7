"""Numbers for docs/faq.md: what a batch saves, how fast pressure empties a pool, what active_only does for a scan."""

import statistics
import time

import numpy as np
from numpy.typing import NDArray

from bench.data import floats
from bench.rounds import buffer, interval
from bench.sheet import Sheet, number, size
from frontswap import Frontswap, SwapArea

PAGE = 4096
BATCH = 256


def pages_of(count: int) -> NDArray[np.uint8]:
    """Compressible pages, one after the other, aligned."""
    data = buffer(count * PAGE)
    data[:] = floats(np.random.default_rng(0), 2)(count * PAGE)
    return data


def batches(rounds: int) -> Sheet:
    """One call for 256 pages beside 256 calls."""
    data = pages_of(BATCH)
    single = [data[i * PAGE : (i + 1) * PAGE] for i in range(BATCH)]
    offsets = np.arange(BATCH)
    one, many = [], []
    with Frontswap("zcache:size=64MiB") as hooks:
        area = hooks.swapon(BATCH, swap=None)
        for _ in range(rounds):
            begun = time.perf_counter()
            for offset, page in enumerate(single):
                area.store(offset, page)
            between = time.perf_counter()
            area.store_many(offsets, data)
            many.append((time.perf_counter() - between) / BATCH * 1e6)
            one.append((between - begun) / BATCH * 1e6)
    ratio = interval([m / o for m, o in zip(many, one, strict=True)])
    row = (size(PAGE), number(statistics.median(one)), number(statistics.median(many)), ratio.text(2))
    notes = "The same 256 pages of float64 into zcache, from Python: by 256 calls of store, then by one of store_many."
    head = ("page", "store, us per page", "store_many, us per page", "ratio (95%)")
    return Sheet(f"Batches, {rounds} rounds", head, [row], notes, [{"store": one, "store_many": many}])


def pressure(rounds: int) -> Sheet:
    """From pressure("critical") to its answer."""
    count = 48 << 20 >> 12
    data = np.random.default_rng(0).integers(0, 16, (count, PAGE), np.uint8)  # shrink by half
    seconds, held = [], 0
    with Frontswap("zcache:size=32MiB") as hooks:
        area = hooks.swapon(count)
        for _ in range(rounds):
            hooks.pressure("none")
            area.store_many(np.arange(count), data)
            held = hooks.statistics().pool_bytes
            begun = time.perf_counter()
            relief = hooks.pressure("critical")
            seconds.append(time.perf_counter() - begun)
            if relief.left_bytes or hooks.statistics().pool_bytes:
                raise RuntimeError(f"the pool is not empty: {relief}")
    took = statistics.median(seconds)
    row = (number(held / (1 << 20)), number(took), number(held / took / (1 << 20)), number(max(seconds)))
    notes = "Pages that shrink by half, decompressed and written to their slots on disk (O_DIRECT), by one thread."
    head = ("MiB of pool", "seconds", "MiB of pool per second", "longest")
    return Sheet(f"pressure(critical) empties zcache, {rounds} rounds", head, [row], notes, [{"seconds": seconds}])


def turn(area: SwapArea, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> float:
    """Bring pages in, change them, and have them leave again; the part that came from a backend."""
    into = np.empty((len(offsets), PAGE), np.uint8)
    hits = area.load_many(offsets, into)
    area.store_many(offsets, data[offsets % len(data)])
    return float(hits.mean())


def scans() -> Sheet:
    """A working set that is used again and again, while a scan four times the pool passes through."""
    working, scan, step = 2048, 24576, 6144
    data = np.random.default_rng(0).integers(0, 16, (2048, PAGE), np.uint8)
    rows, records = [], []
    for spec in ("zcache:size=8MiB", "active_only:distance=48MiB / zcache:size=8MiB"):
        with Frontswap(spec) as hooks:
            area = hooks.swapon(working + scan)
            found = []
            for number_of in range(16):
                found.append(turn(area, data, np.arange(working)))
                start = working + number_of * step % scan
                turn(area, data, np.arange(start, start + step))
            rows.append((spec, f"{np.mean(found[4:]) * 100:.0f}%"))
            records.append({"spec": spec, "hits": found})
    notes = (
        "2048 pages are loaded and stored 16 times; in between 6144 of 24576 others, each once in four times. The pool "
        "holds about 4000 pages. From the fifth time on."
    )
    return Sheet("A working set beside a scan", ("backends", "loads of the working set from RAM"), rows, notes, records)


def measure(rounds: int) -> list[Sheet]:
    """All three."""
    return [batches(rounds * 10), pressure(max(3, rounds // 4)), scans()]
