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
