"""The server: listens, and has a thread for each connection."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ListenError, ParameterError
from .arrivals import arrivals
from .exports import Export, Exports
from .negotiation import Agreement, negotiate
from .protocol import PORT, HangUpError

if TYPE_CHECKING:
    from .tls import Tls

#: connections at a time; each has 1 MiB of buffers, and 32 MiB while a large read is answered
MOST_CONNECTIONS = 256
#: bytes of replies that a client need not have taken yet (or what net.core.wmem_max allows): with less we wait for it,
#: and then it for us
REPLIES = 1 << 20
#: seconds that clients have to take their last replies
GRACE = 5.0
_log = logging.getLogger("frontswap.serve")


def listen_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket that only this user may use. One that a dead server has left is replaced.

    Raises:
        ListenError: somebody listens there, or it cannot be made.
    """
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise ListenError(f"socket {str(path)!r}: another server listens there")
        made = socket.socket(socket.AF_UNIX)
        try:
            # The mode of the inode is that of the socket when it is bound: at no moment may others connect.
            os.fchmod(made.fileno(), 0o600)
            made.bind(str(path))
            os.chmod(path, 0o600)
            made.listen(64)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        if isinstance(error, ListenError):
            raise
        raise ListenError(error.errno, f"socket {str(path)!r}: {error.strerror or error}") from error
    return made


def listen_tcp(where: str, *, insecure: bool = False) -> list[socket.socket]:
    """Listen on HOST:PORT, HOST or :PORT, on every address that the host has.

    Raises:
        ParameterError: not an address, or one that others can reach, and not `insecure`.
        ListenError: it cannot be had.
    """
    return _listen(
        where,
        "listen",
        PORT,
        None if insecure else ("a loopback address, or with --tls-cert or --tls-psk", "reads and writes all pages"),
    )


def listen_metrics(where: str, *, insecure: bool = False) -> list[socket.socket]:
    """listen_tcp() for ``--metrics``: there is no TLS, and no port that everybody takes."""
    return _listen(where, "metrics", None, None if insecure else ("a loopback address", "sees who does how much"))


def _listen(where: str, parameter: str, port: int | None, refusal: tuple[str, str] | None) -> list[socket.socket]:
    """`refusal`: what is allowed, and why: other machines must not reach it; None: they may."""
    host, port = tcp_address(where, parameter, port)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the latter: no name that DNS could have
        raise ParameterError(parameter, where, f"HOST:PORT ({getattr(error, 'strerror', None) or error})") from None
    open_to_all = [
        str(one[4][0]) for one in found if not ipaddress.ip_address(str(one[4][0]).split("%")[0]).is_loopback
    ]
    if open_to_all and refusal is not None:
        allowed, why = refusal
        raise ParameterError(
            parameter, where, f"{allowed}: whoever reaches {open_to_all[0]} {why} (--insecure if that is meant)"
        )
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            one = socket.socket(family, kind, protocol)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(64)
    except OSError as error:
        for one in made:
            one.close()
        raise ListenError(error.errno, f"{parameter} {where!r}: {error.strerror or error}") from error
    return made


def tcp_address(where: str, parameter: str, port: int | None = PORT) -> tuple[str, int]:
    """Host and port of HOST:PORT, HOST (if there is a usual `port`) or :PORT. ParameterError: it is none of them."""
    host, colon, said = where.rpartition(":")
    if (not colon or "]" in said) and port is not None:
        host, said = where, str(port)
    if not said.isdecimal() or int(said) > 65535:
        raise ParameterError(parameter, where, f"HOST:PORT, as localhost:{port or 9090} or [::1]:{port or 9090}")
    return host.removeprefix("[").removesuffix("]"), int(said)


class Server:
    """Connections of clients to exports, from `start` to `stop`."""

    def __init__(self, exports: Exports, listeners: list[socket.socket], tls: Tls | None = None) -> None:
        """Take over the listening sockets. With `tls` nobody has an export without it."""
        self.exports = exports
        self._tls = tls
        self._listeners = listeners
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._transmitting: dict[threading.Thread, str] = {}  # those of them that have an export, and its name
        self._ended: set[threading.Thread] = set()  # and those of these where hang_up() has been
        self._left = threading.Condition(self._lock)  # one of these has its export no more
        self._stopped = False
        self._acceptor = threading.Thread(target=self._accept, name="frontswap-accept", daemon=True)

    def start(self) -> None:
        """Let clients in."""
        self._acceptor.start()

    @property
    def connections(self) -> int:
        """Connections, those that have no export yet among them."""
        with self._lock:
            return len(self._connections)

    @property
    def clients(self) -> int:
        """Connections that have an export."""
        with self._lock:
            return len(self._transmitting)

    def hang_up(self, name: str) -> int:
        """End the connections to an export, at whatever they are; how many. What was acknowledged has been done.

        A client that comes back by itself sees what the export is now.
        """
        with self._lock:
            found = [
                thread for thread, export in self._transmitting.items() if export == name and thread not in self._ended
            ]
            self._shut(found)
        return len(found)

    def _shut(self, threads: Iterable[threading.Thread]) -> None:
        """Under the lock: end connections that have an export."""
        for thread in threads:
            self._ended.add(thread)
            with contextlib.suppress(OSError):  # the client has done it
                self._connections[thread].shutdown(socket.SHUT_RDWR)

    def _leaving(self, name: str) -> list[threading.Thread]:
        """Under the lock: who has an export and hears nothing more from its client, but may have heard a lot."""
        poll = select.poll()
        theirs: dict[int, threading.Thread] = {}
        for thread, export in self._transmitting.items():
            if export == name:
                theirs[self._connections[thread].fileno()] = thread
        for fd in theirs:
            poll.register(fd, select.POLLRDHUP)
        silent = {theirs[fd] for fd, _ in poll.poll(0)}
        return [thread for thread in theirs.values() if thread in silent or thread in self._ended]

    def _await_leaving(self, name: str) -> None:
        """Under the lock: nobody has requests left of a client that may have come back with them by now.

        Race: a client that was hung up on, or has hung up, asks again for all that was not answered, is told that it is
        done, and writes to the same pages. The old connection, in the middle of what it had been sent, must not do it
        then: those pages would have older bytes than were acknowledged.
        """
        while not self._left.wait_for(lambda: not self._leaving(name), GRACE):
            self._shut(self._leaving(name))  # whoever does not take its replies

    def stop(self) -> None:
        """Send every client away: what they ask for from now on is ESHUTDOWN, and they have GRACE to hear it.

        What was acknowledged has been done. Twice is no error.
        """
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        for export in self.exports.values():
            export.transmission.end()
        os.eventfd_write(self._stop, 1)
        self._acceptor.join()
        deadline = time.monotonic() + GRACE
        with self._lock:
            left = dict(self._connections)
            shaking = left.keys() - self._transmitting
        for thread in sorted(left, key=lambda thread: thread not in shaking):
            if thread not in shaking:
                thread.join(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(OSError):  # it has closed it
                left[thread].shutdown(socket.SHUT_RDWR)
            thread.join()
        if self._tls is not None:
            self._tls.close()
        os.close(self._stop)

    def _accept(self) -> None:
        for listener in arrivals(self._listeners, self._stop):
            try:
                self._admit(listener.accept()[0])
            except OSError as error:  # out of descriptors, or the client is gone already
                _log.warning("accept: %s", error)
                time.sleep(0.1)
        for one in self._listeners:
            one.close()

    def _admit(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), name="frontswap-nbd", daemon=True)
        with self._lock:
            if len(self._connections) >= MOST_CONNECTIONS:
                _log.warning("a client is turned away: %d are connected", MOST_CONNECTIONS)
                connection.close()
                return
            self._connections[thread] = connection
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            _log.warning("a client is turned away: %s", error)
            connection.close()
            with self._lock:
                del self._connections[thread]

    def _serve(self, connection: socket.socket) -> None:
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with contextlib.ExitStack() as opened:
                tls = self._tls
                agreed = negotiate(
                    connection,
                    self.exports,
                    None if tls is None else lambda: opened.enter_context(tls.tunnel(connection)),
                )
                if agreed is not None:
                    self._transmit(agreed)
        except HangUpError as error:
            _log.info("%s", error)
        except (OSError, MemoryError, RuntimeError) as error:  # the last one: no thread for TLS
            _log.warning("a connection has ended: %s", error)
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(threading.current_thread(), None)

    def _transmit(self, agreed: Agreement) -> None:
        export = agreed.export
        assert isinstance(export, Export)
        if agreed.connection.family == socket.AF_UNIX:  # that of TCP grows by itself
            agreed.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REPLIES)
        with self._lock:  # all at once, for hang_up()
            self._await_leaving(export.name)
            if not export.admit():
                raise HangUpError(f"export {export.name!r} has been removed")
            self._transmitting[threading.current_thread()] = export.name
        try:
            end = export.transmission.transmit(
                agreed.connection.fileno(), self._stop, agreed.structured, agreed.allocation
            )
        finally:
            with self._lock:
                theirs = threading.current_thread() not in self._ended
                self._ended.discard(threading.current_thread())
                del self._transmitting[threading.current_thread()]
                self._left.notify_all()
            export.leave()
        if theirs and end in {"broken", "magic"}:
            _log.warning("export %r: a connection has ended: %s", export.name, _ENDS[end])


_ENDS = {"broken": "the client hung up in the middle of a request", "magic": "what came was no request"}
