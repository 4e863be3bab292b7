"""What each area has in zcache's pool: its bytes, its quota, and its share when the pool is full."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable

import numpy as np
import pytest
from helpers import together
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from frontswap import Frontswap, SwapArea
from frontswap.counters import AreaStatistics, HooksStatistics
from frontswap.errors import FrontswapError, ParameterError, SlotError
from frontswap.testing.content import Content

SIZE = 4 << 20
ROOM = SIZE - SIZE // 8  # what may live of it where the pool makes room page by page
POOL = "zcache:size=4M,codec=lz4,recompress=off"
POLICIES = ["", ",policy=lru", pytest.param(",policy=s3fifo", marks=pytest.mark.slow)]
PAGES = 4000
RECORD = 2112  # of page(), with its header; test_a_record_is_so_long
Page = NDArray[np.uint64]
NOISE = np.random.default_rng(1).integers(1, 2**63, 256, np.uint64) | np.uint64(0x0101010101010101)


def page(number: int) -> Page:
    """Half noise, half zeros, told apart by a word of noise: all records are equally long."""
    made = np.zeros(512, np.uint64)
    made[:256] = NOISE
    made[128] = np.uint64(0x0101010101010101) * np.uint64(number % 255 + 1) ^ np.uint64((number // 255) << 16)
    return made


def check(area: SwapArea, offsets: range, first: int = 0) -> None:
    """Every page has its bytes."""
    found = np.empty(512, np.uint64)
    for offset in offsets:
        area.load(offset, found)
        assert (found == page(first + offset)).all()


def fill(area: SwapArea, offsets: range, first: int = 0) -> int:
    """Store; how many the pool has taken."""
    return sum(area.store(offset, page(first + offset)) for offset in offsets)


def beside(write: Callable[[int], None], watch: Callable[[threading.Event], None]) -> None:
    """write(0) to write(2) in threads at once; watch() in one more, until they have ended."""
    ended: list[int] = []
    done = threading.Event()

    def work(thread: int) -> None:
        if thread == 3:
            watch(done)
            return
        try:
            write(thread)
        finally:
            ended.append(thread)
            if len(ended) == 3:
                done.set()

    together(4, work)


def agree(hooks: Frontswap) -> HooksStatistics:
    """What areas have is what lives in the pool, as soon as the pool's own threads are at rest: who moves a record has
    it twice for a moment."""
    for _ in range(100_000):
        found = hooks.statistics()
        if sum(area.pool_bytes for area in found.areas) == found.pool_live_bytes:
            break
        os.sched_yield()
    assert sum(area.pool_bytes for area in found.areas) == found.pool_live_bytes <= found.pool_bytes
    return found


class Full:
    """Slots on a full disk."""

    direct = False
    zeroing = 0

    def __init__(self) -> None:
        self.fd = os.open("/dev/full", os.O_RDWR)

    def close(self) -> None:
        os.close(self.fd)


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_a_record_is_so_long() -> None:
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(1000)
        for number in range(1000):
            area.store(number, page(number))
        assert area.statistics().pool_bytes == 1000 * RECORD


def test_each_record_counts_for_its_area_as_long_as_it_lives() -> None:
    found = np.empty(512, np.uint64)
    with Frontswap(POOL) as hooks:
        one, other = hooks.swapon(100), hooks.swapon(100)
        fill(one, range(100))
        fill(other, range(10))
        assert [area.pool_bytes for area in agree(hooks).areas] == [100 * RECORD, 10 * RECORD]
        one.store(3, page(7))  # stored over
        one.store(4, np.full(512, 9, np.uint64))  # of one word: costs nothing
        one.store(5, np.random.default_rng(5).integers(0, 2**63, 512, np.uint64))  # refused
        one.invalidate_page(6)
        assert [area.pool_bytes for area in agree(hooks).areas] == [97 * RECORD, 10 * RECORD]
        hooks.exclusive_loads(True)
        one.load(7, found)
        hooks.exclusive_loads(False)
        hooks.shrink(60)
        assert sum(area.pool_bytes for area in agree(hooks).areas) < 61 * RECORD
        one.swapoff()
        assert agree(hooks).areas[0].pool_bytes == other.statistics().pool_bytes
        hooks.unregister(next(iter(hooks.backends)))
        assert other.statistics().pool_bytes == 0
        check(other, range(10))


def test_records_that_become_smaller_count_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")
    content = Content(4096)
    with Frontswap("zcache:size=4M") as hooks:
        areas = [hooks.swapon(2000, quota="1M"), hooks.swapon(2000)]
        for generation, area in itertools.product(range(1, 4), areas):
            for offset in range(500):
                area.store(offset, content.page(offset, generation))
        for _ in range(100_000):
            if hooks.statistics().recompressed_pages:
                break
            os.sched_yield()
        found = agree(hooks)
        assert found.recompressed_pages
        assert found.areas[0].pool_bytes <= 1 << 20


# --- quota -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_quota_is_had_by_the_youngest_of_an_areas_own_pages(policy: str) -> None:
    quota = 100 * RECORD + 5000
    with Frontswap(POOL + policy) as hooks:
        other = hooks.swapon(PAGES)
        area = hooks.swapon(PAGES, quota=quota)
        assert fill(other, range(500)) == 500
        for offset in range(300):
            assert area.store(offset, page(offset)) is True
            assert area.statistics().pool_bytes <= quota
        found = agree(hooks)
        assert found.areas[0].written_back_pages == found.areas[0].slot_stores == 0
        assert found.areas[1].failed_stores == 0
        assert found.areas[1].quota_bytes == quota
        held = np.flatnonzero(area.frontswap_map)
        assert held.tolist() == list(range(300 - len(held), 300))
        assert 100 <= len(held) <= 102
        check(area, range(300))
        check(other, range(500))


def test_what_is_loaded_stays_in_a_quota() -> None:
    found = np.empty(512, np.uint64)
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(PAGES, quota=100 * RECORD)
        fill(area, range(90))
        for offset in range(90, 400):
            area.store(offset, page(offset))
            for hot in range(20):
                assert area.load(hot, found) is True
                assert (found == page(hot)).all()
        assert area.frontswap_map[:20].all()
        check(area, range(400))


def test_a_batch_keeps_the_quota() -> None:
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(PAGES, quota=100 * RECORD)
        for first in range(0, 1000, 250):
            batch = np.concatenate([page(offset) for offset in range(first, first + 250)])
            results = area.store_many(range(first, first + 250), batch)
            assert 0 < results.sum() <= 100  # what does not fit goes to its slot
            assert agree(hooks).areas[0].pool_bytes <= 100 * RECORD
        assert hooks.statistics().refusals["quota"] > 0
        check(area, range(1000))


def test_an_area_without_slots_is_refused_what_its_quota_does_not_hold() -> None:
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(PAGES, swap=None, quota=10 * RECORD)
        assert fill(area, range(10)) == 10
        with pytest.raises(SlotError, match="refused"):
            area.store(10, page(10))
        area.invalidate_page(0)
        assert area.store(11, page(11)) is True
        assert hooks.statistics().refusals["quota"] == 1
        check(area, range(1, 10))


def test_a_quota_of_nothing_is_none_of_its_pages() -> None:
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(PAGES, quota=0)
        assert fill(area, range(10)) == 0
        assert area.store(20, np.zeros(512, np.uint64)) is True  # costs nothing
        assert agree(hooks).areas[0].pool_bytes == 0
        check(area, range(10))


def test_a_page_larger_than_the_quota_is_refused() -> None:
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(20, page="64K", quota="4K")
        big = np.zeros(8192, np.uint64)
        big[:4096] = np.random.default_rng(3).integers(0, 2**63, 4096, np.uint64)
        assert area.store(0, big) is False
        found = np.empty_like(big)
        area.load(0, found)
        assert (found == big).all()


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_who_is_below_his_share_is_not_pushed_out(policy: str) -> None:
    """The hungry one has all of the pool, until the other one comes; that one's share is half."""
    with Frontswap(POOL + policy) as hooks:
        hungry, modest = hooks.swapon(2 * PAGES, weight=1), hooks.swapon(PAGES)
        fill(hungry, range(PAGES))
        assert hungry.statistics().pool_bytes > ROOM - 3 * 4096  # nobody else wanted it
        few = ROOM // 2 // RECORD - 10
        assert fill(modest, range(few)) == few
        fill(hungry, range(PAGES, 2 * PAGES))
        found = agree(hooks)
        assert found.areas[1].written_back_pages == 0
        assert found.areas[1].slot_stores == 0
        assert found.areas[1].pool_bytes == few * RECORD
        assert found.areas[0].pool_bytes > ROOM - few * RECORD - 3 * 4096
        check(modest, range(few))
        check(hungry, range(2 * PAGES))


@pytest.mark.parametrize("policy", POLICIES)
def test_shares_are_as_the_weights(policy: str) -> None:
    weights = [1, 2, 5]
    with Frontswap(POOL + policy) as hooks:
        areas = [hooks.swapon(PAGES, weight=weight) for weight in weights]
        for offset in range(PAGES):
            for area in areas:
                area.store(offset, page(offset))
        found = agree(hooks)
        total = sum(area.pool_bytes for area in found.areas)
        assert total > ROOM - ROOM // 8
        for one, weight in zip(found.areas, weights, strict=True):
            assert abs(one.pool_bytes - total * weight / sum(weights)) < 5 * RECORD
            assert one.weight == weight
        for area in areas:
            check(area, range(PAGES))


def test_who_comes_late_gets_his_share() -> None:
    with Frontswap(POOL) as hooks:
        first = hooks.swapon(PAGES, weight=1)
        fill(first, range(PAGES))
        late = hooks.swapon(PAGES, weight=3)
        fill(late, range(PAGES))
        found = agree(hooks)
        total = sum(area.pool_bytes for area in found.areas)
        assert abs(found.areas[1].pool_bytes - total * 3 / 4) < 5 * RECORD
        late.swapoff()
        fill(first, range(PAGES))
        assert agree(hooks).areas[0].pool_bytes > ROOM - 3 * 4096
        check(first, range(PAGES))


def test_who_has_weight_0_gives_way_last() -> None:
    with Frontswap(POOL) as hooks:
        kept, other = hooks.swapon(PAGES, weight=0), hooks.swapon(PAGES)
        fill(kept, range(1000))
        fill(other, range(PAGES))
        found = agree(hooks)
        assert found.areas[0].pool_bytes == 1000 * RECORD
        other.swapoff()
        assert fill(kept, range(PAGES)) == PAGES  # its own give way to its own
        check(kept, range(PAGES))


def test_without_a_weight_the_oldest_leave_whosesoever_they_are() -> None:
    with Frontswap(POOL) as hooks:
        hungry, modest = hooks.swapon(PAGES), hooks.swapon(PAGES)
        fill(modest, range(100))
        for offset in range(PAGES):
            hungry.store(offset, page(offset))
            if offset % 100 == 0:
                hooks.pressure("none")
        hooks.pressure("medium")
        assert modest.statistics().written_back_pages == 100


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("quota", [True, False])
def test_pressure_empties_the_pool_whatever_the_shares(policy: str, quota: bool) -> None:
    with Frontswap(POOL + policy) as hooks:
        shares = [{"quota": "300K"}, {"quota": "1M"}, {}] if quota else [{"weight": w} for w in (0, 1, 10000)]
        areas = [hooks.swapon(PAGES, **one) for one in shares]
        for area in areas:
            fill(area, range(400))
        for area in areas:
            area.invalidate_many(range(0, 400, 3))
        relief = hooks.pressure("critical")
        assert relief.left_bytes == 0
        assert agree(hooks).pool_bytes == 0
        hooks.pressure("none")
        for area in areas:
            check(area, range(1, 400, 3))


@pytest.mark.parametrize("policy", POLICIES)
def test_who_cannot_give_way_is_refused_and_leaves_the_rest_to_others(policy: str) -> None:
    """The hungry one's disk is full: nothing of it can leave."""
    with Frontswap(POOL + policy) as hooks:
        hungry, modest = hooks.swapon(PAGES, weight=1, swap=Full()), hooks.swapon(PAGES, weight=1)
        taken = []
        for offset in range(PAGES):
            try:
                hungry.store(offset, page(offset))
                taken.append(offset)
            except SlotError:
                assert hooks.statistics().refusals["quota"] + hooks.statistics().refusals["pool_full"] > 0
        few = SIZE // 32 // RECORD
        assert fill(modest, range(few)) == few
        check(modest, range(few))
        found = np.empty(512, np.uint64)
        for offset in taken:
            hungry.load(offset, found)
            assert (found == page(offset)).all()
        assert agree(hooks).areas[0].written_back_pages == 0


BIG = 64 << 10
BIG_NOISE = np.random.default_rng(2).integers(1, 2**63, BIG // 16, np.uint64)


def big(number: int) -> Page:
    """64 KiB whose records take a 120th of the pool."""
    made = np.zeros(BIG // 8, np.uint64)
    made[: BIG // 16] = BIG_NOISE
    made[0] = number + 1
    return made


class Shares(RuleBasedStateMachine):
    """Any order of stores, loads and drops, of areas that come and go with any weights and quotas.

    A page leaves the pool only of an area that had not less than its share, or that came to its quota.
    """

    spec = POOL

    @initialize(weights=st.lists(st.sampled_from([1, 2, 5, 20]), min_size=2, max_size=3))
    def begin(self, weights: list[int]) -> None:
        """The pool is full from the beginning."""
        self.hooks = Frontswap(self.spec)
        self.hooks.swapon(1, weight=1)  # so weights count as long as there are hooks
        self.areas: dict[SwapArea, dict[int, int]] = {}
        self.generation = 0
        for pick, weight in enumerate(weights):
            self.swapon(weight, None)
            self.store(pick, 0, 150, False)

    @precondition(lambda self: len(self.areas) < 4)
    @rule(weight=st.sampled_from([None, 0, 1, 2, 5, 100]), quota=st.sampled_from([None, None, "1M", "300K", 0]))
    def swapon(self, weight: int | None, quota: int | str | None) -> None:
        self.areas[self.hooks.swapon(150, page=BIG, weight=weight, quota=quota)] = {}

    @precondition(lambda self: len(self.areas) > 1)
    @rule(pick=st.integers(0, 3))
    def swapoff(self, pick: int) -> None:
        area = list(self.areas)[pick % len(self.areas)]
        del self.areas[area]
        area.swapoff()

    @precondition(lambda self: self.areas)
    @rule(pick=st.integers(0, 3), first=st.integers(0, 149), count=st.integers(1, 150), batch=st.booleans())
    def store(self, pick: int, first: int, count: int, batch: bool) -> None:
        area, known = list(self.areas.items())[pick % len(self.areas)]
        offsets = [(first + i) % 150 for i in range(count)]
        if batch:
            offsets = offsets[:8]
        self.generation += 1
        for offset in offsets:
            known[offset] = self.generation
        before = {one.type: one for one in self.hooks.statistics().areas}
        if batch:
            assert (area.store_many(offsets, np.concatenate([big(self.generation)] * len(offsets))) >= 0).all()
            self.fair(before, area, len(offsets))
            return
        for offset in offsets:
            area.store(offset, big(self.generation))
            before = self.fair(before, area, 1)

    def fair(self, before: dict[int, AreaStatistics], storing: SwapArea, pages: int) -> dict[int, AreaStatistics]:
        """Who has lost a page had not less than its share, but for the pages that came."""
        now = {one.type: one for one in self.hooks.statistics().areas}
        # Held before, or stored meanwhile: what was there when somebody had to leave lies between the two.
        held = {one.type: max(one.pool_bytes, now[one.type].pool_bytes) for one in before.values()}
        sharing = [one for one in now.values() if one.weight and held[one.type]]
        total = sum(held[one.type] for one in sharing)
        weights = sum(one.weight for one in sharing)
        for one in now.values():
            if one.written_back_pages == before[one.type].written_back_pages:
                continue
            if one.type == storing.type and one.quota_bytes >= 0:
                continue  # its own quota
            if one.weight == 0:
                assert not [other for other in sharing if now[other.type].pool_bytes > (pages + 2) * BIG]
                continue
            assert held[one.type] + (pages + 2) * BIG >= total * one.weight / weights
        return now

    @precondition(lambda self: self.areas)
    @rule(pick=st.integers(0, 3), offsets=st.lists(st.integers(0, 149), max_size=30))
    def load(self, pick: int, offsets: list[int]) -> None:
        area, known = list(self.areas.items())[pick % len(self.areas)]
        found = np.empty(BIG // 8, np.uint64)
        for offset in offsets:
            area.load(offset, found)
            assert (found == big(known[offset])).all() if offset in known else not found.any()

    @precondition(lambda self: self.areas)
    @rule(pick=st.integers(0, 3), offsets=st.lists(st.integers(0, 149), max_size=30))
    def invalidate(self, pick: int, offsets: list[int]) -> None:
        area, known = list(self.areas.items())[pick % len(self.areas)]
        area.invalidate_many(offsets)
        for offset in offsets:
            known.pop(offset, None)

    @precondition(lambda self: self.areas)
    @rule(pick=st.integers(0, 3), to=st.sampled_from([0, 100_000, 1 << 20]))
    def reclaim(self, pick: int, to: int) -> None:
        assert list(self.areas)[pick % len(self.areas)].reclaim(to) <= to

    @invariant()
    def bytes_agree(self) -> None:
        for one in agree(self.hooks).areas:
            assert one.quota_bytes < 0 or one.pool_bytes <= one.quota_bytes

    def teardown(self) -> None:
        found = np.empty(BIG // 8, np.uint64)
        for area, known in self.areas.items():
            for offset in range(150):
                area.load(offset, found)
                assert (found == big(known[offset])).all() if offset in known else not found.any()
        self.hooks.close(force=True)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("examples", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_any_order_of_everything_is_fair(policy: str, examples: int) -> None:
    machine = type("Machine", (Shares,), {"spec": POOL + policy})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None))


# --- reclaim ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_an_area_gives_back_what_it_is_asked_for(policy: str) -> None:
    with Frontswap(POOL + policy) as hooks:
        area, other = hooks.swapon(PAGES), hooks.swapon(PAGES)
        fill(area, range(300))
        fill(other, range(300))
        assert area.reclaim(to=100 * RECORD) == 100 * RECORD
        assert area.statistics().written_back_pages == 200
        assert area.reclaim() == 0
        found = agree(hooks)
        assert found.areas[1].pool_bytes == 300 * RECORD
        assert found.areas[1].written_back_pages == 0
        check(area, range(300))
        check(other, range(300))
        assert fill(area, range(10)) == 10  # it may have it again


def test_pages_without_slots_cannot_be_asked_for() -> None:
    with Frontswap(POOL) as hooks:
        area, full = hooks.swapon(100, swap=None), hooks.swapon(100, swap=Full())
        for one in (area, full):
            fill(one, range(100))
            assert one.reclaim() == 100 * RECORD
            check(one, range(100))


def test_reclaim_ends_at_its_deadline() -> None:
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(1000)
        fill(area, range(1000))
        assert area.reclaim(deadline=0) > 900 * RECORD
        for wrong in ({"to": -1}, {"to": "all"}, {"deadline": "soon"}):
            with pytest.raises(ParameterError, match=next(iter(wrong))):
                area.reclaim(**wrong)
        area.swapoff()
        with pytest.raises(FrontswapError):
            area.reclaim()


def test_swapoff_does_not_wait_for_the_end_of_a_reclaim() -> None:
    """Somebody stores as fast as pages leave, so it never has what it was asked for."""
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(PAGES)
        off = threading.Event()

        def work(thread: int) -> None:
            if thread == 2:
                while area.statistics().written_back_pages < 200:
                    os.sched_yield()
                area.swapoff()
                off.set()
                return
            with pytest.raises(FrontswapError, match=r"is off|that is on"):
                ask() if thread == 1 else store()

        def ask() -> None:
            while True:
                area.reclaim(deadline="1h")

        def store() -> None:
            for offset in itertools.cycle(range(PAGES)):
                area.store(offset, page(offset))

        together(3, work)
        assert off.is_set()
        assert hooks.statistics().pool_live_bytes == 0


def test_reclaim_beside_stores_and_loads() -> None:
    content = Content(4096)
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(600, quota="600K")

        def watch(done: threading.Event) -> None:
            while not done.wait(0.0001):  # and lets others have the lock of the interpreter
                assert area.reclaim(to=3000, deadline=1) <= 600 << 10

        def write(thread: int) -> None:
            found = np.empty(512, np.uint64)
            for turn in range(1, 3000):
                offset = turn * 7 % 200 * 3 + thread
                area.store(offset, content.page(offset, turn))
                area.load(offset, found)
                assert content.generation(offset, found) == turn

        beside(write, watch)
        agree(hooks)


# --- other shares, later ---------------------------------------------------------------------------------------------


def test_a_lower_quota_holds_when_it_has_been_set() -> None:
    with Frontswap(POOL) as hooks:
        area, other = hooks.swapon(PAGES), hooks.swapon(PAGES)
        for one in (area, other):
            fill(one, range(300))
        assert area.set_quota(100 * RECORD) == 100 * RECORD
        fill(area, range(300, 400))
        found = agree(hooks).areas
        assert found[0].pool_bytes <= found[0].quota_bytes == 100 * RECORD
        assert found[1].pool_bytes == 300 * RECORD
        area.set_quota(None)
        assert fill(area, range(400)) == 400
        assert agree(hooks).areas[0].pool_bytes == 400 * RECORD
        assert area.statistics().quota_bytes == -1
        check(area, range(400))


def test_other_weights_count_from_then_on() -> None:
    with Frontswap(POOL) as hooks:
        areas = [hooks.swapon(PAGES, weight=1), hooks.swapon(PAGES)]
        for weights in ([1, 1], [3, 1], [1, 9]):
            for area, weight in zip(areas, weights, strict=True):
                area.set_weight(weight)
            for offset in range(PAGES):
                for area in areas:
                    area.store(offset, page(offset))
            found = agree(hooks)
            total = sum(one.pool_bytes for one in found.areas)
            assert [one.weight for one in found.areas] == weights
            assert abs(found.areas[0].pool_bytes - total * weights[0] / sum(weights)) < 5 * RECORD
        areas[0].set_weight(None)
        areas[1].swapoff()
        fill(areas[0], range(PAGES))
        check(areas[0], range(PAGES))


def test_shares_that_cannot_be_set_change_nothing() -> None:
    with Frontswap(POOL) as hooks:
        area = hooks.swapon(10, quota="1M", weight=5)
        with pytest.raises(ParameterError, match="quota"):
            area.set_quota("much")
        with pytest.raises(ParameterError, match="deadline"):
            area.set_quota(0, deadline="soon")
        with pytest.raises(ParameterError, match="weight"):
            area.set_weight(10001)
        assert (area.statistics().quota_bytes, area.statistics().weight) == (1 << 20, 5)
        area.swapoff()
        for wrong in (lambda: area.set_quota(0), lambda: area.set_weight(1)):
            with pytest.raises(FrontswapError):
                wrong()


# --- storms ----------------------------------------------------------------------------------------------------------


def storm(spec: str, seconds_of_work: int, *, quota: bool, weight: bool) -> None:
    """Threads store, batch, load and drop in three areas; whoever looks never sees more than a quota."""
    quotas: list[int | None] = [500 << 10, 2 << 20, None] if quota else [None] * 3
    weights = [1, 4, None] if weight else [None] * 3
    content = Content(16384)
    with Frontswap(spec) as hooks:
        areas = [hooks.swapon(600, page="16K", quota=q, weight=w) for q, w in zip(quotas, weights, strict=True)]
        generations = [[0] * 600 for _ in areas]

        def watch(done: threading.Event) -> None:
            turn = 0
            while not done.wait(0.001):  # and lets others have the interpreter's lock
                for area, most in zip(areas, quotas, strict=True):
                    assert most is None or area.statistics().pool_bytes <= most
                    assert area.statistics().pool_bytes >= 0
                turn += 1
                if quota and turn % 30 == 0:
                    areas[0].set_quota((300 + turn % 5 * 50) << 10)  # who is on his way may go by the one before
                if weight and turn % 40 == 0:
                    areas[1].set_weight(turn % 5)
                if turn % 50 == 0:
                    hooks.pressure(turn // 50 % 4)
                elif turn % 20 == 0:
                    hooks.shrink(100 + turn % 1000)
            hooks.pressure("none")

        def write(thread: int) -> None:
            """Each page has one writer, who may read it at any time."""
            rng = np.random.default_rng(thread)
            found = np.empty(content.words, np.uint64)
            for turn in range(seconds_of_work):
                which = int(rng.integers(0, 3))
                area, known = areas[which], generations[which]
                offset = int(rng.integers(0, 200)) * 3 + thread
                if turn % 7 == 0:
                    area.invalidate_page(offset)
                    known[offset] = 0
                elif turn % 11 == 0:
                    batch = [offset // 3 // 20 * 60 + thread + 3 * i for i in range(20)]
                    for one in batch:
                        known[one] = turn + 1
                    pages = np.concatenate([content.page(one, turn + 1) for one in batch])
                    assert (area.store_many(batch, pages) >= 0).all()
                elif turn % 2:
                    known[offset] = turn + 1
                    area.store(offset, content.page(offset, turn + 1))
                else:
                    area.load(offset, found)
                    if known[offset]:
                        assert content.generation(offset, found) == known[offset]
                    else:
                        assert not found.any()

        beside(write, watch)
        agree(hooks)
        found = np.empty(content.words, np.uint64)
        for area, known in zip(areas, generations, strict=True):
            for offset, generation in enumerate(known):
                area.load(offset, found)
                assert content.generation(offset, found) == generation if generation else not found.any()
        for area in areas:
            area.invalidate_area()
        assert [area.pool_bytes for area in agree(hooks).areas] == [0, 0, 0]
        assert hooks.statistics().pool_live_bytes == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("quota", "weight"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_storm(policy: str, quota: bool, weight: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")
    storm("zcache:size=4M" + policy, 1500, quota=quota, weight=weight)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_long_storm(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")
    storm("inject:refuse=10%,seed=3 / zcache:size=4M" + policy, 20_000, quota=True, weight=True)


def test_areas_come_and_go_while_their_pages_are_asked_to_leave() -> None:
    """The hand of who stores goes round an area that is just being taken away, and whose type another one gets."""
    content = Content(16384)
    with Frontswap("zcache:size=4M") as hooks:
        steady = hooks.swapon(2000, page="16K", weight=1)
        done = threading.Event()

        def work(thread: int) -> None:
            if thread == 0:
                try:
                    come_and_go()
                finally:
                    done.set()
                return
            turn = 0
            found = np.empty(content.words, np.uint64)
            while not done.is_set():
                turn += 1
                offset = turn * 2 % 2000 + thread - 1
                steady.store(offset, content.page(offset, turn))
                steady.load(offset, found)
                assert content.generation(offset, found) == turn

        def come_and_go() -> None:
            found = np.empty(content.words, np.uint64)
            for life in range(20):
                area = hooks.swapon(300 + life, page="16K", weight=1 + life % 3, quota="300K" if life % 2 else None)
                for offset in range(200):
                    area.store(offset, content.page(offset, life + 1))
                for offset in range(200):
                    area.load(offset, found)
                    assert content.generation(offset, found) == life + 1
                area.swapoff()

        together(3, work)
        agree(hooks)
        steady.invalidate_area()
        assert agree(hooks).pool_live_bytes == 0


def test_an_area_is_resized_while_its_pages_leave() -> None:
    """Who loses pages waits for all who are in the area, and those have others leave it, and other areas."""
    content = Content(4096)
    with Frontswap(POOL) as hooks:
        areas = [hooks.swapon(400, most_pages=900, quota="300K", weight=1), hooks.swapon(4000, weight=2)]
        done = threading.Event()

        def work(thread: int) -> None:
            if thread == 0:
                try:
                    for turn in range(150):
                        areas[0].resize(400 + turn % 3 * 250)
                finally:
                    done.set()
                return
            found = np.empty(512, np.uint64)
            for turn in itertools.count(1):
                area = areas[turn % 2]
                offset = turn * 7 % (area.pages // 4 if turn % 2 else 100) * 4 + thread
                if offset < 400 or turn % 2:
                    area.store(offset, content.page(offset, turn % 10_000))
                    area.load(offset, found)
                    assert content.generation(offset, found) == turn % 10_000
                if done.is_set():
                    return

        together(4, work)
        agree(hooks)
        assert areas[0].statistics().pool_bytes <= 300 << 10


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"quota": "much"}, "quota='much'"),
        ({"quota": -1}, "quota=-1"),
        ({"quota": True}, "quota=True"),
        ({"weight": -1}, "weight=-1"),
        ({"weight": 10001}, "weight=10001: must be 0 to 10000"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"weight": True}, "weight=True"),
        ({"weight": "1"}, "weight='1'"),
    ],
)
def test_bad_shares(settings: dict[str, object], names: str) -> None:
    with Frontswap(POOL) as hooks:
        with pytest.raises(ParameterError, match=names.replace("(", r"\(")):
            hooks.swapon(10, **settings)  # type: ignore[arg-type]
        assert hooks.areas == ()
