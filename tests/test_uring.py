"""io_uring on arrays: what docs/processes.md says of it, by the bytes in files and arrays.

Each call either fails with EFAULT or moves the right bytes, and keeps them when the array is evicted afterwards. Of a
pinned array it does not fail. Without UFFDIO_MOVE a device that writes into memory needs the pin.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import uring
from buffers import doing, scratch
from conftest import use
from helpers import MODES, OLD, Mode, noise, right_bytes, same

import frontswap

N = 40 * 4096
Bytes = Any
#: how calls are made: the operations that read and write, the ring's flags, and the call's
PLAIN = (uring.READ, uring.WRITE)
VECTOR = (uring.READV, uring.WRITEV)
FIXED = (uring.READ_FIXED, uring.WRITE_FIXED)
WAYS = [(*pair, ring, call) for pair in (PLAIN, VECTOR) for ring, call in ((0, 0), (0, uring.ASYNC), (uring.SQPOLL, 0))]
FIXED_WAYS = [(*FIXED, 0, 0), (*FIXED, 0, uring.ASYNC)]


@pytest.fixture(autouse=True)
def _rings() -> None:
    if reason := uring.why_not():
        pytest.skip(reason)


@pytest.fixture(params=[0, os.O_DIRECT], ids=["cached", "direct"])
def file(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A file, opened for the ring (with O_DIRECT or without), and for us."""
    with scratch(os.O_RDWR | request.param) as fd:
        ours = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            yield fd, ours
        finally:
            os.close(ours)


def content(fd: int) -> Bytes:
    """The file's first N bytes."""
    return np.frombuffer(os.pread(fd, N, 0), np.uint8)


def fill(fd: int, data: Bytes) -> None:
    """Have the file hold these bytes, and no others."""
    os.ftruncate(fd, 0)
    assert os.pwrite(fd, data, 0) == len(data)


@contextlib.contextmanager
def meanwhile(work: Any) -> Iterator[None]:
    """Another thread does this again and again."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.0003):
            work()

    with doing(go_on):
        try:
            yield
        finally:
            stop.set()


def moved(result: int) -> int:
    """The bytes that a call says it has moved; EFAULT is none, and there is no other error."""
    if result < 0:
        assert result == -errno.EFAULT, errno.errorcode[-result]
        return 0
    return result


def right_in_file(fd: int, result: int, data: Bytes, *, all_of_it: bool = False) -> None:
    n = moved(result)
    assert n == N or not all_of_it
    found = content(fd)
    assert len(found) >= n
    # What a short count does not count may have been written too.
    same(found, data[: len(found)])


def right_in_memory(room: Bytes, result: int, data: Bytes) -> None:
    right_bytes(room, moved(result), data)


# --- under a pin -----------------------------------------------------------------------------------


def test_pinned(mode: Mode, memory: frontswap.Memory, file: tuple[int, int]) -> None:
    """The right bytes both ways, while all else is evicted and comes back."""
    fd, ours = file
    room = memory.empty(N, np.uint8, page=4096)
    others = memory.zeros(24 << 20, np.uint8)

    def evict() -> None:
        others[::4096] += 1

    room[:] = OLD
    memory.advise(room, "cold")
    last = room.copy()
    with meanwhile(evict):
        for number, (read, write, ring_flags, flags) in enumerate([*WAYS, *FIXED_WAYS]):
            with memory.pin(room), uring.Ring(ring_flags) as ring:
                if read == uring.READ_FIXED:
                    ring.register(room)
                for turn in range(3):
                    sent, last = noise(N, 100 * number + turn), noise(N, 100 * number + turn + 50)
                    room[:] = sent
                    fill(ours, last)
                    right_in_file(ours, ring.call(write, fd, room, flags), sent, all_of_it=True)
                    fill(ours, last)
                    assert ring.call(read, fd, room, flags) == N
                    same(room, last)
            memory.advise(room, "cold")
            same(room, last)


def test_pinned_across_a_fork(mode: Mode, memory: frontswap.Memory, file: tuple[int, int]) -> None:
    """Registered before the fork, used after it: the child's writes are its own."""
    fd, ours = file
    room: Bytes = memory.empty(N, np.uint8, page=4096)
    room[:] = OLD
    memory.advise(room, "cold")
    with memory.pin(room), uring.Ring() as ring:
        ring.register(room)
        child = os.fork()
        if child == 0:
            room[:] = 3
            os._exit(0)
        for read, write, _, flags in FIXED_WAYS:
            sent, back = noise(N, flags), noise(N, flags + 1)
            room[:] = sent
            fill(ours, b"")
            right_in_file(ours, ring.call(write, fd, room, flags), sent, all_of_it=True)
            fill(ours, back)
            assert ring.call(read, fd, room, flags) == N
            same(room, back)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    memory.advise(room, "cold")
    same(room, back)


# --- without ---------------------------------------------------------------------------------------


def in_state(memory: frontswap.Memory, room: Bytes, state: str) -> None:
    memory.advise(room[: N // 2] if state == "half" else room, "cold")
    if state == "clean":
        room[::4096].sum()


@pytest.mark.parametrize("state", ["evicted", "clean", "half"])
def test_not_pinned(mode: Mode, memory: frontswap.Memory, file: tuple[int, int], state: str) -> None:
    fd, ours = file
    for number, (read, write, ring_flags, flags) in enumerate(WAYS):
        sent, back = noise(N, number), noise(N, number + 50)
        room = memory.empty(N, np.uint8, page=4096)
        with uring.Ring(ring_flags) as ring:
            room[:] = sent
            in_state(memory, room, state)
            fill(ours, b"")
            right_in_file(ours, ring.call(write, fd, room, flags), sent)
            same(room, sent)
            room[:] = OLD
            in_state(memory, room, state)
            fill(ours, back)
            result = ring.call(read, fd, room, flags)
        right_in_memory(room, result, back)
        memory.advise(room, "cold")
        right_in_memory(room, result, back)


@pytest.fixture(params=[mode for mode in MODES if mode.evict == "move"], ids=str)
def moving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mode:
    """The modes that see what the kernel holds."""
    return use(request.param, monkeypatch)


@pytest.mark.parametrize("state", ["evicted", "clean", "half", "resident"])
def test_registered_without_a_pin(moving: Mode, memory: frontswap.Memory, file: tuple[int, int], state: str) -> None:
    """The kernel refuses to register what is not there; what it has registered stays."""
    fd, ours = file
    for number, (read, write, ring_flags, flags) in enumerate(FIXED_WAYS):
        first, second, back = noise(N, number), noise(N, number + 20), noise(N, number + 50)
        room = memory.empty(N, np.uint8, page=4096)
        room[:] = first
        if state != "resident":
            in_state(memory, room, state)
        with uring.Ring(ring_flags) as ring:
            refused = 0
            try:
                ring.register(room)
            except OSError as failed:
                refused = failed.errno or 0
            if refused:
                assert (refused, state == "resident") == (errno.EFAULT, False)
                same(room, first)
                continue
            for sent in (first, second):
                room[:] = sent
                memory.advise(room, "cold")
                fill(ours, back)
                right_in_file(ours, ring.call(write, fd, room, flags), sent, all_of_it=True)
                memory.advise(room, "cold")
                fill(ours, back)
                assert ring.call(read, fd, room, flags) == N
                memory.advise(room, "cold")
                same(room, back)
        memory.advise(room, "cold")
        same(room, back)


def test_evicted_while_the_kernel_works(mode: Mode, memory: frontswap.Memory, file: tuple[int, int]) -> None:
    """Pages that are there when a call is submitted leave in the middle of it."""
    fd, ours = file
    room = memory.empty(N, np.uint8, page=4096)
    direct = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
    with meanwhile(lambda: memory.advise(room, "cold")):
        for number, (read, write, ring_flags, flags) in enumerate(WAYS):
            with uring.Ring(ring_flags) as ring:
                for turn in range(12):
                    sent, back = noise(N, 100 * number + turn), noise(N, 100 * number + turn + 50)
                    room[:] = sent
                    fill(ours, b"")
                    right_in_file(ours, ring.call(write, fd, room, flags), sent)
                    same(room, sent)
                    if direct and mode.evict == "wp":
                        continue  # a device that writes into memory: the pin is needed
                    fill(ours, back)
                    room[:] = OLD
                    result = ring.call(read, fd, room, flags)
                    right_in_memory(room, result, back)
                    memory.advise(room, "cold")
                    right_in_memory(room, result, back)
