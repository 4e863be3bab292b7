"""HTTP with JSON, as a running server answers it. ``curl --unix-socket`` can ask as well.

What may enter: how questions come and answers go. What may not: what a server knows and does (statistics, resize); it
is given as functions.

Imported when somebody asks: with http.server come ssl and email, 6 MiB that a server of guests does without.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from ..errors import FrontswapError
from .control import PATIENCE, Answer

#: requests at a time, of each listener; others are hung up on
MOST_REQUESTS = 16
#: bytes of a request's JSON
MOST_BODY = 1 << 16
_log = logging.getLogger("frontswap.serve")


def http_server(listener: socket.socket, answers: Mapping[tuple[str, str], Answer]) -> HTTPServer:
    """What answers (method, path) on a listening socket: by `handle_request`, when somebody waits to be let in."""
    return _Server(listener, answers)


class _Server(socketserver.ThreadingMixIn, HTTPServer):
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
    server: _Server
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
