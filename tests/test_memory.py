"""Arrays of a Memory are the arrays that NumPy makes: same values, dtypes, strides and flags, plain type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import NewMemory
from helpers import Array, MiB, Mode, noise, same, walk

import frontswap

SHAPES: list[Any] = [(), 0, (0,), (3, 0, 2), 5, (7,), [2, 3], (3, 4), (2, 3, 4), np.int64(4), (1,) * 32]
RECORD = np.dtype([("a", "i4"), ("b", "f8", (2,)), ("c", "S3")])
ALIGNED = np.dtype({"names": ["x", "y"], "formats": ["u1", ">f4"], "offsets": [3, 8], "itemsize": 16})
DTYPES: list[Any] = [
    *(code for code in np.typecodes["All"] if code not in "OSUVMm"),
    *("S5", "U3", "V7", "M8[ns]", "M8[D]", "m8[s]", ">f8", ">i2", ">U3", ">c16", "float32", float, np.bool_),
    RECORD,
    ALIGNED,
    RECORD.newbyteorder(">"),
]
SUBARRAY = np.dtype(("f4", (2, 3)))

# Sources as users have them; each is copied by array() and asarray().
BASE = np.arange(24, dtype="i4").reshape(2, 3, 4)
SOURCES: dict[str, Any] = {
    "scalar": 3.5,
    "list": [1, 2, 3],
    "nested": [[1.5, 2], [3, 4]],
    "strings": ["a", "bb", "ccc"],
    "bytes": [b"a", b"bb"],
    "dates": np.array(["2020-01-01", "2021-02-03"], "M8[D]"),
    "complex": [1 + 2j],
    "C": BASE,
    "F": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "swapped axes": BASE.swapaxes(0, 1),
    "every other": BASE[:, ::2],
    "reversed": BASE[::-1, :, ::-1],
    "broadcast": np.broadcast_to(np.arange(4), (3, 4)),
    "read-only": np.frombuffer(b"abcdefgh", "u2"),
    "big-endian": np.arange(3, dtype=">i8"),
    "record": np.array([(1, (2.0, 3.0), b"xyz")], RECORD),
    "masked": np.ma.masked_array([1, 2, 3], [False, True, False]),
    "empty": np.zeros((0, 3)),
}


def same_array(found: Array, expected: Array) -> None:
    """Bit for bit (but for padding inside elements), and laid out alike."""
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    for name in ("C_CONTIGUOUS", "F_CONTIGUOUS", "OWNDATA", "WRITEABLE", "ALIGNED", "WRITEBACKIFCOPY"):
        assert found.flags[name] == expected.flags[name], name
    assert found.strides == expected.strides
    assert found.tobytes() == expected.tobytes() or np.array_equal(found, expected)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_new_arrays_are_numpys(memory: frontswap.Memory, shape: Any, order: Any) -> None:
    same_array(memory.zeros(shape, order=order), np.zeros(shape, order=order))
    same_array(memory.empty(shape, order=order), np.zeros(shape, order=order))  # ours reads as zeros
    same_array(memory.ones(shape, order=order), np.ones(shape, order=order))
    same_array(memory.full(shape, 2.5, order=order), np.full(shape, 2.5, order=order))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(memory: frontswap.Memory, dtype: Any) -> None:
    like = np.zeros((3, 2), dtype, "F")
    same_array(memory.zeros((3, 2), dtype), np.zeros((3, 2), dtype))
    same_array(memory.empty((3, 2), dtype), np.zeros((3, 2), dtype))
    same_array(memory.empty_like(like), np.zeros_like(like))
    same_array(memory.zeros_like(like), np.zeros_like(like))
    if np.dtype(dtype).kind != "V" or np.dtype(dtype).names:
        same_array(memory.ones((3, 2), dtype), np.ones((3, 2), dtype))
        same_array(memory.full((3, 2), 1, dtype), np.full((3, 2), 1, dtype))
        same_array(memory.ones_like(like), np.ones_like(like))
        same_array(memory.full_like(like, 1), np.full_like(like, 1))
    filled = np.frombuffer(bytes(range(1, 1 + 6 * like.itemsize)), dtype).reshape(3, 2)
    if np.dtype(dtype).kind != "b" and "U" not in np.dtype(dtype).str:  # any bytes are values
        same_array(memory.array(filled), np.array(filled))


def test_subarray_dtype_becomes_axes(memory: frontswap.Memory) -> None:
    same_array(memory.zeros((4,), SUBARRAY), np.zeros((4,), SUBARRAY))
    same_array(memory.ones((4,), SUBARRAY), np.ones((4,), SUBARRAY))
    same_array(memory.full((4,), 7, SUBARRAY), np.full((4,), 7, SUBARRAY))
    same_array(memory.array([1, 2], SUBARRAY), np.array([1, 2], SUBARRAY))


@pytest.mark.parametrize("fill", [7, 2.5, 1j, True, "text", b"bytes", [1, 2, 3], np.float32(3), np.datetime64("2020")])
def test_full_takes_the_dtype_of_its_value(memory: frontswap.Memory, fill: Any) -> None:
    same_array(memory.full((2, 3), fill), np.full((2, 3), fill))


@pytest.mark.parametrize("order", ["C", "F", "A", "K"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_array_copies(memory: frontswap.Memory, source: Any, order: Any) -> None:
    copy = memory.array(source, order=order)
    same_array(copy, np.array(source, order=order))
    assert memory.asarray(copy) is copy or not copy.size
    same_array(memory.asarray(source), np.array(source))


@pytest.mark.parametrize(
    ("source", "dtype"),
    [
        ([1.7, -2.2], "i4"),
        ([0, 1, 2], bool),
        ([300, -1], "f4"),
        ([1, 2], ">u2"),
        (["a", "bb"], "S"),
        (["a", "bb"], "U"),
        (["a", "bb"], str),
        ([b"a", b"bb"], bytes),
        (["2020-01-01", "2021-02-03T04:05"], "M8"),
        (["2020-01-01"], "M8[s]"),
        ([1.5], complex),
        ([(1, (2, 3), b"x")], RECORD),
    ],
    ids=str,
)
def test_array_converts(memory: frontswap.Memory, source: Any, dtype: Any) -> None:
    same_array(memory.array(source, dtype), np.array(source, dtype))
    same_array(memory.asarray(source, dtype), np.array(source, dtype))


@pytest.mark.parametrize("order", ["C", "F", "A", "K"])
@pytest.mark.parametrize("source", ["C", "F", "transposed", "swapped axes", "every other", "scalar", "empty"])
def test_like(memory: frontswap.Memory, source: str, order: Any) -> None:
    like = SOURCES[source]
    same_array(memory.zeros_like(like, order=order), np.zeros_like(like, order=order))
    same_array(memory.empty_like(like, order=order), np.zeros_like(like, order=order))
    same_array(memory.ones_like(like, order=order), np.ones_like(like, order=order))
    same_array(memory.full_like(like, 9, order=order), np.full_like(like, 9, order=order))


def test_like_with_another_shape_or_dtype(memory: frontswap.Memory) -> None:
    same_array(memory.zeros_like(BASE, "f4", shape=(5, 2)), np.zeros_like(BASE, "f4", shape=(5, 2)))
    same_array(memory.ones_like(BASE, "c8"), np.ones_like(BASE, "c8"))
    same_array(memory.full_like(BASE, 2.7), np.full_like(BASE, 2.7))  # into int32, as NumPy does it
    same_array(memory.full_like(BASE, "7", "S2"), np.full_like(BASE, "7", "S2"))


def test_a_copy_is_a_copy(memory: frontswap.Memory) -> None:
    source = walk(1000)
    copy = memory.array(source)
    copy[0] += 1
    assert copy[0] == source[0] + 1


def test_asarray_copies_only_what_is_elsewhere(new_memory: NewMemory) -> None:
    memory, other = new_memory(), new_memory()
    here = memory.array(walk(100_000))
    view = here[10:20]
    assert memory.asarray(here) is here
    assert memory.asarray(view) is view
    assert memory.asarray(here, "f8") is here
    converted = memory.asarray(here, "f4")
    assert not np.shares_memory(converted, here)
    assert np.array_equal(converted, here.astype("f4"))
    foreign = other.array(here)
    moved = memory.asarray(foreign)
    assert moved is not foreign
    assert memory.statistics().allocated_bytes > here.nbytes + converted.nbytes + moved.nbytes - 1


def test_everything_is_taken_from_this_memory(memory: frontswap.Memory) -> None:
    like = np.zeros(5000)
    arrays = [
        memory.empty(5000),
        memory.zeros(5000),
        memory.ones(5000),
        memory.full(5000, 3),
        memory.array(like),
        memory.asarray(like),
        memory.empty_like(like),
        memory.zeros_like(like),
        memory.ones_like(like),
        memory.full_like(like, 3),
    ]
    assert memory.statistics().allocated_bytes == len(arrays) * 40960  # 40000 bytes in whole pages


@pytest.mark.parametrize("page", [4096, "4K", "16K", 65536, "128K", np.int32(8192)])
def test_page_size_of_a_memory_and_of_an_array(new_memory: NewMemory, page: Any) -> None:
    size = {"4K": 4096, "16K": 16384, "128K": 131072}.get(page, page)
    with_pages = new_memory(page=page)
    array = with_pages.empty(1, "u1")
    assert with_pages.statistics().allocated_bytes == size
    memory = new_memory(page=4096)
    makers: list[Callable[[], Array]] = [
        lambda: memory.empty(1, "u1", page=page),
        lambda: memory.zeros(1, "u1", page=page),
        lambda: memory.ones(1, "u1", page=page),
        lambda: memory.full(1, 1, "u1", page=page),
        lambda: memory.array(array, page=page),
    ]
    for make in makers:
        made = make()
        assert made.nbytes == 1
        assert memory.statistics().allocated_bytes == size
        del made


def test_large_pages_need_a_large_limit(new_memory: NewMemory) -> None:
    memory = new_memory("256M", page="2M")
    array = memory.zeros(3 << 20, "u1")
    assert memory.statistics().allocated_bytes == 4 << 20
    assert not array.any()


def test_larger_than_the_limit_in_every_mode(mode: Mode, new_memory: NewMemory) -> None:
    memory = new_memory()
    source = walk(6 << 20)  # 48 MiB
    array = memory.array(source)
    assert np.array_equal(array, source)
    now = memory.statistics()
    assert now.resident_bytes + now.pool_bytes + now.reserve_bytes <= now.limit_bytes
    assert now.allocated_bytes == array.nbytes > 2 * now.limit_bytes


@pytest.mark.parametrize("backends", ["zcache", " zcache ", None, ""])
def test_with_and_without_compressed_memory(new_memory: NewMemory, backends: str | None) -> None:
    memory = new_memory(backends=backends)
    source = walk(3 << 20)
    array = memory.array(source)
    assert np.array_equal(array, source)
    assert (memory.statistics().succ_stores > 0) == bool(backends)


def test_without_a_swap_file(new_memory: NewMemory) -> None:
    memory = new_memory(swap=None, allocate="64M")
    source = np.arange(5 << 20)  # 40 MiB that compress well
    array = memory.array(source)
    assert np.array_equal(array, source)
    assert memory.statistics().swap_reserved_bytes == 0


def test_without_a_swap_file_what_does_not_shrink_is_in_nobodys_way(new_memory: NewMemory) -> None:
    """It waits in front of what does: each of its pages is asked, and then those behind them."""
    memory = new_memory("160M", swap=None, allocate="320M", page=64 << 10)
    memory.advise(memory.empty(1, "u1"), "cold")  # followed from here on, so that they wait in this order
    source = noise(96 * MiB)
    first = memory.array(source)
    then = memory.full(128 * MiB, 3, "u1")
    assert (then[::4096] == 3).all()
    same(first, source)
