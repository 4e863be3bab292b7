"""The hooks' own share of a store and of a load: the whole path less the backend alone (testing/hooktimes.py)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.data import counters
from bench.rounds import Pair, buffer
from bench.sheet import Sheet, number, size
from frontswap import Frontswap
from frontswap.testing import hooktimes

# Stored in each round: so little that few rounds are disturbed. Odd, so that what happens every so many pages (a full
# segment) does not always hit the same side.
COUNTS = {4096: 255, 64 << 10: 15}
MOST = 0.3  # us per page
NOTES = f"""\
Microseconds per page, medians of all rounds; whole and alone take turns on the same pages in one process, in native
code. Whole: enter the area, take a context, own the page, forget its old copy, offer it to the backends, count, let go.
Alone: the backend's own forget and store, or load; one codec for all (bitshuffle), as a choice by sampling would cost
some rounds more than others. The hooks: the difference in the same round, its median and where that lies with a
probability of 95%; "of minima": the difference of the quietest rounds. Goal: under {MOST} us per page. Same-filled
pages show the hooks best, as next to nothing is beside them; their code is the same for all data."""


def same_filled(size: int) -> NDArray[np.uint8]:
    """Nothing to compress: the backend does next to nothing."""
    return np.full(size, 7, np.uint8)


def small_counters(size: int) -> NDArray[np.uint8]:
    """Slowly growing int32: cheap for the codec."""
    return counters(np.random.default_rng(1))(size)


DATA: dict[str, Callable[[int], NDArray[np.uint8]]] = {"same-filled": same_filled, "int32 counters": small_counters}


def pairs(page: int, data: NDArray[np.uint8], rounds: int) -> dict[str, Pair]:
    """Store and load one area again and again; checks that what is loaded is what was stored."""
    count = COUNTS[page]
    found = {}
    with Frontswap("zcache:size=256MiB,codec=bitshuffle") as hooks:
        area = hooks.swapon(count, page=page, swap=None, dtype=np.int32)
        if not (area.store_many(np.arange(count), data.data) == 1).all():
            raise RuntimeError("zcache has refused pages")
        into = buffer(data.size)
        for name, run, address in (
            ("store", hooktimes.store, data.ctypes.data),
            ("load", hooktimes.load, into.ctypes.data),
        ):
            run(hooks._core, area.type, address, max(2, rounds // 10))
            times = np.array(run(hooks._core, area.type, address, rounds)) / 1000 / count
            found[name] = Pair(base=times[:, 1].tolist(), ours=times[:, 0].tolist())
        if not np.array_equal(into, data):
            raise RuntimeError("what was loaded is not what was stored")
        if area.curr_pages() != count:
            raise RuntimeError("the accounting is wrong")
    return found


def measure(rounds: int) -> Sheet:
    """Every page size and kind of data."""
    rows, records = [], []
    for page, count in COUNTS.items():
        for kind, make in DATA.items():
            data = buffer(count * page)
            data[:] = make(data.size)
            for operation, pair in pairs(page, data, rounds).items():
                own = pair.difference()
                met = "met" if own.high < MOST else "missed" if own.low > MOST else "too noisy to say"
                rows.append(
                    (
                        size(page),
                        kind,
                        operation,
                        number(float(np.median(pair.ours))),
                        number(float(np.median(pair.base))),
                        own.text(3),
                        f"{min(pair.ours) - min(pair.base):.3f}",
                        f"{pair.ratio().median:.3f}",
                        met,
                    )
                )
                records.append({"page": page, "data": kind, "operation": operation, "verdict": met, **pair.record()})
    head = (
        "page",
        "data",
        "",
        "whole us",
        "alone us",
        "the hooks us (95%)",
        "of minima",
        "whole / alone",
        f"< {MOST} us",
    )
    title = f"The hooks' own cost per page, zcache behind them, {rounds} rounds"
    return Sheet(title, head, rows, NOTES, records)
