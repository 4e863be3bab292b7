"""The handshake: fixed newstyle, until a client has its export."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .protocol import (
    ALLOCATION,
    ALLOCATION_ID,
    IHAVEOPT,
    MAX_BLOCK,
    MIN_BLOCK,
    MOST_NAME,
    MOST_OPTION,
    NBDMAGIC,
    PREFERRED_BLOCK,
    Handshake,
    HangUpError,
    Info,
    Option,
    Reader,
    Reply,
    Transmission,
    Wire,
)

#: seconds that a handshake may take, and options that it may have
PATIENCE = 30.0
MOST_OPTIONS = 1000


class Named(Protocol):
    """What the handshake needs to know of an export."""

    @property
    def name(self) -> str:
        """As clients ask for it."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def description(self) -> str:
        """For people."""


@dataclass(frozen=True)
class Agreement:
    """What a handshake has come to."""

    export: Named  #: the one that it was shown: meanwhile its name may be another one's
    structured: bool  #: replies are structured
    allocation: bool  #: the client has chosen base:allocation
    connection: socket.socket  #: where its requests come from


def negotiate(
    connection: socket.socket, exports: Mapping[str, Named], start_tls: Callable[[], socket.socket] | None = None
) -> Agreement | None:
    """Shake hands. None: the client wants no export (any more).

    `start_tls`: called where TLS begins, for the socket that has what comes behind it; it is required then.

    Raises:
        HangUpError: it has gone, or what it says makes it impossible to go on.
    """
    return _Handshake(connection, exports, start_tls).run()


def flags(structured: bool) -> Transmission:
    """Transmission flags of every export. A flush on one connection covers what any other has been told is written."""
    found = (
        Transmission.HAS_FLAGS
        | Transmission.SEND_FLUSH
        | Transmission.SEND_FUA
        | Transmission.SEND_TRIM
        | Transmission.SEND_WRITE_ZEROES
        | Transmission.CAN_MULTI_CONN
        | Transmission.SEND_CACHE
        | Transmission.SEND_FAST_ZERO
    )
    return found | Transmission.SEND_DF if structured else found


class _Handshake:
    def __init__(
        self,
        connection: socket.socket,
        exports: Mapping[str, Named],
        start_tls: Callable[[], socket.socket] | None,
    ) -> None:
        self._connection = connection
        self._wire = Wire(connection, PATIENCE)
        self._exports = exports
        self._start_tls = start_tls  # None: there is no TLS, or it has begun
        self._structured = False
        self._allocation_of: str | None = None  # the export for which base:allocation was chosen

    def run(self) -> Agreement | None:
        self._wire.send(NBDMAGIC, IHAVEOPT, struct.pack(">H", int(Handshake.FIXED_NEWSTYLE) | int(Handshake.NO_ZEROES)))
        answered = struct.unpack(">I", self._wire.receive(4))[0]
        if answered & ~int(Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES):
            raise HangUpError(f"handshake: unknown flags {answered:#x}")
        for _ in range(MOST_OPTIONS):
            magic, option, length = struct.unpack(">8sII", self._wire.receive(16))
            if magic != IHAVEOPT:
                raise HangUpError(f"handshake: {magic!r} is no option")
            if length > MOST_OPTION:
                raise HangUpError(f"handshake: an option of {length} bytes")
            data = self._wire.receive(length)
            if option == Option.EXPORT_NAME and self._start_tls is not None:
                raise HangUpError("handshake: a client without TLS")  # this option has no other answer
            if option == Option.EXPORT_NAME:
                return self._export_name(data, bool(answered & Handshake.NO_ZEROES))
            if not answered & Handshake.FIXED_NEWSTYLE:
                raise HangUpError("handshake: a client without fixed newstyle has no options but the export's name")
            if option == Option.ABORT:
                self._wire.reply(option, Reply.ACK)
                return None
            if self._start_tls is not None:
                self._before_tls(option, data)
                continue
            try:
                agreed = self._answer(option, data)
            except ValueError as error:  # UnicodeDecodeError is one
                self._wire.reply(option, Reply.ERR_INVALID, str(error).encode())
                continue
            if agreed:
                return agreed
        raise HangUpError(f"handshake: {MOST_OPTIONS} options and no export")

    def _before_tls(self, option: int, data: bytes) -> None:
        """All that a client may do is to begin it. What is behind it is a handshake of its own."""
        if option != Option.STARTTLS:
            self._wire.reply(option, Reply.ERR_TLS_REQD, b"this server speaks TLS only")
        elif data:
            self._wire.reply(option, Reply.ERR_INVALID, b"STARTTLS has no data")
        elif self._start_tls is not None:
            self._wire.reply(option, Reply.ACK)
            self._connection = self._start_tls()
            self._wire = Wire(self._connection, PATIENCE)
            self._start_tls = None

    def _answer(self, option: int, data: bytes) -> Agreement | None:
        """One option; ValueError: its data are wrong."""
        reader = Reader(data)
        match option:
            case Option.LIST:
                reader.end()
                for name in self._exports:
                    encoded = name.encode()
                    self._wire.reply(option, Reply.SERVER, struct.pack(">I", len(encoded)) + encoded)
                self._wire.reply(option, Reply.ACK)
            case Option.STRUCTURED_REPLY:
                reader.end()
                self._structured = True
                self._wire.reply(option, Reply.ACK)
            case Option.INFO | Option.GO:
                return self._info(option, reader)
            case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                self._meta_context(option, reader)
            case _:
                self._wire.reply(option, Reply.ERR_UNSUP)
        return None

    def _agree(self, name: str, export: Named) -> Agreement:
        return Agreement(export, self._structured, self._structured and self._allocation_of == name, self._connection)

    def _export_name(self, data: bytes, no_zeroes: bool) -> Agreement:
        name = data.decode(errors="replace")
        export = self._exports.get(name) if len(data) <= MOST_NAME else None
        if export is None:
            raise HangUpError(f"handshake: no export {data[:100]!r}")  # this option has no other answer
        found = struct.pack(">QH", export.size, flags(self._structured))
        self._wire.send(found, b"" if no_zeroes else bytes(124))
        return self._agree(name, export)

    def _info(self, option: int, reader: Reader) -> Agreement | None:
        name = reader.text()
        wanted = {reader.number("H") for _ in range(reader.number("H"))}
        reader.end()
        export = self._exports.get(name)
        if export is None:
            self._wire.reply(option, Reply.ERR_UNKNOWN, f"no export {name!r}"[:MOST_NAME].encode(errors="replace"))
            return None
        # Block sizes are told to everybody: a request that does not keep to them is an error of the client's.
        sizes = struct.pack(">HIII", Info.BLOCK_SIZE, MIN_BLOCK, PREFERRED_BLOCK, MAX_BLOCK)
        self._wire.reply(option, Reply.INFO, struct.pack(">HQH", Info.EXPORT, export.size, flags(self._structured)))
        self._wire.reply(option, Reply.INFO, sizes)
        for kind, text in ((Info.NAME, export.name), (Info.DESCRIPTION, export.description)):
            if kind in wanted:
                self._wire.reply(option, Reply.INFO, struct.pack(">H", kind) + text.encode())
        self._wire.reply(option, Reply.ACK)
        return self._agree(name, export) if option == Option.GO else None

    def _meta_context(self, option: int, reader: Reader) -> None:
        choosing = option == Option.SET_META_CONTEXT
        if choosing:
            self._allocation_of = None  # whatever becomes of this one
            if not self._structured:
                raise ValueError("structured replies come first")
        name = reader.text()
        queries = [reader.text() for _ in range(reader.number("I"))]
        reader.end()
        if name not in self._exports:
            self._wire.reply(option, Reply.ERR_UNKNOWN)
            return
        # A namespace alone lists what there is in it, and chooses nothing.
        if ALLOCATION in queries or (not choosing and (not queries or "base:" in queries)):
            if choosing:
                self._allocation_of = name
            self._wire.reply(option, Reply.META_CONTEXT, struct.pack(">I", ALLOCATION_ID) + ALLOCATION.encode())
        self._wire.reply(option, Reply.ACK)
