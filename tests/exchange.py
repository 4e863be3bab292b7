"""Rows of test_calls.py: what programs do with descriptors, told as values that must be the same on any memory.

Each row takes a Buffers, which says what memory it works on, and returns what it has seen: counts, errno, positions,
digests of what arrived.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from typing import Any

import numpy as np
from buffers import (
    ODD,
    STATES,
    Buffers,
    Bytes,
    Iovec,
    MiB,
    Mmsghdr,
    Msghdr,
    digest,
    doing,
    error,
    pair,
    pipe,
    read_all,
    scratch,
)

size_t = ctypes.c_size_t
TOO_LONG = (64 * MiB, 1 << 31, 1 << 40, 2**63 - 8, 2**63 - 1, 2**64 - 1)  # bytes: no message is, and no memory of a row

# --- rows ------------------------------------------------------------------------------------------


def row_pipe(b: Buffers) -> Any:
    data, room = b.data(ODD), b.room(ODD)
    with pipe() as (r, w):
        counts: list[int] = []
        with doing(lambda: counts.append(os.write(w, data))):
            got = read_all(r, room)
        small = os.write(w, data[:3000]), os.readv(r, [room[:5000]])
        return counts, got, small, digest(room)


def row_pipe_nonblocking(b: Buffers) -> Any:
    data, room = b.data(ODD), b.room(ODD)
    with pipe() as (r, w):
        os.set_blocking(w, False)
        os.set_blocking(r, False)
        seen = [error(lambda: os.readv(r, [room])), os.write(w, data), error(lambda: os.write(w, data[:10]))]
        seen += [read_all_now(r, room), error(lambda: os.readv(r, [room])), digest(room)]
    alone, nobody = os.pipe()
    os.close(alone)
    seen.append(error(lambda: os.write(nobody, data[:10])))
    os.close(nobody)
    return seen


def read_all_now(fd: int, room: Bytes) -> int:
    got = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            got += os.readv(fd, [room[got:]])
    return got


def row_interrupted(b: Buffers) -> Any:
    """A signal while a call waits: EINTR if nothing has been moved, else what has been."""
    data, room = b.data(ODD), b.room(100)
    with pipe() as (r, w):
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        main = threading.main_thread().ident or 0
        done = threading.Event()

        def strike() -> None:
            while not done.wait(0.02):
                signal.pthread_kill(main, signal.SIGUSR1)

        try:
            with doing(strike):
                try:
                    seen = [b.call("read", r, room, 100)]
                    seen += [b.call("write", w, data, ODD), b.call("write", w, data, ODD)]
                finally:
                    done.set()
        finally:
            signal.signal(signal.SIGUSR1, before)
        return seen, digest(room)


def streams(b: Buffers, family: int) -> Any:
    data, room = b.data(ODD), b.room(ODD)
    with pair(family, socket.SOCK_STREAM) as (one, other):
        seen: list[Any] = []
        with doing(lambda: one.sendall(data)):
            seen.append(other.recv_into(room, ODD, socket.MSG_WAITALL))
        seen.append(digest(room))
        room[:] = 170
        seen.append(one.send(data[:5000]))
        seen += [other.recv_into(room[:99], 99, socket.MSG_PEEK), digest(room)]
        seen += [other.recvfrom_into(room[:4000])[0], other.recv_into(room[4000:]), digest(room)]
        if family == socket.AF_INET:
            one.send(data[:5000])
            seen += [other.recv_into(room[:100], 100, socket.MSG_PEEK), digest(room)]
            seen += [other.recv_into(room, 5000, socket.MSG_TRUNC | socket.MSG_WAITALL), digest(room)]
        other.setblocking(False)
        seen.append(error(lambda: other.recv_into(room)))
        one.close()
        other.setblocking(True)
        seen.append(other.recv_into(room))
        return seen


def row_vmsplice(b: Buffers) -> Any:
    data, room = b.data(ODD), b.room(ODD)
    seen: list[Any] = []
    with pipe() as (r, w), scratch() as fd:
        os.set_blocking(r, False)
        for flags in (0, 2, 8):  # SPLICE_F_NONBLOCK, SPLICE_F_GIFT
            for parts in ((data[:3000],), (data[5:9], data[:0], data[7:10_000]), (data[8000:],)):
                seen.append(b.call("vmsplice", w, b.iovecs(*parts), len(parts), flags))
                seen += [read_all_now(r, room), digest(room)]
        seen += [b.call("vmsplice", w, b.iovecs(data), 1, 2), b.call("vmsplice", w, b.iovecs(data), 1, 2)]
        seen += [b.call("vmsplice", r, b.iovecs(room[7:50_000], room[:7]), 2, 0), digest(room)]
        seen += [b.call("vmsplice", r, b.iovecs(room), 1, 2), b.call("vmsplice", r, b.iovecs(room), 1, 2), digest(room)]
        vector = b.iovecs(data[:10], data[20:30])
        seen += [b.call("vmsplice", w, vector, count, 0) for count in (0, 1025)]
        seen += [b.call("vmsplice", w, vector, 2, 0x80), b.call("vmsplice", fd, vector, 2, 0)]
        seen += [b.call("vmsplice", -1, vector, 2, 0), b.call("vmsplice", w, None, 2, 0)]
        os.set_blocking(r, True)
        sent: list[Any] = []
        with doing(lambda: sent.append(b.call("vmsplice", w, vector, 2, 0))):
            seen.append(b.call("vmsplice", r, b.iovecs(room[500:]), 1, 0))
        seen += sent
    alone, nobody = os.pipe()
    os.close(alone)
    seen.append(b.call("vmsplice", nobody, vector, 2, 0))
    os.close(nobody)
    return seen, digest(room)


def row_between_descriptors(b: Buffers) -> Any:
    """What moves bytes without memory of the program: they come from it, and go back into it."""
    data, room = b.data(ODD), b.room(ODD)
    seen: list[Any] = []
    with scratch() as one, scratch() as other, pair(socket.AF_UNIX, socket.SOCK_STREAM) as (near, far):

        def arrived() -> None:
            seen.append([read_all(other, room), digest(room)])
            room[:] = 170
            os.ftruncate(other, 0)
            os.lseek(other, 0, os.SEEK_SET)

        os.write(one, data)
        seen.append([os.copy_file_range(one, other, ODD, 0, 0), os.lseek(other, 0, os.SEEK_SET)])
        arrived()
        seen.append([os.sendfile(other, one, 0, ODD), os.lseek(other, 0, os.SEEK_SET)])
        arrived()
        with pipe() as (r, w):
            seen.append([os.splice(one, w, 50_000, 777), os.splice(r, other, 50_000)])
        os.lseek(other, 0, os.SEEK_SET)
        arrived()
        with open(one, "rb", closefd=False) as source, doing(lambda: seen.append(near.sendfile(source))):
            got = far.recv_into(room, ODD, socket.MSG_WAITALL)
        seen += [got, digest(room)]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        first, second = os.path.join(folder, "first"), os.path.join(folder, "second")
        with open(first, "wb", buffering=0) as file:
            file.write(data)
        room[:] = 170
        with open(shutil.copyfile(first, second), "rb", buffering=0) as file:
            seen += [file.readinto(room), digest(room)]
    return seen


def row_unix_stream(b: Buffers) -> Any:
    return streams(b, socket.AF_UNIX)


def row_tcp(b: Buffers) -> Any:
    return streams(b, socket.AF_INET)


def messages(b: Buffers, family: int, kind: int, sizes: tuple[int, ...]) -> Any:
    data, room = b.data(max(sizes)), b.room(max(sizes) + 100)
    seen: list[Any] = []
    with pair(family, kind) as (one, other):
        if os.geteuid() == 0:
            one.setsockopt(socket.SOL_SOCKET, 32, 4 * MiB)  # SO_SNDBUFFORCE
        one.setblocking(False)
        other.setblocking(False)
        for size in sizes:
            sent = error(lambda size=size: one.send(data[:size]))  # type: ignore[misc]
            seen.append(sent)
            if sent != size:
                continue
            room[:] = 170
            for flags in (
                socket.MSG_PEEK,
                socket.MSG_PEEK | socket.MSG_TRUNC,
                socket.MSG_TRUNC if size % 2 else 0,
            ):
                n = 50 if flags & socket.MSG_TRUNC else len(room)
                seen += [other.recv_into(room[:n], n, flags), digest(room)]
            seen.append(error(lambda: other.recv_into(room)))
        one.send(data[:3000])
        room[:] = 170
        n, ancillary, flags, _ = other.recvmsg_into([room[:1000], room[2000:2500]])
        seen += [n, ancillary, flags, digest(room)]
        one.send(data[:0])
        seen.append(other.recv_into(room))
    return seen


def row_udp(b: Buffers) -> Any:
    return messages(b, socket.AF_INET, socket.SOCK_DGRAM, (1, 60_000, 70_000))


def row_udp_names(b: Buffers) -> Any:
    data, room = b.data(5000), b.room(5000)
    with socket.socket(type=socket.SOCK_DGRAM) as free, socket.socket(type=socket.SOCK_DGRAM) as sink:
        free.bind(("127.0.0.1", 0))
        sink.bind(("127.0.0.1", 0))
        free.sendto(data, sink.getsockname())
        n, name = sink.recvfrom_into(room)
        free.sendmsg([data[:10], data[20:30]], [], 0, sink.getsockname())
        m, _, flags, other_name = sink.recvmsg_into([room[:3], room[9:]])
        ours = free.getsockname()
        return n, name == ours, m, flags, other_name == ours, digest(room)


def row_unix_datagram(b: Buffers) -> Any:
    return messages(b, socket.AF_UNIX, socket.SOCK_DGRAM, (1, 100_000, ODD, MiB + 3))


def row_seqpacket(b: Buffers) -> Any:
    return messages(b, socket.AF_UNIX, socket.SOCK_SEQPACKET, (1, 100_000, ODD, MiB + 3))


def row_eventfd(b: Buffers) -> Any:
    data, room = b.put(np.frombuffer((5).to_bytes(8, "little"), np.uint8)), b.room(100)
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        seen = [os.write(fd, data), os.write(fd, data), os.readv(fd, [room]), error(lambda: os.readv(fd, [room]))]
        seen += [error(lambda: os.write(fd, data[:3])), b.call("read", fd, room, 3 * MiB)]
        return seen, digest(room)
    finally:
        os.close(fd)


def row_file(b: Buffers) -> Any:
    data, room = b.data(ODD), b.room(ODD + 5000)
    with scratch() as fd:
        seen: list[Any] = [os.write(fd, data), os.lseek(fd, 0, os.SEEK_CUR), os.lseek(fd, 0, os.SEEK_SET)]
        seen += [os.readv(fd, [room]), os.lseek(fd, 0, os.SEEK_CUR), os.readv(fd, [room]), digest(room)]
        seen += [os.pwrite(fd, data[5:], 12_345), os.lseek(fd, 0, os.SEEK_CUR)]
        room[:] = 170
        seen += [os.preadv(fd, [room[:7], room[3000:290_000], room[100:101]], 999), digest(room)]
        seen += [os.pwritev(fd, [data[:1], data[50:290_000], data[:0], data[7:77]], 5), os.fstat(fd).st_size]
        seen += [b.call("pread", fd, room, len(room), 3), digest(room), b.call("pread", fd, room, 10, -1)]
        seen += [b.call("pread", fd, room, 10, 10_000_000), b.call("__pread64_chk", fd, room, 99, 7, 99), digest(room)]
        vector = b.iovecs(room[:5000], room[5000:])
        seen += [b.call("preadv2", fd, vector, 2, -1, 0), os.lseek(fd, 0, os.SEEK_CUR), os.lseek(fd, 9, 0)]
        seen += [b.call("preadv2", fd, vector, 2, -1, 0), os.lseek(fd, 0, os.SEEK_CUR), digest(room)]
        seen += [b.call("pwritev2", fd, vector, 2, 100, os.RWF_DSYNC), b.call("pwritev2", fd, vector, 2, 1, 0x7000)]
        return seen


def row_file_append(b: Buffers) -> Any:
    data, room = b.data(ODD), b.room(2 * ODD + 10)
    with scratch(os.O_RDWR | os.O_APPEND) as fd:
        seen = [os.write(fd, data), os.pwrite(fd, data[:10], 0), os.writev(fd, [data[: ODD // 2], data[ODD // 2 :]])]
        return seen, os.fstat(fd).st_size, os.preadv(fd, [room], 0), digest(room)


def row_file_limits(b: Buffers) -> Any:
    """The disk is full, in the middle of a call and at its start; and files that end before they are said to."""
    data, room = b.data(ODD), b.room(ODD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with scratch() as fd:
            resource.setrlimit(resource.RLIMIT_FSIZE, (280_000, hard))
            seen = [b.call("write", fd, data, ODD), b.call("write", fd, data, ODD), os.fstat(fd).st_size]
            os.lseek(fd, 0, 0)
            seen += [b.call("read", fd, room, ODD), digest(room)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    with open("/proc/self/limits", "rb", buffering=0) as file:
        seen += [0 < (file.readinto(room) or 0) < ODD, bytes(room[:5]) == b"Limit"]
    return seen


def row_larger_than_the_limit(b: Buffers) -> Any:
    n = 24 * MiB + 5
    data, room = b.data(n), b.room(n)
    with scratch() as fd:
        seen = [os.write(fd, data), os.lseek(fd, 0, 0), os.readv(fd, [room]), os.lseek(fd, 0, os.SEEK_CUR)]
        return seen, digest(room), digest(data)


def row_direct(b: Buffers) -> Any:
    n = 76 * 4096
    data, room = b.data(n), b.room(n)
    with scratch(os.O_RDWR | os.O_DIRECT) as fd:
        seen = [b.call("write", fd, data, n), os.fstat(fd).st_size, os.lseek(fd, 0, 0)]
        seen += [b.call("read", fd, room, n), digest(room), b.call("read", fd, room, n)]
        room[:] = 170
        # Beyond the end of the file the kernel writes zeros, which it does not count.
        seen += [b.call("pread", fd, room, n, 4096), digest(room[: n - 4096]), b.call("pread", fd, room, 4095, 0)]
        seen += [b.call("pread", fd, room[8:], 4096, 0), b.call("pwrite", fd, data[3:], 300_000, 0)]
        return seen


def row_devices(b: Buffers) -> Any:
    data, room = b.data(ODD), b.room(ODD)
    seen: list[Any] = []
    for name in ("/dev/zero", "/dev/null", "/dev/full"):
        fd = os.open(name, os.O_RDWR)
        seen += [b.call("write", fd, data, ODD), b.call("read", fd, room, ODD), digest(room)]
        os.close(fd)
    seen += [b.call("getrandom", room, ODD, 0), b.call("getentropy", room, 256), b.call("getentropy", room, 257)]
    return seen, bool(np.count_nonzero(room) > ODD * 0.9)


def row_tty(b: Buffers) -> Any:
    data, room = b.put(np.frombuffer(b"line one\nline two\n", np.uint8)), b.room(ODD)
    outer, inner = os.openpty()
    try:
        return os.write(outer, data), os.readv(inner, [room]), os.readv(inner, [room[20:]]), digest(room)
    finally:
        os.close(outer)
        os.close(inner)


def row_stdio(b: Buffers) -> Any:
    data, room = b.data(ODD), b.room(ODD)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        name = os.path.join(folder, "file").encode()
        stream = ctypes.c_void_p(b.libc.fopen(name, b"w+"))
        items = ODD // 7
        seen: list[Any] = [b.call("fwrite", data, 7, items, stream), b.call("ftell", stream)]
        seen += [b.call("fwrite_unlocked", data, 1, 3, stream), b.call("fwrite", data, 0, 5, stream)]
        b.libc.rewind(stream)
        seen += [b.call("fread", room, 13, 10, stream), b.call("ftell", stream), digest(room)]
        seen += [b.call("fread", room, 1000, ODD // 1000, stream), b.call("ftell", stream), digest(room)]
        seen += [b.libc.feof(stream), b.libc.ferror(stream), b.call("fread_unlocked", room, 1, 5, stream)]
        b.libc.rewind(stream)
        seen += [b.call("__fread_chk", room, ODD, 100, 50, stream), b.call("ftell", stream), digest(room)]
        b.libc.fclose(stream)
        stream = ctypes.c_void_p(b.libc.fopen(name, b"r"))
        seen += [b.call("fwrite", data, 7, 100, stream), b.libc.ferror(stream)]
        b.libc.fclose(stream)
        stream = ctypes.c_void_p(b.libc.fopen(b"/dev/full", b"w"))
        b.libc.setvbuf(stream, None, 2, 0)
        seen += [b.call("fwrite", data, 7, items, stream), b.libc.ferror(stream)]
        b.libc.fclose(stream)
        return seen


def row_several_buffers(b: Buffers) -> Any:
    """sendmsg and recvmsg with buffers of both kinds, and descriptors beside them."""
    data, room = b.data(ODD), b.room(ODD)
    plain: Bytes = np.arange(5000, dtype=np.uint16).view(np.uint8)
    plain_room: Bytes = np.zeros(5000, np.uint8)
    seen: list[Any] = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        with pair(socket.AF_UNIX, kind) as (one, other):
            sent = one.sendmsg([data[:100], plain, data[200:30_000], plain[:0], plain[:7]])
            got, ancillary, flags, _ = other.recvmsg_into([room[:9], plain_room, room[40:60_000]])
            seen += [sent, got, ancillary, flags, digest(room), digest(plain_room)]
            r, w = os.pipe()
            one.sendmsg([data[:10]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, r.to_bytes(4, "little"))])
            got, ancillary, flags, _ = other.recvmsg_into([room[:100]], socket.CMSG_SPACE(4))
            passed = int.from_bytes(ancillary[0][2], "little")
            os.write(w, b"through")
            seen += [got, flags, digest(room), os.read(passed, 10).decode()]
            for fd in (r, w, passed):
                os.close(fd)
    return seen


def row_large_sendmsg(b: Buffers) -> Any:
    """More than one piece, with descriptors: they are sent once, and received once."""
    data, room = b.data(ODD), b.room(ODD)
    with pair(socket.AF_UNIX, socket.SOCK_STREAM) as (one, other):
        r, w = os.pipe()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, r.to_bytes(4, "little"))]
        one.settimeout(None)
        sent: list[int] = []
        with doing(lambda: sent.append(one.sendmsg([data[:5], data[5:]], rights))):
            got, received = 0, 0
            while got < ODD:
                n, ancillary, _, _ = other.recvmsg_into([room[got : got + 4], room[got + 4 :]], socket.CMSG_SPACE(4))
                got += n
                for _, _, passed in ancillary:
                    received += 1
                    os.close(int.from_bytes(passed, "little"))
        os.close(r)
        os.close(w)
        return sent, got, received, digest(room)


def row_all_of_a_message(b: Buffers) -> Any:
    """The header, the vector, the name and the control messages lie in the same memory as the bytes."""
    data, room = b.data(3000), b.room(5000)
    seen: list[Any] = []
    with socket.socket(type=socket.SOCK_DGRAM) as bare, socket.socket(type=socket.SOCK_DGRAM) as target:
        bare.bind(("127.0.0.1", 0))
        target.bind(("127.0.0.1", 0))
        target.setsockopt(socket.SOL_SOCKET, 29, 1)  # SO_TIMESTAMP
        name = np.frombuffer(
            socket.AF_INET.to_bytes(2, sys.byteorder)
            + target.getsockname()[1].to_bytes(2, "big")
            + bytes([127, 0, 0, 1, *[0] * 8]),
            np.uint8,
        )
        to = b.put(name)
        header = Msghdr(to.ctypes.data, 16, b.iovecs(data[:10], data[50:]).ctypes.data, 2, None, 0, 0)
        seen.append(b.call("sendmsg", bare.fileno(), b.put(np.frombuffer(bytes(header), np.uint8)), 0))
        sender, control = b.room(64), b.room(300)
        header = Msghdr(
            sender.ctypes.data, 64, b.iovecs(room[:7], room[9:]).ctypes.data, 2, control.ctypes.data, 300, 99
        )
        got = b.put(np.frombuffer(bytes(header), np.uint8))
        seen.append(b.call("recvmsg", target.fileno(), got, 0))
        back = Msghdr.from_buffer_copy(bytes(got))
        seen += [back.namelen, back.controllen, back.flags, back.iovlen, digest(room), digest(sender[4:8])]
        seen += [digest(control[:16]), digest(control[back.controllen :])]
        seen.append(bytes(sender[2:4]) == bare.getsockname()[1].to_bytes(2, "big"))
        # A name that does not fit is cut, and its length told.
        seen.append(b.call("sendto", bare.fileno(), data, 100, 0, to, 16))
        sender[:] = 1
        length = b.put(np.frombuffer((5).to_bytes(4, sys.byteorder), np.uint8))
        seen.append(b.call("recvfrom", target.fileno(), room, 5000, 0, sender, length))
        seen += [digest(sender[:2]), digest(sender[5:]), bytes(length).hex(), digest(room)]
        seen.append(b.call("sendto", bare.fileno(), data, 100, 0, to, 3))
        seen.append(b.call("sendto", bare.fileno(), data, 100, 0, to, 200))
    return seen


def row_many_messages(b: Buffers) -> Any:
    """sendmmsg and recvmmsg."""
    data, room = b.data(9000), b.room(9000)
    with pair(socket.AF_UNIX, socket.SOCK_DGRAM) as (one, other):
        parts = [b.iovecs(data[i * 1000 : i * 1000 + 500 + i]) for i in range(3)]
        made = (Mmsghdr * 3)(*(Mmsghdr(Msghdr(None, 0, p.ctypes.data, 1, None, 0, 0), 0) for p in parts))
        sent = b.put(np.frombuffer(bytes(made), np.uint8))
        seen: list[Any] = [b.call("sendmmsg", one.fileno(), sent, 3, 0)]
        seen.append([m.length for m in (Mmsghdr * 3).from_buffer_copy(bytes(sent))])
        parts = [b.iovecs(room[i * 1000 : i * 1000 + 400 + 50 * i]) for i in range(5)]
        made5 = (Mmsghdr * 5)(*(Mmsghdr(Msghdr(None, 0, p.ctypes.data, 1, None, 0, 0), 0) for p in parts))
        got = b.put(np.frombuffer(bytes(made5), np.uint8))
        seen.append(b.call("recvmmsg", other.fileno(), got, 5, 0x10000, None))  # MSG_WAITFORONE
        back = (Mmsghdr * 5).from_buffer_copy(bytes(got))
        seen += [[(m.length, m.header.flags) for m in back], digest(room)]
        seen.append(b.call("recvmmsg", other.fileno(), got, 5, socket.MSG_DONTWAIT, None))
        return seen


def row_refused(b: Buffers) -> Any:
    """What the kernel refuses is refused in the same way."""
    data, room = b.data(5000), b.room(5000)
    vector = b.iovecs(data[:10], room[:10])
    bad = b.put(
        np.frombuffer(bytes((Iovec * 2)(Iovec(data.ctypes.data, 5), Iovec(room.ctypes.data, 2**63 + 1))), np.uint8)
    )
    seen: list[Any] = []
    with scratch() as fd, pipe() as (r, w):
        for f in (-1, 12_345, r, w, fd):
            for name in ("read", "write", "recv", "send"):
                if (f, name) in {(r, "read"), (w, "write")}:
                    continue
                extra = (0,) if name in {"recv", "send"} else ()
                seen.append((name, b.call(name, f, data, 5000, *extra), b.call(name, f, data, 0, *extra)))
            seen.append(b.call("pread", f, room, 10, 0))
            seen.append(b.call("writev", f, vector, -1))
            seen.append(b.call("writev", f, vector, 0))
            seen.append(b.call("writev", f, vector, 1025))
        seen.append(b.call("writev", fd, bad, 2))
        seen.append(b.call("readv", fd, None, 1))
        seen.append(b.call("recvmsg", fd, None, 0))
        directory = os.open("/", os.O_RDONLY)
        seen.append(b.call("read", directory, room, 5000))
        os.close(directory)
    return seen


def row_small_stacks(b: Buffers) -> Any:
    """In a thread with the smallest stack that Python gives."""
    data, room = b.data(ODD), b.room(ODD)
    seen: list[Any] = []
    before = threading.stack_size(128 * 1024)
    try:
        with scratch() as fd, doing(lambda: seen.extend([os.write(fd, data), os.preadv(fd, [room[:9], room[9:]], 0)])):
            pass
    finally:
        threading.stack_size(before)
    return seen, digest(room)


def row_queues(b: Buffers) -> Any:
    """Message queues: a message is taken off its queue before it is copied."""
    data, room, urgency = b.data(9000), b.room(8192), b.room(4)
    name = f"/frontswap-test-{os.getpid()}".encode()
    b.libc.mq_unlink(name)
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
    seen: list[Any] = []
    fd, failed = b.call("mq_open", name, flags, 0o600, None)
    if failed == 0:
        b.libc.mq_unlink(name)
        until = b.put(np.zeros(16, np.uint8))
        seen += [b.call("mq_send", fd, data, 5000, 3), b.call("mq_timedsend", fd, data, 8000, 4, until)]
        seen += [b.call("mq_send", fd, data, 9000, 3), b.call("mq_receive", fd, room, 100, urgency)]
        seen += [b.call("mq_receive", fd, room, 8192, urgency), digest(room), digest(urgency)]
        seen += [b.call("mq_timedreceive", fd, room, 8192, urgency, until), digest(room), digest(urgency)]
        seen += [b.call("mq_receive", fd, room, 8192, None)]
        for n in TOO_LONG:
            seen += [b.call("mq_send", fd, data, size_t(n), 3), b.call("mq_timedsend", fd, data, size_t(n), 3, until)]
            seen += [b.call("mq_send", fd, data, 70, 3), b.call("mq_receive", fd, room, size_t(n), urgency)]
            seen += [digest(room), digest(urgency)]
        os.close(fd)
        seen += [b.call("mq_send", fd, data, 70, 3), b.call("mq_receive", fd, room, 8192, urgency)]
    data[:8] = np.frombuffer((7).to_bytes(8, sys.byteorder), np.uint8)
    queue, failed = b.call("msgget", 0, 0o600)
    if failed == 0:
        try:
            for n, room_for, how in ((5000, 8000, 0), (7992, 100, 0o10000), (300, 10, 0)):
                seen.append(b.call("msgsnd", queue, data, n, 0o4000))
                seen += [b.call("msgrcv", queue, room, room_for, 0, 0o4000 | how), digest(room)]
            seen.append(b.call("msgrcv", queue, room, 8000, 5, 0o4000))
            for n in TOO_LONG:
                seen += [b.call("msgsnd", queue, data, size_t(n), 0o4000), b.call("msgsnd", queue, data, 70, 0o4000)]
                seen += [b.call("msgrcv", queue, room, size_t(n), 0, 0o4000), digest(room)]
        finally:
            b.libc.msgctl(queue, 0, None)
    return seen


def row_one_buffer_twice(b: Buffers) -> Any:
    """A vector whose buffers overlap, and a read over the vector itself."""
    data = b.data(5000)
    with scratch() as fd:
        seen: list[Any] = [os.pwrite(fd, data, 0)]
        room = b.room(5000)
        seen += [os.preadv(fd, [room[:300], room[100:200], room[150:]], 0), digest(room)]
        vector = b.iovecs(room[:16], room[16:32])
        whole = np.frombuffer(
            bytes((Iovec * 2)(Iovec(vector.ctypes.data, 32), Iovec(room.ctypes.data, 4000))), np.uint8
        )
        vector[:] = whole
        seen += [b.call("preadv", fd, vector, 2, 0), digest(vector), digest(room)]
        return seen


def row_flags_of_descriptors(b: Buffers) -> Any:
    """A pipe that is written by who may not wait for long: what is left in it is the same."""
    data, room = b.data(ODD), b.room(ODD)
    with pipe() as (r, w):
        fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 64 * 1024)
        os.set_blocking(w, False)
        seen: list[Any] = [os.writev(w, [data[:60_000], data[60_000:]]), os.readv(r, [room[:10_000]])]
        seen += [
            os.write(w, data[:8192]),
            error(lambda: os.write(w, data[:4096])),
            error(lambda: os.write(w, data[:4096])),
        ]
        os.set_blocking(r, False)
        return seen, read_all_now(r, room), digest(room)


ROWS = {name.removeprefix("row_"): row for name, row in globals().items() if name.startswith("row_")}


def told(row: str, state: str) -> str:
    """What a row has seen on this memory, as text."""
    b = Buffers(state)
    try:
        return json.dumps(ROWS[row](b))
    finally:
        b.close()


def main() -> None:
    """All rows in all states, in this process: {"row state": "", or what went wrong}."""
    found = {}
    for row in ROWS:
        expected = told(row, "plain")
        for state in STATES[1:]:
            try:
                seen = told(row, state)
                found[f"{row} {state}"] = "" if seen == expected else f"{seen}\nplain memory: {expected}"
            except Exception:
                found[f"{row} {state}"] = traceback.format_exc()
    sys.stdout.write(json.dumps(found) + "\n")
