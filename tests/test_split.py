"""Pages that follow access: split where it is at random, whole where an array is walked along, never a wrong byte."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, MiB, Mode, ballast, cold, hammered, held, noise, quiet, run_child, same, together, walk
from test_injected import TOOLS

import frontswap

SMALL = 4096
#: of an array of more than 512 KiB in a Memory of 16 MiB
WHOLE = 32768
WORDS = SMALL // 8


@pytest.fixture(autouse=True)
def modes_that_split(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part that is resident would be two mappings more where pages are protected."""
    monkeypatch.setenv("FRONTSWAP_SPLIT", "follow")
    mode = getattr(request.node, "callspec", None)
    if (mode is not None and "sigsegv" in str(mode.params.get("mode"))) or request.config.getoption(
        "forbid_userfaultfd"
    ):
        pytest.skip("pages are not split without userfaultfd")


@pytest.fixture
def any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are split, and made whole, whatever the faults were."""
    monkeypatch.setenv("FRONTSWAP_SPLIT", "any")


def rows(memory: frontswap.Memory, size: int) -> tuple[Array, Array]:
    """An array by pages of 4 KiB, full of what compresses, and its bytes."""
    twin = walk(size // 8).reshape(-1, WORDS)
    return memory.array(twin), twin


def read_at_random(array: Array, twin: Array, reads: int, seed: int = 0, run: int = 1) -> None:
    """Some words of `run` neighbours at a time."""
    rng = np.random.default_rng(seed)
    for row in rng.integers(0, len(array) // run, reads) * run:
        for i in range(row, row + run):
            assert array[i, 5] == twin[i, 5]


# --- what is split -------------------------------------------------------------------------------


def test_read_at_random_then_walked_along(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory()
    array, twin = rows(memory, 64 * MiB)
    for _ in range(2):
        array.sum()
    assert memory.statistics().splits == 0
    read_at_random(array, twin, 12_000)
    split = quiet(memory)
    assert split.splits > len(array) // 8 // 2
    # Then a fault brings 4 KiB in: reads of what is resident are no faults, others are one each.
    read_at_random(array, twin, 3000, 1)
    now = quiet(memory)
    refaults = now.refaults - split.refaults
    brought = now.loads + now.slot_loads - split.loads - split.slot_loads
    assert refaults == brought
    same(array, twin)
    for _ in range(4):
        same(array, twin)
    whole = memory.statistics()
    assert whole.collapses > whole.splits * 9 // 10
    # As many pages as before it was split, nearly.
    array.sum()
    before = quiet(memory)
    array.sum()
    assert quiet(memory).refaults - before.refaults < len(array) // 8 * 3 // 2
    assert held(memory)[0] == 64 * MiB
    del array
    assert held(memory) == (0, 0, 0, 0)


def test_random_advice_splits_at_once(mode: Mode, new_memory: NewMemory) -> None:
    """A page that was never touched has nothing to wait for."""
    memory = new_memory()
    array = memory.zeros((256, WHOLE), "u1")
    memory.advise(array, "random")
    array[:, 0] = 1
    now = quiet(memory)
    assert (now.splits, now.first_touches) == (256, 256)
    assert now.resident_bytes + now.pool_bytes <= 256 * SMALL
    assert array.sum() == 256
    memory.advise(array, "dontneed")
    assert memory.statistics().resident_bytes == 0
    memory.advise(array, "normal")
    array[:, 0] = 2
    now = quiet(memory)
    assert (now.splits, now.resident_bytes) == (256, 256 * WHOLE), "what was dropped is whole again"
    assert array.sum() == 512


def test_readahead_of_pages_that_are_split(mode: Mode, new_memory: NewMemory) -> None:
    """All their parts come."""
    memory = new_memory()
    twin = walk(MiB // 8).reshape(-1, WORDS)
    array = memory.zeros(twin.shape)
    memory.advise(array, "random")
    array[:] = twin
    cold(memory, array)
    before = memory.statistics()
    assert before.splits == MiB // WHOLE
    assert before.resident_bytes == 0
    memory.advise(array, "willneed")
    now = quiet(memory)
    assert (now.readaheads - before.readaheads, now.resident_bytes) == (MiB // SMALL, MiB)
    same(array, twin)


def test_sequential_advice_and_a_given_page_never_split(new_memory: NewMemory) -> None:
    memory = new_memory()
    array, twin = rows(memory, 32 * MiB)
    memory.advise(array, "sequential")
    given = memory.empty((len(twin), WORDS), page="32K")
    given[:] = twin
    for data in (array, given):
        read_at_random(data, twin, 4000)
    memory.advise(given, "random")
    read_at_random(given, twin, 1000)
    assert memory.statistics().splits == 0
    of_memory = new_memory(page="64K")
    array, twin = rows(of_memory, 32 * MiB)
    read_at_random(array, twin, 4000)
    assert of_memory.statistics().splits == 0


def test_without_a_swap_file_nothing_is_split(new_memory: NewMemory) -> None:
    """Small records take more, and there is no disk for that."""
    memory = new_memory(swap=None, allocate="64M")
    array, twin = rows(memory, 32 * MiB)
    memory.advise(array, "random")
    read_at_random(array, twin, 4000)
    assert memory.statistics().splits == 0


def test_many_who_walk_along_are_not_random(new_memory: NewMemory) -> None:
    """More of them than there are streams."""
    memory = new_memory()
    array, twin = rows(memory, 64 * MiB)
    places = np.arange(16) * (len(array) // 16)
    for step in range(len(array) // 16):
        for place in places:
            assert array[place + step, 3] == twin[place + step, 3]
    assert memory.statistics().splits == 0


@pytest.mark.parametrize("run", [8, 16])
def test_runs_do_not_go_to_and_fro(new_memory: NewMemory, run: int) -> None:
    """Rows of a whole page and more, at random: each time that pages were split for nothing it takes longer."""
    memory = new_memory()
    array, twin = rows(memory, 64 * MiB)
    read_at_random(array, twin, 1500, run=run)
    before = memory.statistics().splits
    read_at_random(array, twin, 1500, 1, run=run)
    assert memory.statistics().splits - before < 500


# --- never a wrong byte --------------------------------------------------------------------------


def pressed(memory: frontswap.Memory) -> tuple[Array, Array]:
    """Three times the limit, split and whole and in between."""
    array, twin = rows(memory, 48 * MiB)
    read_at_random(array, twin, 4000)
    now = memory.statistics()
    assert now.splits > 100
    assert now.collapses > 0
    return array, twin


def right(memory: frontswap.Memory, array: Array, twin: Array) -> None:
    """All of it, and all that is counted."""
    same(array, twin)
    now = quiet(memory)
    assert (now.poisoned, now.overshoots, now.slot_errors, now.pinned_bytes) == (0, 0, 0, 0)
    assert now.used_bytes == now.resident_bytes + now.pool_bytes


def test_writes(mode: Mode, any_time: None, memory: frontswap.Memory) -> None:
    array, twin = pressed(memory)
    rng = np.random.default_rng(3)
    for row, value in zip(rng.integers(0, len(array), 6000), rng.integers(0, 99, 6000), strict=True):
        array[row, row % WORDS] = twin[row, row % WORDS] = value
    for data in (array, twin):
        data[100:3000] += 1
    right(memory, array, twin)


def test_pins(mode: Mode, any_time: None, memory: frontswap.Memory) -> None:
    """A page stays what it is as long as a part of it is pinned, and all of it is."""
    array, twin = pressed(memory)
    for start in range(0, len(array), 1000):
        part = array[start : start + 100]
        address = part.ctypes.data
        pages = (address + part.nbytes + WHOLE - 1) // WHOLE - address // WHOLE
        with memory.pin(part):
            assert memory.statistics().pinned_bytes == pages * WHOLE
            array.sum()
            part[:, 0] += 0.0
            memory.advise(array, "cold")
            assert memory.statistics().resident_bytes >= pages * WHOLE
    assert memory.statistics().pinned_bytes == 0
    right(memory, array, twin)


def test_pins_end_while_others_drop_pages(new_memory: NewMemory) -> None:
    """Who drops the parts of a page owns it meanwhile, and finds them pinned: pins that end then do end."""
    memory = new_memory()
    array = memory.zeros((64, WHOLE), "u1")
    memory.advise(array, "random")
    array[:, 0] = 1
    assert memory.statistics().splits == 64
    stop = threading.Event()

    def work(i: int) -> None:
        if i:
            while not stop.is_set():
                with contextlib.suppress(frontswap.PinError):
                    memory.advise(array, "dontneed")
            return
        for _ in range(20_000):
            with memory.pin(array[:8]):
                pass
        stop.set()

    together(2, work)
    assert memory.statistics().pinned_bytes == 0
    memory.advise(array, "dontneed")
    assert not array.any()


def test_system_calls(mode: Mode, any_time: None, memory: frontswap.Memory, tmp_path: Path) -> None:
    array, twin = pressed(memory)
    with (tmp_path / "data").open("w+b", buffering=0) as file:
        assert file.write(array[1000:5000].data) == 4000 * SMALL
        file.seek(0)
        assert file.readinto(array[6000:10000].data) == 4000 * SMALL
    twin[6000:10000] = twin[1000:5000]
    right(memory, array, twin)


def test_parts_that_are_dropped(mode: Mode, any_time: None, memory: frontswap.Memory) -> None:
    array, twin = pressed(memory)
    rng = np.random.default_rng(4)
    for first in rng.integers(0, len(array) - 200, 50):
        memory.advise(array[first : first + 100], "dontneed")
        start = -(-(first * SMALL) // WHOLE) * WHOLE // SMALL
        end = (first + 100) * SMALL // WHOLE * WHOLE // SMALL
        twin[start:end] = 0
        assert not array[start:end].any()
        read_at_random(array, twin, 20, int(first))
    right(memory, array, twin)


def test_fork(mode: Mode, any_time: None, memory: frontswap.Memory) -> None:
    """Both sides have all of it, and go their own ways."""
    array, twin = pressed(memory)
    pid = os.fork()
    if pid == 0:
        done = 1
        try:
            rng = np.random.default_rng(7)
            for row in rng.integers(0, len(array), 3000):
                assert np.array_equal(array[row], twin[row])
                array[row] = twin[row] = row
            assert np.array_equal(array, twin)
            assert memory.statistics().poisoned == 0
            done = 0
        finally:
            os._exit(done)
    rng = np.random.default_rng(8)
    for row in rng.integers(0, len(array), 3000):
        array[row] += 1
        twin[row] += 1
    assert os.waitpid(pid, 0)[1] == 0
    right(memory, array, twin)


def test_dropped_while_others_split_and_collapse(mode: Mode, any_time: None, new_memory: NewMemory) -> None:
    """What is dropped reads as zeros at once, though its page is being split, or made whole, at that moment.

    Pages that are dropped hold what was written after they were dropped last, or zeros: nothing older.
    """
    memory = new_memory()
    array = memory.array(walk(32 * MiB // 8).reshape(-1, WORDS))
    ours = memory.empty((64, WHOLE // 8), "u8")
    stop = threading.Event()

    def work(i: int) -> None:
        rng = np.random.default_rng(i)
        if i:  # neighbours come and go
            while not stop.is_set():
                array[rng.integers(0, len(array), 50), 0].sum()
            return
        try:
            for turn in range(1, 100):
                count = turn % 63 + 1
                ours[:, ::WORDS] = turn
                array[rng.integers(0, len(array), 500), 0].sum()
                assert (ours[:, ::WORDS] == turn).all()
                memory.advise(ours[:count], "dontneed")
                assert not ours[:count].any(), turn
                assert (ours[count:, ::WORDS] == turn).all()
        finally:
            stop.set()

    together(3, work)


def test_threads_on_pages_that_change(mode: Mode, any_time: None, new_memory: NewMemory) -> None:
    """Eight threads count in words of pages that are split and made whole under their hands, while others fork."""
    memory = new_memory()
    array = memory.empty((8 << 10, WORDS), "u8")

    def work() -> None:
        for step in range(30):
            part = array[step * 250 : step * 250 + 250]
            memory.advise(part, ("willneed", "cold", "cold")[step % 3])
            if step % 5 == 0:
                with memory.pin(part[:16]):
                    array[:: WHOLE // SMALL, 500].sum()

    hammered(array, 8, 9, work)
    now = quiet(memory)
    assert now.splits > 100
    assert now.collapses > 20
    assert (now.poisoned, now.overshoots) == (0, 0)


def test_few_pages_that_all_fault(mode: Mode, any_time: None, new_memory: NewMemory) -> None:
    """16 threads, three pages: who finds a page split finds it whole a moment later."""
    memory = new_memory()
    array = memory.zeros((MiB // SMALL, WORDS), "u8")
    other = memory.array(walk(32 * MiB // 8).reshape(-1, WORDS))

    def work() -> None:
        for _ in range(3):
            other.sum()

    hammered(array[: 3 * WHOLE // SMALL], 16, 5, work)


def test_what_zcache_refuses(mode: Mode, any_time: None, new_memory: NewMemory) -> None:
    memory = new_memory()
    twin = noise(48 * MiB).reshape(-1, SMALL)
    array = memory.array(twin)
    rng = np.random.default_rng(1)
    for row in rng.integers(0, len(array), 4000):
        assert np.array_equal(array[row], twin[row])
    assert memory.statistics().splits > 100
    same(array, twin)


def test_exclusive(any_time: None, new_memory: NewMemory) -> None:
    memory = new_memory()
    memory.backends.exclusive_loads(True)
    array, twin = rows(memory, 48 * MiB)
    read_at_random(array, twin, 4000)
    same(array, twin)
    assert memory.statistics().splits > 100


def test_a_backend_that_goes(any_time: None, new_memory: NewMemory) -> None:
    """Its pages leave it, parts and all."""
    memory = new_memory()
    array, twin = rows(memory, 32 * MiB)
    read_at_random(array, twin, 3000)
    memory.backends.unregister(next(iter(memory.backends)))
    assert memory.statistics().frontswap_pages == 0
    read_at_random(array, twin, 3000, 1)
    same(array, twin)


def test_full_disk(small_disk: Path, any_time: None, new_memory: NewMemory) -> None:
    """Pages that are split when nothing more can be written stay, as parts or whole, and none is lost."""
    memory = new_memory(swap=str(small_disk))
    twin = noise(32 * MiB).reshape(-1, SMALL)
    array = memory.array(twin)
    ballast(small_disk, 0)
    rng = np.random.default_rng(1)
    for turn in range(3):
        for row in rng.integers(0, len(array), 2000):
            assert np.array_equal(array[row], twin[row])
            if row % 3 == 0:
                array[row] = twin[row] = twin[row][::-1].copy()
        same(array, twin)
        assert memory.statistics().poisoned == 0, turn


def test_one_part_is_lost_and_no_other(seam: Mode) -> None:
    code = """
memory = frontswap.Memory("16M")
spare = memory.empty(32 << 20, "u1")
source = noise(32 << 20).reshape(-1, PAGE)
array = memory.empty((8192, PAGE), "u1")
memory.advise(array, "random")
array[:] = source
assert memory.statistics().splits == 1024
memory.advise(array, "cold")
quiet(memory)
overwrite(memory, find_in_file(memory, bytes(source[100, 1000:1100])), b"garbage")
same(np.array(array[:100]), source[:100])
assert np.array_equal(array[101:], source[101:])
assert lost(memory, array[100])
print("others are right", flush=True)
value = array[100].copy(); print("wrong:", value)
"""
    if seam.faults == "sigsegv":
        pytest.skip("pages are not split without userfaultfd")
    done = run_child(TOOLS + code, mode=seam).died_of(signal.SIGBUS)
    assert done.out == "others are right\n"
    assert (
        f"array 2 ({32 * MiB} bytes), bytes {100 * SMALL} to {101 * SMALL - 1}: its record in the swap file" in done.err
    )


def test_madvise_says_it_too(new_memory: NewMemory) -> None:
    """MADV_RANDOM of a whole array; of a part of one it is not followed."""
    memory = new_memory()
    array = memory.zeros((256, WHOLE), "u1")
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(array.ctypes.data)

    def splits(size: int, advice: int) -> int:
        before = memory.statistics().splits
        assert libc.madvise(address, ctypes.c_size_t(size), advice) == 0
        memory.advise(array, "dontneed")
        array[:, 0] = 1
        return memory.statistics().splits - before

    assert splits(array.nbytes // 2, mmap.MADV_RANDOM) == 0
    assert splits(array.nbytes, mmap.MADV_RANDOM) == 256
    assert splits(array.nbytes, mmap.MADV_NORMAL) == 0
