"""Servers for tests: in this process, and as the command; the bases that they are tried with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import FRONTSWAP, PATIENCE, ROOT, MiB, wait_until

from frontswap.nbd.exports import Exports, Wanted
from frontswap.nbd.server import Server, listen_unix
from frontswap.testing.nbd_client import Client

#: of an export: few pages, so that they meet
SIZE = 8 * MiB
BASES = ["ram", "file", "writethrough"]


@dataclass
class Served:
    """A server in this process."""

    server: Server
    socket: Path

    @property
    def exports(self) -> Exports:
        return self.server.exports

    def connect(self, name: str = "", **how: Any) -> Client:
        return Client(self.socket).go(name, **how)


#: what stands in front of bases where nothing else is said: what does not get smaller goes to its base at once
AT_ONCE = "zcache:staging=off"


@contextmanager
def served(
    where: Path,
    base: str = "ram",
    *,
    wanted: list[Wanted] | None = None,
    size: int = SIZE,
    memory: int = 64 * MiB,
    **settings: Any,
) -> Iterator[Served]:
    """A server with one export, or those wanted; its base is `where / "base"`."""
    if wanted is None:
        wanted = [Wanted("", size, None if base == "ram" else where / "base")]
    settings.setdefault("backends", AT_ONCE)
    exports = Exports(wanted, memory=memory, writethrough=base == "writethrough", **settings)
    try:
        path = where / "socket"
        server = Server(exports, [listen_unix(path)])
        server.start()
        try:
            yield Served(server, path)
        finally:
            server.stop()
            path.unlink()
    finally:
        exports.close()


@dataclass
class Command:
    """`frontswap serve` as a process."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    @property
    def address(self) -> str:
        """HOST:PORT, where it listens on TCP."""
        return self.said().split(" at ")[1].split(",")[0]

    def said(self) -> str:
        return self.log.read_text()

    def connect(self, name: str = "", **how: Any) -> Client:
        return Client(self.socket).go(name, **how)

    def counters(self) -> dict[str, Any]:
        """What SIGUSR1 has it say."""
        before = self.said().count('{"clients"')
        self.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: self.said().count('{"clients"') > before and self.said().endswith("\n"), "counters")
        lines = [line for line in self.said().splitlines() if line.startswith('{"clients"')]
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, and its exit status."""
        self.process.send_signal(number)
        return self.process.wait(60 * PATIENCE)


@contextmanager
def command(
    where: Path,
    *options: str,
    size: int = SIZE,
    memory: str = "64M",
    ordinary: bool = False,
    before: str = "",
    listen: str = "",
) -> Iterator[Command]:
    """The command, once it listens: on `listen`, or on a Unix socket. `before`: shell commands that come first."""
    at, log = where / "socket", where / "log"
    at.unlink(missing_ok=True)
    arguments = [FRONTSWAP, "serve", "--size", str(size), "--memory", memory, *options]
    if "--backends" not in options:
        arguments += ["--backends", AT_ONCE]
    arguments += ["--listen", listen] if listen else ["--socket", str(at)]
    if ordinary and ROOT:
        arguments = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *arguments]
    if before:
        arguments = ["bash", "-c", before + '; exec "$@"', "-", *arguments]
    # Killed as they are, they would leave their control sockets in /run.
    environment = {**os.environ, "FRONTSWAP_CONTROL": str(where / "controls")}
    with (
        log.open("wb") as out,
        subprocess.Popen(arguments, stderr=out, stdout=out, cwd="/", env=environment) as process,
    ):
        try:
            made = Command(process, at, log)
            wait_until(lambda: " of RAM\n" in made.said() or process.poll() is not None, "the server listens")
            assert process.poll() is None, made.said()
            yield made
        finally:
            process.kill()


class Monitor:
    """QEMU's, by QMP."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # It is there before it listens.
        wait_until(lambda: self._socket.connect_ex(str(path)) == 0, "QEMU's monitor listens")
        self._lines = self._socket.makefile("rw")
        assert "QMP" in self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, execute: str, **arguments: Any) -> dict[str, Any]:
        """A command; its whole answer."""
        print(json.dumps({"execute": execute, "arguments": arguments}), file=self._lines, flush=True)
        while True:
            found: dict[str, Any] = json.loads(self._lines.readline())
            if "event" not in found:
                return found

    def size(self, node: str) -> int:
        """Bytes of a block node, as QEMU believes."""
        nodes = self.ask("query-named-block-nodes", flat=True)["return"]
        (found,) = [int(one["image"]["virtual-size"]) for one in nodes if one["node-name"] == node]
        return found

    def resize(self, node: str, size: int) -> str:
        """block_resize; "", or its error."""
        answer = self.ask("block_resize", **{"node-name": node, "size": size})
        return str(answer["error"]["desc"]) if "error" in answer else ""

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@pytest.fixture
def where() -> Iterator[Path]:
    """A short directory on a disk: the path of a Unix socket has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="nbd", dir="/var/tmp") as name:
        yield Path(name)


def need(*programs: str) -> Callable[[Any], Any]:
    """Skip a test without these programs of Debian 12."""
    missing = [program for program in programs if not any(os.access(f"{at}/{program}", os.X_OK) for at in PATH)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (.ci/need)")


PATH = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]


def run(*arguments: str, check: bool = True, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a client to its end."""
    how.setdefault("stdin", subprocess.DEVNULL)  # see attach.py
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300 * PATIENCE, check=False, **how)
    assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def python(*options: str) -> list[str]:
    """This Python, for modules of ours."""
    return [sys.executable, *options]
