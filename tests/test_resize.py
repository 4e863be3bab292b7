"""The limit of a Memory changes while it runs: no byte is lost, and what it says is what holds."""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import NewMemory
from helpers import FORBID, MODES, PROTECTION, Array, MiB, Mode, cold, noise, protected, quiet, run_child, same, walk

import frontswap


def fits(memory: frontswap.Memory) -> frontswap.Statistics:
    """What must be true when resize() has returned and nobody faults."""
    now = quiet(memory)
    assert now.limit_bytes == memory.limit
    assert now.used_bytes + now.reserve_bytes <= now.limit_bytes
    assert (now.overshoots, now.poisoned, now.slot_errors) == (0, 0, 0)
    return now


def test_lowered_and_raised_again(mode: Mode, new_memory: NewMemory) -> None:
    # What zstd takes beside the pool would be in the reserve.
    memory = new_memory("64M", backends="zcache:recompress=off")
    expected: list[Array] = [walk(3 << 20), noise(24 * MiB)]
    arrays = [memory.array(each) for each in expected]
    before = fits(memory)
    assert before.used_bytes > 32 * MiB
    for limit in ("20M", 48 * MiB, "16M", "64M"):
        memory.resize(limit)
        fits(memory)
        for ours, theirs in zip(arrays, expected, strict=True):
            same(ours, theirs)
            np.add(ours, 1, out=ours)
            np.add(theirs, 1, out=theirs)
        fits(memory)
    assert memory.limit == 64 * MiB
    now = quiet(memory)
    assert (now.limit_bytes, now.reserve_bytes) == (before.limit_bytes, before.reserve_bytes)


def test_raised_beyond_what_it_was_made_with(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory("16M")
    array = memory.array(walk(8 << 20))
    most = memory._space.limit_most()
    if mode.faults == "sigsegv":  # there are mappings for so much, with pages of 4 KiB
        assert 32 * MiB < most < 96 * MiB
        with pytest.raises(frontswap.ParameterError, match="what this Memory has tables and mappings for"):
            memory.resize(most + 4096)
    memory.resize(min(most, 96 * MiB))
    same(array, walk(8 << 20))
    array += 1
    resident = fits(memory).resident_bytes
    assert resident == array.nbytes or resident > most // 2, "all of it fits now, and some of it is not there"
    memory.resize("16M")
    assert fits(memory).resident_bytes < 16 * MiB
    same(array, walk(8 << 20) + 1)


def test_a_pool_that_was_larger_than_the_limit_is(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory("128M")
    expected = noise(96 * MiB) & 15  # half of it is left when it is compressed
    array = memory.array(expected)
    cold(memory, array)
    assert fits(memory).pool_bytes > 32 * MiB
    memory.resize("40M")
    assert fits(memory).pool_bytes < 40 * MiB
    same(array, expected)


def hammer(memory: frontswap.Memory, arrays: list[Array], limits: list[int | str]) -> None:
    """Each array has a thread that adds 1 to all of it and looks at what was there, until the limits are through."""
    problems: list[str] = []
    done = threading.Event()
    rounds = [0] * len(arrays)

    def work(number: int) -> None:
        array = arrays[number]
        part = len(array) // 16
        for turn in itertools.count(1):
            for at in range(0, len(array), part):
                piece = array[at : at + part]
                if not (piece == np.arange(at, at + len(piece)) + (turn - 1)).all():
                    problems.append(f"array {number}, turn {turn}, at {at}")
                    return
                piece += 1
            rounds[number] = turn
            if done.is_set():
                return

    for array in arrays:
        array[:] = np.arange(len(array))
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(arrays))]
    for thread in threads:
        thread.start()
    try:
        for limit in limits:
            memory.resize(limit)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not problems
    for number, array in enumerate(arrays):
        assert (array == np.arange(len(array)) + rounds[number]).all()
    fits(memory)


def test_while_threads_write(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    highest = "64M" if mode.faults == "sigsegv" else "96M"
    arrays = [memory.empty(12 * MiB // 8, page=page) for page in (4096, 65536, 65536, "256K")]
    hammer(memory, arrays, ["24M", "64M", "32M", "28M", "24M", highest, "24M", "64M"])


def test_contexts_of_faults_go_and_come(mode: Mode, new_memory: NewMemory) -> None:
    """With large pages a low limit has fewer of them: who faults waits, and goes on when there are more again."""
    memory = new_memory("512M")
    arrays = [memory.empty(24 * MiB // 8, page="1M") for _ in range(4)]
    hammer(memory, arrays, ["80M", "512M", "80M", "256M", "80M"])


def test_before_the_registration(new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    memory = new_memory("64M")
    expected = walk(4 << 20)
    array = memory.array(expected)
    memory.resize("48M")
    memory.resize("128M")
    assert not memory.statistics().registered
    memory.resize("24M")
    now = fits(memory)
    assert now.registered
    assert now.resident_bytes < 24 * MiB
    same(array, expected)
    memory.resize("128M")
    same(array, expected)


def test_spares_are_no_reason_to_register(new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    memory = new_memory("512M")
    with memory:
        for _ in range(3):
            np.empty(30 * MiB, "u1")[:] = 1
    kept = memory.array(walk(1 << 20))
    memory.resize("64M")
    now = fits(memory)
    assert not now.registered
    same(kept, walk(1 << 20))


def test_before_the_registration_while_threads_write(
    seam: Mode, new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    memory = new_memory("128M")
    arrays = [memory.empty(12 * MiB // 8) for _ in range(4)]
    assert not memory.statistics().registered
    hammer(memory, arrays, ["96M", "24M", "128M"])
    assert memory.statistics().registered


@pytest.mark.parametrize("mode", [MODES[0], protected(PROTECTION, name=str(PROTECTION))], indirect=True, ids=str)
def test_where_pages_cannot_be_followed_all_stays_as_it_was(mode: Mode) -> None:
    """No userfaultfd any more; or a process that has changed its user, and may not open /proc/self/mem any more."""
    refuse, number = "forbid(errno.EPERM)", errno.EPERM
    if mode == PROTECTION:
        refuse, number = "assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0", errno.EACCES
    code = f"""
memory = frontswap.Memory("64M")
array = memory.array(walk(4 << 20))
{refuse}
try:
    memory.resize("24M")
except frontswap.KernelSupportError as error:
    assert error.errno == {number}, error
else:
    raise AssertionError("not refused")
now = memory.statistics()
assert (now.limit_bytes, memory.limit, now.registered) == (64 * MiB, 64 * MiB, False)
same(array, walk(4 << 20))
memory.resize("48M")
"""
    run_child(FORBID + code, mode=mode, ordinary=True, environment={"FRONTSWAP_REGISTER": "late"}).check()


def test_what_the_disk_cannot_back_is_refused(small_disk: Path, new_memory: NewMemory) -> None:
    memory = new_memory("128M", swap=small_disk)
    array = memory.array(noise(100 * MiB))
    before = memory.statistics()
    with pytest.raises(frontswap.OutOfMemoryError, match="disk"):
        memory.resize("24M")
    now = memory.statistics()
    assert (now.limit_bytes, now.reserve_bytes) == (before.limit_bytes, before.reserve_bytes)
    memory.resize("96M")
    fits(memory)
    same(array, noise(100 * MiB))


def test_without_a_swap_file(new_memory: NewMemory) -> None:
    """What is allocated has to fit, whatever is in it; by default as much is handed out as the limit."""
    memory = new_memory("64M", swap=None)
    array = memory.array(noise(40 * MiB))
    with pytest.raises(frontswap.ParameterError, match="limit='32M': must be more than what is allocated, 40 MiB"):
        memory.resize("32M")
    assert memory.limit == 64 * MiB
    memory.resize("56M")
    with pytest.raises(frontswap.OutOfMemoryError, match="allocate=56 MiB"):
        memory.empty(17 * MiB, "u1")
    memory.resize("96M")
    more = memory.array(noise(40 * MiB, 1))
    same(array, noise(40 * MiB))
    same(more, noise(40 * MiB, 1))
    fits(memory)


def test_without_a_swap_file_allocate_stays(new_memory: NewMemory) -> None:
    memory = new_memory("32M", swap=None, allocate="64M")
    memory.resize("16M")
    array = memory.ones(60 * MiB, "u1")
    assert array.all()


def test_pins_are_kept(new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    array = memory.array(walk(4 << 20))
    with memory.pin(array[: 16 * MiB // 8]):
        before = memory.statistics()
        with pytest.raises(frontswap.PinError, match="more than half of 24 MiB is pinned"):
            memory.resize("24M")
        assert memory.statistics().reserve_bytes == before.reserve_bytes
        memory.resize("48M")
        assert fits(memory).pinned_bytes == 16 * MiB
    memory.resize("24M")
    fits(memory)
    same(array, walk(4 << 20))


def resident(memory: frontswap.Memory, n: int) -> Array:
    """`n` bytes that shrink to one half, written once they were followed."""
    array = memory.empty(n, "u1", page=4096)
    array[:] = noise(n) & 15
    return array


@pytest.mark.parametrize("between", ["freed", "pinned"])
def test_who_stands_first_in_the_queue_and_cannot_leave(new_memory: NewMemory, between: str) -> None:
    """Thousands of pages that are gone already, or pinned: those behind them leave, and the pool's stay in RAM."""
    memory = new_memory("64M", page=4096)
    first = resident(memory, 4 * MiB)
    memory.advise(first, "cold")
    aside = resident(memory, 8 * MiB)
    after = resident(memory, 4096)  # so that the next array cannot have its pages
    with memory.pin(aside) if between == "pinned" else contextlib.nullcontext():
        del aside
        last = resident(memory, 36 * MiB)
        before = fits(memory)
        memory.resize("40M")
        now = fits(memory)
    assert before.pool_bytes > MiB
    assert now.resident_bytes < before.resident_bytes
    assert now.written_back_bytes == 0
    for array in (first, after, last):
        same(array, noise(len(array)) & 15)


@pytest.mark.parametrize("limit", ["15M", 0, "1023G", "much", None, -5])
def test_limits_that_are_not_allowed(memory: frontswap.Memory, limit: object) -> None:
    with pytest.raises(frontswap.ParameterError, match="limit="):
        memory.resize(limit)  # type: ignore[arg-type]
    assert memory.limit == 16 * MiB


def test_the_least_is_what_the_pages_in_use_need(new_memory: NewMemory) -> None:
    memory = new_memory("512M")
    least = memory._plane.least_limit()
    memory.resize(least)
    with pytest.raises(frontswap.ParameterError, match=r"page='2M': must be at most a 128th of the limit"):
        memory.empty(MiB, page="2M")
    memory.resize("512M")
    array = memory.array(noise(16 * MiB), page="2M")
    assert memory._plane.least_limit() > least
    with pytest.raises(frontswap.ParameterError, match="at least"):
        memory.resize(least)
    memory.resize(memory._plane.least_limit())
    fits(memory)
    same(array, noise(16 * MiB))


def test_the_page_of_a_memory_goes_with_its_limit(new_memory: NewMemory) -> None:
    """`page` said at the beginning is for arrays of all limits: smaller where it would be too large."""
    memory = new_memory("512M", page="2M")
    memory.resize("64M")
    array = memory.ones(4 * MiB, "u1")
    assert memory._plane.page_of(array.ctypes.data) == 512 << 10


def test_closed(new_memory: NewMemory) -> None:
    memory = new_memory()
    memory.close()
    with pytest.raises(frontswap.ClosedError):
        memory.resize("32M")


def test_a_forked_child_has_its_own(seam: Mode) -> None:
    code = """
memory = frontswap.Memory("64M")
expected = noise(48 * MiB)
array = memory.array(expected)
memory.resize("40M")

def child(limit):
    assert memory.limit == memory.statistics().limit_bytes == 40 * MiB
    memory.resize(limit)
    same(array, expected)
    array[::4096] += 1
    memory.resize("16M")
    now = memory.statistics()
    assert now.limit_bytes == 16 * MiB and now.used_bytes + now.reserve_bytes <= 16 * MiB, now
    assert not now.overshoots, now
    expected[::4096] += 1
    same(array, expected)

for limit in ("20M", "64M"):
    pid = os.fork()
    if pid == 0:
        try:
            child(limit)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    memory.resize("48M")
    assert os.waitpid(pid, 0)[1] == 0
    memory.resize("40M")
    same(array, expected)
assert memory.limit == 40 * MiB
"""
    run_child(code, mode=seam).check()


def test_a_fork_beside_it(new_memory: NewMemory) -> None:
    """A child that is made while the limit changes has one of the two, and every byte."""
    code = """
memory = frontswap.Memory("64M")
expected = noise(24 * MiB)
array = memory.array(expected)
end = threading.Event()

def change():
    while not end.is_set():
        memory.resize("24M")
        memory.resize("64M")

thread = threading.Thread(target=change)
thread.start()
for turn in range(8):
    pid = os.fork()
    if pid == 0:
        good = np.array_equal(array, expected)
        memory.resize("32M")
        array[:] += 1
        good = good and np.array_equal(array, expected + 1) and memory.statistics().limit_bytes == 32 * MiB
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
end.set()
thread.join()
same(array, expected)
"""
    run_child(code).check()


def test_the_limit_of_a_process() -> None:
    """That of frontswap.install(), through the Memory that it returns."""
    code = """
memory = frontswap.install("256M")
expected = walk(12 << 20)
assert memory.statistics().allocated_bytes >= 96 * MiB
memory.resize("64M")
now = memory.statistics()
assert now.registered and now.used_bytes + now.reserve_bytes <= 64 * MiB == frontswap.installed().limit, now
same(expected, walk(12 << 20))
"""
    run_child(code, environment={"FRONTSWAP_REGISTER": "late"}, fresh=True).check()


def test_a_disk_that_fails_holds_nobody_up() -> None:
    """What cannot leave stays, and the new limit holds for all that faults once the disk is good again."""
    code = """
memory = frontswap.Memory("64M")
source = noise(40 << 20)
array = memory.array(source)
memory.resize("32M")  # so that what a lower limit needs is reserved
memory.resize("64M")
array ^= 0
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
memory.resize("32M")
now = memory.statistics()
assert now.limit_bytes == 32 * MiB < now.used_bytes and now.slot_errors > 0, now
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
wait_until(lambda: memory.resize("32M") or memory.statistics().used_bytes <= 32 * MiB - now.reserve_bytes, "room")
now = quiet(memory)
assert now.used_bytes + now.reserve_bytes <= 32 * MiB and now.overshoots == now.poisoned == 0, now
same(array, source)
"""
    run_child(code, ordinary=True).check()
