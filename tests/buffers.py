"""Memory for test_calls.py, ordinary or of a Memory and in some state, and the descriptors to try it with."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import frontswap

MiB = 1 << 20
Bytes = Any  # arrays of uint8; for mypy they are no buffers before Python 3.12
STATES = ("plain", "resident", "clean", "evicted", "half", "racing")
COUNTING = (  # what returns ssize_t, of what is called by way of ctypes
    "read",
    "write",
    "pread",
    "pwrite",
    "readv",
    "writev",
    "preadv",
    "pwritev",
    "preadv2",
    "pwritev2",
    "vmsplice",
    "mq_receive",
    "mq_timedreceive",
    "msgrcv",
    "recv",
    "send",
    "recvfrom",
    "sendto",
    "recvmsg",
    "sendmsg",
    "getrandom",
    "fread",
    "fwrite",
    "fread_unlocked",
    "fwrite_unlocked",
    "ftell",
    "__read_chk",
    "__fread_chk",
    "__pread64_chk",
    "__recv_chk",
)
ODD = 300_007  # bytes: more than a piece of a transfer, and not a whole number of pages


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    _fields_ = (("header", Msghdr), ("length", ctypes.c_uint))


class Buffers:
    """Memory for a row: ordinary, or of a Memory and in some state."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.memory = None if state == "plain" else frontswap.Memory(limit="16M")
        self.arrays: list[Bytes] = []
        self.stop = threading.Event()
        self.evictor = threading.Thread(target=self._evict_on) if state == "racing" else None
        if self.evictor and self.memory:
            # Registered by now: a row's own limit on the size of files would be the swap file's too.
            self.memory.advise(self.memory.zeros(4096, np.uint8), "cold")
            self.evictor.start()
        # After the Memory: what was looked up before is libc's own.
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.fopen.restype = ctypes.c_void_p
        for name in COUNTING:
            getattr(self.libc, name).restype = ctypes.c_ssize_t

    def close(self) -> None:
        self.stop.set()
        if self.evictor:
            self.evictor.join()
        self.arrays.clear()
        if self.memory:
            self.memory.close(force=True)

    def _evict_on(self) -> None:
        while not self.stop.is_set():
            for array in list(self.arrays):
                with contextlib.suppress(ValueError):
                    self.memory.advise(array, "cold")  # type: ignore[union-attr]
            self.stop.wait(0.0003)

    def data(self, n: int, seed: int = 1) -> Bytes:
        """`n` bytes to be sent."""
        found = np.random.default_rng(seed).integers(0, 256, n, np.uint8)
        found[::3] = 7
        return self.put(found)

    def room(self, n: int) -> Bytes:
        """`n` bytes to receive into; 170 each before."""
        return self.put(np.full(n, 170, np.uint8))

    def put(self, array: Bytes) -> Bytes:
        """A copy, in the state of this row. It begins somewhere in a page, unless it is a whole number of pages."""
        shift = 0 if array.nbytes % 4096 == 0 else 77
        room: Bytes
        if self.memory is None:
            whole = np.empty(array.nbytes + shift + 4096, np.uint8)
            start = -whole.ctypes.data % 4096 + shift
            room = whole[start : start + array.nbytes]
            room[:] = array
            self.arrays.append(whole)
            return room
        whole = self.memory.empty(array.nbytes + shift, np.uint8, page=4096)
        room = whole[shift:]
        room[:] = array
        self.arrays.append(whole)
        if self.state in {"clean", "evicted"}:
            self.memory.advise(whole, "cold")
        if self.state == "half":
            self.memory.advise(room[: len(room) // 2], "cold")
        if self.state == "clean":
            room[::4096].sum()
        return room

    def call(self, name: str, *arguments: Any) -> tuple[int, int]:
        """(result, errno) of a function of libc; arrays are passed as their addresses."""
        ctypes.set_errno(0)
        given = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
        given = [ctypes.c_size_t(a) if type(a) is int and a > 2**31 - 1 else a for a in given]
        result = getattr(self.libc, name)(*given)
        return result, ctypes.get_errno() if result == -1 else 0

    def iovecs(self, *arrays: Bytes) -> Bytes:
        """A vector of these buffers, in the same kind of memory."""
        made = (Iovec * len(arrays))(*(Iovec(a.ctypes.data, a.nbytes) for a in arrays))
        return self.put(np.frombuffer(bytes(made), np.uint8))


def digest(array: Any) -> str:
    return hashlib.sha256(bytes(array)).hexdigest()[:16]


def error(work: Callable[[], Any]) -> Any:
    """What it returns, or its errno."""
    try:
        return work()
    except OSError as failed:
        return errno.errorcode[failed.errno or 0]


@contextlib.contextmanager
def doing(work: Callable[[], Any]) -> Iterator[None]:
    """Something is done in another thread meanwhile."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextlib.contextmanager
def pair(family: int, kind: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    if family == socket.AF_UNIX:
        one, other = socket.socketpair(family, kind)
    elif kind == socket.SOCK_STREAM:
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.socket()
            one.connect(server.getsockname())
            other = server.accept()[0]
    else:
        one, other = (socket.socket(family, kind) for _ in range(2))
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        one.connect(other.getsockname())
        other.connect(one.getsockname())
    with one, other:
        yield one, other


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextlib.contextmanager
def scratch(flags: int = os.O_RDWR) -> Iterator[int]:
    """A file of its own on a disk."""
    fd, name = tempfile.mkstemp(dir="/var/tmp")
    os.close(fd)
    fd = os.open(name, flags)
    os.unlink(name)
    try:
        yield fd
    finally:
        os.close(fd)


def read_all(fd: int, room: Bytes) -> int:
    """Read until `room` is full or the end has come."""
    got = 0
    while got < len(room) and (n := os.readv(fd, [room[got:]])) > 0:
        got += n
    return got
