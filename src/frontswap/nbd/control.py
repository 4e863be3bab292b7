"""The control socket of a running server: where it is, and the thread that waits for who asks there.

What may enter: listening, and finding servers. What may not: HTTP (answering.py, asking.py), and what a server knows
and does; it is given as functions.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError
from .arrivals import arrivals

if TYPE_CHECKING:
    from email.message import Message
    from http.server import HTTPServer

#: seconds that the other side may take for a part of a request, or for a reply that needs no work
PATIENCE = 10.0
_log = logging.getLogger("frontswap.serve")

#: a path, and what it answers: from the headers of the request, and the JSON that came with it, a type and a content
Answer = Callable[["Message", Any], tuple[str, bytes]]


def as_json(what: Callable[[Any], object]) -> Answer:
    """An answer in JSON."""
    return lambda _, body: ("application/json", json.dumps(what(body)).encode() + b"\n")


class Control:
    """Listening sockets, and a thread that answers what comes, from `start` to `stop`."""

    def __init__(self, *, ready: bool = False) -> None:
        """Answer nobody yet. `ready`: nothing is to be imported when somebody asks; memory may be short by then."""
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._listening: list[_Listening] = []
        self._thread = threading.Thread(target=self._run, name="frontswap-control", daemon=True)
        if ready:
            _http_server()

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
            try:
                one.answer()
            except (ImportError, OSError, MemoryError) as error:  # out of descriptors: who asks waits, and we try again
                _log.warning("administration: %s", error)
                time.sleep(0.1)


class _Listening:
    """A listening socket, and what is answered there."""

    def __init__(self, listener: socket.socket, answers: Mapping[tuple[str, str], Answer]) -> None:
        self.socket = listener
        self._answers = answers
        self._server: HTTPServer | None = None

    def fileno(self) -> int:
        return self.socket.fileno()

    def answer(self) -> None:
        """Let in whoever waits there."""
        if self._server is None:
            self._server = _http_server()(self.socket, self._answers)
        self._server.handle_request()


def _http_server() -> Callable[[socket.socket, Mapping[tuple[str, str], Answer]], HTTPServer]:
    """What answers. Imported here: with it come http.server, ssl and email, 6 MiB for whoever is asked."""
    from .answering import http_server

    return http_server


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
