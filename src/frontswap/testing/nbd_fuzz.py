"""A fuzzer for the block device door: ``python -m frontswap.testing.nbd_fuzz --requests 1000000``.

Handshakes and requests that are right, nearly right, and noise, each connection ending somewhere in the middle, at a
server in this process. The server must stay up, answer what is right with the right bytes on another connection all the
time, and in the end hold no more descriptors and memory than in the beginning. A hang is a time-out of a socket.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import select
import socket
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..nbd.exports import Exports, Wanted
from ..nbd.protocol import IHAVEOPT
from ..nbd.server import Server, listen_unix
from . import nbd_client as nbd
from .nbd_client import Client, text

SIZE = 4 << 20
#: bytes of resident memory that the heap of Python and libc may come to in a long run
SLACK = 32 << 20
_TYPES = (nbd.DISC, *(nbd.READ, nbd.WRITE, nbd.WRITE, 3, 4, 5, 6, 7, 8) * 6, 255, 65535)
_OFFSETS = (
    0,
    1,
    511,
    4095,
    4096,
    4097,
    SIZE - 4096,
    SIZE - 1,
    SIZE,
    SIZE + 1,
    1 << 31,
    1 << 32,
    1 << 63,
    (1 << 64) - 1,
)
_LENGTHS = (0, 1, 511, 4095, 4096, 4097, 65536, SIZE, (32 << 20) + 1, 1 << 31, (1 << 32) - 1)


@dataclass
class Found:
    """What a run has done."""

    requests: int = 0
    handshakes: int = 0
    answers: int = 0
    errors: int = 0


class Fuzzer:
    """One run. `random` decides everything, so a seed makes it again but for the order of the server's threads."""

    def __init__(self, where: Path, seed: int) -> None:
        """A server listens at `where`; its export "canary" is this fuzzer's alone."""
        self._where = where
        self._random = random.Random(seed)
        self.found = Found()
        self._canary = Client(where).go("canary")
        self._canary.zero(0, self._canary.size)
        self._written = bytearray(self._canary.size)

    def run(self, requests: int) -> Found:
        """So many requests, options counted; AssertionError: the canary's bytes are not right."""
        while self.found.requests + self.found.handshakes < requests:
            if self._random.random() < 0.3:
                self._handshake()
            else:
                self._transmission()
            self._check()
        self._canary.disconnect()
        return self.found

    def _check(self) -> None:
        """What is right works meanwhile."""
        length = self._random.randrange(1, 9000)
        at = self._random.randrange(len(self._written) - length)
        data = self._random.randbytes(length) if length % 2 else bytes([length % 251]) * length
        self._canary.write(at, data)
        self._written[at : at + length] = data
        at = self._random.randrange(len(self._written) - 9000)
        if self._canary.read(at, 9000) != self._written[at : at + 9000]:
            raise AssertionError(f"wrong bytes in [{at}, {at + 9000})")

    def _noise(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randrange(most))

    def _handshake(self) -> None:
        draw = self._random
        client = Client(self._where)
        with client, contextlib.suppress(ConnectionError):  # it hangs up on what it cannot go on with
            client.receive(18)
            client.send(struct.pack(">I", draw.choice((0, 1, 2, 3, 3, 3, 3, 3, 4, 1 << 31))))
            for _ in range(draw.randrange(12)):
                self.found.handshakes += 1
                option = draw.choice((1, 2, *(3, 5, 6, 7, 8, 9, 10, 11) * 3, 12, 1 << 31, draw.getrandbits(32)))
                data = self._option_data()
                length = len(data) if draw.random() < 0.9 else draw.choice((0, len(data) + 1, 1 << 16, 1 << 31))
                client.send(
                    (IHAVEOPT if draw.random() < 0.97 else self._noise(9)) + struct.pack(">II", option, length) + data
                )
            self._drain(client)

    def _option_data(self) -> bytes:
        draw = self._random
        name = draw.choice(("", "canary", "fuzzed", "none", "x" * 5000, "\0", "ü"))
        queries = [
            draw.choice(("base:", "base:allocation", "", "qemu:dirty-bitmap:x")) for _ in range(draw.randrange(4))
        ]
        data = draw.choice(
            (
                b"",
                name.encode(),
                text(name) + struct.pack(">H", 2) + b"\0\3\0\1",
                text(name) + b"\0\0",
                text(name) + struct.pack(">I", draw.choice((len(queries), 1 << 31))) + b"".join(map(text, queries)),
                self._noise(200),
            )
        )
        return data if draw.random() < 0.8 else data[: draw.randrange(len(data) + 1)]

    def _transmission(self) -> None:
        draw = self._random
        client = Client(self._where)
        with client, contextlib.suppress(ConnectionError):
            client.go("fuzzed", structured=draw.random() < 0.7, allocation=draw.random() < 0.7)
            for _ in range(draw.randrange(1, 60)):
                self.found.requests += 1
                self._exchange(client, self._request())
            if draw.random() < 0.8:
                self._drain(client)

    def _request(self) -> bytes:
        draw = self._random
        if draw.random() < 0.002:
            return self._noise(100)
        type = draw.choice(_TYPES)
        offset = draw.choice(_OFFSETS) if draw.random() < 0.5 else draw.randrange(SIZE)
        length = draw.choice(_LENGTHS) if draw.random() < 0.3 else draw.randrange(20000)
        flags = draw.choice((0, 0, 0, 1, 2, 4, 8, 16, draw.getrandbits(16)))
        data = b""
        if type == nbd.WRITE:
            length = draw.randrange(20000) if length > 1 << 16 and draw.random() < 0.9 else length
            # Of what is too long only the beginning is sent: the server waits for the rest, until we hang up.
            data = draw.randbytes(1) * min(length, 1 << 16)
        magic = nbd.REQUEST_MAGIC if draw.random() < 0.998 else draw.getrandbits(32)
        return nbd.REQUEST.pack(magic, flags, type, draw.getrandbits(64), offset, length) + data

    def _exchange(self, client: Client, data: bytes) -> None:
        """Send, and take answers meanwhile: a server that waits until they are taken reads nothing."""
        left = memoryview(data)
        while left:
            if not (ready := select.select([client.socket], [client.socket], [], 60))[0] and not ready[1]:
                raise TimeoutError("the server neither reads nor writes")
            if ready[0]:
                self._take(client)
            if ready[1]:
                left = left[client.socket.send(left, socket.MSG_DONTWAIT) :]

    def _take(self, client: Client) -> bool:
        part = client.socket.recv(1 << 20)
        self.found.answers += part.count(b"\x67\x44\x66\x98") + part.count(b"\x66\x8e\x33\xef")
        return bool(part)

    def _drain(self, client: Client) -> None:
        """Take what comes until nothing more does; it need not be whole replies."""
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)  # it ends when it has answered all
        while self._take(client):
            pass


def fuzz(requests: int, seed: int, *, base: bool = False, progress: bool = False) -> Found:
    """Run the fuzzer at a server of its own; AssertionError: wrong bytes, a leak, or a page lost."""
    with tempfile.TemporaryDirectory(prefix="nbd", dir="/var/tmp") as folder:
        where = Path(folder)
        bases = [where / name if base else None for name in ("canary", "fuzzed")]
        exports = Exports([Wanted("canary", SIZE // 4, bases[0]), Wanted("fuzzed", SIZE, bases[1])], memory=16 << 20)
        server = Server(exports, [listen_unix(where / "socket")])
        server.start()
        try:
            fuzzer = Fuzzer(where / "socket", seed)
            fuzzer.run(min(requests, 2000))  # what is made once is there then
            _wait_for_nobody(server)
            before = _held()
            total = fuzzer.found
            done = min(requests, 2000)
            while done < requests:
                part = min(requests - done, 20_000)
                seed += 1
                found = Fuzzer(where / "socket", seed).run(part)
                total.requests += found.requests
                total.handshakes += found.handshakes
                total.answers += found.answers
                done += part
                if progress:
                    print(f"{done} requests, {total.answers} answers, {_held()[1] >> 20} MiB resident", flush=True)
            _wait_for_nobody(server)
            after = _held()
            if after[0] > before[0] or after[1] > before[1] + SLACK:
                raise AssertionError(f"descriptors and resident bytes: {before} before, {after} after")
            if any(export.area.statistics().poisoned for export in exports.values()):
                raise AssertionError("a page is lost")
            total.errors = sum(export.transmission.counters()["errors"] for export in exports.values())
            return total
        finally:
            server.stop()
            exports.close()


def _wait_for_nobody(server: Server) -> None:
    deadline = time.monotonic() + 60
    while server.connections:
        if time.monotonic() > deadline:
            raise AssertionError(f"{server.connections} connections do not end")
        time.sleep(0.001)


def _held() -> tuple[int, int]:
    """Descriptors, and resident bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m frontswap.testing.nbd_fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--base", action="store_true", help="in front of files")
    options = parser.parse_args()
    logging.getLogger("frontswap.serve").setLevel(logging.ERROR)  # it says what it thinks of each connection
    print(f"seed {options.seed}", flush=True)
    print(fuzz(options.requests, options.seed, base=options.base, progress=True))


if __name__ == "__main__":
    main()
