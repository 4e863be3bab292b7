"""Pages that come back a huge page at a time, for who walks along, and what must not be lost while they do."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MiB, Mode, cold, hammered, noise, quiet, run_child, same, together, walk
from test_injected import TOOLS
from test_touch import CHUNK, LIMIT, downwards, huge, upwards

from frontswap.memory.settings import huge_from

__all__ = ["huge"]  # a fixture

WORDS = 65536 // 8  # of a page
SIZE = 320 * MiB
PREAD64, VMSPLICE = 17, 278

pytestmark = pytest.mark.skipif(huge_from() == 0, reason="no transparent huge pages here")


@pytest.mark.parametrize("direction", [1, -1], ids=["upwards", "downwards"])
def test_who_reads_along_gets_huge_pages_back(huge: Mode, new_memory: NewMemory, direction: int) -> None:
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    array = memory.empty(SIZE // 8)
    upwards(array, data)
    cold(memory, array)
    before = quiet(memory)
    assert before.loaded_huge == 0
    for _ in range(2):
        for at in range(0, len(data), WORDS)[::direction]:
            same(array[at : at + WORDS], data[at : at + WORDS])
    found = quiet(memory)
    assert found.loaded_huge - before.loaded_huge > 1.5 * SIZE // CHUNK
    assert found.faults - before.faults < 2 * SIZE // CHUNK, "one a chunk at most"
    # (Those that are better off in the pool come from the disk without.)
    assert found.succ_stores - before.succ_stores < SIZE // 65536 // 8, "who only reads keeps the records"
    assert found.evicted_clean > found.readaheads // 2
    assert found.used_bytes <= found.limit_bytes
    assert found.overshoots == 0


def test_who_writes_along_has_what_was_there(huge: Mode, new_memory: NewMemory) -> None:
    """Each chunk is loaded clean or not, and written to: once, twice, everywhere, in a few places."""
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    array = memory.empty(SIZE // 8)
    upwards(array, data)
    array += 1
    data += 1
    same(array, data)
    for at in range(0, len(data), 5 * WORDS):
        array[at] = data[at] = at
    for at in reversed(range(0, len(data), WORDS // 2)):
        array[at : at + 64] *= 2
        data[at : at + 64] *= 2
    found = quiet(memory)
    assert found.loaded_huge > SIZE // CHUNK
    assert found.used_bytes <= found.limit_bytes
    same(array, data)


def test_two_from_both_ends(huge: Mode, new_memory: NewMemory) -> None:
    """As quicksort goes."""
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    array = memory.empty(SIZE // 8)
    downwards(array, data)
    for turn in range(2):
        for low in range(0, len(data) // 2, WORDS):
            high = len(data) - low - WORDS
            array[low] += turn
            kept = array[low : low + WORDS].copy()
            array[low : low + WORDS] = array[high : high + WORDS]
            array[high : high + WORDS] = kept
            data[low] += turn
            kept = data[low : low + WORDS].copy()
            data[low : low + WORDS] = data[high : high + WORDS]
            data[high : high + WORDS] = kept
    assert memory.statistics().loaded_huge > SIZE // CHUNK // 2
    same(array, data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_writes_in_the_moment_before_the_protection(huge: Mode, new_memory: NewMemory, seed: int) -> None:
    """Others write to chunks that are just coming back, for who reads along. A write between UFFDIO_MOVE and the
    protection is one in some hundred; the page has its old record then, which is no good any more.
    """
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8).reshape(-1, WORDS)
    array = memory.empty(data.shape, page=65536)
    array[:] = data
    position, stop = [0], threading.Event()
    written: dict[tuple[int, int], int] = {}

    mincore, there = ctypes.CDLL(None).mincore, ctypes.c_ubyte()

    def write() -> None:
        rng = np.random.default_rng(seed)
        turn = 0
        while not stop.is_set():
            # One word of the next chunks, as soon as they are there.
            row = (position[0] // 32 * 32 + int(rng.integers(32, 96))) % len(array)
            for _ in range(500):
                mincore(ctypes.c_void_p(array.ctypes.data + row * 65536), ctypes.c_size_t(4096), ctypes.byref(there))
                if there.value & 1:
                    turn += 1
                    array[row, 7] = written[row, 7] = turn
                    break

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(16):
            for row in range(len(array)):
                position[0] = row
                array[row].sum()
    finally:
        stop.set()
        writer.join()
    for (row, word), value in written.items():
        data[row, word] = value
    same(array, data)
    assert memory.statistics().loaded_huge > 2 * SIZE // CHUNK


@pytest.mark.slow
def test_a_device_writes_since_before_the_protection(huge: Mode, new_memory: NewMemory, tmp_path: Path) -> None:
    """A read with O_DIRECT, by a raw system call, pins a page in that moment and fills it later."""
    blocks = np.arange(1024 * 512, dtype="u8").reshape(1024, 512) * 1000003 | 1 << 62
    name = tmp_path / "blocks"
    blocks.tofile(name)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT on {tmp_path}: {error}")
    call = ctypes.CDLL(None).syscall
    memory = new_memory(LIMIT)
    data = np.arange(SIZE // 8, dtype="u8").reshape(-1, 512)
    array = memory.empty(data.shape, "u8", page=65536)
    array[:] = data
    position, stop = [0], threading.Event()
    read = 0

    def device() -> None:
        nonlocal read
        rng = np.random.default_rng(9)
        last = -1
        while not stop.is_set():
            chunk = (position[0] // 512 + 1) % (SIZE // CHUNK)
            if chunk == last:
                continue
            row, block = chunk * 512 + int(rng.integers(512)), int(rng.integers(len(blocks)))
            to = ctypes.c_void_p(array.ctypes.data + row * 4096)
            if call(PREAD64, fd, to, ctypes.c_long(4096), ctypes.c_long(block * 4096)) == 4096:
                data[row] = blocks[block]
                read += 1
                last = chunk

    reader = threading.Thread(target=device)
    reader.start()
    try:
        for _ in range(10):
            for row in range(0, len(array), 16):
                position[0] = row
                array[row : row + 16].sum()
    finally:
        stop.set()
        reader.join()
        os.close(fd)
    same(array, data)
    print(f"{read} reads")
    assert memory.statistics().used_bytes <= memory.limit


def test_a_pipe_keeps_what_it_was_given(huge: Mode, new_memory: NewMemory) -> None:
    """What has left is the kernel's: a pipe has references to it (vmsplice(2), by its raw call) that are no pins."""
    memory = new_memory(LIMIT)
    data = np.arange(SIZE // 8, dtype="u8")
    array = memory.empty(SIZE // 8, "u8")
    array[:] = data
    call = ctypes.CDLL(None).syscall
    for chunk in (20, 70, 120):
        array[: (chunk + 1) * CHUNK // 8].sum()
        read, write = os.pipe()
        try:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, MiB)
            at = array.ctypes.data + chunk * CHUNK
            given = call(VMSPLICE, write, (ctypes.c_size_t * 2)(at, MiB), ctypes.c_size_t(1), 0)
            assert given > 0
            array.sum()  # it leaves, and others come
            found = np.frombuffer(os.read(read, given), "u8")
            same(found, data[chunk * CHUNK // 8 :][: len(found)])
        finally:
            os.close(read)
            os.close(write)
    assert memory.statistics().loaded_huge > SIZE // CHUNK


@pytest.mark.slow
@pytest.mark.parametrize("limit", [LIMIT, "400M"])
def test_hammered_while_others_read_along(huge: Mode, new_memory: NewMemory, limit: str) -> None:
    memory = new_memory(limit)
    array = memory.zeros((SIZE // 4096, 512), "u8")

    def meanwhile() -> None:
        def work(i: int) -> None:
            for _ in range(6):
                (array[::-1] if i else array).sum()

        together(2, work)

    hammered(array, 2, 77, meanwhile)
    assert memory.statistics().used_bytes <= memory.limit


def test_a_child_and_its_parent_go_on(huge: Mode, new_memory: NewMemory) -> None:
    """What is clean here is protected there, too, and what is shared can leave on both sides."""
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    array = memory.empty(SIZE // 8)
    upwards(array, data)
    half = len(data) // 2
    for turn in range(3):
        same(array[:half], data[:half])
        child = os.fork()
        if child == 0:
            try:
                array[half:] += 5
                right = np.array_equal(array[:half], data[:half]) and np.array_equal(array[half:], data[half:] + 5)
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        before = memory.statistics().loaded_huge
        array += turn
        data += turn
        same(array, data)
        assert memory.statistics().loaded_huge > before
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("dirty", [False, True], ids=["loaded", "touched"])
def test_what_was_shared_with_a_child_can_leave(huge: Mode, new_memory: NewMemory, dirty: bool) -> None:
    """Of a huge page the first 4 KiB were copied for the child, which has ended: the kernel moves no other."""
    memory = new_memory(LIMIT)
    data = np.arange(SIZE // 8, dtype="u8").reshape(-1, WORDS)
    array = memory.empty(data.shape, "u8", page=65536)
    upwards(array.reshape(-1), data.reshape(-1))
    if not dirty:
        assert array[: 40 * 32].sum() == data[: 40 * 32].sum()
    low = len(array) - 30 * 32 if dirty else 20 * 32
    part = array[low : low + 20 * 32]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(0)
    part[::32, 7] = data[low : low + 20 * 32 : 32, 7] = 5
    os.write(write, b"x")
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    before = quiet(memory)
    assert before.resident_bytes >= 10 * CHUNK
    memory.advise(array, "cold")
    found = quiet(memory)
    assert (found.resident_bytes, found.busy_pages) == (0, before.busy_pages)
    same(array, data)


def test_below_a_limit_there_are_none(huge: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    array = memory.empty(SIZE // 8)
    upwards(array, data)
    same(array, data)
    memory.resize("64M")
    found = quiet(memory)
    assert found.used_bytes <= 64 * MiB
    same(array, data)
    assert quiet(memory).loaded_huge == found.loaded_huge, "there is no room for huge pages"
    memory.resize("300M")
    same(array, data)
    same(array, data)
    assert quiet(memory).loaded_huge > found.loaded_huge


def test_what_does_not_walk_along_comes_page_by_page(huge: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8).reshape(-1, WORDS)
    array = memory.empty(data.shape, page=65536)
    array[:] = data
    before = quiet(memory)
    for row in np.random.default_rng(3).permutation(len(data))[:1500]:
        same(array[row], data[row])
    assert quiet(memory).loaded_huge - before.loaded_huge < 5
    memory.advise(array, "random")
    same(array, data)
    assert quiet(memory).loaded_huge - before.loaded_huge < 5


@pytest.mark.slow
@pytest.mark.parametrize("advice", ["cold", "dontneed", "willneed"])
def test_advice_while_they_come(
    huge: Mode, new_memory: NewMemory, advice: Literal["cold", "dontneed", "willneed"]
) -> None:
    memory = new_memory(LIMIT)
    array = memory.empty(SIZE // 8, "u8")
    for turn in range(1, 4):
        array[:] = turn
        stop = threading.Event()

        def advise(turn: int = turn, stop: threading.Event = stop) -> None:
            rng = np.random.default_rng(turn)
            while not stop.is_set():
                at = int(rng.integers(0, SIZE // 65536 - 80)) * WORDS
                memory.advise(array[at : at + int(rng.integers(1, 80)) * WORDS], advice)

        adviser = threading.Thread(target=advise)
        adviser.start()
        try:
            for _ in range(3):
                assert set(np.unique(array)) <= ({0, turn} if advice == "dontneed" else {turn})
        finally:
            stop.set()
            adviser.join()
        assert memory.statistics().used_bytes <= memory.limit


def test_arrays_end_while_they_come(huge: Mode, new_memory: NewMemory) -> None:
    """Readahead is asked for pages of an array that is freed, and whose place another one takes."""
    memory = new_memory(LIMIT)
    filler = memory.empty(SIZE // 2, "u1")
    filler[:] = noise(SIZE // 2)
    for turn in range(6):
        array = memory.empty(SIZE // 16, "u8")
        array[:] = turn
        memory.advise(array, "cold")
        assert array[: len(array) // 3].sum() == turn * (len(array) // 3)
        del array
        other = memory.zeros(SIZE // 16, "u8")
        assert not other[:: WORDS // 2].any()
        del other
    same(filler, noise(SIZE // 2))


def test_a_damaged_record_costs_its_page_alone(huge: Mode) -> None:
    """The others of its chunk come one by one then."""
    code = f"""
PAGE = 65536
memory = frontswap.Memory({LIMIT!r}, page=PAGE)
source = walk(64 << 20 >> 3).reshape(-1, PAGE // 8)
array = memory.array(source)
quiet(memory)
memory.advise(array, "cold")
log = pool_of(memory)
found = {{page: (at, length) for page, at, length in records(bytes(log))}}
page = sorted(found)[-2]  # the last one may be cut off
at, length = found[page]
log[at + 16 + length // 2] ^= 1
for row in range(len(array)):
    if row != page:
        same(array[row], source[row])
assert quiet(memory).loaded_huge > 24
print("others are right", flush=True)
value = array[page].copy(); print("wrong:", value)
"""
    done = run_child(TOOLS + code, mode=huge).died_of(signal.SIGBUS)
    assert done.out == "others are right\n"
    assert len(re.findall(r"page lost: array 1 .* compressed pool .* checksum", done.err)) == 1, done.err


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_nothing_is_kept_of_what_has_gone(huge: Mode, new_memory: NewMemory) -> None:
    """RSS is what the limit says."""
    memory = new_memory(LIMIT)
    data = walk(SIZE // 8)
    before = rss()
    array = memory.empty(SIZE // 8)
    upwards(array, data)
    for _ in range(3):
        same(array, data)
    assert rss() - before < 260 * MiB
