"""One measured process of `bench.locks`: an array larger than its limit, touched at random, on a core with lock times.

python -m bench.lockchild LIBRARY PAGE DELAY SECONDS TOUCHES: JSON on stdout. PYTHONPATH says which core."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import frontswap
from bench.data import SIGN, floats
from bench.native import Loops, words
from frontswap.core import choice

LIMIT = 256 << 20
SIZE = 512 << 20
PIECE = 8 << 20
COMPRESSED = 64 << 20  # what is compressed to see how long a page takes


def compress_times(data: NDArray[Any], page: int) -> list[int]:
    """Nanoseconds of compressing each page, as the core does it: one choice of codec for the array. The call from
    Python and its buffers are in it (0.5 us, more for large pages)."""
    chooser = choice.Chooser(8)
    pages = data.view(np.uint8).reshape(-1, page)
    taken = []
    for each in pages:
        before = time.perf_counter_ns()
        chooser.compress(each)
        taken.append(time.perf_counter_ns() - before)
    return taken


def percentiles(values: NDArray[Any]) -> dict[str, float]:
    """Of nanoseconds; those that so few values cannot tell are left out."""
    found = {"p50": 50.0, "p99": 99.0} | ({"p99.99": 99.99} if len(values) >= 20_000 else {})
    result = {name: float(np.percentile(values, at)) for name, at in found.items()} if len(values) else {}
    return {"count": len(values), **result, "longest": float(values.max(initial=0))}


def measure(library: Path, page: int, delay: str, seconds: int, touches: int) -> dict[str, Any]:
    """Fill, let the backend become slow, touch; what locks and faults took."""
    loops, rng = Loops(library), np.random.default_rng(1)
    memory = frontswap.Memory(limit=LIMIT, page=page, backends="inject / zcache" if delay else "zcache")
    array = memory.empty(SIZE // 8, "f8")
    take = floats(rng, 2, 3)
    for at in range(0, SIZE // 8, PIECE // 8):
        array[at : at + PIECE // 8] = take(PIECE).view(np.float64)
    if delay:
        next(iter(memory.backends)).set("inject", delay=delay)
    places = rng.integers(0, SIZE // page, touches, dtype=np.uint64) * np.uint64(page // 8)
    places += rng.integers(0, page // 8, touches, dtype=np.uint64)
    nanoseconds = np.zeros(touches, np.uint64)
    before, filled = memory.statistics(), memory._plane.lock_times()
    done, _ = loops.touch(words(array), places, nanoseconds, seconds, flip=SIGN)
    after, times = memory.statistics(), memory._plane.lock_times()
    if not times:
        raise RuntimeError(f"{frontswap.__file__} was compiled without FS_LOCK_TIMES")
    faults = min(done, after.faults - before.faults)
    taken = np.sort(nanoseconds[:done])
    compressed = compress_times(take(max(COMPRESSED, 4 * page)).view(np.float64), page)
    if delay:
        next(iter(memory.backends)).set("inject", delay=0)
    return {
        "page": page,
        "delay": delay,
        "core": frontswap.__file__,
        "touches": done,
        "faults": percentiles(taken[done - faults :]),
        "stores": after.succ_stores - before.succ_stores,
        "compress": percentiles(np.array(compressed)),
        "locks": times,
        "locks_of_fill": filled,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))))
