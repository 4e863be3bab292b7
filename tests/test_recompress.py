"""Recompression: cold records become smaller by themselves, and no byte changes whatever happens beside it."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, MiB, Mode, at_rest, cold, noise, quiet, run_child, same, wait_until
from pages import capsule_function, pager_of

import frontswap
from frontswap.core import codec, dense, recompress
from frontswap.errors import ParameterError, SpecError
from frontswap.testing import soak

PAGE = 4096
LIMIT = 32 * MiB
#: a segment of a Memory of 16 MiB
SEGMENT = (256 << 10) + 4096


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is recompressed at once, with the priority of the other threads."""
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")


@cache
def paragraph() -> Array:
    rng = np.random.default_rng(0)
    words = np.array([f"{number:x} ".encode() for number in rng.integers(0, 1 << 20, 4096)], dtype="S8")
    chosen = rng.zipf(1.2, MiB) % len(words)
    return np.frombuffer(b"".join(words[chosen].tolist())[: 2 * MiB], "u1")


def text(nbytes: int) -> Array:
    """Words as they come: LZ4 makes them half as large, zstd a third."""
    return np.resize(paragraph(), nbytes)


def twice(pages: int, seed: int, page: int = PAGE) -> Array:
    """Pages of six bits a byte whose second half is their first: LZ4 makes records of one length, zstd smaller ones."""
    half = np.random.default_rng(seed).integers(0, 64, (pages, 1, page // 2), np.uint8)
    return np.repeat(half, 2, axis=1).reshape(-1)


# --- it wins room ------------------------------------------------------------------------------------------------


def test_text_takes_less_of_the_pool(new_memory: NewMemory, seam: Mode, eager: None) -> None:
    expected = text(48 * MiB)
    held: dict[str, float] = {}
    for how in ("off", "zstd"):
        memory = new_memory(LIMIT, backends=f"zcache:recompress={how}", page=16384)
        array = memory.array(expected)
        cold(memory, array)
        now = quiet(memory)
        held[how] = now.pool_live_bytes / now.stored_bytes
        assert (now.recompressed_pages > 0) == (how == "zstd") == (now.recompressed_saved_bytes > 0)
        same(array, expected)
        assert memory.statistics().poisoned == 0
        del array
    assert held["zstd"] < held["off"] * 0.85


@pytest.mark.parametrize("make", [noise, lambda n: noise(n) & np.uint8(15)], ids=["noise", "halves"])
def test_what_does_not_get_smaller_is_looked_at_once(
    new_memory: NewMemory, eager: None, make: Callable[[int], Array]
) -> None:
    memory = new_memory(LIMIT)
    expected = make(40 * MiB)
    array = memory.array(expected)
    assert quiet(memory).recompressed_pages == 0
    same(array, expected)


def may_be_idle() -> bool:
    """True if a thread may ask for what nobody else wants; some containers forbid it."""

    def ask() -> None:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            allowed.append(True)

    allowed: list[bool] = []
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return bool(allowed)


#: after which a segment behind the memory door is packed anew though the pool has room
LONG = 31 * 10**9


def later(memory: frontswap.Memory) -> None:
    """Half a minute later."""
    memory._plane.skip_time(LONG)
    memory.backends.pressure("none")  # calls the writeback thread, whose alarm goes by the real clock


@pytest.mark.skipif(not may_be_idle(), reason="SCHED_IDLE is forbidden here")
def test_a_pool_that_has_room_is_left_alone_for_a_while(new_memory: NewMemory) -> None:
    """Below half of what the pool may take only what has been there for half a minute is packed anew."""
    memory = new_memory(LIMIT, page=16384)
    expected = text(12 * MiB)
    array = memory.array(expected)
    cold(memory, array)
    before = quiet(memory)
    assert before.pool_bytes < LIMIT // 3
    assert before.recompressed_pages == 0
    later(memory)

    def is_denser() -> bool:
        time.sleep(0.01)  # it has what nobody else wants
        return memory.statistics().pool_live_bytes < 0.9 * before.pool_live_bytes

    wait_until(is_denser, "an idle processor")
    same(array, expected)
    assert memory.statistics().poisoned == 0


@pytest.mark.skipif(not may_be_idle(), reason="SCHED_IDLE is forbidden here")
def test_what_is_loaded_again_and_again_is_left_alone_until_it_is_not(new_memory: NewMemory) -> None:
    """As long as anything is loaded what has been is in use; who only computes, or sleeps, has nothing hot."""
    memory = new_memory(2 * LIMIT, page=PAGE)  # of which all that is stored takes a small part
    other = memory.array(text(MiB))
    expected = text(12 * MiB)
    array = memory.array(expected)
    for _ in range(4):
        cold(memory, array)
        same(array, expected)
    cold(memory, array)
    for _ in range(3):
        cold(memory, other)
        same(other[:PAGE], text(MiB)[:PAGE])
        before = quiet(memory)
        later(memory)
        # `other` may be packed anew, and has an eighth of it all
        assert quiet(memory).pool_live_bytes > 0.9 * before.pool_live_bytes

    def is_packed() -> bool:
        later(memory)
        time.sleep(0.02)
        return memory.statistics().pool_live_bytes < 0.45 * 13 * MiB  # LZ4 needs 0.65, zstd 0.39

    wait_until(is_packed, "an idle processor")
    same(array, expected)


@pytest.mark.skipif(not may_be_idle(), reason="SCHED_IDLE is forbidden here")
def test_a_full_pool_becomes_denser_by_itself(new_memory: NewMemory) -> None:
    memory = new_memory(32 * MiB, page=PAGE)
    expected = text(60 * MiB)
    array = memory.array(expected)

    def is_denser() -> bool:
        time.sleep(0.01)  # it has what nobody else wants
        return memory.statistics().recompressed_pages > 300

    wait_until(is_denser, "an idle processor")
    same(array, expected)
    assert memory.statistics().poisoned == 0


def test_what_is_moved_keeps_its_hits(new_memory: NewMemory, eager: None) -> None:
    """Rewritten at random, it fits, and stays: what had been looked at was as cold as can be once the cleaner had moved
    it, and so the pool became small.
    """
    memory = new_memory(64 * MiB, page=PAGE)
    rng = np.random.default_rng(1)
    array = memory.zeros((20000, PAGE), "u1")
    noisy = np.tile(rng.integers(0, 256, (256, PAGE // 4), np.uint8), 3)  # not a byte less by zstd
    for i in range(len(array)):
        array[i, : noisy.shape[1]] = noisy[i % 256]
    before = memory.statistics()
    for i in rng.integers(0, len(array), 100_000):
        array[i, 0] ^= 1
    now = memory.statistics()
    assert now.loads - before.loads > 20_000
    assert now.cleaned_bytes > 20 * MiB
    assert now.slot_loads - before.slot_loads < 5000  # 8000 and more, where they do not


def test_what_comes_back_is_stored_by_lz4_again(new_memory: NewMemory, seam: Mode, eager: None) -> None:
    memory = new_memory(LIMIT, page=PAGE, backends="zcache:codec=lz4")
    expected = twice(2000, 1)
    array = memory.array(expected)
    pages = array.nbytes // memory._plane.page_of(array.ctypes.data)  # they are larger where pages are protected
    cold(memory, array)
    before = quiet(memory)
    assert before.recompressed_pages > pages // 2
    array ^= 1
    cold(memory, array)
    assert quiet(memory).recompressed_pages > before.recompressed_pages + pages // 2
    same(array, expected ^ 1)


@pytest.mark.parametrize("page", [4096, *(pytest.param(page, marks=pytest.mark.slow) for page in (65536, 1 << 18))])
@pytest.mark.parametrize("how", ["lz4", "shuffle", "bitshuffle", "decimals"])
def test_every_codec_and_page(new_memory: NewMemory, eager: None, how: str, page: int) -> None:
    memory = new_memory(LIMIT, page=page, backends=f"zcache:codec={how}")
    rng = np.random.default_rng(1)
    steps = rng.zipf(1.5, 3 * MiB).clip(0, 5000) * rng.choice([-1, 1], 3 * MiB)
    expected = (steps.cumsum() % 10_000_000) / 100
    array = memory.array(expected)
    cold(memory, array)
    quiet(memory)
    same(array, expected)
    assert memory.statistics().poisoned == 0


# --- in front of swap areas --------------------------------------------------------------------------------------


def test_areas_have_it_too(eager: None) -> None:
    """What leaves for its slot is decompressed then; a pool can go while there is work on its way."""
    expected = twice(6000, 2).reshape(-1, PAGE)
    with frontswap.Frontswap("zcache:size=8M,codec=lz4") as hooks:
        area = hooks.swapon(len(expected))
        for turn in range(2):
            for offset in range(len(expected)):
                area.store(offset, expected[offset] ^ np.uint8(turn))
            least = 1000 * (turn + 1)
            wait_until(lambda least=least: hooks.statistics().recompressed_pages > least, "recompression")  # type: ignore[misc]
            into = np.zeros(PAGE, "u1")
            for offset in range(len(expected)):
                area.load(offset, into)
                assert np.array_equal(into, expected[offset] ^ np.uint8(turn)), offset
        now = hooks.statistics()
        assert now.recompressed_saved_bytes > 0
        assert now.poisoned == 0 < now.slot_stores
        [zcache] = hooks.backends
        hooks.backends.unregister(zcache)
        for offset in range(len(expected)):
            area.load(offset, into)
            assert np.array_equal(into, expected[offset] ^ np.uint8(1)), offset
        area.swapoff()


# --- settings ----------------------------------------------------------------------------------------------------


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r'zcache:recompress.*lz4hc.*"zstd" or "off"'):
        frontswap.Frontswap("zcache:recompress=lz4hc")
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "always")
    with pytest.raises(ParameterError, match=r"FRONTSWAP_RECOMPRESS.*always.*idle or eager"):
        frontswap.Frontswap("zcache")


# --- by hand: what may happen between its steps ------------------------------------------------------------------


def step(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return capsule_function(recompress, name, result, *arguments)


class Hand:
    """Takes the place of both threads, which leave alone what has recompress=off: a plane, or the core of areas."""

    def __init__(self, core: object, page: int = PAGE) -> None:
        self.pager = pager_of(core)
        self.page = page = max(page, 32 << 10)  # of a pack
        size = capsule_function(dense, "dense_encoder_bytes", ctypes.c_size_t, ctypes.c_uint32)(page)
        self.room = np.zeros(size + 64, "u1")
        self.encoder = capsule_function(dense, "dense_encoder_init", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)(
            (self.room.ctypes.data + 63) // 64 * 64, page
        )

    def begin(self) -> bool:
        """Choose the coldest segment that has not been looked at; False: there is none."""
        at_rest()
        return bool(step("segment_begin", ctypes.c_bool, ctypes.c_void_p)(self.pager))

    def take(self, begun: bool = False) -> None:
        """Copy a batch of the coldest segment."""
        assert begun or self.begin()
        assert step("buffers_there", ctypes.c_bool, ctypes.c_void_p)(self.pager)
        assert step("batch_take", ctypes.c_bool, ctypes.c_void_p)(self.pager)

    def work(self) -> None:
        """Make it smaller."""
        step("batch_work", None, ctypes.c_void_p, ctypes.c_void_p)(self.pager, self.encoder)

    def install(self) -> None:
        """Put it back."""
        step("batch_install", None, ctypes.c_void_p)(self.pager)

    def finish(self) -> None:
        """What is left to do once a batch has been taken."""
        self.work()
        self.install()
        at_rest()  # the writeback thread cleans what this has made sparse, with the context that segment_end() takes


class Story:
    """A Memory whose coldest segment is all of one array, `array`, with pages of one length of record."""

    def __init__(self, new_memory: NewMemory) -> None:
        self.memory = new_memory(page=PAGE, backends="zcache:codec=lz4,recompress=off")
        record = codec.compress(twice(1, 0), 1, codec.LZ4)[1]
        self.pages = SEGMENT // ((16 + len(record) + 15) // 16 * 16)
        self.expected = twice(self.pages, 1)
        self.array = self.memory.array(self.expected)
        cold(self.memory, self.array)
        self.others = [self.filler(2)]
        self.memory._plane.skip_time(LONG)  # what is there has been for long
        self.hand = Hand(self.memory._plane)

    def filler(self, seed: int) -> Array:
        """Another segment."""
        made = self.memory.array(twice(self.pages, seed))
        cold(self.memory, made)
        return made

    def rewrite(self, seed: int) -> None:
        """Other bytes for all pages: their records are of no use any more."""
        self.expected = twice(self.pages, seed)
        self.array[:] = self.expected

    @property
    def count(self) -> int:
        return self.memory.statistics().recompressed_pages

    def check(self) -> None:
        same(self.array, self.expected)
        for i, other in enumerate(self.others):
            same(other, twice(self.pages, 2 + i))
        assert self.memory.statistics().poisoned == 0


@pytest.fixture
def story(new_memory: NewMemory) -> Iterator[Story]:
    made = Story(new_memory)
    yield made
    made.array = np.zeros(0, "u1")
    made.others.clear()


def test_by_hand(story: Story) -> None:
    before = story.memory.statistics().pool_live_bytes
    story.hand.take()
    story.hand.finish()
    assert story.count > 20
    now = story.memory.statistics()
    assert before - now.pool_live_bytes == now.recompressed_saved_bytes > 0
    story.check()


def test_pages_that_were_read_meanwhile_are_replaced_all_the_same(story: Story) -> None:
    story.hand.take()
    same(story.array, story.expected)  # CLEAN now, and their records are still there
    story.hand.finish()
    assert story.count > 20
    cold(story.memory, story.array)
    story.check()


def test_pages_that_were_written_meanwhile_keep_what_was_written(story: Story) -> None:
    story.hand.take()
    story.array[::PAGE] ^= 1
    story.expected = story.expected.copy()
    story.expected[::PAGE] ^= 1
    story.hand.finish()
    assert story.count == 0
    story.check()


def test_pages_that_were_stored_anew_elsewhere_keep_their_newest_bytes(story: Story) -> None:
    """Every other one; the rest of the segment is as it was."""
    story.hand.take()
    story.array[:: 2 * PAGE] ^= 1
    story.expected = story.expected.copy()
    story.expected[:: 2 * PAGE] ^= 1
    cold(story.memory, story.array)
    story.hand.finish()
    assert story.count > 10
    story.check()


def test_pages_that_were_stored_anew_keep_their_newest_bytes(story: Story) -> None:
    story.hand.take()
    story.rewrite(77)
    cold(story.memory, story.array)
    story.hand.finish()
    assert story.count == 0
    story.check()


def test_a_newer_record_at_the_same_place_stays(story: Story) -> None:
    """The segment has been freed and used again, and each page's record lies where the one before did."""
    story.hand.take()
    story.rewrite(77)
    # The open segment is full: the next one has the number of the one that was freed.
    cold(story.memory, story.array)
    story.hand.finish()
    assert story.count == 0
    story.check()


def test_pages_of_an_array_that_is_gone(story: Story) -> None:
    """Their ids are those of another one by then, of other pages."""
    story.hand.take()
    story.array = np.zeros(0, "u1")
    gc.collect()
    expected = twice(story.pages, 5, 2 * PAGE)
    array = story.memory.empty(expected.shape, "u1", page=2 * PAGE)
    array[:] = expected
    cold(story.memory, array)
    story.hand.finish()
    assert story.count == 0
    same(array, expected)


def test_what_has_gone_to_the_disk_meanwhile_stays_there(story: Story) -> None:
    story.hand.take()
    story.memory.backends.pressure("critical")
    assert story.memory.statistics().pool_live_bytes == 0
    story.hand.finish()
    story.memory.backends.pressure("none")
    assert story.count == 0
    story.check()


def test_a_backend_that_leaves_meanwhile(story: Story) -> None:
    story.hand.take()
    [zcache] = story.memory.backends
    story.memory.backends.unregister(zcache)
    story.hand.finish()
    assert story.count == 0
    story.check()


def test_damage_is_not_made_right(story: Story) -> None:
    """A record that was damaged in RAM does not get a checksum that fits: its page is lost, and says so."""
    address, _ = story.memory._plane.extents()["pool"]
    # Behind the two slots that wait for refused pages.
    record = (ctypes.c_ubyte * PAGE).from_address(address + 2 * SEGMENT)
    record[16 + 500] ^= 4
    story.hand.take()
    story.hand.finish()
    assert story.count > 20
    with pytest.raises(frontswap.PinError), story.memory.pin(story.array[:PAGE]):
        pass
    assert story.memory.statistics().poisoned == 1
    same(story.array[PAGE:], story.expected[PAGE:])
    story.memory.advise(story.array, "dontneed")


def test_records_for_which_there_is_no_room_stay_as_they_are(new_memory: NewMemory) -> None:
    """A pool that is full to the last record: a new one would need its room before the old one gives its own back."""
    memory = new_memory(page=PAGE, swap=None, backends="zcache:codec=lz4,recompress=off,size=4M")
    expected = twice(2500, 1)
    array = memory.array(expected)
    cold(memory, array)
    before = memory.statistics()
    assert before.reject_pool_full > 0
    hand = Hand(memory._plane)
    hand.take()
    hand.finish()
    # Each segment is tried once: the threads would make the same records for ever.
    for _ in range(4 * MiB // SEGMENT + 2):
        if not hand.begin():
            break
        hand.take(begun=True)
        hand.finish()
    assert not hand.begin()
    now = memory.statistics()
    assert now.recompressed_pages == 0
    assert now.pool_live_bytes == before.pool_live_bytes
    same(array, expected)
    assert memory.statistics().poisoned == 0


# --- beside everything else --------------------------------------------------------------------------------------


def test_a_memory_may_be_closed_in_the_middle(eager: None) -> None:
    expected = text(24 * MiB)
    for turn in range(12):
        memory = frontswap.Memory("16M", page=(4096, 65536)[turn % 2])
        array = memory.array(expected[: (turn + 12) * MiB])
        del array
        memory.close()


def test_nothing_stays_in_the_pool_under_critical_pressure(new_memory: NewMemory, eager: None) -> None:
    """What is on its way when it comes, too."""
    memory = new_memory(page=PAGE, backends="zcache:codec=lz4")
    expected = twice(8000, 1)
    for _ in range(20):
        array = memory.array(expected)
        memory.advise(array, "cold")
        memory.backends.pressure("critical")
        wait_until(lambda: memory.statistics().pool_live_bytes == 0, "the last record")
        memory.backends.pressure("none")
        same(array, expected)
        del array


def test_two_threads_beside_it(new_memory: NewMemory, seam: Mode, eager: None) -> None:
    """One reads and writes pages in random order, the other frees arrays and stores new ones."""
    memory = new_memory(page=PAGE, backends="zcache:codec=lz4")
    expected = twice(8000, 1).copy()
    array = memory.array(expected)
    problems = []

    def churn() -> None:
        for seed in range(12):
            mine = memory.array(twice(700 + 100 * seed, seed))
            memory.advise(mine, "cold")
            if not np.array_equal(mine, twice(700 + 100 * seed, seed)):
                problems.append(seed)
            del mine

    other = threading.Thread(target=churn)
    other.start()
    rng = np.random.default_rng(3)
    while other.is_alive():
        at = rng.integers(0, len(array), 500)
        assert np.array_equal(array[at], expected[at])
        array[at[:50]] ^= 3
        expected[at[:50]] ^= 3
    other.join()
    now = quiet(memory)
    assert not problems
    assert now.recompressed_pages > 1000
    assert now.poisoned == 0
    same(array, expected)


def test_a_forked_child_goes_on_with_it(seam: Mode) -> None:
    """The fork may come in the middle of a batch, which the child does not have."""
    done = run_child(
        """
sys.path.insert(0, os.path.join(os.path.dirname(__import__("helpers").__file__)))
from test_recompress import twice
memory = frontswap.Memory("16M", page=4096, backends="zcache:codec=lz4")
expected = twice(8000, 1)
array = memory.array(expected)
for generation in range(6):
    pid = os.fork()
    if pid:
        assert np.array_equal(array, expected)
        array[:] = expected
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        break
    before = memory.statistics().recompressed_pages
    assert np.array_equal(array, expected)
    expected = expected ^ 1
    array ^= 1
    memory.advise(array, "cold")
    wait_until(lambda: memory.statistics().recompressed_pages > before, "recompression in a child")
    assert np.array_equal(array, expected)
now = memory.statistics()
assert now.poisoned == now.overshoots == 0
""",
        mode=seam,
        environment={"FRONTSWAP_RECOMPRESS": "eager"},
    )
    done.check()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["4K", "64K"])
def test_a_short_soak(page: str) -> None:
    """Forks, limits, backends that come and go, arrays that are freed: all at once."""
    [cell] = [c for c in soak.all_cells() if not c.why_not() and c.page == page][:1]
    passed, line = soak.start_cell(cell, 5, 1)
    assert passed, line
    assert " 0 recompressed" not in line
