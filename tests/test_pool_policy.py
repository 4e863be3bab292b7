"""`zcache:policy=`: the page that leaves the pool is the one that the same policy names in the simulator."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bench.traces import TRACES, noise
from helpers import FRONTSWAP, wait_until
from numpy.typing import NDArray
from watched import Watched

import frontswap
from frontswap import Frontswap, SwapArea
from frontswap.errors import PageLostError, SlotError, SpecError
from frontswap.policies import Policy, find, names
from frontswap.testing.content import Content

POLICIES = [name for name in names() if name != "belady"]
SIZE = 4 << 20
ROOM = SIZE - SIZE // 8  # what may live of it
PAGES = 4000
FIRST = 32  # the first area's first page, as the core numbers them: whether a page is in a duel's sample goes by that
EQUAL = "zcache:size=4M,codec=lz4,recompress=off,policy="
Page = NDArray[np.uint64]


def pages_of_one_size(count: int, words: int = 256) -> NDArray[np.uint64]:
    """Pages whose records are all equally long: the same noise, with the page's number in it."""
    made = np.zeros((count, 512), np.uint64)
    made[:, :words] = np.random.default_rng(1).integers(1, 2**63, words, np.uint64)
    made[:, words // 2] = noise(count, 2) | np.uint64(0x0101010101010101)  # no zeros in it, which would be shorter
    return made


def bytes_of_a_record() -> int:
    """Of pages_of_one_size()."""
    with Frontswap(EQUAL + "lru") as hooks:
        area = hooks.swapon(200)
        for offset, page in enumerate(pages_of_one_size(200)):
            area.store(offset, page)
        taken = hooks.statistics().pool_bytes
        assert taken % 200 == 0
        return taken // 200


@pytest.fixture(scope="module")
def room() -> int:
    """Pages of one size that the pool has room for."""
    return ROOM // bytes_of_a_record()


def use(area: SwapArea, offset: int, page: Page, found: Page) -> bool:
    """One reference: load it, and store what was not in the pool. Was it?"""
    held = area.load(offset, found)
    if held:
        assert (found == page).all()
    else:
        assert area.store(offset, page) is True
    return held


def access(policy: Policy, page: int) -> None:
    """One reference in the simulator."""
    if page in policy:
        policy.hit(page)
        return
    if len(policy) >= policy.capacity:
        policy.victim(page)
    policy.insert(page)


def check(area: SwapArea, pages: NDArray[np.uint64]) -> None:
    """Every page is there, or was never stored."""
    found = np.empty(512, np.uint64)
    for offset, page in enumerate(pages):
        area.load(offset, found)
        assert (found == page).all() or not found.any()


def same_policy(name: str, room: int) -> Policy:
    """In the simulator, as the pool has it: made for an estimate, and told of the room at the first record."""
    policy = find(name)(FIRST + PAGES, SIZE // 2048)
    policy.resize(room)
    return policy


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    "trace",
    [
        "loop after zipf",
        pytest.param("zipf", marks=pytest.mark.slow),
        pytest.param("scan with a hot set", marks=pytest.mark.slow),
    ],
)
def test_the_pool_misses_what_the_simulator_misses(name: str, trace: str, room: int) -> None:
    pages, found = pages_of_one_size(PAGES), np.empty(512, np.uint64)
    policy = same_policy(name, room)
    with Frontswap(EQUAL + name) as hooks:
        area = hooks.swapon(PAGES)
        for page in TRACES[trace](PAGES, 8000).tolist():
            held = use(area, page, pages[page], found)
            assert held == (FIRST + page in policy)
            access(policy, FIRST + page)
        held_now = np.flatnonzero(area.frontswap_map)
        assert {FIRST + page for page in held_now.tolist()} == {page for page in range(FIRST + PAGES) if page in policy}
        assert hooks.statistics().pool_bytes <= SIZE
        check(area, pages)


@pytest.mark.parametrize("name", POLICIES)
def test_stores_over_frees_and_exclusive_loads_are_what_they_are_there(name: str, room: int) -> None:
    """A store of a page that the pool has is a use of it; who is freed, or taken out, is removed."""
    count = 2500
    pages, found = pages_of_one_size(count), np.empty(512, np.uint64)
    policy = same_policy(name, room)
    with Frontswap(EQUAL + name) as hooks:
        area = hooks.swapon(PAGES)
        taken: set[int] = set()
        dice = noise(9000, 5)
        for page, die in zip((dice // 64 % count).tolist(), (dice % 64).tolist(), strict=True):
            if die < 40 or page in taken:
                assert area.store(page, pages[page]) is True
                access(policy, FIRST + page)
                taken.discard(page)
            elif die < 56:
                held = area.load(page, found)
                assert held == (FIRST + page in policy)
                if held:
                    policy.hit(FIRST + page)
            elif die < 60:
                assert area.invalidate_page(page) == policy.remove(FIRST + page)
            else:
                hooks.exclusive_loads(True)
                if area.load(page, found):
                    policy.hit(FIRST + page)
                    assert policy.remove(FIRST + page)
                    taken.add(page)
                hooks.exclusive_loads(False)
        held_now = np.flatnonzero(area.frontswap_map).tolist()
        assert held_now == [page for page in range(count) if FIRST + page in policy]
        assert len(held_now) == room


def test_an_area_that_comes_later_begins_with_nothing(room: int) -> None:
    """Its pages may have been another one's, which the policy remembers as ghosts."""
    pages, found = pages_of_one_size(PAGES), np.empty(512, np.uint64)
    policy = same_policy("lirs", room)
    trace = TRACES["loop"](2500, 9000).tolist()
    with Frontswap(EQUAL + "lirs") as hooks:
        area = hooks.swapon(PAGES)
        for page in trace:
            use(area, page, pages[page], found)
        area.swapoff()
        area = hooks.swapon(PAGES)
        for page in trace:
            assert use(area, page, pages[page], found) == (FIRST + page in policy)
            access(policy, FIRST + page)


def test_pages_of_one_word_do_not_leave(room: int) -> None:
    pages = pages_of_one_size(3000)
    pages[::3] = np.arange(1000, dtype=np.uint64)[:, None]
    with Frontswap(EQUAL + "lru") as hooks:
        area = hooks.swapon(3000)
        for offset in range(3000):
            assert area.store(offset, pages[offset])
        held = area.frontswap_map
        assert held[::3].all()
        assert held.sum() == 1000 + room
        area.store(2999, pages[0])  # had a record, and is of one word now
        area.store(0, pages[1])
        assert area.frontswap_map.sum() == 1000 + room
        check(area, np.concatenate([pages[1:2], pages[1:2999], pages[:1]]))


@pytest.mark.parametrize("name", ["lru", "lirs", "duel"])
def test_batches(name: str, room: int) -> None:
    pages = pages_of_one_size(PAGES)
    with Frontswap(EQUAL + name) as hooks:
        area = hooks.swapon(PAGES)
        for first in range(0, PAGES, 50):
            got = area.store_many(range(first, first + 50), pages[first : first + 50])
            assert (got == 1).all()
        assert room - 50 <= area.curr_pages() <= room
        found = np.empty((PAGES, 512), np.uint64)
        area.load_many(range(PAGES), found)
        assert (found == pages).all()


def test_who_cannot_leave_stays(room: int) -> None:
    """Without slots the pool fills up, a page more is lost loudly, and all others are there."""
    pages, found = pages_of_one_size(PAGES), np.empty(512, np.uint64)
    with Frontswap(EQUAL + "lirs") as hooks:
        area = hooks.swapon(PAGES, swap=None)
        for offset in range(room):
            assert area.store(offset, pages[offset])
        for stored in range(room, PAGES):
            try:
                area.store(stored, pages[stored])
            except SlotError:
                break
        assert room < stored < PAGES - 1
        for offset in range(stored):
            assert area.load(offset, found)
            assert (found == pages[offset]).all()
        with pytest.raises(PageLostError):
            area.load(stored, found)
        other = hooks.swapon(PAGES)  # its pages can leave
        for offset in range(100):
            other.store(offset, pages[offset])
        check(other, pages[:100])
        for offset in range(stored):
            area.invalidate_page(offset)
        for offset in range(100, PAGES):
            assert other.store(offset, pages[offset])
        check(other, pages)


@pytest.mark.parametrize("name", ["sieve", "arc", "duel"])
def test_pressure_and_backends_that_leave(name: str, room: int) -> None:
    pages = pages_of_one_size(PAGES)
    with Frontswap(EQUAL + name) as hooks:
        area = hooks.swapon(PAGES)
        for _ in range(2):
            for offset in range(2000):
                assert area.store(offset, pages[offset])
            hooks.pressure("medium")
            wait_until(lambda: hooks.statistics().pool_bytes <= SIZE // 2, "half of the pool to be there")
            # an eighth of what the pool may take is for what is dead, and may be filled with what lives
            assert area.curr_pages() <= room * 8 // 7 // 2 + 1
            relief = hooks.pressure("critical")
            assert relief.left_bytes == 0
            # the last one may be in the writeback thread's hands: its record has gone, it is not counted out yet
            wait_until(lambda: area.curr_pages() == 0, "the last page to leave")
            check(area, pages[:2000])
            hooks.pressure("none")
        for offset in range(PAGES):
            assert area.store(offset, pages[offset])
        assert area.curr_pages() == room
        (registered,) = hooks.backends
        hooks.unregister(registered)
        assert area.curr_pages() == 0
        check(area, pages)
        hooks.register(EQUAL + "clock")
        for offset in range(PAGES):
            assert area.store(offset, pages[offset])
        assert area.curr_pages() == room
        check(area, pages)


@pytest.mark.slow
def test_recompression_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that have become smaller count as such: more pages fit."""
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")
    text = np.frombuffer(b"".join(b"page %06d of %06d; " % (i, i * i % 999983) for i in range(220_000)), "u8")
    pages = text[: 512 * (len(text) // 512)].reshape(-1, 512)
    count = len(pages)
    held = {}
    for how in ("zstd", "off"):
        with Frontswap(f"zcache:size=4M,recompress={how},policy=lru") as hooks:
            area = hooks.swapon(8 * count)
            for again in range(8):
                for offset in range(count):
                    area.store(again * count + offset, np.roll(pages[offset], again))
            if how == "zstd":
                wait_until(lambda: hooks.statistics().recompressed_pages > 100, "records to be packed anew")
            for again in range(8):
                check_part = np.empty(512, np.uint64)
                for offset in range(count):
                    area.load(again * count + offset, check_part)
                    assert (check_part == np.roll(pages[offset], again)).all()
            for offset in range(8 * count):
                area.invalidate_page(offset)
            same = pages_of_one_size(3000)
            for offset in range(3000):
                area.store(offset, same[offset])
            held[how] = area.curr_pages()
    assert held["zstd"] == held["off"]  # no byte of it was forgotten, or counted twice


def test_a_child_has_no_hooks_and_the_parent_goes_on(room: int) -> None:
    pages = pages_of_one_size(PAGES)
    hooks = Frontswap(EQUAL + "lirs")
    area = hooks.swapon(PAGES)
    for offset in range(3000):
        area.store(offset, pages[offset])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            area.store(0, pages[0])
        except frontswap.errors.ClosedError:
            code = 0
        os._exit(code)
    for offset in range(3000, PAGES):
        area.store(offset, pages[offset])
    assert os.waitpid(child, 0)[1] == 0
    assert area.curr_pages() == room
    check(area, pages)
    hooks.close(force=True)


HEAP = """
import numpy as np, frontswap
held = [np.full(1 << 20, i) for i in range(40)]  # 320 MiB in 128: what is malloc()ed leaves and comes back
with frontswap.Frontswap("zcache:size=8M,policy=duel") as hooks:
    area = hooks.swapon(8000)
    pages = np.arange(8000 * 512, dtype=np.uint64).reshape(8000, 512) * np.uint64(0x9E3779B97F4A7C15)
    pages[:, 300:] = 0
    found = np.empty(512, np.uint64)
    for turn in range(2):
        for offset in range(8000):
            assert area.store(offset, pages[offset]) is True
        assert 1000 < area.curr_pages() < 7000
        for offset in range(8000):
            area.load(offset, found)
            assert (found == pages[offset]).all()
    area.swapoff()
assert all((array == i).all() for i, array in enumerate(held))
print("as it was")
"""


def test_in_a_program_whose_heap_is_an_arena(tmp_path: Path) -> None:
    """The policy's memory is not in it: the pool's threads must not fault there."""
    (script := tmp_path / "job.py").write_text(HEAP)
    ran = subprocess.run(
        [FRONTSWAP, "run", "--quiet", "--memory", "128M", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "as it was\n"), ran.stderr


def test_what_is_refused() -> None:
    for name in ("belady", "mru", "LRU"):
        with pytest.raises(SpecError, match=f'zcache:policy\': \'{name}\' must be "age" or "fifo" or '):
            Frontswap(f"zcache:policy={name}")


@pytest.mark.parametrize(
    "name", ["lirs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lru", "s3fifo", "duel"))]
)
def test_threads_at_once(name: str) -> None:
    """Every page comes back as it was stored last, and at the end the policy holds what the pool has."""
    seconds, threads, count = 2.0, 4, 4000
    with Frontswap(Watched(size="4M", policy=name)) as hooks:
        area = hooks.swapon(count)
        content = Content(4096)
        failed: list[BaseException] = []
        stop = threading.Event()

        def work(mine: int) -> None:
            rng = np.random.default_rng(mine)
            found = np.empty(512, np.uint64)
            known: dict[int, int] = {}
            try:
                for turn in range(1, 1_000_000):
                    if stop.is_set():
                        break
                    page = int(min(rng.zipf(1.2), count // threads)) * threads - threads + mine
                    if page in known and turn % 3:
                        area.load(page, found)
                        assert content.generation(page, found) == known[page]
                    elif page in known and turn % 31 == 0:
                        area.invalidate_page(page)
                        del known[page]
                    elif turn % 7 == 0:
                        some = [page, (page + threads) % count]
                        area.store_many(some, np.concatenate([content.page(one, turn) for one in some]))
                        known.update(dict.fromkeys(some, turn))
                    else:
                        area.store(page, content.page(page, turn))
                        known[page] = turn
                for page, turn in known.items():
                    area.load(page, found)
                    assert content.generation(page, found) == turn
            except BaseException as error:
                failed.append(error)

        running = [threading.Thread(target=work, args=(mine,)) for mine in range(threads)]
        for thread in running:
            thread.start()
        until = time.monotonic() + seconds
        levels = itertools.cycle(["none", "low", "medium", "none", "critical"])
        while time.monotonic() < until and not failed:
            hooks.pressure(next(levels))
            time.sleep(0.05)
        hooks.pressure("none")
        stop.set()
        for thread in running:
            thread.join()
        assert not failed, failed
        policy = Watched.made[-1]

        found = np.empty(512, np.uint64)

        def agrees() -> bool:
            for page, held in enumerate(area.frontswap_map.tolist()):
                area.load(page, found)
                if (FIRST + page in policy) != (held and not (found == found[0]).all()):
                    return False
            return True

        wait_until(agrees, "the policy to hold what the pool has")


def test_a_victim_that_does_not_come_back_is_lost_loudly(room: int) -> None:
    """Who sheds it has no reader to tell: the page is poisoned, and its next reader is told. Others are as before."""
    pages, found = pages_of_one_size(room + 20), np.empty(512, np.uint64)
    with Frontswap("checksum / inject / " + EQUAL + "lru") as hooks:
        (registered,) = hooks.backends
        area = hooks.swapon(room + 20)
        for offset in range(room):
            assert area.store(offset, pages[offset])
        registered.set("inject", corrupt=1)
        for offset in range(room, room + 20):
            assert area.store(offset, pages[offset])
        registered.set("inject", corrupt=0)
        assert hooks.statistics().poisoned == 20
        for offset in range(20):
            with pytest.raises(PageLostError):
                area.load(offset, found)
        for offset in range(20, room + 20):
            assert area.load(offset, found)
            assert (found == pages[offset]).all()


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    """Victims that no slot takes stay in the pool, until it takes nothing more."""
    pages, found = pages_of_one_size(PAGES), np.empty(512, np.uint64)
    with Frontswap(EQUAL + "lirs") as hooks:
        area = hooks.swapon(size="512M", swap=small_disk, overcommit=True)
        stored, refused = 0, 0
        while refused < 5:  # the slots that are written lie apart: each of them takes blocks of the disk
            offset = stored * 37 % area.pages
            try:
                area.store(offset, pages[stored % PAGES])
            except SlotError:
                refused += 1
                with pytest.raises(PageLostError):
                    area.load(offset, found)
            stored += 1
        assert stored > PAGES
        lost = 0
        for turn in range(stored):
            try:
                area.load(turn * 37 % area.pages, found)
                assert (found == pages[turn % PAGES]).all()
            except PageLostError:
                lost += 1
        assert lost == refused
