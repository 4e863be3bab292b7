"""NBD_CMD_CACHE: what left for the base comes back to the pool before it is read. No write is lost by that."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import MiB, noise, together
from nbd import SIZE, served, where
from test_nbd_bases import errno_of, mixed

from frontswap.testing import nbd_client as nbd

assert where  # a fixture

PAGE = 4096
PAGES = SIZE // PAGE


def packed(pages: int, seed: int = 1) -> bytes:
    """Pages that compress, none of which is another."""
    rng = np.random.default_rng(seed)
    return b"".join(int(rng.integers(1 << 60)).to_bytes(8, "big") * (PAGE // 8) for _ in range(pages))


def text(pages: int, seed: int = 1) -> bytes:
    """Pages that compress and are no repetition of one word."""
    return np.random.default_rng(seed).integers(97, 101, pages * PAGE, np.uint8).tobytes()


@pytest.mark.parametrize("base", ["file", "writethrough"])
def test_what_left_comes_back_before_it_is_read(where: Path, base: str) -> None:
    data = text(PAGES)
    with served(where, base) as server, server.connect() as client:
        area = server.exports[""].area
        client.write(0, data)
        area.reclaim(0)
        left = area.statistics()
        assert left.curr_pages == left.pool_bytes == 0
        client.cache(PAGE // 2, SIZE // 2 - PAGE)  # parts of pages are of those pages
        found = area.statistics()
        assert found.curr_pages == PAGES // 2
        assert found.slot_loads - left.slot_loads == PAGES // 2
        assert client.read(0, SIZE // 2) == data[: SIZE // 2]
        assert area.statistics().slot_loads == found.slot_loads, "no page of them is read from the base"
        client.cache(0, SIZE // 2)
        assert area.statistics().slot_loads == found.slot_loads, "they are there"
        area.reclaim(0)
        again = area.statistics()
        assert (again.curr_pages, again.slot_stores) == (0, left.slot_stores), "their slots had them still"
        assert client.read(0, SIZE) == data


def test_an_update_of_what_came_back_is_not_undone_by_its_slot(where: Path) -> None:
    """The slot has the bytes of before: they must not be what is left when the page leaves again."""
    with served(where, "file") as server, server.connect() as client:
        area = server.exports[""].area
        client.write(0, text(8))
        expected = bytearray(text(8))
        area.reclaim(0)
        client.cache(0, 8 * PAGE)
        client.write(10, b"new")
        client.write(PAGE, noise(PAGE).tobytes())
        client.trim(2 * PAGE, PAGE)
        client.zero(3 * PAGE + 10, 10)
        expected[10:13] = b"new"
        expected[PAGE : 2 * PAGE] = noise(PAGE).tobytes()
        expected[2 * PAGE : 3 * PAGE] = bytes(PAGE)
        expected[3 * PAGE + 10 : 3 * PAGE + 20] = bytes(10)
        area.reclaim(0)
        assert area.statistics().curr_pages == 0
        assert client.read(0, 8 * PAGE) == expected
        client.cache(0, 8 * PAGE)
        assert client.read(0, 8 * PAGE) == expected


def test_what_no_backend_takes_stays_where_it_is(where: Path) -> None:
    with served(where, "file") as server, server.connect() as client:
        area = server.exports[""].area
        data = noise(8 * PAGE).tobytes()
        client.write(0, data)
        before = area.statistics()
        client.cache(0, SIZE)
        found = area.statistics()
        assert (found.curr_pages, found.slot_stores) == (0, before.slot_stores)
        area.stop("test")
        client.write(8 * PAGE, text(8))
        client.cache(8 * PAGE, 8 * PAGE)
        assert area.statistics().curr_pages == 0
        assert client.read(0, 16 * PAGE) == data + text(8)


def test_a_base_that_cannot_be_read_is_eio_and_the_page_stays(where: Path) -> None:
    with served(where, "file") as server, server.connect() as client:
        area = server.exports[""].area
        client.write(0, text(PAGES))
        area.reclaim(0)
        os.truncate(where / "base", SIZE // 2)
        assert errno_of(client, nbd.CACHE, SIZE // 2 - PAGE, 2 * PAGE) == errno.EIO
        assert area.statistics().curr_pages == 1
        assert errno_of(client, nbd.READ, SIZE // 2, PAGE) == errno.EIO
        client.write(SIZE // 2, text(1))
        assert client.read(SIZE // 2 - PAGE, 2 * PAGE) == text(PAGES)[SIZE // 2 - PAGE : SIZE // 2] + text(1)


@pytest.mark.parametrize("base", ["file", "writethrough"])
def test_no_write_is_lost_while_pages_come_and_leave(where: Path, base: str) -> None:
    """Clients write and check pages of their own; others have all of them come back, and leave, without a pause."""
    turns, pages = 1500, 64
    done = threading.Event()

    def work(number: int) -> None:
        rng, model = np.random.default_rng(number), {}
        kinds = [text(8, number), noise(8 * PAGE, number).tobytes(), packed(8, number)]
        with server.connect() as client:
            for turn in range(turns):
                at = int(rng.integers(pages)) * 3 + number
                kind, first = kinds[turn % 3], int(rng.integers(8)) * PAGE
                model[at] = turn.to_bytes(8, "big") + kind[first + 8 : first + PAGE]
                client.write(at * PAGE, model[at])
                look = int(rng.choice(list(model)))
                assert client.read(look * PAGE, PAGE) == model[look]

    def come(_: int) -> None:
        with server.connect() as client:
            while not done.is_set():
                client.cache(0, 3 * pages * PAGE)

    def leave(_: int) -> None:
        while not done.is_set():
            server.exports[""].area.reclaim(0, deadline=0.01)

    with served(where, base) as server:
        others = [threading.Thread(target=other, args=(0,)) for other in (come, leave)]
        for other in others:
            other.start()
        try:
            together(3, work)
        finally:
            done.set()
            for other in others:
                other.join()
        assert server.exports[""].statistics()["poisoned"] == 0


def test_a_pool_that_is_full_makes_room(where: Path) -> None:
    data = mixed(4 * SIZE, 3)
    with served(where, "file", size=4 * SIZE, memory=4 * MiB) as server, server.connect() as client:
        client.write(0, data)
        for first in range(0, 4 * SIZE, SIZE):
            client.cache(first, SIZE)
        assert client.read(0, 4 * SIZE) == data


# --- FAST_ZERO -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["ram", "file", "writethrough"])
def test_fast_zeros_are_zeros_or_refused(where: Path, base: str) -> None:
    """Written through, zeros may take as long as a write: then nothing is done."""
    data = mixed(SIZE)
    with served(where, base) as server, server.connect() as client:
        client.write(0, data)
        error = errno_of(client, nbd.WRITE_ZEROES, 100, SIZE - 200, flags=nbd.FAST_ZERO)
        zeros = data[:100] + bytes(SIZE - 200) + data[-100:]
        assert error == (errno.EOPNOTSUPP if base == "writethrough" else 0)
        assert client.read(0, SIZE) == (data if error else zeros)
