"""`zcache:policy=` behind the memory door: the page that leaves the pool is the one that the policy names."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
from bench.traces import TRACES
from conftest import NewMemory
from helpers import FRONTSWAP, Array, MiB, Mode, at_rest, ballast, cold, halves, hammered, noise, quiet, same
from pages import capsule_function, pager_of

import frontswap
from frontswap.core import policy as core_policy
from frontswap.core import victims
from frontswap.errors import ParameterError
from frontswap.policies import names

PAGE = 4096
POLICIES = [name for name in names() if name != "belady"]
SOME = [pytest.param(name, marks=() if name == "lirs" else pytest.mark.slow) for name in POLICIES]
SPEC = "zcache:recompress=off,policy="


def rows(array: Array) -> Array:
    """An array by its pages."""
    return array.reshape(-1, PAGE)


# --- what leaves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("how", ["read", "written"])
def test_every_byte_is_what_it_was(new_memory: NewMemory, seam: Mode, name: str, how: str) -> None:
    """Twice what fits, used at random: all that leaves leaves by the policy, and comes back."""
    memory = new_memory("16M", page=PAGE, backends=SPEC + name)
    expected = halves(48 * MiB)
    array = memory.array(expected)
    places = np.random.default_rng(1).integers(0, array.nbytes, 8000)
    if how == "read":
        assert np.array_equal(array[places], expected[places])
    else:
        array[places] += 1
        expected[places] += 1
    now = quiet(memory)
    assert now.pool_bytes <= now.limit_bytes
    assert now.poisoned == 0 < now.slot_loads
    same(array, expected)
    del array
    assert memory.statistics().pool_live_bytes == memory.backends.curr_pages() == 0


@pytest.mark.parametrize(
    "name", ["s3fifo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lru", "lirs", "duel"))]
)
def test_what_is_used_again_and_again_stays(new_memory: NewMemory, name: str) -> None:
    """Pages at random among those that are used: by age whole segments leave, and they with them."""
    memory = new_memory("32M", page=PAGE, backends=SPEC + name)
    expected = halves(64 * MiB)
    array = memory.array(expected)
    memory.advise(array, "random")
    page = memory._plane.page_of(array.ctypes.data)
    found, wanted = array[::page], expected[::page]
    picks = np.random.default_rng(2).permutation(len(wanted))  # 32 MiB of records: the pool has room for two thirds
    hot, others = picks[: len(picks) // 4], picks[len(picks) // 4 :]
    for part in np.array_split(others, 4)[:3]:  # what is not used passes by a part at a time
        for some in (hot, hot, part):
            assert np.array_equal(found[some], wanted[some])
    before = quiet(memory)
    assert np.array_equal(found[hot], wanted[hot])
    after = quiet(memory)
    assert after.slot_loads - before.slot_loads < len(hot) // 20
    assert np.array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("trace", ["zipf", "scan with a hot set"])
def test_it_reads_less_from_the_disk_than_by_age(new_memory: NewMemory, trace: str) -> None:
    misses: dict[str, int] = {}
    count = 24_000
    expected = halves(count * PAGE)
    for name in ("age", "lirs"):
        memory = new_memory("48M", page=PAGE, backends=SPEC + name)
        array = memory.array(expected)
        memory.advise(array, "random")
        found, wanted = rows(array)[:, 0], rows(expected)[:, 0]
        for page in TRACES[trace](count, 100_000).tolist():
            assert found[page] == wanted[page]
        misses[name] = memory.statistics().slot_loads
        del array, found
    assert misses["lirs"] < 0.85 * misses["age"]


def test_pages_of_all_sizes(new_memory: NewMemory, seam: Mode) -> None:
    """Also those that do not get smaller, which go to the disk as they are and do not come into the pool."""
    memory = new_memory("32M", backends="zcache:policy=lru")
    expected = {
        page: halves(12 * MiB, page) if page != 16384 else noise(12 * MiB) for page in (4096, 16384, 65536, 1 << 18)
    }
    arrays = {page: memory.array(data, page=page) for page, data in expected.items()}
    for _ in range(3):
        for page, array in arrays.items():
            same(array, expected[page])
    assert memory.statistics().poisoned == 0


@pytest.mark.slow
def test_huge_pages_that_come_back_whole(new_memory: NewMemory) -> None:
    memory = new_memory("256M", page=65536, backends="zcache:policy=lirs")
    expected = halves(640 * MiB).view("u8")
    array = memory.array(expected)
    for turn in range(2):
        assert int(array.sum(dtype="u8")) == int((expected + np.uint64(turn)).sum(dtype="u8"))
        array += np.uint64(1)
    same(array, expected + np.uint64(2))
    assert memory.statistics().poisoned == 0


# --- races -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_threads_at_once(new_memory: NewMemory, seam: Mode, name: str) -> None:
    """Counting in each other's pages, while others are freed, resized and recompressed."""
    memory = new_memory("16M", page=PAGE, backends="zcache:policy=" + name)
    array = memory.zeros((8192, 512), "u8")  # 32 MiB

    def meanwhile() -> None:
        for turn in range(12):
            expected = halves(4 * MiB, turn)
            other = memory.array(expected)
            memory.advise(array, "cold")
            memory.resize("20M" if turn % 2 else "16M")
            same(other, expected)

    hammered(array, 4, 7, meanwhile)
    assert memory.statistics().poisoned == 0


def test_backends_come_and_go(new_memory: NewMemory, seam: Mode) -> None:
    memory = new_memory("16M", page=PAGE, backends="zcache:policy=arc")
    expected = halves(40 * MiB)
    array = memory.array(expected)
    done = threading.Event()

    def use() -> None:
        while not done.is_set():
            assert np.array_equal(array[::PAGE], expected[::PAGE])

    thread = threading.Thread(target=use)
    thread.start()
    try:
        for name in ("lru", "age", "lirs", "s3fifo"):
            [zcache] = memory.backends
            memory.backends.unregister(zcache, deadline=60)
            memory.backends.register("zcache:policy=" + name)
    finally:
        done.set()
        thread.join()
    same(array, expected)
    assert memory.statistics().poisoned == 0


def test_critical_pressure_empties_the_pool(new_memory: NewMemory, seam: Mode) -> None:
    memory = new_memory("16M", page=PAGE, backends=SPEC + "sieve")
    expected = halves(20 * MiB)
    array = memory.array(expected)
    cold(memory, array)
    assert quiet(memory).pool_bytes > 4 * MiB
    memory.backends.pressure("critical")
    assert quiet(memory).pool_bytes == 0
    same(array, expected)
    memory.backends.pressure("none")
    array[:] = expected  # what only comes back is on the disk still
    cold(memory, array)
    assert quiet(memory).pool_bytes > 4 * MiB
    same(array, expected)


def test_a_forked_child_has_its_own(seam: Mode) -> None:
    """Both go on for a while with what the policy knew, and with pages that the other one does not have."""
    forks.child(
        """
other = frontswap.Memory("16M", page=4096, backends="zcache:recompress=off,policy=lirs")
expected = noise(28 << 20) & np.uint8(15)
data = other.array(expected)
def use(seed):
    for turn in range(2):
        places = np.random.default_rng(seed + turn).integers(0, data.nbytes, 4000)
        data[places] ^= np.uint8(seed)
        expected[places] ^= np.uint8(seed)  # places that come twice: both arrays have the last one
        assert np.array_equal(data, expected)
children = [forked(lambda seed=seed: use(seed)) for seed in (1, 2)]
use(3)
for child in children:
    ended(child)
assert other.statistics().poisoned == 0
assert np.array_equal(data, expected)
""",
        seam,
    )


# --- by hand: what may happen between its steps ------------------------------------------------------------------


class Hand:
    """A Memory whose pool nobody writes out meanwhile, and victim_leave() for one page of it."""

    def __init__(self, memory: frontswap.Memory) -> None:
        self.memory = memory
        self.expected = halves(4 * MiB)
        self.array = memory.array(self.expected)
        cold(memory, self.array)
        at_rest()
        self.pager = pager_of(memory._plane)
        self.leave = self.function(victims, "victim_leave", ctypes.c_int64, ctypes.c_uint32, ctypes.c_int)
        self.victim = self.function(core_policy, "policy_victim", ctypes.c_uint32, ctypes.c_uint32)
        self.has = self.function(core_policy, "policy_has", ctypes.c_bool, ctypes.c_uint32)
        self.back = self.function(core_policy, "policy_back", None, ctypes.c_uint32)

    def function(self, module: Any, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        called = capsule_function(module, name, result, ctypes.c_void_p, *arguments)
        return lambda *given: called(self.pager, *given)

    def name(self) -> int:
        """Who is to leave, by the policy; it does not hold that page any more."""
        page = int(self.victim(0))
        assert page
        assert not self.has(page)
        return page

    def live(self) -> int:
        return self.memory.statistics().pool_live_bytes

    def check(self) -> None:
        same(self.array, self.expected)
        assert self.memory.statistics().poisoned == 0


@pytest.fixture
def hand(new_memory: NewMemory) -> Iterator[Hand]:
    hand = Hand(new_memory("32M", page=PAGE, backends=SPEC + "fifo"))
    yield hand
    del hand.array


def test_a_victim_leaves_and_comes_back(hand: Hand) -> None:
    before = hand.live()
    length = hand.leave(hand.name(), 0)
    assert length > 0
    assert hand.live() == before - length
    hand.check()


def test_a_victim_that_has_been_loaded_is_resident_and_leaves(hand: Hand) -> None:
    """Its record goes to the disk; who writes to it then has a page as any other."""
    page = hand.name()
    hand.array[0] = hand.array[0]  # the first page that was stored
    hand.back(page)
    found = rows(hand.array)[:, 0].copy()  # all are resident, and clean but for one
    length = sum(max(hand.leave(hand.name(), 0), 0) for _ in range(100))
    assert length > 0
    assert np.array_equal(rows(hand.array)[:, 0], found)
    hand.array += 1
    hand.expected += 1
    cold(hand.memory, hand.array)
    hand.check()


def test_a_victim_that_was_written_to_is_forgotten(hand: Hand) -> None:
    hand.array[:] = hand.expected
    live = hand.live()
    assert hand.leave(hand.name(), 0) == 0
    assert hand.live() == live
    cold(hand.memory, hand.array)
    hand.check()


def test_a_victim_of_which_the_policy_has_heard_again_stays(hand: Hand) -> None:
    page = hand.name()
    cold(hand.memory, hand.array)
    hand.array[:] = hand.expected
    cold(hand.memory, hand.array)  # stored again: it is held again
    live = hand.live()
    assert hand.has(page)
    assert hand.leave(page, 0) == -1
    assert hand.has(page)
    assert hand.live() == live
    hand.check()


def test_a_victim_with_no_slot_for_it_stays_as_if_it_had_come_now(new_memory: NewMemory, small_disk: Path) -> None:
    """A disk that is full: what is in the pool stays there, nothing is lost, and it goes on when there is room."""
    memory = new_memory("16M", page=PAGE, swap=small_disk, overcommit=True, backends=SPEC + "lru")
    expected = halves(20 * MiB)
    array = memory.array(expected)
    filler = ballast(small_disk, 0)
    try:
        other = memory.array(halves(3 * MiB, 5))
        same(array, expected)
        same(other, halves(3 * MiB, 5))
    finally:
        filler.unlink()
    more = memory.array(halves(24 * MiB, 6))
    same(more, halves(24 * MiB, 6))
    same(array, expected)
    assert memory.statistics().poisoned == 0


def test_another_zcache_may_have_come(new_memory: NewMemory) -> None:
    """Between the look at its policy and the moment when who looked is counted."""
    memory = new_memory("16M", page=PAGE)
    array = memory.array(halves(4 * MiB))
    cold(memory, array)
    leave = capsule_function(victims, "victims_leave", ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
    assert leave(pager_of(memory._plane), 1) == -1
    same(array, halves(4 * MiB))


# --- settings ----------------------------------------------------------------------------------------------------


def test_not_without_a_swap_file() -> None:
    with pytest.raises(ParameterError, match="zcache:policy='lru': must be \"age\" without a swap file"):
        frontswap.Memory("64M", swap=None, backends="zcache:policy=lru")


def test_not_for_a_whole_process() -> None:
    with pytest.raises(ParameterError, match="zcache:policy='lru': must be \"age\" where all of a process"):
        frontswap.install("64M", backends="zcache:policy=lru")
    said = subprocess.run(
        [FRONTSWAP, "run", "--memory", "64M", "--backends", "zcache:policy=lru", "-c", "print(1)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode != 0
    assert "where all of a process" in said.stderr
    code = """
import frontswap
memory = frontswap.installed()
try:
    frontswap.Memory("32M", backends="zcache:policy=lru")
except ValueError as error:
    print(error)
"""
    said = subprocess.run(
        [FRONTSWAP, "run", "--memory", "64M", "--quiet", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "where all of a process" in said.stdout
