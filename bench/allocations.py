"""`python -m bench.allocations LIBRARY`: does a store or a load allocate? A child with a counting allocator says.

The child runs with allocations.c preloaded, which counts every malloc, calloc, realloc and aligned one of the
process, of all threads. Net growth alone would not see what is given back at once."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.sheet import Sheet
from bench.slots import build

PAGE = 4096
PAGES = 1024
ROUNDS = 100
NOTES = f"""\
Of the whole process, for {2 * PAGES * ROUNDS:,} operations in one call of hooktimes: half of them through the hooks,
half to the backend alone, all of them compressing (int32 counters, {PAGE} bytes a page). The calls that are left are
those of the measuring call itself: its table of times, and Python's list of them. "heap": uordblks of mallinfo2, the
main arena. "RSS": VmRSS. The last row shows that the counting works: so many times malloc is called by hand."""


class Mallinfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = (("before", ctypes.c_size_t * 7), ("uordblks", ctypes.c_size_t), ("after", ctypes.c_size_t * 2))


def heap() -> int:
    """Bytes in use in the main arena."""
    function = ctypes.CDLL(None).mallinfo2
    function.restype = Mallinfo
    return int(function().uordblks)


def child(library: str) -> dict[str, dict[str, int]]:
    """Count in this process; the library is preloaded."""
    import numpy as np

    from bench.data import counters
    from bench.metadata import rss
    from bench.rounds import buffer
    from frontswap import Frontswap
    from frontswap.testing import hooktimes

    counter = ctypes.CDLL(library).allocation_calls
    counter.restype = ctypes.c_int64
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    data, into = buffer(PAGES * PAGE), buffer(PAGES * PAGE)
    data[:] = counters(np.random.default_rng(1))(data.size)

    def by_hand(rounds: int) -> None:
        for _ in range(10 * rounds):
            libc.free(libc.malloc(1000))

    with Frontswap("zcache:size=64MiB") as hooks:
        area = hooks.swapon(PAGES, page=PAGE, swap=None)
        area.store_many(np.arange(PAGES), data.data)
        found = {}
        for name, run in (
            ("store", lambda rounds: hooktimes.store(hooks._core, area.type, data.ctypes.data, rounds)),
            ("load", lambda rounds: hooktimes.load(hooks._core, area.type, into.ctypes.data, rounds)),
            (f"malloc and free, {10 * ROUNDS} times", by_hand),
        ):
            run(ROUNDS)  # warm: what is mapped at first use is there
            before = counter(), heap(), rss()
            run(ROUNDS)
            after = counter(), heap(), rss()
            found[name] = dict(zip(("calls", "heap", "rss"), np.subtract(after, before).tolist(), strict=True))
    return found


def measure(folder: Path) -> Sheet:
    """Start the child, and write down what it has counted."""
    library = build("allocations.c", folder)
    done = subprocess.run(
        [sys.executable, "-m", "bench.allocations", str(library)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    rows = [
        (name, f"{counted['calls']:,}", f"{counted['heap']:,}", f"{counted['rss']:,}")
        for name, counted in found.items()
    ]
    head = ("", "calls of the allocator", "heap, bytes more", "RSS, bytes more")
    records = [{"operation": name, **counted} for name, counted in found.items()]
    return Sheet(f"No allocation: {2 * PAGES * ROUNDS:,} stores, as many loads", head, rows, NOTES, records)


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1])))
