"""Pages leave in the order in which they were touched, and come back in any: each with its own bytes.

A program need not go upwards: glibc's memcpy goes down when source and target have the same place in their
pages. What leaves together is sorted, taken with one call where it lies side by side, and read back from the
swap file together with its neighbours on both sides.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MODES, PROTECTION, Array, MiB, Mode, noise, protected, same

LIMIT = 16 * MiB


def order(name: str, n: int) -> Any:
    """Page numbers, in the order of a visit."""
    numbers = np.arange(n)
    if name == "down":
        return numbers[::-1]
    if name == "down in pieces":  # as memcpy in pieces of 16 pages does
        return numbers.reshape(-1, 16)[:, ::-1].ravel()
    if name == "strided":
        return numbers.reshape(-1, 8).T.ravel()
    if name == "random":
        return np.random.default_rng(n).permutation(n)
    return numbers


ORDERS = ["up", "down", "down in pieces", "strided", "random"]


@functools.cache
def source_of(n: int, page: int) -> Array:
    """Pages of decimals, of what does not compress, and of both."""
    data = noise(n * page, 1).reshape(n, page)
    decimals = np.round(np.random.default_rng(2).normal(scale=50, size=n * page // 8), 2).view("u1").reshape(n, page)
    data[::3] = decimals[::3]
    data[1::3, : page // 2] = decimals[1::3, : page // 2]
    return data


SHAPES = [(65536, "up"), (65536, "down"), (65536, "strided"), (4096, "strided")]


def cases() -> Iterator[Any]:
    """All combinations. Quick are those of one mode, and a third of the others', another one in each."""
    for mode, out, (page, back) in itertools.product((*MODES, PROTECTION), ORDERS, SHAPES):
        name = f"{mode}-{out}-{page}-{back}"
        if mode == PROTECTION:
            yield protected(mode, out, back, page, name=name)
            continue
        place = MODES.index(mode) + ORDERS.index(out) + SHAPES.index((page, back))
        quick = page == 65536 and (mode == MODES[0] or place % 3 == 0)
        yield pytest.param(mode, out, back, page, id=name, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(("mode", "out", "back", "page"), list(cases()), indirect=["mode"])
def test_pages_come_back_in_any_order(mode: Mode, new_memory: NewMemory, out: str, back: str, page: int) -> None:
    n = 3 * LIMIT // page
    source = source_of(n, page)
    memory = new_memory(limit=LIMIT, page=page)
    array = memory.empty((n, page), "u1")
    for i in order(out, n):
        array[i] = source[i]
    for i in order(back, n):
        assert np.array_equal(array[i], source[i]), f"page {i}"
    now = memory.statistics()
    assert now.slot_loads > 0  # a good part was in the swap file
    assert now.poisoned == now.overshoots == 0
    same(array, source)


def test_a_page_in_use_does_not_keep_its_neighbours(new_memory: NewMemory) -> None:
    """A run of neighbours is moved with one call; the one that is pinned stays, with its bytes."""
    page = 4096
    n = 3 * LIMIT // page
    source = source_of(n, page)
    memory = new_memory(limit=LIMIT, page=page)
    array = memory.empty((n, page), "u1")
    array[:] = source
    with memory.pin(array[7]), memory.pin(array[100:103]):
        array[::2] = source[::2]
        memory.advise(array, "cold")
        assert memory.statistics().resident_bytes == 4 * page
    same(array, source)
