"""How much of the limit is compressed: what nobody asks for leaves for the disk, what is in use stays."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, MiB, halves, noise, quiet, same

LIMIT = 32 * MiB


def sweep(array: Array) -> int:
    """One byte of every 4 KiB, in order."""
    return int(array.view("u1")[::4096].sum(dtype=np.int64))


def test_cold_records_do_not_keep_ram_from_what_is_in_use(new_memory: NewMemory, seam: None) -> None:
    """A pool full of what nobody asks for, and an array that would fit without it, swept again and again."""
    memory = new_memory(LIMIT)
    expected = halves(64 * MiB)
    cold = memory.array(expected)
    full = quiet(memory)
    hot = memory.array(noise(14 * MiB))
    total = sweep(hot)
    for _ in range(100):
        assert sweep(hot) == total
    before = quiet(memory)
    for _ in range(10):
        assert sweep(hot) == total
    after = quiet(memory)
    assert full.pool_bytes > LIMIT // 2
    assert after.pool_bytes < full.pool_bytes * 2 // 3
    # Without that every page would come back in every sweep.
    assert after.refaults - before.refaults < 14 * MiB // memory._plane.page_of(hot.ctypes.data)
    same(hot, noise(14 * MiB))
    same(cold, expected)


def test_a_pool_that_is_in_use_keeps_its_share(new_memory: NewMemory, seam: None) -> None:
    """More than what could be resident, and all of it compressed in RAM: hardly anything is read from the disk."""
    memory = new_memory(LIMIT)
    expected = halves(32 * MiB)
    data = memory.array(expected)
    full = quiet(memory)
    places = np.random.default_rng(1).integers(0, data.nbytes, 50_000)
    # What has left while the pool found its share comes back once, 4 KiB at a time where pages have been split.
    assert np.array_equal(data[places[:30_000]], expected[places[:30_000]])
    before = quiet(memory)
    assert np.array_equal(data[places[30_000:]], expected[places[30_000:]])
    after = quiet(memory)
    assert after.loads - before.loads > 1000
    assert after.slot_loads - before.slot_loads < (after.loads - before.loads) // 20
    assert after.written_back_bytes - before.written_back_bytes < 1 * MiB
    assert after.pool_bytes > full.pool_bytes // 2
    same(data, expected)


def test_a_small_pool_grows_for_what_would_be_read_from_the_disk(new_memory: NewMemory, seam: None) -> None:
    """It has become small, and what is in use is on the disk: larger than what can be resident, but not compressed."""
    memory = new_memory(LIMIT)
    expected = halves(36 * MiB)
    data = memory.array(expected)
    cold = memory.array(halves(16 * MiB))  # what is left in the pool is of this
    hot = memory.array(noise(20 * MiB))
    for _ in range(60):
        sweep(hot)
    small = quiet(memory)
    del hot
    places = np.random.default_rng(2).integers(0, data.nbytes, 30_000)
    assert np.array_equal(data[places], expected[places])
    before = quiet(memory)
    assert np.array_equal(data[places[:5000]], expected[places[:5000]])
    after = quiet(memory)
    assert small.pool_bytes < LIMIT // 4
    assert after.pool_bytes > small.pool_bytes
    assert after.slot_loads - before.slot_loads < (after.refaults - before.refaults) // 4
    same(data, expected)
    same(cold, halves(16 * MiB))


def test_a_pool_comes_back_when_it_is_needed(new_memory: NewMemory, seam: None) -> None:
    """First what is resident is all that is wanted, then something larger that fits when it is compressed."""
    memory = new_memory(LIMIT)
    cold = memory.array(halves(64 * MiB))
    hot = memory.array(noise(14 * MiB))
    for _ in range(100):
        sweep(hot)
    small = quiet(memory).pool_bytes
    del hot, cold
    expected = halves(36 * MiB)
    data = memory.array(expected)
    for _ in range(40):
        assert sweep(data) == sweep(expected)
    before = quiet(memory)
    for _ in range(5):
        assert sweep(data) == sweep(expected)
    after = quiet(memory)
    assert after.pool_bytes > small
    assert after.slot_loads - before.slot_loads < (after.loads - before.loads) // 2
    same(data, expected)


@pytest.mark.slow
def test_who_only_reads_does_not_write_for_ever(new_memory: NewMemory, seam: None) -> None:
    """Reads at random of twice what fits: no page goes to the disk for one that has come from there."""
    memory = new_memory(LIMIT)
    expected = halves(72 * MiB)
    data = memory.array(expected)
    places = np.random.default_rng(1).integers(0, data.nbytes, 30_000)
    assert np.array_equal(data[places[:10_000]], expected[places[:10_000]])
    before = quiet(memory)
    assert np.array_equal(data[places[10_000:]], expected[places[10_000:]])
    after = quiet(memory)
    assert after.slot_loads - before.slot_loads > 1000
    assert after.written_back_bytes - before.written_back_bytes < LIMIT // 4
    same(data, expected)
