"""Statistics: every counter that is promised, frozen, and each means what it says on a small script."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, MiB, Mode, cold, noise, quiet, walk

import frontswap

PAGE = 4096
N = 64
# Section 7 of the design: users and benchmarks rely on these.
PROMISED = [
    *("limit_bytes", "allocated_bytes", "resident_bytes", "pool_bytes", "stored_bytes", "swapped_bytes"),
    *("faults", "refaults", "loads", "succ_stores", "failed_stores", "invalidates", "poisoned"),
]


def since(before: frontswap.Statistics, memory: frontswap.Memory) -> dict[str, int]:
    """The counters that have moved, once all that is on its way has been counted."""
    now = quiet(memory)
    gauges = ("_bytes", "frontswap_pages")
    names = [field.name for field in fields(now) if not field.name.endswith(gauges)]
    return {
        name: getattr(now, name) - getattr(before, name)
        for name in names
        if getattr(now, name) != getattr(before, name)
    }


def touch(array: Array) -> None:
    """Read one byte of each page, one after the other, without a pattern that readahead would follow."""
    order = np.random.default_rng(7).permutation(len(array) // PAGE)
    for i in order:
        assert array[i * PAGE] >= 0


def small(new_memory: NewMemory) -> tuple[frontswap.Memory, Array]:
    """A Memory of 4 KiB pages and 64 untouched pages without readahead: nothing happens by itself."""
    memory = new_memory(page=PAGE)
    array = memory.empty(N * PAGE, "u1")
    memory.advise(array, "random")
    return memory, array


def test_everything_promised_is_there_and_frozen(memory: frontswap.Memory) -> None:
    now = memory.statistics()
    for name in PROMISED:
        assert isinstance(getattr(now, name), int)
    with pytest.raises(FrozenInstanceError):
        now.faults = 1  # type: ignore[misc]
    assert frontswap.Statistics is type(now)


def test_a_new_memory_has_done_nothing(new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    now = new_memory().statistics()
    assert {f.name: getattr(now, f.name) for f in fields(now) if getattr(now, f.name)} == {
        "limit_bytes": 16 * MiB,
        "reserve_bytes": now.reserve_bytes,
        "write_budget_left": -1,
    }
    assert now.compression_ratio == 0.0


def test_allocation_touches_nothing(new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    now = memory.statistics()
    assert (now.allocated_bytes, now.resident_bytes, now.faults) == (array.nbytes, 0, 0)


def test_first_touches(mode: Mode, new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    before = memory.statistics()
    touch(array)
    assert since(before, memory) == {"faults": N, "first_touches": N}
    assert quiet(memory).resident_bytes == N * PAGE
    before = memory.statistics()
    touch(array)
    assert since(before, memory) == {}


def test_pages_only_read_leave_and_come_back_for_nothing(new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    touch(array)
    before = memory.statistics()
    cold(memory, array)
    assert since(before, memory) == {"evicted_clean": N}
    before = memory.statistics()
    touch(array)
    assert since(before, memory) == {"faults": N, "refaults": N, "loads": N}
    assert memory.statistics().pool_bytes == 0


def test_written_pages_are_stored_once(mode: Mode, new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    array[:] = walk(N * 512).view("u1")
    before = memory.statistics()
    cold(memory, array)
    assert since(before, memory) == {"evicted_dirty": N, "succ_stores": N}
    now = memory.statistics()
    assert now.stored_bytes == N * PAGE
    assert 0 < now.pool_live_bytes <= now.pool_bytes < N * PAGE
    assert now.compression_ratio == now.stored_bytes / now.pool_bytes > 1
    assert (now.resident_bytes, now.swapped_bytes) == (0, 0)
    touch(array)
    before = memory.statistics()
    cold(memory, array)  # their records are still good
    assert since(before, memory) == {"evicted_clean": N}
    before = memory.statistics()
    touch(array)
    array[::PAGE] += 1
    assert since(before, memory) == {
        "faults": 2 * N,
        "refaults": N,
        "loads": N,
        "write_upgrades": N,
        "invalidates": N,
    }
    assert memory.statistics().stored_bytes == 0


def test_writing_to_an_evicted_page_is_one_fault(new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    array[:] = walk(N * 512).view("u1")
    cold(memory, array)
    before = memory.statistics()
    array[np.arange(N)[::-1] * PAGE] = 1
    assert since(before, memory) == {"faults": N, "refaults": N, "loads": N, "invalidates": N}


def test_same_filled_pages_take_no_room(new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    array.view("u8")[:] = 0x0123456789ABCDEF
    before = memory.statistics()
    cold(memory, array)
    assert since(before, memory) == {"evicted_dirty": N, "succ_stores": N, "same_filled_pages": N}
    assert memory.statistics().pool_bytes == 0
    before = memory.statistics()
    touch(array)
    assert since(before, memory) == {"faults": N, "refaults": N, "loads": N}
    assert (array.view("u8") == 0x0123456789ABCDEF).all()


def test_incompressible_pages_are_refused_and_go_to_their_slots(new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    array[:] = noise(N * PAGE)
    before = memory.statistics()
    cold(memory, array)
    assert since(before, memory) == {
        "evicted_dirty": N,
        "failed_stores": N,
        "reject_incompressible": N,
        "slot_stores": N,
    }
    now = quiet(memory)
    assert now.pool_bytes == now.stored_bytes == 0
    assert now.swapped_bytes + now.swap_buffer_bytes >= N * PAGE
    before = memory.statistics()
    touch(array)
    moved = since(before, memory)
    assert moved["refaults"] == N
    # No backend has these pages: nothing is loaded from one, wherever the slot's bytes are at the moment.
    assert moved.get("loads", 0) == 0
    assert moved["slot_loads"] == N


def test_without_a_backend_nothing_is_stored(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE, backends=None)
    array = memory.array(walk(N * 512))
    before = memory.statistics()
    cold(memory, array)
    assert since(before, memory) == {"evicted_dirty": N, "slot_stores": N}


def test_freeing_invalidates(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.array(walk(N * 512))
    cold(memory, array)
    before = memory.statistics()
    del array
    assert since(before, memory) == {"invalidates": N}
    now = memory.statistics()
    assert (now.allocated_bytes, now.stored_bytes, now.pool_live_bytes) == (0, 0, 0)


def test_dontneed_makes_pages_new(new_memory: NewMemory) -> None:
    memory, array = small(new_memory)
    array[:] = walk(N * 512).view("u1")
    cold(memory, array)
    before = memory.statistics()
    memory.advise(array, "dontneed")
    assert since(before, memory) == {"invalidates": N}
    before = memory.statistics()
    touch(array)
    assert since(before, memory) == {"faults": N, "first_touches": N}


def test_reading_twice_stores_nothing_twice(mode: Mode, new_memory: NewMemory) -> None:
    """Four times the limit: after one scan every page has its record, the next one compresses nothing."""
    memory = new_memory()
    array = memory.array(np.arange(8 << 20))
    array.sum()
    before = quiet(memory)
    array.sum()
    now = quiet(memory)
    moved = since(before, memory)
    pages = 64 * MiB // 65536 * 2  # "auto" pages of a Memory of 16 MiB are of 32 KiB
    assert "succ_stores" not in moved
    assert "evicted_dirty" not in moved
    assert moved["evicted_clean"] > pages // 2
    assert moved["refaults"] == moved["loads"] + moved.get("slot_loads", 0) > pages // 2
    assert now.first_touches == pages


def test_limit_holds_while_it_moves(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.empty(6 << 20)
    source = walk(1 << 18)
    for i in range(0, len(array), len(source)):
        array[i : i + len(source)] = source
        now = memory.statistics()
        assert now.resident_bytes + now.pool_bytes + now.reserve_bytes // 2 <= now.limit_bytes
    now = quiet(memory)
    assert now.used_bytes + now.reserve_bytes <= now.limit_bytes
    assert now.used_bytes == now.resident_bytes + now.pool_bytes
    assert (now.overshoots, now.poisoned, now.slot_errors) == (0, 0, 0)


def test_who_writes_faster_than_pages_leave_helps(new_memory: NewMemory) -> None:
    others = set(os.listdir("/proc/self/task"))
    memory = new_memory(page=PAGE)
    source = noise(6 * 8 * MiB)
    # Whether the reclaim thread is overtaken is the scheduler's choice: here it may run where nobody else wants to.
    allowed = os.sched_getaffinity(0)
    here = {min(allowed)}
    try:
        os.sched_setaffinity(0, here)
        for thread in set(os.listdir("/proc/self/task")) - others:
            os.sched_setaffinity(int(thread), here)
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
        for _ in range(20):
            # A new one: who reads pages from the disk sleeps meanwhile, and lets the others run.
            array = memory.empty(len(source), source.dtype)
            array[:] = source
            if memory.statistics().direct_reclaims:
                break
    finally:
        os.sched_setaffinity(0, allowed)
    assert memory.statistics().direct_reclaims > 0


def test_swap_file_counts(new_memory: NewMemory) -> None:
    memory = new_memory()
    source = noise(32 * MiB)
    array = memory.array(source)
    now = quiet(memory)
    assert now.swapped_bytes > 16 * MiB
    assert now.written_back_bytes >= now.swapped_bytes
    assert now.swap_reserved_bytes >= now.swapped_bytes
    before = now
    assert np.array_equal(array, source)
    moved = since(before, memory)
    assert moved["slot_loads"] > 0
    del array
    now = memory.statistics()
    assert now.swapped_bytes == 0
    assert now.swap_reserved_bytes == before.swap_reserved_bytes


def test_small_swap_reservation_follows_what_is_allocated(
    new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    memory = new_memory()
    assert memory.statistics().swap_reserved_bytes == 0
    array = memory.empty(64 * MiB, "u1")
    assert memory.statistics().swap_reserved_bytes >= 64 * MiB - 16 * MiB
    assert not array[:1].any()


def test_statistics_while_other_threads_work(memory: frontswap.Memory) -> None:
    import threading

    array = memory.array(walk(4 << 20))
    done = threading.Event()

    def work() -> None:
        for _ in range(5):
            array.sum()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        now = memory.statistics()
        assert now.resident_bytes <= now.limit_bytes
        assert now.pool_live_bytes >= 0
    thread.join()
