"""Asking a running server, over its control socket: what ``frontswap stats`` and ``frontswap serve ...`` do."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from ..errors import ControlError
from .control import PATIENCE


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
