"""Staging: pages that zcache takes as they are, in front of swap areas, and packs later. No byte changes meanwhile."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import MiB, noise, together, wait_until
from test_recompress import Hand, step, text, twice
from test_shares import agree

import frontswap
from frontswap.counters import HooksStatistics
from frontswap.errors import PageLostError, SpecError

PAGE = 4096
RAW = PAGE + 16
SIZE = 16 * MiB
SEGMENT = SIZE // 32
#: pages of a full segment
FULL = SEGMENT // RAW
#: two segments are full, one is open
PAGES = 2 * FULL + FULL // 2
BY_HAND = "zcache:size=16M,codec=lz4,recompress=off,staging=8M"


class Stage:
    """An area whose pages are staged, and packed by hand. `expected` is what it has."""

    def __init__(self, spec: str = BY_HAND, pages: int = PAGES, **settings: Any) -> None:
        self.hooks = frontswap.Frontswap(spec)
        self.area = self.hooks.swapon(pages, **settings)
        self.hand = Hand(self.hooks._core)
        # Pages are staged from here on: there is somebody with buffers.
        assert step("buffers_there", ctypes.c_bool, ctypes.c_void_p)(self.hand.pager)
        self.expected: dict[int, np.ndarray[Any, Any]] = {}

    def store(self, offsets: range, data: np.ndarray[Any, Any]) -> None:
        for offset, page in zip(offsets, data.reshape(-1, PAGE), strict=True):
            self.area.store(offset, page)
            self.expected[offset] = page.copy()

    def pack(self) -> None:
        """All that is in segments that are full."""
        while self.is_left():
            assert self.hand.begin()
            while step("batch_take", ctypes.c_bool, ctypes.c_void_p)(self.hand.pager):
                self.hand.finish()
            step("segment_end", None, ctypes.c_void_p)(self.hand.pager)

    def is_left(self) -> bool:
        """Something is staged in a segment that is full, and nobody has looked at it."""
        return bool(step("next_staged", ctypes.c_uint32, ctypes.c_void_p)(self.hand.pager))

    def check(self) -> HooksStatistics:
        into = np.empty(PAGE, "u1")
        for offset, page in self.expected.items():
            self.area.load(offset, into)
            assert np.array_equal(into, page), offset
        found = agree(self.hooks)
        assert found.poisoned == 0
        assert 0 <= found.staged_bytes <= found.pool_live_bytes
        return found


@pytest.fixture
def stage() -> Iterator[Stage]:
    """All of it is staged."""
    made = Stage(swap=None)
    made.store(range(PAGES), twice(PAGES, 1))
    assert made.hooks.statistics().staged_bytes == PAGES * RAW == made.area.statistics().pool_bytes
    yield made
    made.hooks.close(force=True)


def test_by_hand(stage: Stage) -> None:
    assert stage.check().packed_later_pages == 0
    stage.pack()
    found = stage.check()
    # What was in the open segment, too, where their records have filled it.
    assert found.packed_later_pages >= 2 * FULL
    assert found.staged_bytes == (PAGES - found.packed_later_pages) * RAW
    assert found.recompressed_pages == 0
    # Their segments have gone, and the records are as long as if they had been packed at once.
    at_once = frontswap.Frontswap("zcache:size=16M,codec=lz4,recompress=off")
    area = at_once.swapon(PAGES, swap=None)
    for offset in range(found.packed_later_pages):
        area.store(offset, stage.expected[offset])
    assert found.pool_live_bytes - found.staged_bytes == area.statistics().pool_bytes
    assert found.pool_bytes < found.pool_live_bytes + SEGMENT
    at_once.close(force=True)


def test_what_does_not_get_smaller_stays_and_is_looked_at_once() -> None:
    stage = Stage(swap=None)
    # Not all of it: of an area whose pages do not get smaller none would be staged.
    mixed = twice(PAGES, 1).reshape(-1, PAGE)
    mixed[::4] = noise(PAGES * PAGE).reshape(-1, PAGE)[::4]
    stage.store(range(PAGES), mixed)
    assert stage.hooks.statistics().staged_bytes == PAGES * RAW
    stage.pack()
    found = stage.check()
    assert found.packed_later_pages >= 2 * FULL * 3 // 4 - 1
    assert found.staged_bytes == (PAGES - found.packed_later_pages) * RAW
    # They have been moved together, and nobody looks at them again.
    assert not stage.is_left()
    assert found.pool_bytes < found.pool_live_bytes + 2 * SEGMENT
    stage.hooks.close(force=True)


def test_what_was_packed_in_haste_gets_the_codec_that_suits_it() -> None:
    """An area's codec is chosen by a sample now and then; its pages differ."""
    stage = Stage("zcache:size=16M,recompress=off,staging=off", 1900, swap="auto")
    rng = np.random.default_rng(1)
    data = rng.integers(0, 100_000, 1900 * 1024).astype("i4").view("u1").reshape(-1, PAGE).copy()
    words = rng.integers(0, 256, (8, 16), "u1")
    # No page of these is a sample (choice.is_sampled()): they are packed as those before them.
    for low, high in ((767, 870), (896, 1024), (1193, 1260), (1261, 1386), (1387, 1470)):
        data[low:high] = words[rng.integers(0, 8, (high - low) * PAGE // 16)].reshape(-1, PAGE)
        data[low:high, PAGE // 4 :] = 0
    stage.store(range(1900), data)
    before = stage.check()
    assert before.staged_bytes == 0
    stage.pack()
    found = stage.check()
    assert found.pool_live_bytes < before.pool_live_bytes * 0.95
    assert before.pool_live_bytes - found.pool_live_bytes == found.recompressed_saved_bytes
    assert found.pool_bytes < before.pool_bytes
    stage.pack()
    assert stage.check().recompressed_pages == found.recompressed_pages
    stage.hooks.close(force=True)


def loaded(stage: Stage) -> None:
    stage.check()


def written(stage: Stage) -> None:
    stage.store(range(PAGES), twice(PAGES, 7))


def every_other_one_written(stage: Stage) -> None:
    for offset in range(0, PAGES, 2):
        stage.store(range(offset, offset + 1), twice(1, offset))


def invalidated(stage: Stage) -> None:
    for offset in range(PAGES):
        stage.area.invalidate_page(offset)
        stage.expected[offset] = np.zeros(PAGE, "u1")


def another_area(stage: Stage) -> None:
    """Its pages have the ids of those of before, and its records may lie where theirs did."""
    stage.area.swapoff()
    stage.area = stage.hooks.swapon(PAGES, swap=None)
    stage.store(range(PAGES), twice(PAGES, 9))


@pytest.mark.parametrize("meanwhile", [loaded, written, every_other_one_written, invalidated, another_area])
def test_between_copy_and_install(stage: Stage, meanwhile: Callable[[Stage], None]) -> None:
    stage.hand.take()
    stage.hand.work()
    meanwhile(stage)
    stage.hand.install()
    stage.check()
    stage.pack()
    stage.check()


def test_critical_pressure_between_copy_and_install() -> None:
    """Nothing stays in the pool, and what has gone to its slot does not come back."""
    stage = Stage()
    stage.store(range(PAGES), twice(PAGES, 1))
    stage.hand.take()
    stage.hand.work()
    stage.hooks.pressure("critical")
    assert stage.hooks.statistics().pool_live_bytes == 0 == stage.hooks.statistics().staged_bytes
    stage.hand.install()
    found = stage.check()
    assert found.staged_bytes == found.packed_later_pages == found.pool_live_bytes == 0
    stage.hooks.close(force=True)


def test_a_backend_that_leaves_between_copy_and_install() -> None:
    stage = Stage()
    stage.store(range(PAGES), twice(PAGES, 1))
    stage.hand.take()
    stage.hand.work()
    stage.store(range(FULL), twice(FULL, 5))
    stage.hand.install()
    [zcache] = stage.hooks.backends
    stage.hooks.backends.unregister(zcache)
    assert stage.check().pool_bytes == 0
    stage.hooks.close(force=True)


def test_damage_is_not_made_right(stage: Stage) -> None:
    address, _ = max(stage.hooks._core.places(), key=lambda place: place[1])  # the pool is the largest
    record = (ctypes.c_ubyte * RAW).from_address(address)
    record[16 + 500] ^= 4
    stage.pack()
    with pytest.raises(PageLostError, match="checksum"):
        stage.area.load(0, np.empty(PAGE, "u1"))
    assert stage.hooks.statistics().poisoned == 1
    del stage.expected[0]
    into = np.empty(PAGE, "u1")
    for offset, page in stage.expected.items():
        stage.area.load(offset, into)
        assert np.array_equal(into, page)


# --- how much --------------------------------------------------------------------------------------------------------


def staged(stage: Stage, pages: int) -> int:
    stage.store(range(pages), twice(pages, 1))
    found = stage.check()
    stage.hooks.close(force=True)
    return found.staged_bytes // RAW


def test_no_more_than_staging() -> None:
    assert staged(Stage("zcache:size=16M,codec=lz4,recompress=off,staging=1M", swap=None), PAGES) == MiB // RAW


def test_no_more_than_half_of_the_pool() -> None:
    spec = "zcache:size=16M,codec=lz4,recompress=off,staging=16M"
    most = (SIZE - SIZE // 16) // 2 // RAW
    assert most // 2 < staged(Stage(spec, 3000, swap=None), 3000) <= most


def test_no_more_than_half_of_a_quota() -> None:
    assert staged(Stage(swap=None, quota=MiB), PAGES) <= MiB // 2 // RAW


@pytest.mark.parametrize("level", ["low", "medium"])
def test_none_under_pressure(level: str) -> None:
    stage = Stage()
    stage.hooks.pressure(level)
    assert staged(stage, PAGES) == 0


def test_none_by_default_without_recompression() -> None:
    assert staged(Stage("zcache:size=16M,codec=lz4,recompress=off,staging=off", swap=None), PAGES) == 0


def test_none_of_what_does_not_get_smaller() -> None:
    """It is refused, as it always is, as soon as that is known."""
    stage = Stage()
    stage.store(range(PAGES), noise(PAGES * PAGE))
    stage.pack()
    before = stage.check()
    assert before.packed_later_pages == 0
    stage.store(range(PAGES), noise(PAGES * PAGE))
    found = stage.check()
    assert found.staged_bytes == 0
    assert found.refusals["incompressible"] > PAGES // 2
    stage.hooks.close(force=True)


def test_settings() -> None:
    with pytest.raises(SpecError, match=r"zcache:staging.*-1"):
        frontswap.Frontswap("zcache:staging=-1")


# --- by itself, beside everything else -------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is staged is packed at once, with the priority of the other threads."""
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")


def test_by_itself(eager: None) -> None:
    with frontswap.Frontswap("zcache:size=64M,codec=lz4") as hooks:
        area = hooks.swapon(8000, swap=None)
        wait_until(lambda: area.store(0, text(PAGE)) and hooks.statistics().staged_bytes > 0, "the first one")
        expected = text(8000 * PAGE).reshape(-1, PAGE)
        for offset, page in enumerate(expected):
            area.store(offset, page)
        # But for the open end.
        wait_until(lambda: hooks.statistics().staged_bytes <= 2 * MiB, "records to be packed")
        into = np.empty(PAGE, "u1")
        for offset, page in enumerate(expected):
            area.load(offset, into)
            assert np.array_equal(into, page)
        found = agree(hooks)
        assert found.packed_later_pages > 4000
        assert found.poisoned == 0
        area.swapoff()


@pytest.mark.parametrize("spec", ["", ",policy=lru"])
def test_threads_against_a_model(eager: None, spec: str) -> None:
    """Each has a part of the pages, and knows what they are; others come and go beside them."""
    pages, threads = 1500, 3
    kinds = [text(64 * PAGE), noise(64 * PAGE), twice(64, 2), np.zeros(64 * PAGE, "u1")]
    pool = np.concatenate(kinds).reshape(-1, PAGE)
    with frontswap.Frontswap("zcache:size=16M,staging=8M" + spec) as hooks:
        area = hooks.swapon(pages * threads)
        ended = threading.Event()
        staged_once: list[bool] = []
        done: list[int] = []

        def work(number: int) -> None:
            if number == threads:
                while not ended.wait(0.002):
                    other = hooks.swapon(200)
                    for offset in range(200):
                        other.store(offset, pool[offset % 64])
                    staged_once.append(hooks.statistics().staged_bytes > 0)
                    other.swapoff()
                return
            rng = np.random.default_rng(number)
            model: dict[int, int] = {}
            into = np.empty(PAGE, "u1")
            try:
                for _ in range(12000):
                    offset = number * pages + int(rng.integers(pages))
                    what = rng.integers(10)
                    if what < 5:
                        model[offset] = int(rng.integers(len(pool)))
                        area.store(offset, pool[model[offset]])
                    elif what < 9:
                        area.load(offset, into)
                        assert np.array_equal(into, pool[model[offset]] if offset in model else np.zeros(PAGE, "u1"))
                    else:
                        area.invalidate_page(offset)
                        model.pop(offset, None)
                for offset, index in model.items():
                    area.load(offset, into)
                    assert np.array_equal(into, pool[index])
            finally:
                done.append(number)
                if len(done) == threads:
                    ended.set()

        together(threads + 1, work)
        found = agree(hooks)
        assert found.poisoned == 0
        assert found.packed_later_pages > 500
        assert any(staged_once)
        hooks.pressure("critical")
        wait_until(lambda: hooks.statistics().pool_live_bytes == 0, "the last record")
        assert hooks.statistics().staged_bytes == 0
        area.swapoff()
