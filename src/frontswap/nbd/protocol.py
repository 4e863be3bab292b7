"""Numbers and messages of the handshake of NBD.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import socket
import struct
import time
from enum import IntEnum, IntFlag

PORT = 10809
NBDMAGIC = b"NBDMAGIC"
IHAVEOPT = b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
#: bytes of an option that anybody sends, at most; names and queries have 4096 each
MOST_OPTION = 64 << 10
MOST_NAME = 4096

MIN_BLOCK = 1
PREFERRED_BLOCK = 4096
MAX_BLOCK = 32 << 20
ALLOCATION = "base:allocation"
ALLOCATION_ID = 1


class Handshake(IntFlag):
    """Flags of the server, and of the client's answer."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Transmission(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1
    SEND_FLUSH = 4
    SEND_FUA = 8
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    SEND_CACHE = 1024
    SEND_FAST_ZERO = 2048


class Option(IntEnum):
    """What a client asks for before it has an export."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    """What it is answered."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_INVALID = 0x80000003
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007


class Info(IntEnum):
    """What can be known of an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class HangUpError(Exception):
    """The client has gone, is too slow, or what it says is no NBD."""


class Wire:
    """A socket during the handshake: exact messages until a deadline."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def receive(self, length: int) -> bytes:
        """The next `length` bytes. Nothing behind them is read: that is the transmission's.

        Raises:
            HangUpError: they do not come.
        """
        found = bytearray()
        while len(found) < length:
            try:
                self._wait()
                part = self._connection.recv(length - len(found))
            except OSError as error:
                raise HangUpError(f"handshake: {error}") from None
            if not part:
                raise HangUpError("handshake: the client has hung up")
            found += part
        return bytes(found)

    def send(self, *parts: bytes) -> None:
        """Send all of it."""
        try:
            self._wait()
            self._connection.sendall(b"".join(parts))
        except OSError as error:
            raise HangUpError(f"handshake: {error}") from None

    def reply(self, option: int, kind: Reply, data: bytes = b"") -> None:
        """Answer an option."""
        self.send(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)), data)

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it takes too long")
        self._connection.settimeout(left)


class Reader:
    """The parts of an option's data, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        """An unsigned number: "H" or "I"."""
        return int(struct.unpack(">" + form, self._take(struct.calcsize(form)))[0])

    def text(self) -> str:
        """A length and so many bytes of UTF-8."""
        length = self.number("I")
        if length > MOST_NAME:
            raise ValueError(f"a string of {length} bytes; {MOST_NAME} are allowed")
        return self._take(length).decode()

    def end(self) -> None:
        """There is no more."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes too many")

    def _take(self, length: int) -> bytes:
        found = self._data[self._at : self._at + length]
        if len(found) < length:
            raise ValueError("too short")
        self._at += length
        return found
