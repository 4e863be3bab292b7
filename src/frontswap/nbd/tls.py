"""TLS in front of an export: STARTTLS of the handshake, by Python's ssl and asyncio.

The requests' own thread speaks to a socket without the GIL, and cannot speak TLS. So it gets one end of a pair of
sockets, and a tunnel carries what comes and goes between the other end and the client: one event loop, in one thread,
for all connections. It costs two more copies and the GIL, which a server on a Unix socket never pays.

Source: "TLS support" in https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from concurrent.futures import Future
from pathlib import Path

from ..errors import ParameterError

#: bytes that are carried at a time
PIECE = 256 << 10
#: seconds that a client has to shake hands for TLS
PATIENCE = 30.0
#: bytes of a pre-shared key: 128 bits are the least that a cipher is worth, OpenSSL takes no more than 512
PSK_LEAST, PSK_MOST = 16, 512
#: seconds that it has to take the last bytes
GRACE = 5.0
_log = logging.getLogger("frontswap.serve")


def tls_context(certificate: Path, key: Path, authority: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or 1.3 as the server of these PEM files; with an `authority` clients need a certificate of its.

    Raises:
        ParameterError: a file cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password: whoever starts a server at night is not asked for one.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ParameterError(
            "tls_cert", f"{certificate}, {key}", f"a certificate and its key, PEM without a password: {_why(error)}"
        ) from None
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except (OSError, ValueError) as error:
            raise ParameterError("tls_ca", str(authority), f"certificates in PEM: {_why(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def psk_context(file: Path) -> ssl.SSLContext:
    """TLS 1.3 by pre-shared keys: who has one of a file's is let in, and knows that the server has it too.

    Raises:
        ParameterError: as of read_keys(), or Python's ssl has no pre-shared keys (before 3.13).
    """
    keys = read_keys(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    answer = getattr(context, "set_psk_server_callback", None)
    if answer is None:
        raise ParameterError(
            "tls_psk", str(file), "used with Python 3.13 or later; certificates (--tls-cert) with each"
        )
    # 1.2 would need suites of its own, and GnuTLS's client 3.7 crashes in some of them.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # To OpenSSL an empty key, of a name that is not known, is none: it wants a certificate then, and has none.
    answer(lambda name: keys.get(name or "", b""))
    return context


def read_keys(file: Path) -> dict[str, bytes]:
    """Keys by the names of clients, from a file.

    It has lines NAME:KEY, KEY in hexadecimal, as GnuTLS's psktool writes them and QEMU, libnbd and nbdkit read them.

    Raises:
        ParameterError: it cannot be read, has no key, or a line is none.
    """
    found: dict[str, bytes] = {}
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ParameterError("tls_psk", str(file), f"a file of pre-shared keys: {_why(error)}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, said = line.rpartition(":")
        try:
            key = bytes.fromhex(said)
        except ValueError:
            key = b""
        if not name or not PSK_LEAST <= len(key) <= PSK_MOST:
            allowed = f"NAME:KEY, with {PSK_LEAST} to {PSK_MOST} bytes of key in hexadecimal"
            raise ParameterError("tls_psk", f"{file}, line {number}", allowed)
        found[name] = key
    if not found:
        raise ParameterError("tls_psk", str(file), "a file with at least one line NAME:KEY")
    return found


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return getattr(error, "strerror", None) or str(error)


class Tls:
    """The tunnels of a server, from the first client that asks for one until `close`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """Take the certificates; no thread is there before a client is."""
        self._context = context
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tunnels: set[asyncio.Task[None] | None] = set()

    def tunnel(self, connection: socket.socket) -> socket.socket:
        """A socket for what the client of `connection` says behind TLS, which begins now. The caller closes both.

        What it says in vain (no TLS, an unknown certificate) ends the tunnel: the socket has no more bytes.
        """
        loop = self._started()
        ours, theirs = socket.socketpair()
        # The loop has a descriptor of its own: the caller's stays the caller's, to be shut down at any time.
        outside = connection.dup()
        outside.setblocking(False)
        theirs.setblocking(False)
        asyncio.run_coroutine_threadsafe(self._carry(outside, theirs), loop).add_done_callback(_report)
        return ours

    def close(self) -> None:
        """End the loop; connections are gone by then, or are cut off."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop,), name="frontswap-tls", daemon=True)
                thread.start()  # which may fail: the next client tries again
                self._loop, self._thread = loop, thread
            return self._loop

    async def _carry(self, outside: socket.socket, inside: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # asyncio itself has weak references only: a tunnel in which both sides wait would be garbage.
        self._tunnels.add(asyncio.current_task())
        writers: list[asyncio.StreamWriter] = []
        try:
            near, to_near = await _stream(loop, inside, None)
            writers.append(to_near)
            try:
                far, to_far = await _stream(loop, outside, self._context)
            except (OSError, EOFError) as error:  # ssl.SSLError is an OSError
                _log.warning("a client has failed to begin TLS: %s", _why(error) or "it hung up")
                return
            writers.append(to_far)
            await asyncio.gather(_pump(far, to_near), _pump(near, to_far))
            with contextlib.suppress(OSError):
                await to_far.wait_closed()
        finally:
            for writer in writers:
                writer.transport.abort()
            outside.close()
            inside.close()
            self._tunnels.discard(asyncio.current_task())


def _report(tunnel: Future[None]) -> None:
    if not tunnel.cancelled() and tunnel.exception() is not None:
        _log.error("a tunnel has ended", exc_info=tunnel.exception())


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_cut_off())
    finally:
        loop.close()


async def _cut_off() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _stream(
    loop: asyncio.AbstractEventLoop, end: socket.socket, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Reader and writer of a connected socket, on the server's side of TLS if there is a context."""
    reader = asyncio.StreamReader(PIECE, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol,
        end,
        ssl=context,
        ssl_handshake_timeout=None if context is None else PATIENCE,
        ssl_shutdown_timeout=None if context is None else GRACE,
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Carry bytes until there are no more, or nobody takes them; then the other side hears of it."""
    try:
        while data := await source.read(PIECE):
            target.write(data)
            await target.drain()
    except OSError:  # the connection is broken: both sides learn it as the end of it
        pass
    target.close()
