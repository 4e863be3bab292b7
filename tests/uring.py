"""io_uring by its raw system calls (man 7 io_uring): bytes are moved, and no function of libc is called for it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import Any

from buffers import Iovec

SETUP, ENTER, REGISTER = 425, 426, 427  # system calls, the same numbers on all machines
SQ_RING, CQ_RING, ENTRIES = 0, 0x8000000, 0x10000000  # what of the ring's descriptor is mapped
READV, WRITEV, READ_FIXED, WRITE_FIXED, READ, WRITE = 1, 2, 4, 5, 22, 23
ASYNC = 1 << 4  # IOSQE_ASYNC: by a worker thread of the kernel
SQPOLL = 1 << 1  # IORING_SETUP_SQPOLL: a thread of the kernel looks for what is submitted
GETEVENTS, WAKEUP = 1, 2  # flags of io_uring_enter

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Params(ctypes.Structure):
    """struct io_uring_params, with its two structs of offsets."""

    _fields_ = (
        *[(name, ctypes.c_uint32) for name in ("sq_entries", "cq_entries", "flags", "cpu", "idle", "features", "wq")],
        ("reserved", ctypes.c_uint32 * 3),
        *[
            (f"sq_{name}", ctypes.c_uint32)
            for name in ("head", "tail", "mask", "size", "state", "dropped", "array", "_")
        ],
        ("sq_address", ctypes.c_uint64),
        *[
            (f"cq_{name}", ctypes.c_uint32)
            for name in ("head", "tail", "mask", "size", "overflow", "cqes", "state", "_")
        ],
        ("cq_address", ctypes.c_uint64),
    )


def _syscall(number: int, *arguments: Any) -> int:
    """The result of a system call. OSError: it was refused."""
    while (result := int(_libc.syscall(ctypes.c_long(number), *arguments))) < 0:
        if ctypes.get_errno() != errno.EINTR:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def why_not() -> str:
    """What forbids io_uring here, or ""."""
    try:
        with Ring():
            return ""
    except OSError as refused:
        return f"io_uring_setup: {refused.strerror}"


class Ring:
    """A ring for eight calls at a time."""

    def __init__(self, flags: int = 0) -> None:
        self._params = _Params(flags=flags, idle=1)
        self._fd = _syscall(SETUP, 8, ctypes.byref(self._params))
        p = self._params
        self._sq = mmap.mmap(self._fd, p.sq_array + 4 * p.sq_entries, offset=SQ_RING)
        self._cq = mmap.mmap(self._fd, p.cq_cqes + 16 * p.cq_entries, offset=CQ_RING)
        self._sqes = mmap.mmap(self._fd, 64 * p.sq_entries, offset=ENTRIES)
        self._queued = 0
        self._kept: list[Any] = []  # the vectors of calls that are not done

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        for mapped in (self._sq, self._cq, self._sqes):
            mapped.close()
        os.close(self._fd)

    def register(self, array: Any) -> None:
        """Have the array as the fixed buffer number 0. OSError: it was refused."""
        _syscall(REGISTER, self._fd, 0, ctypes.byref(Iovec(array.ctypes.data, array.nbytes)), 1)

    def unregister(self) -> None:
        """End of register()."""
        _syscall(REGISTER, self._fd, 1, None, 0)

    def submit(self, opcode: int, fd: int, array: Any, offset: int = 0, flags: int = 0) -> None:
        """Hand a call over; READV and WRITEV are of two buffers, which are the halves of the array."""
        address, n = array.ctypes.data, array.nbytes
        if opcode in {READV, WRITEV}:
            half = n // 2 // 4096 * 4096
            vector = (Iovec * 2)(Iovec(address, half), Iovec(address + half, n - half))
            self._kept.append(vector)
            address, n = ctypes.addressof(vector), 2
        p = self._params
        tail = struct.unpack_from("I", self._sq, p.sq_tail)[0]
        index = tail % p.sq_entries
        struct.pack_into("BBHiQQIIQQQQ", self._sqes, 64 * index, opcode, flags, 0, fd, offset, address, n, *[0] * 5)
        struct.pack_into("I", self._sq, p.sq_array + 4 * index, index)
        struct.pack_into("I", self._sq, p.sq_tail, tail + 1)
        self._queued += 1
        _syscall(ENTER, self._fd, 1, 0, WAKEUP, None, 0)

    def wait(self) -> int:
        """The result of the call that is done first: a count, or an errno, negative."""
        p = self._params
        head = struct.unpack_from("I", self._cq, p.cq_head)[0]
        while struct.unpack_from("I", self._cq, p.cq_tail)[0] == head:
            _syscall(ENTER, self._fd, 0, 1, GETEVENTS, None, 0)
        result: int = struct.unpack_from("i", self._cq, p.cq_cqes + 16 * (head % p.cq_entries) + 8)[0]
        struct.pack_into("I", self._cq, p.cq_head, head + 1)
        self._queued -= 1
        if self._queued == 0:
            self._kept.clear()
        return result

    def call(self, opcode: int, fd: int, array: Any, flags: int = 0) -> int:
        """A call at the start of a file, and its result."""
        self.submit(opcode, fd, array, flags=flags)
        return self.wait()
