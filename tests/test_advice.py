"""Advice and pins: each kind, on whole arrays and on parts, and what is refused."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, get_args

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MiB, Mode, cold, noise, quiet, wait_until, walk

import frontswap
from frontswap.memory.memory import Advice

PAGE = 4096
KINDS = get_args(Advice)


def pages_of(memory: frontswap.Memory) -> int:
    """Resident pages, once handler threads have finished with the last of them."""
    return quiet(memory).resident_bytes // PAGE


# --- advice --------------------------------------------------------------------------------------


def test_cold_evicts_now(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    source = walk(100 * 512)
    array = memory.array(source)
    assert pages_of(memory) == 100
    cold(memory, array[: 30 * 512])
    assert pages_of(memory) == 70
    cold(memory, array)
    assert pages_of(memory) == 0
    assert np.array_equal(array, source)


def test_willneed_brings_in_the_part(seam: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    source = noise(100 * PAGE)
    array = memory.array(source)
    cold(memory, array)
    memory.advise(array[10 * PAGE : 60 * PAGE], "willneed")
    wait_until(lambda: pages_of(memory) == 50, "readahead of 50 pages")
    before = memory.statistics()
    assert before.readaheads == 50
    assert np.array_equal(array[10 * PAGE : 60 * PAGE], source[10 * PAGE : 60 * PAGE])
    assert memory.statistics().faults == before.faults


def test_willneed_of_more_than_fits_stays_within_the_limit(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    source = walk(6 << 20)
    array = memory.array(source)
    memory.advise(array, "willneed")
    now = quiet(memory)
    assert now.resident_bytes + now.pool_bytes <= now.limit_bytes
    assert now.overshoots == 0
    assert np.array_equal(array, source)


def test_dontneed_zeroes_pages_that_are_covered_whole(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.full(10 * PAGE, 7, "u1")
    cold(memory, array[5 * PAGE :])  # in RAM or not, it makes no difference
    memory.advise(array[PAGE + 1 : 8 * PAGE - 1], "dontneed")
    assert (array[: 2 * PAGE] == 7).all()
    assert not array[2 * PAGE : 7 * PAGE].any()
    assert (array[7 * PAGE :] == 7).all()


def test_dontneed_of_the_end_takes_the_last_page_too(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.full(2 * PAGE + 5, 7, "u1")
    memory.advise(array[2 * PAGE :], "dontneed")
    assert not array[2 * PAGE :].any()
    assert (array[: 2 * PAGE] == 7).all()
    memory.advise(array, "dontneed")
    assert not array.any()


def test_dontneed_gives_everything_back_but_the_array(new_memory: NewMemory) -> None:
    memory = new_memory()
    array = memory.array(noise(32 * MiB))
    memory.advise(array, "dontneed")
    now = memory.statistics()
    assert (now.resident_bytes, now.pool_live_bytes, now.swapped_bytes) == (0, 0, 0)
    assert now.allocated_bytes == array.nbytes
    array[:] = 1
    assert array.sum() == array.size


def test_dontneed_of_a_fortran_array(memory: frontswap.Memory) -> None:
    array = memory.ones((512, 512), order="F")
    memory.advise(array, "dontneed")
    assert not array.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [np.s_[:], np.s_[5:9], np.s_[-1:], np.s_[0], np.s_[1:2, 3:4]], ids=repr)
def test_every_kind_on_every_view(new_memory: NewMemory, kind: Any, where: Any) -> None:
    memory = new_memory(page=PAGE)
    source = walk(1 << 19).reshape(64, -1)
    array = memory.array(source)
    memory.advise(array[where], kind)
    if kind != "dontneed":
        assert np.array_equal(array, source)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"dontneed"}))
def test_strided_views(memory: frontswap.Memory, kind: Any) -> None:
    source = walk(1 << 19).reshape(64, -1)
    array = memory.array(source)
    for view in (array[::-1], array[::3, ::5], array.T[7:], array[:, 5]):
        memory.advise(view, kind)
    assert np.array_equal(array, source)


def test_dontneed_refuses_what_is_not_contiguous(memory: frontswap.Memory) -> None:
    array = memory.ones((64, 512))
    for view in (array[:, :5], array[::2], array[::-1]):
        with pytest.raises(frontswap.ParameterError, match="contiguous"):
            memory.advise(view, "dontneed")
    assert array.all()


def test_random_and_sequential_switch_readahead(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.array(noise(24 * MiB))
    memory.advise(array, "random")
    before = quiet(memory).readaheads
    array.sum()
    assert quiet(memory).readaheads == before
    for kind in ("normal", "sequential"):
        memory.advise(array, kind)
        before = quiet(memory).readaheads
        array.sum()
        assert quiet(memory).readaheads > before


@pytest.mark.parametrize("wrong", ["", "warm", "WILLNEED", None, 4])
def test_unknown_advice(memory: frontswap.Memory, wrong: Any) -> None:
    array = memory.ones(10)
    with pytest.raises(frontswap.ParameterError, match=r"willneed.*dontneed.*cold.*sequential.*random.*normal"):
        memory.advise(array, wrong)


@pytest.mark.parametrize("wrong", [np.ones(5), [1, 2], None, 5, np.float64(1)], ids=repr)
def test_arrays_of_nobody(new_memory: NewMemory, wrong: Any) -> None:
    memory, other = new_memory(), new_memory()
    for array in (wrong, other.ones(5), memory.zeros(0), memory.ones(5)[:0]):
        with pytest.raises(frontswap.ParameterError, match="array"):
            memory.advise(array, "cold")
        with pytest.raises(frontswap.ParameterError, match="array"), memory.pin(array):
            pass


# --- pins ----------------------------------------------------------------------------------------


def test_pinned_pages_stay(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    source = walk(512 << 10)
    array, other = memory.array(source), memory.array(noise(32 * MiB))
    with memory.pin(array) as pinned:
        assert pinned is array
        assert memory.statistics().pinned_bytes == array.nbytes
        cold(memory, array)
        assert memory.statistics().resident_bytes >= array.nbytes
        other += 1  # reclaim wants every page there is
        before = memory.statistics().faults
        array += 1  # resident and writable: no fault
        now = memory.statistics()
        assert now.faults == before
        assert now.overshoots == 0
    assert memory.statistics().pinned_bytes == 0
    cold(memory, array)
    other.sum()
    assert np.array_equal(array, source + 1)


def test_pins_nest(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.ones((100, 512))
    with memory.pin(array):
        with memory.pin(array[10:20]), memory.pin(array[:, ::2]):
            cold(memory, array)
            assert pages_of(memory) == 100
        cold(memory, array)
        assert pages_of(memory) == 100
    cold(memory, array)
    assert pages_of(memory) == 0
    assert memory.statistics().pinned_bytes == 0


def test_pin_again_takes_no_more(new_memory: NewMemory) -> None:
    """What is pinned already does not count against the limit a second time."""
    memory = new_memory(page=PAGE)
    array = memory.ones(4 * MiB, "u1")
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(memory.pin(array))
        assert memory.statistics().pinned_bytes == array.nbytes
    assert memory.statistics().pinned_bytes == 0


def test_parts_can_be_pinned_in_any_order(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.ones((100, 512))
    first, second = ExitStack(), ExitStack()
    first.enter_context(memory.pin(array[:60]))
    second.enter_context(memory.pin(array[40:]))
    first.close()
    cold(memory, array)
    assert pages_of(memory) == 60
    second.close()
    assert memory.statistics().pinned_bytes == 0


def test_too_much_to_pin(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.array(walk(2 << 20))
    with pytest.raises(frontswap.PinError, match=r"16 MiB.*half of the limit of 16 MiB") as caught, memory.pin(array):
        pass
    assert isinstance(caught.value, MemoryError)
    assert memory.statistics().pinned_bytes == 0
    cold(memory, array)
    assert pages_of(memory) == 0
    with memory.pin(array[: 512 << 10]), pytest.raises(frontswap.PinError), memory.pin(array[1 << 20 :]):
        pass
    assert memory.statistics().pinned_bytes == 0


def test_pin_beside_a_full_pool_stays_within_the_limit(new_memory: NewMemory) -> None:
    """The compressed pool gives way: pinned pages and the pool together must not crowd out the rest."""
    memory = new_memory(page=PAGE)
    part, rest = memory.array(walk(512 << 10)), memory.array(walk(4 << 20))
    with memory.pin(part):
        assert np.isfinite(rest.sum())
        now = memory.statistics()
        assert now.overshoots == 0
        assert now.used_bytes + now.reserve_bytes // 2 <= now.limit_bytes


def test_pin_ends_at_an_exception(memory: frontswap.Memory) -> None:
    array = memory.ones(1000)
    with pytest.raises(KeyError), memory.pin(array):
        raise KeyError
    assert memory.statistics().pinned_bytes == 0


def test_dontneed_leaves_pinned_pages(new_memory: NewMemory) -> None:
    memory = new_memory(page=PAGE)
    array = memory.ones((10, 512))
    with memory.pin(array[2:5]):
        with pytest.raises(frontswap.PinError, match="3 pages are pinned"):
            memory.advise(array, "dontneed")
        assert memory.statistics().pinned_bytes == 3 * PAGE
        assert pages_of(memory) == 3
    assert array[2:5].all()
    assert not array[:2].any()
    assert not array[5:].any()


def test_pinned_array_that_nobody_names_any_more(memory: frontswap.Memory) -> None:
    pin = memory.pin(memory.ones(5000))
    held = pin.__enter__()
    assert held.all()
    del held
    assert memory.statistics().pinned_bytes == 40960
    pin.__exit__(None, None, None)
    del pin
    assert memory.statistics().allocated_bytes == 0


def test_pinned_buffer_of_a_system_call(mode: Mode, new_memory: NewMemory, tmp_path: Any) -> None:
    """What pins are for: the kernel reads into it and writes from it."""
    memory = new_memory(page=PAGE)
    source = noise(2 * MiB)
    array, back = memory.array(source), memory.zeros(2 * MiB, "u1")
    cold(memory, array)
    with (tmp_path / "data").open("w+b", buffering=0) as file, memory.pin(array), memory.pin(back):
        assert file.write(array.data) == array.nbytes
        file.seek(0)
        assert file.readinto(back.data) == array.nbytes
    cold(memory, back)
    assert np.array_equal(back, source)
