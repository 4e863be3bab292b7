"""Readahead for who jumps: one and several at a time, upwards and downwards, in steps that are no whole pages."""

from __future__ import annotations

import ctypes
from itertools import chain

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MiB, Mode, cold, quiet, walk

import frontswap
from frontswap.core import streams

PAGE = 4096
SIZE = 24 * MiB


def steps(start: int, step: int, n: int = 40) -> list[int]:
    return [start + i * step for i in range(n)]


def times(memory: frontswap.Memory, array: np.ndarray) -> int:
    """How often 4 KiB its pages are: larger where pages are protected."""
    return memory._plane.page_of(array.ctypes.data) // PAGE


@pytest.mark.parametrize(
    "walkers",
    [
        [steps(0, 3 * PAGE)],
        [steps(-1, -5 * PAGE)],
        [steps(70, 10_240)],
        [steps(-PAGE, -33_333)],
        [steps(0, 30 * PAGE + 8)],
        [steps(0, 3 * PAGE), steps(900 * PAGE, 7 * PAGE)],
        [steps(0, 3 * PAGE), steps(900 * PAGE, 7 * PAGE), steps(-1, -11 * PAGE)],
    ],
    ids=["up", "down", "parts", "parts down", "far", "two", "three"],
)
def test_who_jumps_finds_pages_there(seam: Mode, new_memory: NewMemory, walkers: list[list[int]]) -> None:
    memory = new_memory("64M", page=PAGE)
    source = walk(SIZE // 8).view("u1")
    array = memory.array(source)
    cold(memory, array)
    before = quiet(memory)
    larger = times(memory, array)
    touched = [at * larger for at in chain.from_iterable(zip(*walkers, strict=True))]
    for at in touched:
        assert array[at] == source[at]
        quiet(memory, rounds=2)
    now = memory.statistics()
    # Until it is seen, and once in each window from then on.
    assert now.faults - before.faults < len(touched) * 2 // 3
    assert now.readaheads - before.readaheads > len(touched) // 3
    assert np.array_equal(array, source)


def test_what_is_larger_than_a_page_is_seen_in_smaller_parts(new_memory: NewMemory) -> None:
    """Pages of 64 KiB, rows of 2.7 of them: the pages jumped over stay out."""
    memory = new_memory("64M", page=16 * PAGE)
    row = 172_032
    source = walk(140 * row // 8).view("u1")
    array = memory.array(source)
    cold(memory, array)
    before = quiet(memory)
    for at in range(0, 100 * row, row):
        assert array[at] == source[at]
        quiet(memory, rounds=2)
    now = memory.statistics()
    assert now.faults - before.faults < 60
    brought = now.readaheads - before.readaheads + now.faults - before.faults
    assert brought <= 130
    assert np.array_equal(array, source)


def test_who_jumps_at_random_gets_nothing(new_memory: NewMemory) -> None:
    memory = new_memory("64M", page=PAGE)
    source = walk(SIZE // 8).view("u1")
    array = memory.array(source)
    cold(memory, array)
    before = quiet(memory)
    page = times(memory, array) * PAGE
    for at in np.random.default_rng(7).permutation(SIZE // page // 4)[:300] * 4 * page:
        assert array[at] == source[at]
    assert quiet(memory).readaheads == before.readaheads


def test_ends_of_the_array(new_memory: NewMemory) -> None:
    """The window ends with the array: of its neighbour in the page table nothing is brought in."""
    memory = new_memory("64M", page=PAGE)
    page = times(memory, memory.empty(PAGE)) * PAGE
    sources = [walk(60 * page // 8, seed) for seed in (1, 2, 3)]
    arrays = [memory.array(source) for source in sources]
    for array in arrays:
        cold(memory, array)
    middle = arrays[1].view("u1")
    for at in chain(steps(0, 5 * page, 12), steps(59 * page, -5 * page, 12)):
        assert middle[at] == sources[1].view("u1")[at]
        quiet(memory, rounds=2)
    assert quiet(memory).resident_bytes <= 24 * page
    for array, source in zip(arrays, sources, strict=True):
        assert np.array_equal(array, source)


def test_a_count_of_faults_that_goes_round() -> None:
    """After 2^32 of them that no stream has, there is nothing to vote on."""
    capsule = streams.__pyx_capi__["majority"]  # type: ignore[attr-defined]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    majority = kind(get_pointer(capsule, get_name(capsule)))
    block = ctypes.create_string_buffer(1 << 16)
    for lag in (1, 2, 3, 4):
        for n in range(4):
            assert majority(ctypes.addressof(block), lag, n) == 0
