"""First touches of who writes along: huge pages, and what must not become one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import pytest
from conftest import NewMemory, use
from helpers import MODES, Array, MiB, Mode, mode_of, same, together, wait_until, walk

from frontswap.memory.settings import huge_from

CHUNK = 2 * MiB
#: The least limit whose Memory has huge pages, and twice as much
LIMIT, SIZE = "256M", 512 * MiB

pytestmark = pytest.mark.skipif(huge_from() == 0, reason="no transparent huge pages here")


@pytest.fixture(params=["sigbus", "thread"])
def huge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mode:
    """The ways of catching faults that have huge pages."""
    mode = use(mode_of(request.param), monkeypatch)
    if mode.evict != "move":
        pytest.skip(f"huge pages come and leave by UFFDIO_MOVE: {MODES[0].why_not()}")
    return mode


def upwards(array: Array, data: Array) -> None:
    for at in range(0, len(data), MiB // 8):
        array[at : at + MiB // 8] = data[at : at + MiB // 8]


def downwards(array: Array, data: Array) -> None:
    for at in reversed(range(0, len(data), 8192)):
        array[at : at + 8192] = data[at : at + 8192]


@pytest.mark.parametrize("page", [pytest.param(4096, marks=pytest.mark.slow), 65536])
@pytest.mark.parametrize("fill", [upwards, pytest.param(downwards, marks=pytest.mark.slow)])
def test_who_writes_along_gets_huge_pages(
    huge: Mode, new_memory: NewMemory, fill: Callable[[Array, Array], None], page: int
) -> None:
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    array = memory.empty(SIZE // 8, page=page)
    fill(array, data)
    wait_until(lambda: memory.statistics().first_touches == SIZE // page, "all touched")
    found = memory.statistics()
    chunks = SIZE // CHUNK
    assert found.faults < (chunks + 2 * CHUNK // page) * 1.2, "one fault a chunk, but for the first"
    assert found.evicted_huge > chunks // 4
    assert found.used_bytes <= found.limit_bytes
    assert found.overshoots == 0
    same(array, data)
    array += 1
    same(array, data + 1)


def test_what_is_not_touched_reads_as_zeros(huge: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(LIMIT)
    array = memory.zeros(SIZE, "u1")
    array[: CHUNK + 1] = 7
    # A handler thread wakes the writer before it counts.
    wait_until(lambda: memory.statistics().resident_bytes == 2 * CHUNK, "both chunks are there")
    assert not array[CHUNK + 1 :].any()
    memory.advise(array, "cold")
    assert not array[CHUNK + 1 :].any()
    assert (array[: CHUNK + 1] == 7).all()


def test_who_touches_here_and_there_gets_single_pages(huge: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(LIMIT)
    array = memory.zeros(SIZE, "u1", page=65536)
    for at in range(0, SIZE, 2 * 65536):  # every other page
        array[at] = 1
    assert memory.statistics().first_touches == SIZE // 65536 // 2
    other = memory.zeros(SIZE // 2, "u1", page=65536)
    assert not other.any()  # who reads
    assert memory.statistics().evicted_huge == 0
    memory.advise(other, "random")
    more = memory.zeros(SIZE // 4, "u1", page=65536)
    memory.advise(more, "random")
    more[:] = 3
    assert memory.statistics().evicted_huge == 0
    assert (more == 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("page", [4096, 65536])
def test_several_write_the_same_chunks(seam: Mode, new_memory: NewMemory, page: int) -> None:
    """They race for each chunk, with granules of 4 KiB of the same pages and with pages beside each other's."""
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8, 5).reshape(-1, 512)
    array = memory.empty(data.shape, page=page)

    def work(i: int) -> None:
        for at in range(0, len(data) // 2, 4):
            array[at + i] = data[at + i]
        for at in range(len(data) // 2 + 16 * i, len(data), 64):
            array[at : at + 16] = data[at : at + 16]

    together(4, work)
    same(array, data)


@pytest.mark.slow
@pytest.mark.parametrize("page", [4096, 65536])
def test_what_is_dropped_meanwhile_never_comes_back(seam: Mode, new_memory: NewMemory, page: int) -> None:
    """Chunks are given up while they are touched, round after round: zeros or this round's bytes, nothing older."""
    memory = new_memory(LIMIT)
    array = memory.zeros(64 * MiB // 8, "u8", page=page)
    filler = memory.zeros(SIZE // 2, "u1")
    filler[:] = 1
    for turn in range(1, 9):
        stop = threading.Event()

        def drop(turn: int = turn, stop: threading.Event = stop) -> None:
            rng = np.random.default_rng(turn)
            while not stop.is_set():
                at = int(rng.integers(0, 31)) * CHUNK // 8
                memory.advise(array[at : at + int(rng.integers(1, 3)) * CHUNK // 8], "dontneed")

        dropper = threading.Thread(target=drop)
        dropper.start()
        try:
            for at in range(0, len(array), 4096):
                array[at : at + 4096] = turn
        finally:
            stop.set()
            dropper.join()
        assert set(np.unique(array)) <= {0, turn}
        memory.advise(array, "dontneed")
        assert not array.any()
        assert memory.statistics().used_bytes <= memory.limit


@pytest.mark.slow
def test_arrays_come_and_go_while_others_are_filled(seam: Mode, new_memory: NewMemory) -> None:
    """The next array at the same addresses is zeros, whoever has touched what of the last one."""
    memory = new_memory(LIMIT)

    def work(i: int) -> None:
        rng = np.random.default_rng(i)
        for turn in range(12):
            array = memory.zeros(int(rng.integers(3, 40)) * CHUNK // 8, "u8")
            assert not array[:: 512 * 7].any()
            for at in range(0, len(array) // 2, 8192):
                array[at : at + 8192] = turn + 1
            assert (array[: len(array) // 2 // 8192 * 8192] == turn + 1).all()
            assert not array[len(array) // 2 // 8192 * 8192 + 8192 :].any()

    together(3, work)
    assert memory.statistics().used_bytes <= memory.limit


def test_a_child_has_them(huge: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    array = memory.empty(SIZE // 8)
    half = len(data) // 2
    upwards(array[:half], data[:half])
    child = os.fork()
    if child == 0:
        try:
            upwards(array[half:], data[half:])
            os._exit(0 if np.array_equal(array, data) else 1)
        finally:
            os._exit(2)
    upwards(array[half:], data[half:])
    assert os.waitpid(child, 0)[1] == 0
    same(array, data)


def test_a_full_disk_and_a_chunk(small_disk: object, new_memory: NewMemory) -> None:
    """Whoever gets huge pages has paid for them: an array that does not fit is refused, what fits is all there."""
    memory = new_memory(LIMIT, swap=str(small_disk))
    with pytest.raises(MemoryError):
        memory.empty(SIZE)
    data = walk(230 * MiB // 8)
    array = memory.empty(len(data))
    upwards(array, data)
    same(array, data)
