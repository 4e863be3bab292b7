"""Administration of a running server: HTTP with JSON on a Unix socket of its user.

What may enter: how questions come and answers go. What may not: what a server knows and does (statistics, resize); it
is given as functions. ``curl --unix-socket`` can ask as well.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import socket
import socketserver
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from ..errors import ControlError, FrontswapError, ParameterError
from .arrivals import arrivals

#: seconds that the other side may take for a part of a request, or for a reply that needs no work
PATIENCE = 10.0
#: requests at a time, of each listener; others are hung up on
MOST_REQUESTS = 16
#: bytes of a request's JSON
MOST_BODY = 1 << 16
_log = logging.getLogger("frontswap.serve")

#: a path, and what it answers: from the headers of the request, and the JSON that came with it, a type and a content
Answer = Callable[[Message, Any], tuple[str, bytes]]


def as_json(what: Callable[[Any], object]) -> Answer:
    """An answer in JSON."""
    return lambda _, body: ("application/json", json.dumps(what(body)).encode() + b"\n")


class Control:
    """Listening sockets, and a thread that answers what comes, from `start` to `stop`."""

    def __init__(self) -> None:
        """Answer nobody yet."""
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._listening: list[_Listening] = []
        self._thread = threading.Thread(target=self._run, name="frontswap-control", daemon=True)

    def listen(self, listener: socket.socket, answers: Mapping[tuple[str, str], Answer]) -> None:
        """Answer (method, path) there from `start` on; the socket is ours now."""
        self._listening.append(_Listening(listener, answers))

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more. Does not wait for answers on their way."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        for one in self._listening:
            one.socket.close()

    def _run(self) -> None:
        for one in arrivals(self._listening, self._stop):
            one.handle_request()


class _Listening(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True
    timeout = 0  # handle_request() does not wait: who polls has seen somebody

    def __init__(self, listener: socket.socket, answers: Mapping[tuple[str, str], Answer]) -> None:
        # Past TCPServer's, which makes a socket of its own.
        socketserver.BaseServer.__init__(self, ("", 0), _Handler)
        self.socket = listener
        self.answers = answers
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError as error:  # out of descriptors, or who asked is gone already
            _log.warning("administration: accept: %s", error)
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            _log.warning("a request of administration is hung up on: %d are on their way", MOST_REQUESTS)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread for it
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), OSError):  # who asked has gone
            _log.info("an answer was not taken: %s", sys.exception())
        else:
            _log.warning("a request of administration has failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Listening
    timeout = PATIENCE
    server_version = "frontswap"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        found = self.server.answers.get((self.command, self.path.partition("?")[0]))
        if found is None:
            paths = sorted(" ".join(one) for one in self.server.answers)
            self._reply(404, *_error(f"no {self.command} {self.path[:100]}; there is {', '.join(paths)}"))
            return
        try:
            kind, content = found(self.headers, self._body())
        except (FrontswapError, OSError, ValueError) as error:
            self._reply(400 if isinstance(error, ValueError) else 409, *_error(str(error)))
        else:
            self._reply(200, kind, content)

    def _body(self) -> Any:
        """The JSON that came; ValueError: there is none that could be understood."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            raise ValueError(f"Content-Length: {length[:100]}: must be a number, at most {MOST_BODY}")
        try:
            return json.loads(self.rfile.read(int(length))) if int(length) else None
        except RecursionError:
            raise ValueError("JSON that is nested too deeply") from None

    def _reply(self, status: int, kind: str, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError as error:  # who asked has gone
            _log.info("an answer was not taken: %s", error)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # its name there
        _log.info(format, *arguments)


def _error(text: str) -> tuple[str, bytes]:
    return "application/json", json.dumps({"error": text}).encode() + b"\n"


# --- who asks ------------------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path, patience: float | None) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, what: str, body: object = None, *, patience: float | None = PATIENCE) -> Any:
    """What the server whose control socket is `path` answers: to GET, or POST if there is a `body`.

    Raises:
        ControlError: nobody answers there, or it refuses.
    """
    connection = _Connection(path, patience)
    try:
        if body is None:
            connection.request("GET", what)
        else:
            connection.request("POST", what, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        found = json.loads(reply.read())
    except OSError as error:
        raise ControlError(error.errno, f"{str(path)!r}: no server answers there: {error.strerror or error}") from error
    except (ValueError, http.client.HTTPException) as error:
        raise ControlError(f"{str(path)!r}: what answers there is no server's control socket: {error}") from error
    finally:
        connection.close()
    if reply.status != 200:
        raise ControlError(str(found.get("error", reply.reason)))
    return found


def control_directory() -> Path:
    """Where the control sockets of this user's servers are: FRONTSWAP_CONTROL, or what is theirs alone."""
    named = os.environ.get("FRONTSWAP_CONTROL")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/run/frontswap")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "frontswap" if runtime else Path(tempfile.gettempdir()) / f"frontswap-serve-{os.geteuid()}"


def default_control() -> Path:
    """The place of this process' control socket; its directory is there, and nobody else's.

    Raises:
        OSError: it cannot be.
    """
    directory = control_directory()
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    # In /tmp anybody may have made it before: his directory would have our socket under his rights.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{str(directory)!r} is not a directory of this user alone")
    return directory / f"{os.getpid()}.control"


def servers() -> Iterator[Path]:
    """Control sockets of this user's living servers, at their usual place. What killed ones have left is removed."""
    try:
        found = sorted(control_directory().glob("*.control"))
    except OSError:
        return
    for path in found:
        with socket.socket(socket.AF_UNIX) as probe:
            error = probe.connect_ex(str(path))
        if error == 0:
            yield path
        elif error == errno.ECONNREFUSED and path.stem.isdecimal() and not Path("/proc", path.stem).exists():
            path.unlink(missing_ok=True)


def only_server() -> Path:
    """The control socket of the only server that this user has.

    Raises:
        ParameterError: there is none, or more than one.
    """
    found = list(servers())
    if len(found) == 1:
        return found[0]
    here = ", ".join(map(str, found)) or f"none is in {control_directory()}"
    raise ParameterError("control", None, f"the control socket of a server: {here}")
