"""Nothing used, nothing paid (rule 12): until what was allocated crosses the limit, arrays are ordinary memory."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import NewMemory, use
from helpers import (
    MODES,
    PATIENCE,
    PROTECTION,
    ROOT,
    Array,
    MiB,
    Mode,
    census,
    forbidden,
    held,
    mode_of,
    noise,
    quiet,
    run_child,
    same,
    walk,
)

import frontswap
from frontswap.core import presence
from frontswap.memory.settings import huge_from
from frontswap.testing import crossing

UFFDIO_COPY = 0xC028AA03  # <linux/userfaultfd.h>
PAGES = (4096, 65536, 262144)  # 2 MiB too, in a Memory that may have it


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users have it."""
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")


def mappings(memory: frontswap.Memory) -> list[tuple[set[str], int]]:
    """(flags, bytes in huge pages) of each mapping of the arena, as the kernel lists them."""
    base, size = memory._plane.extents()["arena"]
    found: list[tuple[set[str], int]] = []
    inside = False
    huge = 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            inside = base <= int(first.split("-")[0], 16) < base + size
        elif first == "AnonHugePages:":
            huge = int(line.split()[1]) * 1024
        elif first == "VmFlags:" and inside:
            found.append((set(line.split()[1:]), huge))
    return found


def watched(memory: frontswap.Memory) -> bool:
    """True if the kernel sends faults of the arena to us: to a userfaultfd, or as what may not be read is touched."""
    return any({"um", "uw"} & flags or "rd" not in flags for flags, _ in mappings(memory))


def huge_bytes(memory: frontswap.Memory) -> int:
    return sum(huge for _, huge in mappings(memory))


def needs_to_see_huge_pages(array: Array) -> None:
    """Skip where they cannot leave whole, or the kernel does not tell where they are: small ones leave there."""
    if MODES[0].why_not():
        pytest.skip(f"huge pages leave whole by UFFDIO_MOVE: {MODES[0].why_not()}")
    start, end = np.lib.array_utils.byte_bounds(array)
    if not any(huge for _, _, huge in presence.regions(start, end - start)):
        pytest.skip("this kernel has no PAGEMAP_SCAN (6.7+), which tells where huge pages are")


def spotty(array: Array, seed: int = 1, part: float = 0.3) -> Array:
    """Write some granules of 4 KiB, read some others, and leave the rest alone; what the array must be from now on."""
    rng = np.random.default_rng(seed)
    words = array.view("u8").reshape(-1, 512)
    expected = np.zeros_like(words, subok=False)
    choice = rng.random(len(words))
    for at in np.flatnonzero(choice < part):
        expected[at] = words[at] = rng.integers(0, 1 << 63, 512, "u8")
    for at in np.flatnonzero(choice > 1 - part / 2):
        assert not words[at].any()
    return expected.reshape(-1)


# --- rule 12 -------------------------------------------------------------------------------------


def test_rule_12_below_the_limit_there_is_no_registration(mode: Mode) -> None:
    before, threads = census(), set(os.listdir("/proc/self/task"))
    memory = frontswap.Memory("64M")
    made = census()
    small, large = memory.array(walk(1 << 18)), memory.full(5 << 20, 2.5)
    assert large.sum() == (5 << 20) * 2.5
    del small
    small = memory.array(walk(1 << 18, 3))
    now = memory.statistics()
    assert (now.registered, now.faults, now.first_touches, now.evicted_dirty) == (False, 0, 0, 0)
    assert not watched(memory)
    # not their number: the kernel may still list a joined thread of the test before
    assert set(os.listdir("/proc/self/task")) <= threads
    assert made.descriptors - before.descriptors == census().descriptors - before.descriptors
    assert not any("userfaultfd" in name for name in census().descriptors)
    assert 42 * MiB <= now.resident_bytes == now.used_bytes <= now.allocated_bytes
    same(small, walk(1 << 18, 3))
    del small, large
    assert held(memory) == (0, 0, 0, 0)
    memory.close()


@pytest.mark.skipif(huge_from() == 0, reason="no transparent huge pages here")
def test_rule_12_huge_pages_as_numpy_asks_for_them(new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    below = memory.ones(huge_from() - MiB, "u1")
    array = memory.ones(20 * MiB, "u1")
    assert huge_bytes(memory) == 20 * MiB
    del array
    assert huge_bytes(memory) == 0
    assert not any("hg" in flags for flags, _ in mappings(memory)), "freed addresses ask for huge pages still"
    array = memory.ones(9 * MiB, "u1")
    crossing = memory.ones(64 * MiB, "u1")
    assert not any("hg" in flags for flags, _ in mappings(memory)), "huge pages are asked for after the registration"
    assert below.all()
    assert array.all()
    assert crossing.all()


def test_huge_pages_where_numpy_does_not_ask() -> None:
    code = """
from test_registration import huge_bytes
memory = frontswap.Memory("64M")
array = memory.ones(20 * MiB, "u1")
print(json.dumps(huge_bytes(memory)))
"""
    settings = {"FRONTSWAP_REGISTER": "late", "NUMPY_MADVISE_HUGEPAGE": "0"}
    found = run_child(code, environment=settings, fresh=True).check().result
    always = "[always]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    assert found == (20 * MiB if always else 0)


def test_untouched_arrays_cost_nothing() -> None:
    """No word for a page is written while nobody needs it: 24 bytes for each page, 12 MiB here."""
    code = """
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
memory = frontswap.Memory("4G")
memory.empty(1000)
before = rss()
for turn in range(4):
    array = memory.zeros(1 << 28, page=4096)
    memory.advise(array[1000:], "dontneed")
    memory.statistics()
    del array
print(json.dumps(rss() - before))
"""
    assert run_child(code, environment={"FRONTSWAP_REGISTER": "late"}, fresh=True).check().result < MiB


def test_system_calls_need_no_help_below_the_limit(new_memory: NewMemory, tmp_path: Path) -> None:
    memory = new_memory("64M")
    data = memory.array(walk(1 << 18))
    np.save(tmp_path / "a.npy", data)
    into = memory.empty(1 << 18)
    with (tmp_path / "a.npy").open("rb") as file:
        file.seek(128)
        assert file.readinto(into.data) == into.nbytes
    same(into, walk(1 << 18))


def test_a_freed_array_leaves_nothing_behind(new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    at = set()
    for turn in range(6):
        array = memory.empty(20 * MiB, "u1", page=(4096, 65536)[turn % 2])
        at.add(array.ctypes.data)
        assert not array.any()
        array[:] = turn + 1
        del array
        assert memory.statistics().resident_bytes == 0
    assert len(at) == 1


def test_temporaries_get_the_memory_of_those_before(new_memory: NewMemory) -> None:
    """As malloc does it; but nobody who was promised zeros gets old bytes, and it ends where the limit is near."""
    memory = new_memory("128M")
    with memory:
        array = np.full(1 << 20, 7.5)
        at = array.ctypes.data
        del array
        assert memory.statistics().allocated_bytes == 0
        zeros = np.zeros(1 << 20)
        assert zeros.ctypes.data == at
        assert not zeros.any()
        zeros[:] = 7.5
        del zeros
        empty = memory.empty(1 << 20)
        assert not empty.any()
        array = np.empty(1 << 20)
        assert array.ctypes.data == at
        assert (array == 7.5).all()
        del array, empty
        arrays = [np.full(200_000 + n, n + 1, "u8") for n in range(40)]
        arrays.clear()
        assert memory.statistics().resident_bytes <= 16 * MiB
        # the oldest ones have gone for these
        assert (np.empty(200_000, "u8") == 1).all()
        now = memory.statistics()
        array = np.empty((now.limit_bytes - now.reserve_bytes - MiB) // 8)
        assert not memory.statistics().registered
        array[:] = 1
        assert memory.statistics().resident_bytes <= array.nbytes + 65536
        big = np.empty(4 << 20)
        assert memory.statistics().registered
        assert memory.statistics().resident_bytes <= array.nbytes + 65536
        del big, array
        assert held(memory) == (0, 0, 0, 0)


# --- the crossing --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_what_was_there_is_found(mode: Mode, new_memory: NewMemory, page: int) -> None:
    memory = new_memory("64M")
    array = memory.empty(3 << 20, page=page)
    page = memory._plane.page_of(array.ctypes.data)  # larger where pages are protected
    expected = spotty(array)
    read = memory.zeros(1 << 20, page=page)
    assert not read.any()
    absent = memory.zeros(1 << 20, page=page)
    words = array.view("u8").reshape(-1, page // 8)
    touched = {
        start + at
        for start, end, _ in presence.regions(array.ctypes.data, array.nbytes)
        for at in range(0, end - start, 4096)
    }
    there = {(at - array.ctypes.data) // page for at in touched}
    assert 0 < len(there) <= len(words)
    before = memory.statistics()
    assert not before.registered
    crossing_array = memory.empty(8 << 20, page=page)
    now = memory.statistics()
    assert now.registered
    assert watched(memory)
    assert now.resident_bytes == len(there) * page + read.nbytes
    assert (now.faults, now.evicted_dirty) == (0, 0)
    same(array.view("u8"), expected)
    memory.advise(array, "cold")
    memory.advise(read, "cold")
    quiet(memory)
    assert memory.statistics().busy_pages == 0
    same(array.view("u8"), expected)
    assert not read.any()
    assert not absent.any()
    crossing_array[:] = 3
    read[:] = 1
    same(array.view("u8"), expected)
    assert read.all()
    assert not absent.any()
    assert (crossing_array == 3).all()


def test_holes_are_filled_by_faults_and_evictions(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory("16M")
    array = memory.empty(64 * 512, page=65536)  # four pages
    words = array.reshape(4, 16, 512)
    words[:, 3] = 1.5
    memory.advise(memory.empty(512), "cold")
    faults = memory.statistics().faults
    assert memory.statistics().resident_bytes >= array.nbytes
    assert words[0, 3, 7] == 1.5
    assert memory.statistics().faults == faults, "what was there needs no fault"
    assert words[0, 4, 7] == 0
    holes = mode != PROTECTION  # else the kernel fills them, without a word
    assert memory.statistics().faults == faults + holes
    assert not words[0, 5:].any()
    assert memory.statistics().faults == faults + holes, "one fault fills all holes of a page"
    words[1, 9] = 2.5
    with memory.pin(words[2]):
        assert memory.statistics().pinned_bytes == 65536
        memory.advise(array, "cold")
    memory.advise(array, "cold")
    expected = np.zeros((4, 16, 512))
    expected[:, 3] = 1.5
    expected[1, 9] = 2.5
    same(words, expected)


def test_who_waits_for_a_hole_that_somebody_else_fills_is_woken(
    new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes may come without a word to who waits: as of a huge page that comes in part (uffd_move())."""
    use(mode_of("thread"), monkeypatch)
    memory = new_memory("400M")
    arrays = [memory.empty(16 * 8192, page=65536) for _ in range(128)]  # too small for huge pages
    pages = [page for array in arrays for page in array.reshape(16, 16, 512)]
    for page in pages:
        page[3] = 1.5
    memory.advise(memory.empty(512), "cold")  # registered: all else of these pages is absent
    [fd] = [int(n) for n in os.listdir("/proc/self/fd") if is_userfaultfd(n)]
    zeros = np.zeros(512)
    copies = [struct.pack("QQQQq", page[15].ctypes.data, zeros.ctypes.data, 4096, 1, 0) for page in pages]
    at = 0

    def write() -> None:
        nonlocal at
        for i, page in enumerate(pages):
            start = page[15].ctypes.data
            at = i
            ctypes.memset(start, 1, 4096)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    deadline = time.monotonic() + 20 * PATIENCE
    while writer.is_alive():
        assert time.monotonic() < deadline, f"page {at} is there, and who waits for it does not know"
        with contextlib.suppress(FileExistsError, BlockingIOError):
            fcntl.ioctl(fd, UFFDIO_COPY, copies[at])  # and wake nobody
    for page in pages:
        assert (page[15].view("u1") == 1).all()
        assert (page[3] == 1.5).all()
        assert not page[4:15].any()


def is_userfaultfd(number: str) -> bool:
    with contextlib.suppress(OSError):  # the listing's own
        return os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[userfaultfd]"
    return False


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_crossing_while_others_write(mode: Mode, seed: int) -> None:
    for turn in range(3):
        problems, _ = crossing.play(1000 + 10 * seed + turn, 24 * MiB)
        assert problems == []


def test_crossing_with_huge_pages_while_others_write(mode: Mode) -> None:
    problems, _ = crossing.play(3, 288 * MiB)
    assert problems == []


def test_crossing_as_an_ordinary_user(mode: Mode) -> None:
    """Who has changed his user may not open /proc/self/pagemap: mincore tells."""
    code = """
from frontswap.testing import crossing
try:
    open("/proc/self/pagemap").close()
    can = True
except PermissionError:
    can = False
problems = [problem for seed in range(4) for problem in crossing.play(seed, 24 * MiB)[0]]
print(json.dumps([can, problems]))
"""
    found = run_child(code, mode=mode, ordinary=True, environment={"FRONTSWAP_REGISTER": "late"}).check().result
    assert found == [not ROOT or mode == PROTECTION, []]


def test_many_threads_cross_at_once(new_memory: NewMemory) -> None:
    memory = new_memory("16M")
    start = threading.Barrier(8)
    arrays: list[Array] = []

    def make(value: int) -> None:
        start.wait()
        for turn in range(4):
            array = memory.empty(MiB // 8 * (1 + turn))
            array[:] = value
            arrays.append(array)

    threads = [threading.Thread(target=make, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.statistics().registered
    assert sorted(float(array[0]) for array in arrays) == sorted([float(v) for v in range(8)] * 4)
    assert all((array == array[0]).all() for array in arrays)


def test_reallocation_crosses(new_memory: NewMemory) -> None:
    memory = new_memory("16M")
    with memory:
        array = np.ones(MiB)  # 8 MiB; its next life does not fit beside this one
        array.resize(2 * MiB, refcheck=False)
    assert memory.statistics().registered
    assert array[:MiB].all()
    assert not array[MiB:].any()


def test_without_a_swap_file(new_memory: NewMemory) -> None:
    memory = new_memory("16M", swap=None, allocate="48M")
    first = memory.array(walk(1 << 18))
    with pytest.raises(frontswap.OutOfMemoryError, match="allocate="):
        memory.empty(6 << 20)
    assert not memory.statistics().registered
    second = memory.array(walk(3 << 20, 2))
    assert memory.statistics().registered
    same(first, walk(1 << 18))
    same(second, walk(3 << 20, 2))


# --- huge pages leave whole ----------------------------------------------------------------------


@pytest.mark.skipif(huge_from() == 0, reason="no transparent huge pages here")
@pytest.mark.parametrize("page", [4096, 65536])
def test_huge_pages_leave_in_one_piece(new_memory: NewMemory, page: int) -> None:
    if MODES[0].why_not():
        pytest.skip(MODES[0].why_not())
    memory = new_memory("288M")
    data = np.concatenate([walk(4 << 20).view("u8"), noise(8 * MiB).view("u8")])
    array = memory.array(data, page=page)
    whole = huge_bytes(memory) // (2 * MiB)
    assert whole > 10
    one = array[: page // 8]
    memory.advise(one, "cold")
    found = memory.statistics()
    assert (found.evicted_dirty, found.evicted_huge) == (1, 0), "the neighbours of a page have left with it"
    memory.advise(array, "cold")
    found = memory.statistics()
    assert found.evicted_huge == whole - 1
    assert found.evicted_dirty == array.nbytes // page
    assert found.resident_bytes == 0
    memory.advise(array, "random")  # who walks along has huge pages back
    same(array, data)
    array[:] += 1
    memory.advise(array, "cold")
    assert memory.statistics().evicted_huge == whole - 1, "there are none any more"
    same(array, data + 1)


@pytest.mark.skipif(huge_from() == 0, reason="no transparent huge pages here")
def test_reclaim_takes_huge_pages_whole(new_memory: NewMemory) -> None:
    memory = new_memory("288M")
    array = memory.array(walk(24 << 20))
    needs_to_see_huge_pages(array)
    more = memory.empty(24 << 20)
    more[:] = array
    assert memory.statistics().evicted_huge > 20
    same(array, more)


@pytest.mark.skipif(huge_from() == 0, reason="no transparent huge pages here")
def test_a_pinned_part_keeps_its_huge_page(new_memory: NewMemory) -> None:
    memory = new_memory("288M")
    data = walk(1 << 20)
    array = memory.array(data)
    needs_to_see_huge_pages(array)
    with memory.pin(array[1 << 19 : (1 << 19) + 10]):
        memory.advise(array, "cold")
        found = memory.statistics()
        assert found.evicted_huge == 3
        assert found.resident_bytes == found.pinned_bytes == 65536
        same(array, data)
    same(array, data)


# --- calls that ask for it, and those that do not ------------------------------------------------


def test_advice_below_the_limit(new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    array = memory.array(walk(1 << 20))
    for advice in ("willneed", "random", "sequential", "normal"):
        memory.advise(array, advice)
    memory.advise(array[: 1 << 19], "dontneed")
    found = memory.statistics()
    assert not found.registered
    assert found.resident_bytes <= 4 * MiB
    assert not array[: 1 << 19].any()
    same(array[1 << 19 :], walk(1 << 20)[1 << 19 :])
    memory.advise(array[:10], "cold")
    assert memory.statistics().registered


def test_a_pin_registers(new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    array = memory.array(walk(1 << 18))
    with memory.pin(array):
        assert memory.statistics().registered
        assert memory.statistics().pinned_bytes == array.nbytes
        memory.advise(array, "cold")
        assert memory.statistics().resident_bytes == array.nbytes
    same(array, walk(1 << 18))


def test_backends_come_and_go_below_the_limit(new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    array = memory.array(walk(1 << 18))
    assert memory.backends.pressure("critical").left_bytes == 0
    memory.backends.shrink(0)
    memory.backends.unregister(next(iter(memory.backends)))
    memory.backends.register("zcache:codec=lz4")
    memory.backends.pressure("none")
    assert not memory.statistics().registered
    memory.advise(array, "cold")
    assert memory.statistics().frontswap_pages > 0
    same(array, walk(1 << 18))


def test_closing_below_the_limit() -> None:
    memory = frontswap.Memory("64M")
    array = memory.ones(1 << 20)
    with pytest.raises(frontswap.InUseError):
        memory.close()
    assert array.all()
    del array
    memory.close()
    code = """
memory = frontswap.Memory("64M")
array = memory.ones(1 << 20)
memory.close(force=True)
print(array[0])
"""
    run_child(code, environment={"FRONTSWAP_REGISTER": "late"}).died_of(signal.SIGSEGV)


# --- what may go wrong ---------------------------------------------------------------------------

WITHOUT_DESCRIPTORS = """
memory = frontswap.Memory("32M")
array = memory.array(walk(1 << 19))
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
pin = memory.pin(array)
for call in (lambda: memory.empty(4 << 20), lambda: memory.advise(array, "cold"), pin.__enter__):
    try:
        call()
    except (MemoryError, frontswap.KernelSupportError) as error:
        print(type(error).__name__, error)
    else:
        raise AssertionError("no error")
assert not memory.statistics().registered
same(array, walk(1 << 19))
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most))
more = memory.array(walk(8 << 20, 5))
assert memory.statistics().registered
same(array, walk(1 << 19))
same(more, walk(8 << 20, 5))
"""

WITHOUT_THREADS = """
memory = frontswap.Memory("32M")
array = memory.array(walk(1 << 19))
other = memory.zeros(1 << 18)
before = census()
most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
signal.alarm(int(100 * PATIENCE))
for turn in range(16):
    # Some threads are started, and must end again; another one meets what is absent, and waits meanwhile.
    part = memory.zeros(3 << 16)
    touching = threading.Thread(target=np.cos, args=(part, part))
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    touching.start()
    resource.setrlimit(resource.RLIMIT_NPROC, (len(os.listdir("/proc/self/task")) + turn % 4, most))
    try:
        memory.empty(4 << 20)
    except MemoryError as error:
        print(error)
    else:
        raise AssertionError("no error")
    touching.join()
    assert (part == 1).all()
    del part, touching
    if turn < 3:
        other[turn << 9 : (turn + 1) << 9] = 1
    assert not memory.statistics().registered
signal.alarm(0)
assert left_since(before) == {}
same(array, walk(1 << 19))
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
more = memory.array(walk(8 << 20, 5))
assert memory.statistics().registered
same(array, walk(1 << 19))
same(more, walk(8 << 20, 5))
assert other.sum() == 3 << 9
"""


def test_a_registration_that_fails_changes_nothing(seam: Mode) -> None:
    done = run_child(WITHOUT_DESCRIPTORS, mode=seam, environment={"FRONTSWAP_REGISTER": "late"}).check()
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["OutOfMemoryError", "KernelSupportError", "KernelSupportError"]
    assert all("no more descriptors" in line for line in lines)


@pytest.mark.skipif(not ROOT, reason="the limit counts all processes of the user: needs one that has no others")
def test_a_registration_without_threads_changes_nothing(seam: Mode) -> None:
    done = run_child(WITHOUT_THREADS, mode=seam, ordinary=True, environment={"FRONTSWAP_REGISTER": "late"}).check()
    assert "Nothing has changed" in done.out


FORKED = """
memory = frontswap.Memory("32M")
data = walk(1 << 21)
array = memory.array(data)
half = memory.zeros(1 << 18)
half.reshape(-1, 512)[::3] = 1
def right():
    return np.array_equal(array, data) and half.sum() == (512 + 2) // 3 * 512
def forked(work):
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        try:
            os._exit(0 if work() else 2)
        finally:
            os._exit(1)
    return child
def cross():
    more = memory.array(noise(24 << 20))
    memory.advise(array, "cold")
    memory.advise(half, "cold")
    assert memory.statistics().registered and memory.statistics().faults >= 0
    return right() and np.array_equal(more, noise(24 << 20))
def work():
    assert not memory.statistics().registered
    assert right()
    half[:5] = 9                 # its own from now on
    half[:5] = [1] * 5
    grandchild = forked(cross)
    return cross() and os.waitpid(grandchild, 0)[1] == 0 and right()
children = [forked(work)]
assert right() and cross()
array[0] += 1
children.append(forked(lambda: array[0] == data[0] + 1))
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


def test_forked_below_the_limit_each_crosses_for_itself(mode: Mode) -> None:
    run_child(FORKED, mode=mode, environment={"FRONTSWAP_REGISTER": "late"}).check()


# --- what it costs ------------------------------------------------------------------------------


def test_an_idle_memory_is_cheap() -> None:
    """Neither threads nor buffers: the tables that a Memory has touched when it is made."""
    code = f"""
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
number = {8 if forbidden() else 20}  # where pages are protected there are mappings for nine
frontswap.Memory("64M").close()
before = rss()
memories = [frontswap.Memory("64M", swap=None) for n in range(number)]
print(json.dumps((rss() - before) // number))
"""
    assert run_child(code, environment={"FRONTSWAP_REGISTER": "late"}, fresh=True).check().result < 128 << 10
