"""A client of NBD that sends what it is told to, right or wrong: for tests and the fuzzer.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

from ..nbd.protocol import IHAVEOPT, NBDMAGIC, REPLY_MAGIC, Option, Reply

REQUEST = struct.Struct(">IHHQQI")
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
STRUCTURED_MAGIC = 0x668E33EF
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
HOLE = 3


class NbdError(OSError):
    """The server has answered with an error."""


@dataclass
class Answer:
    """The reply to one request."""

    cookie: int
    error: int = 0
    data: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)  #: bytes and flags


class Client:
    """One connection. Everything blocks, until `timeout`."""

    def __init__(self, where: Path | tuple[str, int], *, timeout: float = 60) -> None:
        """Connect to a Unix socket, or an address."""
        self.socket = socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET)
        self.socket.settimeout(timeout)
        self.socket.connect(str(where) if isinstance(where, Path) else where)
        self.size = 0
        self.flags = 0
        self._cookie = 0

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def receive(self, length: int) -> bytes:
        """So many bytes; ConnectionError: the server has hung up."""
        found = bytearray()
        while len(found) < length:
            part = self.socket.recv(length - len(found))
            if not part:
                raise ConnectionResetError("the server has hung up")
            found += part
        return bytes(found)

    def ended(self) -> bool:
        """Wait for the server to hang up; False: it says something instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    # --- the handshake ---------------------------------------------------------------------------

    def hello(self, flags: int = 3) -> int:
        """Greet; the server's flags."""
        if self.receive(16) != NBDMAGIC + IHAVEOPT:
            raise ConnectionAbortedError("this is no NBD server")
        found = int(struct.unpack(">H", self.receive(2))[0])
        self.send(struct.pack(">I", flags))
        return found

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option; all its replies, the last of which is ACK or an error."""
        self.send(IHAVEOPT + struct.pack(">II", option, len(data)) + data)
        found = []
        while True:
            magic, of, kind, length = struct.unpack(">QIII", self.receive(20))
            if (magic, of) != (REPLY_MAGIC, option):
                raise ConnectionAbortedError(f"a reply to option {of}, magic {magic:#x}")
            found.append((kind, self.receive(length)))
            if kind == Reply.ACK or kind & 1 << 31:
                return found

    def go(self, name: str = "", *, structured: bool = True, allocation: bool = True) -> Client:
        """The whole handshake."""
        self.hello()
        if structured and self.option(Option.STRUCTURED_REPLY) != [(Reply.ACK, b"")]:
            raise ConnectionAbortedError("no structured replies")
        if structured and allocation:
            self.option(Option.SET_META_CONTEXT, text(name) + struct.pack(">I", 1) + text("base:allocation"))
        replies = self.option(Option.GO, text(name) + struct.pack(">H", 0))
        if replies[-1][0] != Reply.ACK:
            raise NbdError(replies[-1][0] & 0xFFFF, f"GO: {replies[-1][1].decode()}")
        for kind, data in replies:
            if kind == Reply.INFO and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:])
        return self

    # --- transmission ----------------------------------------------------------------------------

    def request(
        self,
        type: int,
        offset: int = 0,
        length: int = 0,
        *,
        data: bytes = b"",
        flags: int = 0,
        magic: int = REQUEST_MAGIC,
    ) -> int:
        """Send a request; its cookie."""
        self._cookie += 1
        self.send(REQUEST.pack(magic, flags, type, self._cookie, offset, length) + data)
        return self._cookie

    def answer(self) -> Answer:
        """The next whole reply, of whatever kind."""
        magic = struct.unpack(">I", self.receive(4))[0]
        if magic == SIMPLE_MAGIC:
            error, cookie = struct.unpack(">IQ", self.receive(12))
            return Answer(cookie, error)  # a read of simple replies has its data behind it: see read()
        if magic != STRUCTURED_MAGIC:
            raise ConnectionAbortedError(f"a reply with magic {magic:#x}")
        flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
        if not flags & 1:
            raise ConnectionAbortedError("this client knows replies of one chunk only")
        content = self.receive(length)
        found = Answer(cookie)
        if kind & 1 << 15:
            found.error = struct.unpack_from(">I", content)[0]
        elif kind == 1:
            found.data = content[8:]
        elif kind == 5:
            found.extents = list(struct.iter_unpack(">II", content[4:]))
        return found

    def ask(self, type: int, offset: int = 0, length: int = 0, *, data: bytes = b"", flags: int = 0) -> Answer:
        """A request and its answer; NbdError: it is an error."""
        cookie = self.request(type, offset, length, data=data, flags=flags)
        found = self.answer()
        if found.cookie != cookie:
            raise ConnectionAbortedError(f"a reply to {found.cookie}, not to {cookie}")
        if found.error:
            raise NbdError(found.error, os.strerror(found.error))
        return found

    def read(self, offset: int, length: int, *, flags: int = 0) -> bytes:
        """READ."""
        found = self.ask(READ, offset, length, flags=flags)
        return found.data or self.receive(length)

    def write(self, offset: int, data: bytes, *, flags: int = 0) -> None:
        """WRITE."""
        self.ask(WRITE, offset, len(data), data=data, flags=flags)

    def trim(self, offset: int, length: int, *, flags: int = 0) -> None:
        """TRIM."""
        self.ask(TRIM, offset, length, flags=flags)

    def zero(self, offset: int, length: int, *, flags: int = 0) -> None:
        """WRITE_ZEROES."""
        self.ask(WRITE_ZEROES, offset, length, flags=flags)

    def cache(self, offset: int, length: int) -> None:
        """CACHE."""
        self.ask(CACHE, offset, length)

    def flush(self) -> None:
        """FLUSH."""
        self.ask(FLUSH)

    def extents(self, offset: int, length: int, *, flags: int = 0) -> list[tuple[int, int]]:
        """BLOCK_STATUS of base:allocation."""
        return self.ask(BLOCK_STATUS, offset, length, flags=flags).extents

    def disconnect(self) -> None:
        """DISC, and hang up."""
        self.request(DISC)
        self.close()


def text(value: str) -> bytes:
    """A string of an option: its length and its bytes."""
    return struct.pack(">I", len(value.encode())) + value.encode()
