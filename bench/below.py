"""`python -m bench.below`: below the limit a Memory costs nothing, and what the moment costs in which it is crossed."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench import sheet
from bench.environment import environment
from bench.rounds import Pair, Work, alternate
from bench.sheet import Sheet, number
from frontswap import Memory

MiB, GiB = 1 << 20, 1 << 30
GOAL = 1.02  # times what plain NumPy takes
SIZES = (8 * MiB, 256 * MiB)
READS = 200_000
MOMENTS = (1, 8, 64)  # GiB allocated, of which the first is written, and one page here and there
APART = 64 * MiB
NOTES = """\
Both sides run the same NumPy code in turn, in one process: plain, and inside of `with memory:` with all arrays far
below the limit. Median of all rounds. "ratio": ours to plain in the same round, the median, and in brackets where it
lies with a probability of 95%; the goal is 1.02, "missed" where all of the interval is above it. "allocate": np.empty
and its end, untouched. "first touch": np.empty, one byte written in each 4 KiB, and its end: arrays below 32 MiB get
the memory of the one before from glibc and from a Memory, larger ones fault. "scan": sum() of an array that is there;
"random reads": 200,000 elements by index, whose sum is made of a temporary of 1.5 MiB."""
MOMENT_NOTES = """\
The time of the allocation that crosses the limit (another thread that touches an absent page meanwhile waits as long):
the swap file's slots, the buffers of the contexts, userfaultfd, five threads, and a look at all that is there. The
array's first GiB is written, and one byte every 64 MiB (which a huge page makes 2 MiB). "page" is the unit of eviction,
and what is there gets 24 bytes for each."""


def steps(size: int) -> dict[str, tuple[Callable[[], None], float]]:
    """What is compared, and how many units of microseconds one is. Arrays are made by whoever's allocator is in use."""
    count = size // 8
    indices = np.random.default_rng(1).integers(0, count, READS)
    kept: list[NDArray[np.float64]] = []

    def array() -> NDArray[np.float64]:
        if not kept:
            kept.append(np.ones(count))
        return kept[0]

    def allocate() -> None:
        for _ in range(100):
            np.empty(count)

    turns = max(1, 64 * MiB // size)

    def touch() -> None:
        for _ in range(turns):
            np.empty(count)[::512] = 1

    def scan() -> None:
        array().sum()

    def read() -> None:
        array()[indices].sum()

    return {
        "allocate": (allocate, 100),
        "first touch": (touch, turns),
        "scan": (scan, 1),
        "random reads": (read, READS),
    }


def compare(memory: Memory, size: int, seconds: float) -> dict[str, Pair]:
    """All steps of one size."""
    plain, ours = steps(size), steps(size)
    found = {}
    for name, (work, units) in ours.items():

        def inside(turn: int, work: Callable[[], None] = work) -> None:
            with memory:
                work()

        def outside(turn: int, work: Callable[[], None] = plain[name][0]) -> None:
            work()

        base: Work = outside
        found[name] = alternate(base, inside, int(units), seconds)
    if memory.statistics().registered:
        raise RuntimeError("the limit was crossed")
    return found


def below(seconds: float) -> Sheet:
    """Every step and size, paired."""
    rows, records = [], []
    for size in SIZES:
        with_limit = Memory(4 * size + 256 * MiB)
        for name, pair in compare(with_limit, size, seconds).items():
            ratio = pair.ratio()
            verdict = "missed" if ratio.low > GOAL else ""
            rows.append(
                (
                    f"{size // MiB} MiB",
                    name,
                    number(float(np.median(pair.base))),
                    number(float(np.median(pair.ours))),
                    f"{ratio.text(3)} {verdict}".strip(),
                    f"{pair.ratio_of_minima():.3f}",
                    str(len(pair.base)),
                )
            )
            records.append({"size": size, "step": name, "verdict": verdict, **pair.record()})
        with_limit.close()
    head = ("array", "step", "plain us", "Memory us", "ratio (95%)", "of minima", "rounds")
    return Sheet("Below the limit: arrays of a Memory beside plain ones", head, rows, NOTES, records)


def moment(gib: int, page: int) -> dict[str, float]:
    """Cross the limit once."""
    size = gib * GiB
    memory = Memory(size // 4 * 5)
    array = memory.empty(size, "u1", page=page)
    array[:GiB] = 1
    array[::APART] = 1
    before = memory.statistics()
    start = time.perf_counter()
    crossing = memory.empty(size, "u1", page=page)
    took = time.perf_counter() - start
    now = memory.statistics()
    if before.registered or not now.registered or now.faults:
        raise RuntimeError("that was not the crossing")
    del array, crossing
    memory.close()
    return {"gib": gib, "page": page, "touched": before.resident_bytes, "ms": took * 1000}


def moments(rounds: int) -> Sheet:
    """Every size and page size; medians."""
    rows, records = [], []
    for gib in MOMENTS:
        for page in (65536, 4096):
            found = [moment(gib, page) for _ in range(rounds)]
            times = [one["ms"] for one in found]
            rows.append(
                (
                    f"{gib} GiB",
                    sheet.size(page),
                    f"{found[0]['touched'] / GiB:.2f} GiB",
                    number(float(np.median(times))),
                    number(min(times)),
                    str(rounds),
                )
            )
            records += found
    head = ("allocated", "page", "there", "ms", "least", "rounds")
    return Sheet("The moment of registration", head, rows, MOMENT_NOTES, records)


def main() -> int:
    """Exit code 1: a goal is missed."""
    made = argparse.ArgumentParser(prog="python -m bench.below", description=__doc__)
    made.add_argument("--quick", action="store_true", help="fewer rounds: shows that all works")
    made.add_argument("--out", type=Path, default=Path("build/bench"), help="for the results (default build/bench)")
    chosen = made.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    where = environment(Path("/var/tmp"))
    sheets = [below(0.2 if chosen.quick else 8.0), moments(1 if chosen.quick else 3)]
    sheet.show(console, sheets)
    stem = sheet.save(chosen.out, "below-quick" if chosen.quick else "below", sheets, where)
    console.print(f"saved: {stem}.json, .md", markup=False, highlight=False)
    return 1 if any(record["verdict"] for record in sheets[0].records) else 0


if __name__ == "__main__":
    sys.exit(main())
