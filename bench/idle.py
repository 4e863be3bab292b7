"""Hooks without a backend beside a bare write of the slot: what frontswap costs those who do not use it."""

import os
from pathlib import Path

import numpy as np

from bench.rounds import Pair, alternate, buffer
from bench.sheet import Sheet, number, size
from bench.slots import Slots
from frontswap import Frontswap
from frontswap.core.area import Areas

BATCH = 256  # pages that one round writes: with fewer, the call of store_many from Python would show
BATCHES = 8  # of an area; rounds go through it one after the other
PAGES = (4096, 64 << 10)
NOTES = """\
Microseconds per page, median of all rounds (the quietest one). Both sides write the same aligned buffer to the same
offsets of the same file, in turn. "ratio": store to pwrite in the same round, the median, and in brackets where it lies
with a probability of 95%; "worse" where that is above 1. "more ns": the difference per page, median. "C loop":
store_many of 256 pages beside a loop of pwrite in C. "each from Python": area.store beside os.pwrite, so that both
sides pay a call from Python for each page. "RAM": the file is a memfd, written by the compiled core without the checks
in Python: with no disk to wait for, the ratio is as bad as it gets."""


def batches() -> list[np.ndarray[tuple[int], np.dtype[np.uint32]]]:
    """The offsets of each round, and again from the start."""
    return list(np.arange(BATCHES * BATCH, dtype=np.uint32).reshape(BATCHES, BATCH))


def on_disk(folder: Path, page: int, slots: Slots, seconds: float) -> dict[str, tuple[Pair, bool]]:
    """Both kinds of call, and whether O_DIRECT works in the folder."""
    data, offsets = buffer(BATCH * page), batches()
    views = [data.data[at : at + page] for at in range(0, BATCH * page, page)]
    with Frontswap() as hooks:
        area = hooks.swapon(BATCHES * BATCH, page=page, swap=folder)
        file = area._swap
        if file is None:
            raise RuntimeError("the area has no slots")
        numbers = [at.tolist() for at in offsets]
        for at in offsets:  # the first write of an extent is slower
            area.store_many(at, data.data)

        def bare_singly(turn: int) -> None:
            for at, view in zip(numbers[turn % len(numbers)], views, strict=True):
                os.pwrite(file.fd, view, at * page)

        def stored_singly(turn: int) -> None:
            for at, view in zip(numbers[turn % len(numbers)], views, strict=True):
                area.store(at, view)

        found = {
            "C loop": alternate(
                lambda turn: slots.write_pages(file.fd, data, page, offsets[turn % len(offsets)]),
                lambda turn: area.store_many(offsets[turn % len(offsets)], data.data),
                BATCH,
                seconds,
            ),
            "each from Python": alternate(bare_singly, stored_singly, BATCH, seconds),
        }
        if area.curr_pages() or not area.statistics().slot_stores:
            raise RuntimeError("pages went elsewhere than into their slots")
        return {call: (pair, file.direct) for call, pair in found.items()}


def in_ram(page: int, slots: Slots, seconds: float) -> Pair:
    """The file is a memfd."""
    data, offsets = buffer(BATCH * page), batches()
    order, results = np.arange(BATCH, dtype=np.int64), np.zeros(BATCH, np.int32)
    fd = os.memfd_create("slots")
    areas = Areas(contexts=4, pages=BATCHES * BATCH + 32)  # an area starts at a multiple of 32
    try:
        os.ftruncate(fd, BATCHES * BATCH * page)
        # "direct" means here: pwrite and nothing else
        handle = areas.swapon(BATCHES * BATCH, BATCHES * BATCH, page, None, fd, True, 0, 0)
        type, serial = handle & 255, handle >> 8
        for at in offsets:
            areas.store_many(type, serial, at, order, data.data, results)
        pair = alternate(
            lambda turn: slots.write_pages(fd, data, page, offsets[turn % len(offsets)]),
            lambda turn: areas.store_many(type, serial, offsets[turn % len(offsets)], order, data.data, results),
            BATCH,
            seconds,
        )
        if results.any():
            raise RuntimeError(f"pages went elsewhere than into their slots: {results}")
        return pair
    finally:
        areas.close()
        os.close(fd)


def measure(folder: Path, slots: Slots, seconds: float) -> Sheet:
    """Every page size, call and place; `seconds` for each."""
    rows, records = [], []
    for page in PAGES:
        found = {(where(direct), call): pair for call, (pair, direct) in on_disk(folder, page, slots, seconds).items()}
        found["RAM", "C loop"] = in_ram(page, slots, seconds)
        for (place, call), pair in found.items():
            ratio = pair.ratio()
            rows.append(
                (
                    size(page),
                    place,
                    call,
                    _both(pair.base),
                    _both(pair.ours),
                    f"{ratio.text(3)}{' worse' if ratio.low > 1 else ''}",
                    f"{pair.ratio_of_minima():.3f}",
                    f"{pair.difference().median * 1000:.0f}",
                    str(len(pair.base)),
                )
            )
            records.append({"page": page, "slots": place, "call": call, **pair.record()})
    head = ("page", "slots in", "call", "pwrite us", "store us", "ratio (95%)", "of minima", "more ns", "rounds")
    return Sheet("Idle: a store with no backend beside the bare write of the slot", head, rows, NOTES, records)


def where(direct: bool) -> str:
    """Say how the slots on disk are written."""
    return "file, O_DIRECT" if direct else "file, written through"


def _both(side: list[float]) -> str:
    return f"{number(float(np.median(side)))} ({number(min(side))})"
