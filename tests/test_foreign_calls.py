"""System calls on arrays that frontswap does not make itself: right bytes or EFAULT, and under a pin right bytes.

io_uring is in test_uring.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from buffers import Iovec, scratch
from helpers import OLD, Mode, noise, right_bytes, run_child, same

import frontswap

N = 24 * 4096
STATES = ("evicted", "clean", "resident", "pinned")
#: io_setup, io_destroy, io_getevents, io_submit
AIO = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
Bytes = Any


def outcome(result: int) -> int:
    """The bytes that have been moved; EFAULT is none, and there is no other error."""
    if result < 0:
        assert ctypes.get_errno() == errno.EFAULT
        return 0
    return result


def in_state(memory: frontswap.Memory, room: Bytes, state: str) -> None:
    if state in {"evicted", "clean"}:
        memory.advise(room, "cold")
    if state == "clean":
        room[::4096].sum()


def back_and_forth(
    memory: frontswap.Memory, state: str, out: Callable[[Bytes], tuple[int, Bytes]], into: Callable[[Bytes, Bytes], int]
) -> None:
    """`out` moves an array elsewhere and says what is there then, `into` fills it: in this state."""
    sent, back = noise(N, 1), noise(N, 2)
    room: Bytes = memory.empty(N, np.uint8, page=4096)

    def both() -> int:
        room[:] = sent
        in_state(memory, room, state)
        n, found = out(room)
        same(found[:n], sent[:n])
        assert n == N or state != "pinned"
        same(room.copy(), sent)
        room[:] = OLD
        in_state(memory, room, state)
        n = into(room, back)
        assert n == N or state != "pinned"
        return n

    if state == "pinned":
        memory.advise(room, "cold")
        with memory.pin(room):
            n = both()
    else:
        n = both()
    for _ in range(2):
        right_bytes(room, n, back)
        memory.advise(room, "cold")


class Aio:
    """io_submit(2) by its raw system calls, one call at a time."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.syscall.restype = ctypes.c_long
        self.numbers = [ctypes.c_long(n) for n in AIO[platform.machine()]]
        self.context = ctypes.c_ulong()
        assert self.libc.syscall(self.numbers[0], 4, ctypes.byref(self.context)) == 0

    def __enter__(self) -> Aio:
        return self

    def __exit__(self, *_: object) -> None:
        self.libc.syscall(self.numbers[1], self.context)

    def call(self, opcode: int, fd: int, array: Bytes) -> int:
        """0: IOCB_CMD_PREAD, 1: IOCB_CMD_PWRITE, at the start of the file; the result, or -1 and errno."""
        block = ctypes.create_string_buffer(
            struct.pack("QIiHhIQQqQII", 0, 0, 0, opcode, 0, fd, array.ctypes.data, array.nbytes, 0, 0, 0, 0)
        )
        pointer = ctypes.c_void_p(ctypes.addressof(block))
        if self.libc.syscall(self.numbers[3], self.context, ctypes.c_long(1), ctypes.byref(pointer)) != 1:
            return -1
        event = (ctypes.c_int64 * 4)()
        self.libc.syscall(self.numbers[2], self.context, ctypes.c_long(1), ctypes.c_long(1), event, None)
        if event[2] < 0:
            ctypes.set_errno(-event[2])
            return -1
        return int(event[2])


@pytest.mark.skipif(platform.machine() not in AIO, reason="the numbers of the system calls are not known")
@pytest.mark.parametrize("state", STATES)
def test_io_submit(mode: Mode, memory: frontswap.Memory, state: str) -> None:
    with scratch(os.O_RDWR | os.O_DIRECT) as fd, Aio() as aio:
        ours = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)

        def out(room: Bytes) -> tuple[int, Bytes]:
            n = outcome(aio.call(1, fd, room))
            return n, np.frombuffer(os.pread(ours, N, 0), np.uint8)

        def into(room: Bytes, back: Bytes) -> int:
            os.pwrite(ours, back, 0)
            return outcome(aio.call(0, fd, room))

        try:
            back_and_forth(memory, state, out, into)
        finally:
            os.close(ours)


@pytest.mark.parametrize("state", STATES)
def test_process_vm(mode: Mode, memory: frontswap.Memory, state: str) -> None:
    """Of this process: the array is what is read and written there, and the buffer of the call."""
    libc = ctypes.CDLL(None, use_errno=True)
    other = np.zeros(N, np.uint8)

    def move(name: str, local: Bytes, remote: Bytes) -> int:
        function = getattr(libc, name)
        function.restype = ctypes.c_ssize_t
        ends = [ctypes.byref(Iovec(array.ctypes.data, array.nbytes)) for array in (local, remote)]
        one = ctypes.c_ulong(1)
        return outcome(function(os.getpid(), ends[0], one, ends[1], one, ctypes.c_ulong(0)))

    def out(room: Bytes) -> tuple[int, Bytes]:
        other[:] = 0
        return move("process_vm_readv", other, room), other.copy()

    def into(room: Bytes, back: Bytes) -> int:
        return move("process_vm_writev", back, room)

    back_and_forth(memory, state, out, into)
    back_and_forth(
        memory,
        state,
        lambda room: (move("process_vm_writev", room, other), other.copy()),
        lambda room, back: move("process_vm_readv", room, back),
    )


def test_another_process_reads_an_array(mode: Mode) -> None:
    """process_vm_readv of a parent, by its child: EFAULT or right bytes, and right bytes of what is pinned."""
    run_child(
        """
memory = frontswap.Memory(limit="16M")
evicted, pinned = (memory.asarray(noise(100_000, i)) for i in range(2))
memory.advise(evicted, "cold")
memory.advise(pinned, "cold")
class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
reader = '''
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.process_vm_readv.restype = ctypes.c_ssize_t
room = ctypes.create_string_buffer(100_000)
class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
ends = [ctypes.byref(Iovec(at, 100_000)) for at in (ctypes.addressof(room), int(sys.argv[1]))]
one = ctypes.c_ulong(1)
n = libc.process_vm_readv(os.getppid(), ends[0], one, ends[1], one, ctypes.c_ulong(0))
print(n, ctypes.get_errno(), room.raw[:max(n, 0)].hex())
'''
for array, number in ((evicted, 0), (pinned, 1)):
    with memory.pin(array) if number else contextlib.nullcontext():
        done = subprocess.run([sys.executable, "-c", reader, str(array.ctypes.data)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    n, error, found = done.stdout.split(" ")
    assert int(n) == 100_000 or (number == 0 and (int(n) >= 0 or int(error) == errno.EFAULT)), done.stdout[:50]
    assert bytes.fromhex(found.strip()) == bytes(noise(100_000, number))[: max(int(n), 0)]
""",
        mode=mode,
    ).check()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's struct aiocb")
def test_aio_of_libc(mode: Mode) -> None:
    """aio_read(3) and aio_write(3): libc's threads make the calls, past us. In a process of its own: they stay."""
    run_child(
        """
import tempfile
memory = frontswap.Memory(limit="16M")
libc = ctypes.CDLL(None, use_errno=True)
N = 100_000
libc.aio_return.restype = ctypes.c_ssize_t
def call(name, fd, array):
    block = ctypes.create_string_buffer(168)
    # fildes, buf, nbytes; SIGEV_NONE
    struct.pack_into("iiiiQQ", block, 0, fd, 0, 0, 0, array.ctypes.data, N)
    struct.pack_into("i", block, 44, 1)
    assert getattr(libc, name)(block) == 0
    while (failed := libc.aio_error(block)) == errno.EINPROGRESS:
        libc.aio_suspend(ctypes.byref(ctypes.c_void_p(ctypes.addressof(block))), 1, None)
    assert failed in (0, errno.EFAULT), failed
    return max(libc.aio_return(block), 0)
sent, back = noise(N, 1), noise(N, 2)
array = memory.empty(N, "u1", page=4096)
for state in ("evicted", "clean", "resident", "pinned"):
    with tempfile.TemporaryFile(dir="/var/tmp", buffering=0) as file, contextlib.ExitStack() as stack:
        def prepare():
            if state != "resident":
                memory.advise(array, "cold")
            if state == "clean":
                array[::4096].sum()
        array[:] = sent
        prepare()
        if state == "pinned":
            stack.enter_context(memory.pin(array))
        n = call("aio_write", file.fileno(), array)
        assert n == N or state != "pinned"
        assert os.pread(file.fileno(), n, 0) == bytes(sent[:n])
        same(array.copy(), sent)
        os.pwrite(file.fileno(), back, 0)
        if state != "pinned":
            prepare()
        n = call("aio_read", file.fileno(), array)
        assert n == N or state != "pinned"
    for _ in range(2):
        same(array[:n].copy(), back[:n])
        rest = array[n:].copy()
        assert np.all((rest == sent[n:]) | (rest == back[n:]))
        memory.advise(array, "cold")
""",
        mode=mode,
    ).check()
