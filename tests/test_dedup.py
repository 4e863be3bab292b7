"""zcache:dedup=on: identical pages share one record, and no byte of the others changes whatever happens to one."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, noise, quiet, together, wait_until
from pages import capsule_function
from test_packs import (
    CHANGES,
    FIRST,
    GROUP,
    MEMBER,
    PAGE,
    PAGES,
    SECOND,
    Packed,
    eager,
)
from test_recompress import step, text, twice
from test_shares import agree

import frontswap
from frontswap.core import dedup
from frontswap.core.codec import checksum
from frontswap.errors import PageLostError, ParameterError

SPEC = "zcache:size=16M,codec=lz4,recompress=off,staging=off,dedup=on"
BATCH = 256 << 10  # STAGED_IO
SEALED = PAGES - 250  # pages of text that are in segments which are full, at least

__all__ = ["eager"]


def kinds(pages: int) -> Array:
    """Text, no page of which is like another."""
    made = text(pages * PAGE).reshape(-1, PAGE).copy()
    made[:, :4] = np.arange(pages, dtype="u4").view("u1").reshape(-1, 4)
    return made


def copies(data: Array, times: int) -> Array:
    """All pages of `data`, so many times."""
    return np.tile(data, (times, 1)).reshape(-1)


class Alike(Packed):
    """Identical pages are looked for by hand."""

    def take(self) -> bool:
        """Copy what the last batch has found."""
        function = capsule_function(dedup, "alike_take", ctypes.c_bool, ctypes.c_void_p, ctypes.c_uint32)
        return bool(function(self.hand.pager, BATCH))

    def alike(self) -> None:
        while self.take():
            self.hand.finish()

    def look(self) -> bool:
        """Go on until there is a batch of what is alike."""
        while self.next():
            self.hand.finish()
            if self.take():
                return True
            while step("batch_take", ctypes.c_bool, ctypes.c_void_p)(self.hand.pager):
                self.hand.finish()
                if self.take():
                    return True
            step("segment_end", None, ctypes.c_void_p)(self.hand.pager)
        return False

    def pack(self) -> None:
        while self.next():
            self.hand.finish()
            self.alike()
            while step("batch_take", ctypes.c_bool, ctypes.c_void_p)(self.hand.pager):
                self.hand.finish()
                self.alike()
            step("segment_end", None, ctypes.c_void_p)(self.hand.pager)

    def groups(self) -> list[tuple[int, int, list[tuple[int, int, int]]]]:
        """Address and length of each pack in which pages share bytes, and offset, part, sharing of its members."""
        found = []
        for address, length in self.records():
            count = GROUP.unpack(ctypes.string_at(address + 16, 16))[2]
            list_ = [MEMBER.unpack(ctypes.string_at(address + 32 + 8 * i, 8)) for i in range(count)]
            if any(word >> 8 for _, _, word in list_):
                found.append((address, length, [(page - FIRST, word & 255, word >> 8) for page, _, word in list_]))
        return found


def made(pages: int = PAGES, **settings: Any) -> Alike:
    return Alike(SPEC, pages, **settings)


@pytest.fixture
def some() -> Iterator[Alike]:
    """Each page is there ten times."""
    one = made(swap=None)
    one.store(range(PAGES), copies(kinds(PAGES // 10), 10))
    yield one
    one.close()


# --- it wins room ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 3, 10, 60, 300])
def test_copies_take_what_one_takes(times: int) -> None:
    some = made(swap=None)
    different = PAGES // times
    some.store(range(different * times), copies(kinds(different), times))
    before = agree(some.hooks)
    some.pack()
    found = agree(some.hooks)
    some.check()
    tail = 256 * 2720  # the segment that is not full yet
    one = before.pool_live_bytes // times * 0.55  # by zstd
    assert found.pool_live_bytes < tail + one * 1.3 + PAGES * 140
    assert found.pages_sharing > (SEALED - different) * 0.9
    some.close()


def test_without_dedup_nothing_is_shared() -> None:
    some = Packed(SPEC.replace("dedup=on", "dedup=off"), swap=None)
    some.store(range(PAGES), copies(kinds(PAGES // 10), 10))
    some.pack()
    assert some.check().pages_sharing == 0
    for address, length in some.records():
        _, _, count, parts, _, _ = GROUP.unpack(ctypes.string_at(address + 16, 16))
        assert count == parts, length
    some.close()


def test_what_differs_shares_nothing() -> None:
    some = made(swap=None)
    some.store(range(PAGES), kinds(PAGES).reshape(-1))
    some.pack()
    assert some.check().pages_sharing == 0
    some.close()


def test_of_two_areas() -> None:
    """Each is charged its part, together less than one would be; and they go without each other."""
    some = made(PAGES // 2, swap=None)
    data = kinds(PAGES // 2)
    some.store(range(PAGES // 2), data.reshape(-1))
    other = some.hooks.swapon(PAGES // 2, swap=None)
    for offset, page in enumerate(data):
        other.store(offset, page)
    alone = some.area.statistics().pool_bytes
    some.pack()
    found = agree(some.hooks)
    assert found.pages_sharing > SEALED - PAGES // 2
    assert found.pool_live_bytes < alone * 0.8
    assert all(area.pool_bytes < alone * 0.6 for area in found.areas)
    other.swapoff()
    some.check()
    some.clean()
    some.check()
    some.free(range(PAGES // 2))
    assert agree(some.hooks).pages_sharing == 0
    some.close()


def test_of_other_codecs() -> None:
    """Pages with the same bytes are alike whatever their areas' codecs have made of them."""
    some = Alike(SPEC.replace("codec=lz4,", ""), PAGES, swap=None)
    walk = np.cumsum(np.random.default_rng(1).integers(-100, 100, (1000, PAGE // 4)), axis=1, dtype="i4")
    data = np.tile(walk.view("u1"), (3, 1)).reshape(-1)
    some.store(range(PAGES), data)
    some.store(range(0, PAGES, 7), data.reshape(-1, PAGE)[::7].reshape(-1))
    some.pack()
    assert agree(some.hooks).pages_sharing > 1200
    some.check()
    some.close()


def test_pages_of_one_hash_share_nothing() -> None:
    """Their bytes are compared, too."""
    page = kinds(1)[0]
    seen: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    words = page.view("u4")
    for number in range(1, 400_000):
        words[0] = number
        other = seen.setdefault(checksum(page), number)
        if other != number:
            found.append((other, number))
    assert found
    some = made(swap=None)
    data = np.resize(page, (PAGES, PAGE))
    data[:, 4:8] = np.arange(PAGES, dtype="u4").view("u1").reshape(-1, 4)
    for i, pair in enumerate(found):
        for at, number in enumerate(pair):
            data[10 * i + at, :8].view("u4")[:] = [number, words[1]]
            data[1000 + 10 * i + at] = data[10 * i + at]
    some.store(range(PAGES), data.reshape(-1))
    some.pack()
    assert agree(some.hooks).pages_sharing <= 2 * len(found)
    some.check()
    some.close()


# --- what may happen to one of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("meanwhile", CHANGES)
def test_between_copy_and_install(some: Alike, meanwhile: Callable[[Packed], None]) -> None:
    for _ in range(3):
        assert some.look()
        some.hand.finish()
    assert some.look()
    some.interrupted(meanwhile)


@pytest.mark.parametrize("meanwhile", CHANGES)
def test_once_they_share(some: Alike, meanwhile: Callable[[Packed], None]) -> None:
    some.pack()
    assert agree(some.hooks).pages_sharing > SEALED * 0.8
    meanwhile(some)
    some.check()
    some.clean()
    some.check()
    some.pack()
    some.check()


@pytest.mark.parametrize("meanwhile", CHANGES)
def test_between_sight_and_copy(some: Alike, meanwhile: Callable[[Packed], None]) -> None:
    """The table says what is not so any more."""
    assert some.next()
    for _ in range(12):
        some.hand.finish()
        if not step("batch_take", ctypes.c_bool, ctypes.c_void_p)(some.hand.pager):
            step("segment_end", None, ctypes.c_void_p)(some.hand.pager)
            assert some.next()
    meanwhile(some)
    some.alike()
    some.check()
    some.pack()
    some.check()


def test_all_of_them_go(some: Alike) -> None:
    some.pack()
    rng = np.random.default_rng(1)
    for offset in rng.permutation(PAGES).tolist():
        some.free(range(offset, offset + 1))
    found = agree(some.hooks)
    assert found.pages_sharing == found.pool_live_bytes == 0
    some.clean()
    some.check()


def test_what_has_been_stored_with_the_same_bytes_again_and_again(some: Alike) -> None:
    """Its chain has loops."""
    data = kinds(PAGES // 10)
    rng = np.random.default_rng(1)
    for _ in range(6):
        for offset in rng.integers(0, PAGES, 1500).tolist():
            some.store(range(offset, offset + 1), data[rng.integers(40)])
        for _ in range(40):
            step("hits_fade", None, ctypes.c_void_p)(some.hand.pager)
            some.hooks._core.skip_time(10 * SECOND)
        some.pack()
        found = agree(some.hooks)
        some.check()
    counted = Counter(page.tobytes() for page in some.expected.values())
    assert found.pages_sharing > (PAGES - len(counted)) * 0.7


# --- the cleaner -----------------------------------------------------------------------------------------------------


MANY = 11200


def many() -> Alike:
    """Ten copies of pages with a thousand bytes of noise each: what is left once they share takes some segments."""
    some = made(MANY, swap=None)
    data = np.zeros((MANY // 10, PAGE), "u1")
    data[:, :1000] = np.random.default_rng(1).integers(0, 256, (MANY // 10, 1000), "u1")
    some.store(range(MANY), copies(data, 10))
    some.pack()
    assert agree(some.hooks).pages_sharing > MANY // 2
    return some


def free_but(some: Alike, left: int) -> list[int]:
    """Free all but each `left`-th member of the packs; those that stay."""
    kept = {offset for _, _, list_ in some.groups() for offset, _, _ in list_[::left]}
    some.free(offset for offset in range(MANY) if offset not in kept)
    return [offset for offset in range(MANY) if offset in kept]


@pytest.mark.parametrize("left", [3, 6, 13, 40])
def test_few_that_are_left_bear_it_alone(left: int) -> None:
    """Their record is made anew with a short list, or they get their own."""
    some = many()
    kept = free_but(some, left)
    before = agree(some.hooks)
    some.clean()  # it comes to an end
    found = agree(some.hooks)
    assert found.pool_live_bytes > before.pool_live_bytes * 1.1
    assert found.pool_bytes < before.pool_bytes
    some.check()
    some.pack()
    some.clean()
    some.check()
    some.free(iter(kept))
    assert agree(some.hooks).pages_sharing == 0
    some.close()


def test_who_may_not_bear_it_stays() -> None:
    some = many()
    free_but(some, 6)
    quota = some.area.statistics().pool_bytes + 40_000
    some.area.set_quota(quota, deadline=1)
    reached = 0
    for _ in range(8):  # it bears all that it may, and less again once more of its packs have been moved together
        some.hooks.pressure("none")
        reached = max(reached, quiet(some.hooks, rounds=2).pool_live_bytes)
    agree(some.hooks)
    assert quota - 4000 < reached <= quota
    some.check()
    some.area.set_quota(None)
    some.clean()
    assert some.check().pool_live_bytes > quota
    some.close()


def test_loads_beside_the_cleaner() -> None:
    """Who is loaded just then is not in the short list, and keeps the long one."""
    for _ in range(3):
        some = many()
        some.hooks.pressure("low")  # what is loaded gets no records of its own
        kept = np.array(free_but(some, 6), "u4")
        loading = threading.Barrier(3)
        done: list[int] = []

        def work(
            number: int,
            some: Alike = some,
            kept: Array = kept,
            loading: threading.Barrier = loading,
            done: list[int] = done,
        ) -> None:
            rng = np.random.default_rng(number)
            into = np.empty((64, PAGE), "u1")
            loading.wait()
            if number == 2:
                for _ in range(2000):
                    some.hooks.pressure("low")
                done.append(number)
            while not done:
                at = rng.choice(kept, 64, replace=False)
                some.area.load_many(at, into)
                for i, offset in enumerate(at.tolist()):
                    assert np.array_equal(into[i], some.expected[offset])

        before = agree(some.hooks).pool_live_bytes
        together(3, work)
        assert agree(some.hooks).pool_live_bytes > before * 1.1
        some.check()
        some.close()


@pytest.mark.slow
def test_who_may_not_bear_it_is_in_nobodys_way() -> None:
    """What the cleaner cannot win back, for a quota forbids it: with a policy pages leave in its place."""
    some = Alike(SPEC + ",policy=lru", 20_000)
    other = some.hooks.swapon(140_000)
    third = some.hooks.swapon(7000)
    rng = np.random.default_rng(1)
    half = np.zeros((450, PAGE), "u1")
    for start in range(0, 18_000, 450):
        half[:, :2000] = rng.integers(0, 256, (450, 2000))
        for i, page in enumerate(half):
            some.area.store(start + i, page)
            for turn in range(7):
                other.store((start + i) * 7 + turn, page)
        some.hooks._core.skip_time(30 * SECOND)
        some.pack()
    some.area.set_quota(some.area.statistics().pool_bytes)
    other.invalidate_many(np.arange(126_000, dtype="u4"))
    some.clean()
    found = agree(some.hooks)
    assert found.pool_bytes > 4 * found.pool_live_bytes
    data = np.zeros((7000, PAGE), "u1")
    data[:, :2000] = rng.integers(0, 256, (7000, 2000))
    assert sum(third.store(offset, page) for offset, page in enumerate(data)) > 6900
    agree(some.hooks)
    some.close()


def begun(packed: bool) -> Alike:
    """Pages with slots: they share, or are about to."""
    some = made()
    some.store(range(PAGES), copies(kinds(PAGES // 10), 10))
    if packed:
        some.pack()
    else:
        assert some.look()
        some.hand.work()
    return some


@pytest.mark.parametrize("packed", [False, True])
def test_critical_pressure(packed: bool) -> None:
    some = begun(packed)
    some.hooks.pressure("critical")
    assert some.hooks.statistics().pool_live_bytes == 0
    if not packed:
        some.hand.install()
    found = some.check()
    assert found.pool_live_bytes == found.pages_sharing == 0
    some.close()


@pytest.mark.parametrize("packed", [False, True])
def test_a_backend_that_leaves(packed: bool) -> None:
    some = begun(packed)
    [zcache] = some.hooks.backends
    some.hooks.backends.unregister(zcache)
    assert some.check().pool_bytes == 0
    assert some.hooks.statistics().pages_sharing == 0
    # What the next one has is not taken for what this one had.
    some.hooks.register(SPEC)
    assert step("buffers_there", ctypes.c_bool, ctypes.c_void_p)(some.hand.pager)
    some.store(range(PAGES), copies(kinds(PAGES // 10)[::-1], 10))
    some.pack()
    assert agree(some.hooks).pages_sharing > SEALED * 0.8
    some.check()
    some.close()


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [4, 8, 16, 24, 26, 32, 36, 38, 39, 45])
def test_damage_is_lost_by_those_that_share_it(some: Alike, at: int) -> None:
    """In the record's length, codec, checksum, count, parts, shift, members, and whatever follows."""
    some.pack()
    where: set[int] = set()
    for address, length, list_ in some.groups()[::3]:  # some of them are dead
        assert length > at
        where.update(offset for offset, _, _ in list_)
        (ctypes.c_ubyte * length).from_address(address)[at] ^= 1
    some.clean()
    some.alike()
    into = np.empty(PAGE, "u1")
    lost = 0
    for offset, page in some.expected.items():
        try:
            some.area.load(offset, into)
        except PageLostError:
            assert offset in where
            lost += 1
            continue
        assert np.array_equal(into, page), offset
    assert lost == some.hooks.statistics().poisoned > 1
    agree(some.hooks)


# --- by itself -------------------------------------------------------------------------------------------------------


def test_by_itself(eager: None) -> None:
    """Noise, too, which was taken as it is: and two areas."""
    data = np.concatenate([kinds(1500), twice(300, 1).reshape(-1, PAGE), noise(200 * PAGE).reshape(-1, PAGE)])
    with frontswap.Frontswap("zcache:size=64M,dedup=on,staging=32M") as hooks:
        areas = [hooks.swapon(2 * len(data)) for _ in range(3)]
        for area in areas:
            for turn in range(2):
                at = np.arange(len(data), dtype="u4") + np.uint32(turn * len(data))
                for start in range(0, len(data), 200):
                    area.store_many(at[start : start + 200], data[start : start + 200])
        wait_until(lambda: hooks.statistics().pages_sharing > 5000, "what is alike")
        into = np.empty(PAGE, "u1")
        for area in areas:
            for offset in range(2 * len(data)):
                area.load(offset, into)
                assert np.array_equal(into, data[offset % len(data)])
        assert agree(hooks).poisoned == 0
        for area in areas:
            area.swapoff()
        assert hooks.statistics().pages_sharing == 0


def test_the_memory_door_has_none(new_memory: NewMemory) -> None:
    with pytest.raises(ParameterError, match=r"zcache:dedup=.*behind the memory door"):
        new_memory(backends="zcache:dedup=on")
