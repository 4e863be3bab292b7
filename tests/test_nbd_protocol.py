"""NBD as the protocol document has it: the handshake, requests, and every error that a client can ask for."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import MiB, noise, wait_until
from nbd import SIZE, Served, served, where

from frontswap.nbd.exports import Wanted
from frontswap.nbd.protocol import IHAVEOPT, Option, Reply
from frontswap.testing import nbd_client as nbd
from frontswap.testing.nbd_client import Client, NbdError, text

assert where  # a fixture

ALL = "base:allocation"


@pytest.fixture
def server(where: Path) -> Iterator[Served]:
    with served(where, wanted=[Wanted("", SIZE, None), Wanted("other", 2 * SIZE, None)]) as made:
        yield made


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.connect() as made:
        yield made


def raw(server: Served) -> Client:
    return Client(server.socket)


# --- the handshake -------------------------------------------------------------------------------


def test_it_is_fixed_newstyle(server: Served) -> None:
    with raw(server) as client:
        assert client.hello() == 3


def test_list(server: Served) -> None:
    with raw(server) as client:
        client.hello()
        found = client.option(Option.LIST)
        assert found == [(Reply.SERVER, text("")), (Reply.SERVER, text("other")), (Reply.ACK, b"")]
        assert client.option(Option.LIST, b"x")[-1][0] == Reply.ERR_INVALID


def test_abort(server: Served) -> None:
    with raw(server) as client:
        client.hello()
        assert client.option(Option.ABORT) == [(Reply.ACK, b"")]
        assert client.ended()


@pytest.mark.parametrize("flags", [1, 3])
def test_export_name(server: Served, flags: int) -> None:
    with raw(server) as client:
        client.hello(flags)
        client.send(IHAVEOPT + struct.pack(">II", Option.EXPORT_NAME, 5) + b"other")
        size, can = struct.unpack(">QH", client.receive(10))
        assert size == 2 * SIZE
        assert can & 1
        if flags == 1:
            assert client.receive(124) == bytes(124)
        client.write(0, b"abc")
        assert client.read(0, 4) == b"abc\0"


def test_an_old_client_knows_the_name_of_its_export_and_nothing_else(server: Served) -> None:
    with raw(server) as client:
        client.hello(0)
        client.send(IHAVEOPT + struct.pack(">II", Option.EXPORT_NAME, 0))
        assert struct.unpack(">QH", client.receive(134)[:10])[0] == SIZE
    with raw(server) as client:
        client.hello(0)
        client.send(IHAVEOPT + struct.pack(">II", Option.LIST, 0))
        assert client.ended()


def test_an_export_that_is_not_there(server: Served) -> None:
    with raw(server) as client:
        client.hello()
        for option in (Option.INFO, Option.GO):
            assert client.option(option, text("none") + b"\0\0")[-1][0] == Reply.ERR_UNKNOWN
        client.send(IHAVEOPT + struct.pack(">II", Option.EXPORT_NAME, 4) + b"none")
        assert client.ended()


def test_info_tells_sizes_name_and_description(server: Served) -> None:
    with raw(server) as client:
        client.hello()
        found = client.option(Option.INFO, text("other") + struct.pack(">HHHH", 3, 1, 2, 3))
        told = {struct.unpack(">H", data[:2])[0]: data[2:] for kind, data in found if kind == Reply.INFO}
        assert struct.unpack(">QH", told[0])[0] == 2 * SIZE
        assert told[1] == b"other"
        assert b"RAM" in told[2]
        assert struct.unpack(">III", told[3]) == (1, 4096, 32 * MiB)
        assert found[-1] == (Reply.ACK, b"")
        assert client.option(Option.LIST)[-1] == (Reply.ACK, b"")  # it goes on


def test_what_every_export_can(server: Served) -> None:
    with server.connect() as client:
        assert client.flags == 1 | 4 | 8 | 32 | 64 | 128 | 256 | 1024 | 2048
    with server.connect(structured=False) as client:
        assert client.flags == 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048  # nothing that could be fragmented


def test_meta_contexts(server: Served) -> None:
    with raw(server) as client:
        client.hello()
        one = struct.pack(">I", 1)
        both = (Reply.META_CONTEXT, one + ALL.encode())
        assert client.option(Option.SET_META_CONTEXT, text("") + one + text(ALL))[-1][0] == Reply.ERR_INVALID
        client.option(Option.STRUCTURED_REPLY)
        assert client.option(Option.LIST_META_CONTEXT, text("") + bytes(4)) == [both, (Reply.ACK, b"")]
        assert client.option(Option.LIST_META_CONTEXT, text("") + one + text("base:"))[0] == both
        assert client.option(Option.LIST_META_CONTEXT, text("") + one + text("qemu:")) == [(Reply.ACK, b"")]
        assert client.option(Option.SET_META_CONTEXT, text("") + one + text("base:")) == [(Reply.ACK, b"")]
        assert client.option(Option.SET_META_CONTEXT, text("none") + one + text(ALL))[-1][0] == Reply.ERR_UNKNOWN
        assert client.option(Option.SET_META_CONTEXT, text("") + one + text(ALL))[0] == both


def test_a_context_is_of_the_export_that_it_was_chosen_for(server: Served) -> None:
    with raw(server) as client:
        client.hello()
        client.option(Option.STRUCTURED_REPLY)
        client.option(Option.SET_META_CONTEXT, text("other") + struct.pack(">I", 1) + text(ALL))
        assert client.option(Option.GO, text("") + b"\0\0")[-1] == (Reply.ACK, b"")
        with pytest.raises(NbdError, match="Invalid"):
            client.extents(0, 4096)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0\0", b"\0\0\0\x09abc\0\0", text("") + b"\0\2\0\1", text("") + b"\0\0x", text("") + b"", b"\xff" * 8],
    ids=repr,
)
def test_wrong_data_of_an_option_are_an_error_and_it_goes_on(server: Served, data: bytes) -> None:
    with raw(server) as client:
        client.hello()
        assert client.option(Option.GO, data)[-1][0] == Reply.ERR_INVALID
        assert client.option(Option.GO, text("") + b"\0\0")[-1] == (Reply.ACK, b"")


def test_a_name_that_is_not_utf8(server: Served) -> None:
    with raw(server) as client:
        client.hello()
        assert client.option(Option.INFO, b"\0\0\0\2\xff\xfe\0\0")[-1][0] == Reply.ERR_INVALID


@pytest.mark.parametrize("option", [4, 5, 11, 12, 0, 99, 1 << 31])
def test_options_that_are_not_known(server: Served, option: int) -> None:
    with raw(server) as client:
        client.hello()
        assert client.option(option, b"anything")[-1][0] == Reply.ERR_UNSUP
        client.option(Option.ABORT)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">I", 4),
        struct.pack(">I", 3) + b"HTTP/1.1" + bytes(8),
        struct.pack(">I", 3) + IHAVEOPT + struct.pack(">II", Option.LIST, 1 << 31),
    ],
    ids=["flags", "magic", "huge"],
)
def test_who_speaks_no_nbd_is_hung_up_on(server: Served, sent: bytes) -> None:
    with raw(server) as client:
        client.receive(18)
        client.send(sent)
        assert client.ended()


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 4096), (4096, 65536), (1, 1), (4095, 2), (100, 10000), (0, 3 * MiB)]
)
def test_what_is_written_is_read(server: Served, structured: bool, offset: int, length: int) -> None:
    data = noise(length, 7).tobytes()
    with server.connect(structured=structured) as client:
        client.write(offset, data)
        around = client.read(max(0, offset - 10), length + 20)
        assert around == bytes(min(10, offset)) + data + bytes(len(around) - length - min(10, offset))


def test_the_largest_request(where: Path) -> None:
    data = (noise(1 << 16, 1).tobytes() + bytes(1 << 16)) * 256
    with served(where, size=40 * MiB) as server, server.connect() as client, server.connect(structured=False) as simple:
        assert len(data) == 32 * MiB
        client.write(3, data)
        assert client.read(3, len(data)) == data
        assert simple.read(3, len(data)) == data
        with pytest.raises(NbdError, match="Invalid"):
            client.write(0, data + b"x")
        with pytest.raises(NbdError, match="Invalid"):
            client.read(0, len(data) + 1)
        client.zero(0, 40 * MiB)  # names bytes, and has none
        assert client.read(0, len(data)) == bytes(len(data))


def test_write_zeroes_is_exact_and_trim_takes_whole_pages(client: Client) -> None:
    data = noise(5 * 4096, 2).tobytes()
    for drop, first, last in ((client.zero, 100, 5 * 4096 - 100), (client.trim, 4096, 4 * 4096)):
        client.write(0, data)
        drop(100, 5 * 4096 - 200)
        assert client.read(0, len(data)) == data[:first] + bytes(last - first) + data[last:]
    client.zero(0, len(data), flags=nbd.NO_HOLE | nbd.FUA)
    assert client.read(0, len(data)) == bytes(len(data))


def test_block_status(client: Client) -> None:
    assert client.extents(0, SIZE) == [(SIZE, nbd.HOLE)]
    client.write(8192, bytes(4096))
    client.write(20000, b"x")
    assert client.extents(0, SIZE) == [
        (8192, nbd.HOLE),
        (4096, 0),
        (4096, nbd.HOLE),
        (4096, 0),
        (SIZE - 20480, nbd.HOLE),
    ]
    assert client.extents(5000, 4000) == [(3192, nbd.HOLE), (808, 0)]
    assert client.extents(5000, 4000, flags=nbd.REQ_ONE) == [(3192, nbd.HOLE)]
    client.trim(0, SIZE)
    assert client.extents(0, SIZE) == [(SIZE, nbd.HOLE)]


def test_extents_without_end_come_in_parts(where: Path) -> None:
    with served(where, size=128 * MiB, memory=256 * MiB) as server, server.connect() as client:
        for page in range(0, 20000, 2):
            client.request(nbd.WRITE, page * 4096, 1, data=b"x")
            client.answer()
        found = client.extents(0, 128 * MiB)
        assert len(found) == 8192
        assert {length for length, _ in found} == {4096}


ERRORS = [
    (nbd.READ, SIZE, 1, 0, errno.EINVAL),
    (nbd.READ, SIZE - 1, 2, 0, errno.EINVAL),
    (nbd.READ, 1 << 63, 4096, 0, errno.EINVAL),
    (nbd.READ, (1 << 64) - 1, 2, 0, errno.EINVAL),
    (nbd.READ, 0, 0, 0, errno.EINVAL),
    (nbd.READ, 0, 4096, nbd.NO_HOLE, errno.EINVAL),
    (nbd.READ, 0, 1 << 31, 0, errno.EINVAL),
    (nbd.CACHE, SIZE, 1, 0, errno.EINVAL),
    (nbd.CACHE, 0, 0, 0, errno.EINVAL),
    (nbd.CACHE, 0, 4096, nbd.FAST_ZERO, errno.EINVAL),
    (nbd.WRITE_ZEROES, SIZE, 1, nbd.FAST_ZERO, errno.ENOSPC),
    (nbd.WRITE, SIZE, 1, 0, errno.ENOSPC),
    (nbd.WRITE, SIZE - 1, 2, 0, errno.ENOSPC),
    (nbd.WRITE, (1 << 64) - 4096, 8192, 0, errno.ENOSPC),
    (nbd.WRITE, 0, 4096, nbd.DF, errno.EINVAL),
    (nbd.WRITE, 0, 0, 0, errno.EINVAL),
    (nbd.WRITE_ZEROES, SIZE, 1, 0, errno.ENOSPC),
    (nbd.WRITE_ZEROES, 0, 4096, 32, errno.EINVAL),
    (nbd.TRIM, SIZE, 1, 0, errno.EINVAL),
    (nbd.TRIM, 0, 0, 0, errno.EINVAL),
    (nbd.FLUSH, 1, 0, 0, errno.EINVAL),
    (nbd.FLUSH, 0, 1, 0, errno.EINVAL),
    (nbd.BLOCK_STATUS, 0, 0, 0, errno.EINVAL),
    (nbd.BLOCK_STATUS, SIZE, 1, 0, errno.EINVAL),
    (8, 0, 4096, 0, errno.EINVAL),
    (65535, 0, 0, 0, errno.EINVAL),
]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize(("type", "offset", "length", "flags", "error"), ERRORS)
def test_what_is_not_allowed_is_an_error_and_it_goes_on(
    server: Served, structured: bool, type: int, offset: int, length: int, flags: int, error: int
) -> None:
    with server.connect(structured=structured) as client:
        client.write(0, b"there")
        with pytest.raises(NbdError) as caught:
            client.ask(type, offset, length, flags=flags, data=bytes(length) if type == nbd.WRITE else b"")
        assert caught.value.errno == error
        assert client.read(0, 6) == b"there\0"
        assert server.exports[""].transmission.counters()["errors"] == 1


def test_block_status_wants_its_context(server: Served) -> None:
    for structured in (False, True):
        client = server.connect(structured=structured, allocation=not structured)
        with client, pytest.raises(NbdError, match="Invalid"):
            client.extents(0, 4096)


def test_what_is_no_request_ends_the_connection(server: Served) -> None:
    with server.connect() as client, server.connect() as other:
        client.request(nbd.READ, 0, 4096, magic=0x12345678)
        assert client.ended()
        assert other.read(0, 1) == b"\0"


def test_requests_in_one_piece_and_byte_by_byte(client: Client) -> None:
    asked = b"".join(
        nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, i, i * 5000, 5000) + bytes([i]) * 5000 for i in range(1, 200)
    )
    client.send(asked)
    for i in range(1, 200):
        assert client.answer() == nbd.Answer(i)
    for byte in nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.READ, 7, 5000, 3):
        client.send(bytes([byte]))
    assert client.answer() == nbd.Answer(7, data=b"\1\1\1")


def test_disconnect_answers_what_came_before(client: Client) -> None:
    client.request(nbd.WRITE, 0, 3, data=b"abc")
    client.request(nbd.READ, 0, 3)
    client.request(nbd.DISC)
    assert client.answer().error == 0
    assert client.answer().data == b"abc"
    assert client.ended()


def test_counters(server: Served, client: Client) -> None:
    client.write(0, bytes(5000))
    client.read(0, 100)
    client.trim(0, 4096)
    client.zero(0, 4096)
    client.flush()
    client.extents(0, 1)
    client.cache(0, 4096)
    found = server.exports[""].statistics()
    requests = ("reads", "writes", "trims", "write_zeroes", "flushes", "block_status", "caches")
    assert {name: found[name] for name in requests} == dict.fromkeys(requests, 1)
    assert (found["read_bytes"], found["written_bytes"], found["errors"], found["used_pages"]) == (100, 5000, 0, 1)


# --- connections ---------------------------------------------------------------------------------


def test_exports_are_apart_and_connections_are_not(server: Served) -> None:
    with server.connect() as one, server.connect() as two, server.connect("other") as other:
        one.write(0, b"here")
        other.write(0, b"over there")
        assert two.read(0, 10) == b"here" + bytes(6)
        assert other.read(0, 10) == b"over there"
        two.flush()
        assert server.server.clients == 3


def clog(client: Client) -> None:
    """Ask for large replies, and read none of them, until nothing more can be sent."""
    client.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.request(nbd.READ, 0, 4 * MiB)


def test_who_does_not_read_replies_stops_nobody_else(server: Served) -> None:
    with server.connect() as lazy, server.connect() as client:
        lazy.write(0, noise(4 * MiB).tobytes())
        clog(lazy)
        for i in range(100):
            client.write(i * 4096, b"x" * 4096)
            assert client.read(i * 4096, 4096) == b"x" * 4096


def test_half_a_request_holds_nothing(server: Served) -> None:
    with server.connect() as half, server.connect() as client:
        # Its first pages are stored as they come; it waits for the rest without any of them.
        half.send(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, 1, 0, MiB) + b"h" * (MiB // 2 + 100))
        wait_until(lambda: client.read(0, 1) == b"h", "the first part")
        client.write(0, b"c" * MiB)
        half.close()
        assert client.read(0, MiB) == b"c" * MiB


@pytest.mark.parametrize("how", ["header", "data", "reply", "reset"])
def test_clients_that_die_leave_nothing(server: Served, how: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        client = server.connect()
        if how == "header":
            client.send(b"\x25\x60\x95")
        elif how == "data":
            client.request(nbd.WRITE, 0, MiB, data=bytes(1000))
        elif how == "reply":
            client.request(nbd.READ, 0, 4 * MiB)
        else:
            client.request(nbd.READ, 0, 4 * MiB)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until(lambda: server.server.clients == 0, "all are gone")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "their descriptors too")
    with server.connect() as client:
        client.write(0, b"x")
        assert client.read(0, 1) == b"x"


def test_a_stop_answers_with_eshutdown(where: Path) -> None:
    with served(where) as server, server.connect() as client:
        client.write(0, b"x")
        server.exports[""].transmission.end()
        for type, data in ((nbd.READ, b""), (nbd.WRITE, b"x"), (nbd.FLUSH, b"")):
            with pytest.raises(NbdError) as caught:
                client.ask(type, 0, 0 if type == nbd.FLUSH else 1, data=data)
            assert caught.value.errno == errno.ESHUTDOWN
        server.server.stop()
        assert client.ended()


def test_a_stop_does_not_wait_for_clients_that_do_nothing(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for replies that are ready: those it gives GRACE, all together."""
    monkeypatch.setattr("frontswap.nbd.server.GRACE", 0.1)
    with served(where) as server:
        shaking, lazy, half = Client(server.socket), server.connect(), server.connect()
        clog(lazy)
        half.request(nbd.WRITE, 0, 100, data=b"x")
        server.server.stop()
        for client in (shaking, lazy, half):
            client.close()


def test_who_says_no_more_still_hears_what_was_done(server: Served) -> None:
    """Requests and the end of them are there at once."""
    with server.connect() as client:
        requests = [nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, i, i, 1) + bytes([i]) for i in range(100)]
        client.send(b"".join(requests))
        client.socket.shutdown(socket.SHUT_WR)
        assert [(one.cookie, one.error) for one in (client.answer() for _ in requests)] == [(i, 0) for i in range(100)]
        assert client.ended()
    with server.connect() as client:
        assert client.read(0, 100) == bytes(range(100))
