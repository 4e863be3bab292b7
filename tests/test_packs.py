"""Packs: several pages in one record, in front of swap areas. No byte changes whatever happens beside it."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import Array, MiB, noise, quiet, together, wait_until
from pages import capsule_function
from test_recompress import Hand, step, text, twice
from test_shares import agree

import frontswap
from frontswap.core import cleaner, contexts
from frontswap.counters import HooksStatistics
from frontswap.errors import PageLostError

PAGE = 4096
SIZE = 16 * MiB
SEGMENT = SIZE // 32
PAGES = 3000
BY_HAND = "zcache:size=16M,codec=lz4,recompress=off,staging=off"
PACK = 128  # CODEC_PACK
HEADER = struct.Struct("IIBBHI")
GROUP = struct.Struct("IIHBBI")
MEMBER = struct.Struct("IHH")
FIRST = 32  # the page of offset 0 of the first area
SECOND = 1_000_000_000


class Packed:
    """An area whose pages are packed by hand. `expected` is what it has."""

    def __init__(self, spec: str = BY_HAND, pages: int = PAGES, **settings: Any) -> None:
        self.hooks = frontswap.Frontswap(spec)
        self.area = self.hooks.swapon(pages, **settings)
        self.hand = Hand(self.hooks._core)
        assert step("buffers_there", ctypes.c_bool, ctypes.c_void_p)(self.hand.pager)
        self.expected: dict[int, Array] = {}

    def store(self, offsets: range, data: Array) -> None:
        for offset, page in zip(offsets, data.reshape(-1, PAGE), strict=True):
            self.area.store(offset, page)
            self.expected[offset] = page.copy()

    def free(self, offsets: Iterator[int] | range) -> None:
        for offset in offsets:
            self.area.invalidate_page(offset)
            self.expected[offset] = np.zeros(PAGE, "u1")

    def next(self) -> bool:
        """Copy the next batch of what is cold."""
        self.hooks._core.skip_time(10 * SECOND)
        while self.hand.begin():
            if step("batch_take", ctypes.c_bool, ctypes.c_void_p)(self.hand.pager):
                return True
            step("segment_end", None, ctypes.c_void_p)(self.hand.pager)
        return False

    def pack(self) -> None:
        """All that is in segments that are full."""
        while self.next():
            self.hand.finish()
            while step("batch_take", ctypes.c_bool, ctypes.c_void_p)(self.hand.pager):
                self.hand.finish()
            step("segment_end", None, ctypes.c_void_p)(self.hand.pager)

    def interrupted(self, meanwhile: Callable[[Packed], None]) -> None:
        """A batch that has been copied, and what happens before its packs are put back; then all the rest."""
        self.hand.work()
        meanwhile(self)
        self.hand.install()
        self.check()
        self.pack()
        self.check()

    def clean(self) -> None:
        """Have the writeback thread look at what is dead, until it finds no more."""
        before = -1
        while before != self.hooks.statistics().pool_bytes:
            before = self.hooks.statistics().pool_bytes
            self.hooks.pressure("none")
            quiet(self.hooks, rounds=2)

    def clean_once(self) -> int:
        """Clean the emptiest segment, as a store does that makes room; the bytes won."""
        context = capsule_function(contexts, "context_take", ctypes.c_void_p, ctypes.c_void_p)(self.hand.pager)
        clean = capsule_function(cleaner, "clean_ram", ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        won: int = clean(self.hand.pager, context)
        capsule_function(contexts, "context_give", None, ctypes.c_void_p)(context)
        return won

    def check(self) -> HooksStatistics:
        into = np.empty(PAGE, "u1")
        for offset, page in self.expected.items():
            self.area.load(offset, into)
            assert np.array_equal(into, page), offset
        found = agree(self.hooks)
        assert found.poisoned == 0
        assert 0 <= found.staged_bytes <= found.pool_live_bytes <= found.pool_bytes
        return found

    def records(self) -> list[tuple[int, int]]:
        """Where the packs of all segments are, dead ones too: (address, bytes)."""
        pool, length = max(self.hooks._core.places(), key=lambda place: place[1])
        found = []
        for start in range(pool, pool + length - SEGMENT + 1, SEGMENT):
            at = start
            while at + 16 <= start + SEGMENT:
                _, bytes_, codec, shift, _, _ = HEADER.unpack(ctypes.string_at(at, 16))
                if not 12 <= shift <= 13 or not bytes_ or at + 16 + bytes_ > start + SEGMENT:
                    break
                if codec & PACK:
                    found.append((at, 16 + bytes_))
                at += (16 + bytes_ + 15) // 16 * 16
        return found

    def close(self) -> None:
        self.hooks.close(force=True)


def entries(record: tuple[int, int]) -> list[tuple[int, int, int]]:
    """A pack's list: page, units, part."""
    count = GROUP.unpack(ctypes.string_at(record[0] + 16, 16))[2]
    return [MEMBER.unpack(ctypes.string_at(record[0] + 32 + 8 * i, 8)) for i in range(count)]


def members(record: tuple[int, int]) -> list[int]:
    """The offsets of a pack's members."""
    found = entries(record)
    assert sum(units for _, units, _ in found) * 16 == (record[1] + 15) // 16 * 16
    return [page - FIRST for page, _, _ in found]


@pytest.fixture
def some() -> Iterator[Packed]:
    """All of it is in the pool, and packed by LZ4."""
    made = Packed(swap=None)
    made.store(range(PAGES), text(PAGES * PAGE))
    yield made
    made.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is packed at once, with the priority of the other threads."""
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")


def test_by_hand(some: Packed) -> None:
    before = agree(some.hooks)
    some.pack()
    found = agree(some.hooks)
    some.check()  # loads give some of them records of their own
    assert found.recompressed_pages > PAGES * 3 // 4
    assert before.pool_live_bytes - found.pool_live_bytes == found.recompressed_saved_bytes
    assert found.pool_live_bytes < before.pool_live_bytes * 0.7
    assert found.pool_bytes < found.pool_live_bytes + 2 * SEGMENT
    packs = some.records()
    assert len(packs) > PAGES // 12
    assert {len(members(pack)) for pack in packs} >= {8}


def test_noise_is_no_pack() -> None:
    made = Packed()
    data = text(PAGES * PAGE).reshape(-1, PAGE).copy()
    data[::2] = noise(PAGES * PAGE).reshape(-1, PAGE)[::2] & np.uint8(15)  # halves, by LZ4 and by zstd
    made.store(range(PAGES), data)
    made.pack()
    made.check()
    made.close()


# --- what may happen between copy and install ------------------------------------------------------------------------


def loaded(some: Packed) -> None:
    some.check()


def written(some: Packed) -> None:
    some.store(range(PAGES), twice(PAGES, 7))


def some_written(some: Packed) -> None:
    for offset in range(0, PAGES, 3):
        some.store(range(offset, offset + 1), twice(1, offset))


def invalidated(some: Packed) -> None:
    some.free(range(PAGES))


def some_invalidated(some: Packed) -> None:
    some.free(range(1, PAGES, 4))


def emptied_and_cleaned(some: Packed) -> None:
    """Most of the segment has gone, and the cleaner has moved the rest."""
    some.free(offset for offset in range(PAGES) if offset % 16)
    some.clean()


def another_area(some: Packed) -> None:
    """Its pages have the ids of those of before, and its records may lie where theirs did."""
    some.area.swapoff()
    some.area = some.hooks.swapon(PAGES, swap=None)
    some.store(range(PAGES), text(PAGES * PAGE)[::-1].copy())


def exclusive(some: Packed) -> None:
    into = np.empty(PAGE, "u1")
    some.hooks.exclusive_loads(True)
    for offset in range(0, PAGES, 3):
        some.area.load(offset, into)
        del some.expected[offset]
    some.hooks.exclusive_loads(False)


CHANGES = [
    loaded,
    written,
    some_written,
    invalidated,
    some_invalidated,
    emptied_and_cleaned,
    another_area,
    exclusive,
]


@pytest.mark.parametrize("meanwhile", CHANGES)
def test_between_copy_and_install(some: Packed, meanwhile: Callable[[Packed], None]) -> None:
    assert some.next()
    some.interrupted(meanwhile)


@pytest.mark.parametrize("meanwhile", CHANGES)
def test_once_it_is_packed(some: Packed, meanwhile: Callable[[Packed], None]) -> None:
    some.pack()
    meanwhile(some)
    some.check()
    some.pack()
    some.clean()
    some.check()


def begun(packed: bool) -> Packed:
    """Pages with slots: in packs, or about to be."""
    some = Packed()
    some.store(range(PAGES), text(PAGES * PAGE))
    if packed:
        some.pack()
    else:
        assert some.next()
        some.hand.work()
    return some


@pytest.mark.parametrize("packed", [False, True])
def test_critical_pressure(packed: bool) -> None:
    some = begun(packed)
    some.hooks.pressure("critical")
    assert some.hooks.statistics().pool_live_bytes == 0
    if not packed:
        some.hand.install()
    assert some.check().pool_live_bytes == 0
    some.close()


def test_critical_pressure_while_all_is_moved(eager: None) -> None:
    """Pages that are loaded get records of their own, others are packed, what is dead is cleaned."""
    data = text(2000 * PAGE).reshape(-1, PAGE)
    with frontswap.Frontswap("zcache:size=16M,codec=lz4,staging=off") as hooks:
        area = hooks.swapon(2000)
        area.store_many(np.arange(2000, dtype="u4"), data)
        done = threading.Event()

        def work(number: int) -> None:
            rng = np.random.default_rng(number)
            into = np.empty((64, PAGE), "u1")
            while number and not done.is_set():
                at = np.sort(rng.choice(2000, 64, replace=False)).astype("u4")
                area.load_many(at, into)
                assert np.array_equal(into, data[at])
            if number:
                return
            try:
                for _ in range(12):
                    area.store_many(np.arange(2000, dtype="u4"), data)
                    enough = hooks.statistics().recompressed_pages + 500
                    while hooks.statistics().recompressed_pages < enough:
                        area.load_many(np.arange(64, dtype="u4"), np.empty((64, PAGE), "u1"))
                    hooks.pressure("critical")
                    wait_until(lambda: hooks.statistics().pool_live_bytes == 0, "the last record")
                    hooks.pressure("none")
            finally:
                done.set()

        together(4, work)
        assert agree(hooks).poisoned == 0
        area.swapoff()


@pytest.mark.parametrize("packed", [False, True])
def test_a_backend_that_leaves(packed: bool) -> None:
    some = begun(packed)
    if not packed:
        some.store(range(50), twice(50, 5))
        some.hand.install()
    [zcache] = some.hooks.backends
    some.hooks.backends.unregister(zcache)
    assert some.check().pool_bytes == 0
    some.close()


def test_the_next_pool_is_another_one() -> None:
    """What a context has decompressed of the one before is not taken for what lies there now."""
    some = Packed()
    into = np.empty(PAGE, "u1")
    for turn in range(3):
        some.store(range(PAGES), text(PAGES * PAGE) ^ np.uint8(turn))
        some.pack()
        some.area.load(0, into)
        some.check()
        [zcache] = some.hooks.backends
        some.hooks.backends.unregister(zcache)
        some.hooks.register(BY_HAND)
        assert step("buffers_there", ctypes.c_bool, ctypes.c_void_p)(some.hand.pager)
    some.close()


# --- the cleaner, shedding -------------------------------------------------------------------------------------------


def test_packs_of_which_most_lives_are_moved_as_they_are(some: Packed) -> None:
    some.pack()
    for number, pack in enumerate(some.records()):
        offsets = members(pack)
        some.free(iter(offsets if number % 3 else offsets[: len(offsets) // 8]))
    before = agree(some.hooks)
    some.clean()
    found = agree(some.hooks)
    some.check()
    assert found.pool_live_bytes == before.pool_live_bytes
    assert found.pool_bytes < before.pool_bytes * 0.7


def test_packs_of_which_little_lives_are_taken_apart(some: Packed) -> None:
    some.pack()
    for pack in some.records():
        some.free(iter(members(pack)[:6]))
    before = agree(some.hooks)
    some.clean()
    found = agree(some.hooks)
    some.check()
    assert found.pool_live_bytes > before.pool_live_bytes  # records of their own are longer
    assert found.pool_bytes < before.pool_bytes * 0.8
    for _ in range(40):
        some.hooks._core.skip_time(10 * SECOND)
        step("hits_fade", None, ctypes.c_void_p)(some.hand.pager)
    some.pack()
    assert agree(some.hooks).pool_live_bytes < found.pool_live_bytes
    some.check()


def half(number: int) -> Array:
    """Noise up to the middle, and a bit further."""
    made = noise(PAGE, number).copy()
    made[2600:] = 7
    return made


def test_packs_whose_short_pages_live_are_taken_apart() -> None:
    """Half of its pages, but a fifth of its bytes. Moved as they are nothing would be won, over and over."""
    some = Packed(swap=None)
    data = text(PAGES * PAGE).reshape(-1, PAGE).copy()
    data[::2, 600:] = 7
    data[::2, :600] = noise(PAGES * PAGE).reshape(-1, PAGE)[::2, :600]
    some.store(range(PAGES), data)
    some.pack()
    some.free(page - FIRST for pack in some.records() for page, units, _ in entries(pack) if units > 60)
    before = agree(some.hooks)
    assert before.pool_live_bytes < before.pool_bytes // 3
    assert 0 < some.area.statistics().curr_pages < PAGES * 2 // 3
    while some.clean_once() > 0:
        pass
    assert some.check().pool_bytes < before.pool_bytes * 2 // 3
    some.close()


@pytest.mark.parametrize(("spec", "settings"), [("", {}), (",policy=lru", {}), ("", {"weight": 1})])
def test_a_pool_full_of_packs_of_which_half_is_dead_takes_more(spec: str, settings: dict[str, Any]) -> None:
    """What lives would fit beside what comes; what is dead is not won back before more of it is."""
    some = Packed(BY_HAND + spec, pages=9000, **settings)
    for start in range(0, 9000, 500):
        some.store(range(start, start + 500), text(9000 * PAGE)[start * PAGE : (start + 500) * PAGE])
        some.pack()
    some.free(offset for pack in some.records() for offset in members(pack)[:4])
    found = agree(some.hooks)
    assert found.pool_live_bytes < SIZE // 2 < SIZE * 3 // 4 < found.pool_bytes
    other = some.hooks.swapon(4000, **settings)
    assert sum(other.store(offset, half(offset)) for offset in range(4000)) > 3900
    into = np.empty(PAGE, "u1")
    for offset in range(4000):
        other.load(offset, into)
        assert np.array_equal(into, half(offset))
    some.check()
    some.close()


def test_packs_whose_pages_may_not_take_more_stay_packs() -> None:
    """A quota does not allow its pages records of their own."""
    some = Packed(swap=None)
    some.store(range(PAGES), text(PAGES * PAGE))
    some.pack()
    for pack in some.records():
        some.free(iter(members(pack)[:6]))
    quota = some.area.statistics().pool_bytes
    some.area.set_quota(quota, deadline=1)
    some.clean()
    assert some.check().pool_live_bytes <= quota
    some.close()


def test_a_segment_of_packs_leaves_for_its_slots() -> None:
    some = Packed(pages=12000)
    some.store(range(PAGES), text(PAGES * PAGE))
    some.pack()
    for start in range(PAGES, 12000, 1000):
        some.store(range(start, start + 1000), noise(1000 * PAGE, start) & np.uint8(15))
    assert some.check().slot_stores > PAGES // 2
    some.close()


# --- hot pages -------------------------------------------------------------------------------------------------------


def test_what_is_loaded_again_and_again_gets_records_of_its_own(some: Packed) -> None:
    some.pack()
    packed = some.check().pool_live_bytes
    rng = np.random.default_rng(1)
    into = np.empty(PAGE, "u1")
    for offset in rng.integers(0, PAGES, 20_000).tolist():
        some.area.load(offset, into)
        assert np.array_equal(into, some.expected[offset])
    hot = agree(some.hooks).pool_live_bytes
    assert hot > packed * 1.3
    # As often as it takes: its segments are cold then.
    for _ in range(40):
        step("hits_fade", None, ctypes.c_void_p)(some.hand.pager)
        some.hooks._core.skip_time(10 * SECOND)
    some.pack()
    assert some.check().pool_live_bytes < hot


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [4, 8, 16, 26, 32, 37, 60, 500])
def test_a_damaged_pack_loses_its_members_and_no_others(some: Packed, at: int) -> None:
    """In its length, codec, checksum, count, shift, members, frame."""
    some.pack()
    packs = some.records()
    lost = members(packs[3])
    address, length = packs[3]
    assert length > at
    (ctypes.c_ubyte * length).from_address(address)[at] ^= 4
    into = np.empty(PAGE, "u1")
    for offset in lost:
        with pytest.raises(PageLostError):
            some.area.load(offset, into)
        del some.expected[offset]
    assert some.hooks.statistics().poisoned == len(lost)
    for offset, page in some.expected.items():
        some.area.load(offset, into)
        assert np.array_equal(into, page), offset
    agree(some.hooks)


@pytest.mark.parametrize("at", [16, 32, 300])
def test_damage_is_not_made_right(some: Packed, at: int) -> None:
    """By the cleaner, which moves it, or takes it apart."""
    some.pack()
    packs = some.records()
    damaged = members(packs[3])[6:]
    for pack in packs:
        some.free(iter(members(pack)[:6]))
    (ctypes.c_ubyte * 512).from_address(packs[3][0])[at] ^= 4
    some.clean()
    into = np.empty(PAGE, "u1")
    for offset in damaged:
        with pytest.raises(PageLostError):
            some.area.load(offset, into)
        del some.expected[offset]
    for offset, page in some.expected.items():
        some.area.load(offset, into)
        assert np.array_equal(into, page), offset
    agree(some.hooks)


def test_damage_since_it_was_decompressed_is_not_made_right() -> None:
    """Its list in RAM has another page for the first one. The context that takes it apart still has what was there."""
    some = Packed(swap=None)
    some.store(range(PAGES), twice(PAGES, 3))
    some.pack()
    pool, _ = max(some.hooks._core.places(), key=lambda place: place[1])
    packs = some.records()
    pack = packs[5]
    last = entries(pack)[7]
    kept = members(pack)[6:]
    into = np.empty(PAGE, "u1")
    some.area.load(kept[1], into)
    beside = [other for other in packs if (other[0] - pool) // SEGMENT == (pack[0] - pool) // SEGMENT]
    some.free(offset for other in beside for offset in members(other) if offset not in kept)
    ctypes.memmove(pack[0] + 32, MEMBER.pack(*last[:2], 0), 8)
    while some.clean_once() > 0:
        pass
    lost = 0
    for offset, page in some.expected.items():
        try:
            some.area.load(offset, into)
        except PageLostError:
            assert offset in kept
            lost += 1
        else:
            assert np.array_equal(into, page), offset
    assert some.hooks.statistics().poisoned == lost
    some.close()


def test_damage_stands_in_nobodys_way() -> None:
    """Who walks through the oldest segment does not find the members of that pack; the others leave."""
    some = Packed()
    some.store(range(PAGES), text(PAGES * PAGE))
    some.pack()
    pack = some.records()[0]
    lost = members(pack)
    ctypes.c_uint16.from_address(pack[0] + 24).value = 60_000  # how many they are
    some.hooks.pressure("critical")
    assert agree(some.hooks).pool_live_bytes < SEGMENT
    into = np.empty(PAGE, "u1")
    for offset in lost:
        with pytest.raises(PageLostError):
            some.area.load(offset, into)
        del some.expected[offset]
    for offset, page in some.expected.items():
        some.area.load(offset, into)
        assert np.array_equal(into, page), offset
    some.close()


def test_a_damaged_header_is_not_what_its_pages_go_by(some: Packed) -> None:
    """The checksum that counts is that of the page: moved with the header's, they would be lost."""
    some.pack()
    for number, pack in enumerate(some.records()):
        some.free(iter(members(pack) if number % 3 else members(pack)[:1]))
        ctypes.c_uint32.from_address(pack[0] + 12).value ^= 4
    some.clean()
    some.check()


# --- by itself, beside everything else -------------------------------------------------------------------------------


def storm(spec: str, turns: int, **settings: Any) -> None:
    """Three threads, each with its part of the pages, know what these are; beside them all else changes."""
    pages, threads, run = 1200, 3, 32
    kinds = [text(128 * PAGE), noise(32 * PAGE), twice(64, 2), np.zeros(16 * PAGE, "u1"), text(64 * PAGE)[::-1]]
    pool = np.concatenate(kinds).reshape(-1, PAGE)
    with frontswap.Frontswap(spec) as hooks:
        area = hooks.swapon(pages * threads, **settings)
        quota = settings.get("quota", 0)
        ended: list[int] = []

        def beside() -> None:
            rng = np.random.default_rng(99)
            while len(ended) < threads:
                weight = int(rng.integers(1, 5)) if "weight" in settings else None
                other = hooks.swapon(256, most_pages=300, weight=weight)
                for start in range(0, 256, run):
                    at = np.arange(start, start + run, dtype="u4")
                    other.store_many(at, pool[(at + start) % len(pool)])
                what = rng.integers(8)
                if what == 0:
                    hooks.pressure("medium")
                elif what == 1:
                    hooks.writethrough(True)
                elif what == 2:
                    hooks.shrink(hooks.statistics().curr_pages // 2)
                elif what == 3:
                    hooks.pressure("critical")
                else:
                    other.resize(300)
                if quota:
                    assert area.statistics().pool_bytes <= quota
                other.swapoff()
                hooks.writethrough(False)
                hooks.pressure("none")

        def work(number: int) -> None:
            if number == threads:
                beside()
                return
            rng = np.random.default_rng(number)
            model = np.full(pages, -1)
            into = np.empty((run, PAGE), "u1")
            one = np.empty(PAGE, "u1")
            blank = np.zeros(PAGE, "u1")
            try:
                for _ in range(turns):
                    start = int(rng.integers(pages - run))
                    at = np.arange(start, start + run, dtype="u4")
                    if rng.integers(2):
                        at = rng.permutation(at)
                    offsets = (at + number * pages).astype("u4")
                    what = rng.integers(10)
                    if what < 3:
                        model[at] = (int(rng.integers(len(pool))) + np.arange(run)) % len(pool)
                        area.store_many(offsets, pool[model[at]])
                    elif what < 4:
                        area.invalidate_many(offsets[::3].copy())
                        model[at[::3]] = -1
                    elif what < 7:
                        area.load_many(offsets, into)
                        for i in range(run):
                            assert np.array_equal(into[i], blank if model[at[i]] < 0 else pool[model[at[i]]])
                    else:
                        for i in rng.integers(0, pages, 16).tolist():
                            area.load(number * pages + i, one)
                            assert np.array_equal(one, blank if model[i] < 0 else pool[model[i]])
                for i in range(pages):
                    area.load(number * pages + i, one)
                    assert np.array_equal(one, blank if model[i] < 0 else pool[model[i]])
            finally:
                ended.append(number)

        together(threads + 1, work)
        found = agree(hooks)
        assert found.poisoned == 0
        assert found.recompressed_pages > 0


@pytest.mark.parametrize("spec", ["", ",policy=lru", ",dedup=on", ",dedup=on,policy=lru"])
def test_threads_against_a_model(eager: None, spec: str) -> None:
    storm("zcache:size=8M,staging=2M" + spec, 400)


@pytest.mark.parametrize("dedup", ["off", "on"])
def test_quotas_hold(eager: None, dedup: str) -> None:
    storm(f"zcache:size=8M,staging=2M,dedup={dedup}", 300, quota=2 * MiB)


@pytest.mark.slow
@pytest.mark.parametrize("dedup", ["off", "on"])
@pytest.mark.parametrize("spec", ["", ",policy=s3fifo", ",policy=duel", ",codec=lz4", ",staging=off"])
@pytest.mark.parametrize("settings", [{}, {"weight": 2}, {"quota": 3 * MiB}], ids=["alone", "weight", "quota"])
def test_more_threads_against_a_model(eager: None, spec: str, dedup: str, settings: dict[str, Any]) -> None:
    storm(f"zcache:size=8M,dedup={dedup}" + spec, 2500, **settings)


def test_by_itself(eager: None) -> None:
    with frontswap.Frontswap("zcache:size=64M,codec=lz4") as hooks:
        area = hooks.swapon(8000, swap=None)
        expected = text(8000 * PAGE).reshape(-1, PAGE)
        for offset, page in enumerate(expected):
            area.store(offset, page)
        wait_until(lambda: hooks.statistics().recompressed_pages > 6000, "packs")
        into = np.empty(PAGE, "u1")
        for offset, page in enumerate(expected):
            area.load(offset, into)
            assert np.array_equal(into, page)
        found = agree(hooks)
        assert found.poisoned == 0
        area.swapoff()


def test_a_pool_may_be_closed_in_the_middle(eager: None) -> None:
    data = text(4000 * PAGE).reshape(-1, PAGE)
    for turn in range(8):
        hooks = frontswap.Frontswap("zcache:size=32M,codec=lz4")
        area = hooks.swapon(4000, swap=None)
        for start in range(0, 2400 + 200 * turn, 200):
            area.store_many(np.arange(start, start + 200, dtype="u4"), data[start : start + 200])
        hooks.close(force=True)


def test_two_threads_load_members_of_one_pack(some: Packed) -> None:
    some.pack()
    packs = [members(pack) for pack in some.records()]
    done = threading.Event()

    def work(number: int) -> None:
        into = np.empty(PAGE, "u1")
        rng = np.random.default_rng(number)
        for turn in range(4000):
            pack = packs[turn % len(packs)]
            offset = pack[int(rng.integers(len(pack)))]
            some.area.load(offset, into)
            assert np.array_equal(into, some.expected[offset])
        done.set()

    together(3, work)
    some.check()
