"""A Python that has imported everything, and is forked for each snippet: a third of a second less than to start one.

The process that asks passes the writing ends of two pipes, the snippet and its environment over a socket; the zygote
answers with the child's number, and with its status once it has ended. The child has but one thread and no Memory was
ever made in it, as in a Python that has just started.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import time

NUMBER = struct.Struct("q")
PR_SET_PDEATHSIG = 1


class Zygote:
    """The side that asks.

    Args:
        command: of a Python that ends in ``serve(N)``, where N is the word FD in the command.
    """

    def __init__(self, command: list[str]) -> None:
        self._socket, other = socket.socketpair()
        with other:
            fd = other.fileno()
            self._process = subprocess.Popen([word.replace("FD", str(fd)) for word in command], cwd="/", pass_fds=[fd])

    def alive(self) -> bool:
        """False if a snippet has ended it."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def run(self, code: str, environment: dict[str, str], timeout: float) -> tuple[int, bytes, bytes]:
        """Run a snippet: (exit status, or minus a signal; what it wrote to stdout; to stderr).

        Raises:
            subprocess.TimeoutExpired: it has been killed.
        """
        ends = [os.pipe(), os.pipe()]
        try:
            said = json.dumps([code, environment]).encode()
            socket.send_fds(self._socket, [NUMBER.pack(len(said))], [w for _, w in ends])
            self._socket.sendall(said)
            for _, w in ends:
                os.close(w)
            pid = self._number()
            try:
                out, err = _read_all([r for r, _ in ends], time.monotonic() + timeout)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._number()
                raise subprocess.TimeoutExpired(code, timeout) from None
            return self._number(), out, err
        finally:
            for r, _ in ends:
                os.close(r)

    def _number(self) -> int:
        found = self._socket.recv(NUMBER.size, socket.MSG_WAITALL)
        if len(found) < NUMBER.size:
            raise ConnectionError("the zygote has ended")
        number: int = NUMBER.unpack(found)[0]
        return number


def _read_all(fds: list[int], deadline: float) -> list[bytes]:
    """What comes out of these pipes until their last writer has gone."""
    found = dict.fromkeys(fds, b"")
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                more = os.read(key.fd, 65536)
                found[key.fd] += more
                if not more:
                    selector.unregister(key.fd)
    return list(found.values())


def _end_with(parent: int) -> None:
    """Be killed when that process ends: a pytest that is killed leaves nobody behind who computes for ever."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve(fd: int) -> str:
    """Fork a child for each request; comes back in each child, with the snippet that it is to run."""
    zygote = os.getpid()
    _end_with(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    asking = socket.socket(fileno=fd)
    gc.collect()
    gc.freeze()  # what has been imported is never looked at, and so not copied, in the children
    while True:
        header, fds, _, _ = socket.recv_fds(asking, NUMBER.size, 2)
        if not header:
            os._exit(0)
        code, environment = json.loads(asking.recv(NUMBER.unpack(header)[0], socket.MSG_WAITALL))
        child = os.fork()
        if child == 0:
            _end_with(zygote)
            break
        for end in fds:
            os.close(end)
        asking.sendall(NUMBER.pack(child))
        asking.sendall(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    asking.close()
    for end, standard in zip(fds, (1, 2), strict=True):
        os.dup2(end, standard)
        os.close(end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    return str(code)
