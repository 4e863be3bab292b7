"""Many connections at once, with a model of every byte; and the fuzzer."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import PATIENCE, MiB, noise, together, wait_until
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from nbd import BASES, SIZE, Served, served, where
from scripted import Scripted

from frontswap.testing import nbd_client as nbd
from frontswap.testing.nbd_client import Client
from frontswap.testing.nbd_fuzz import fuzz

assert where  # a fixture

PAGE = 4096
STRIPE = 1000  # bytes that one client has in a row: most pages are of several clients
BACKENDS = "inject:refuse=30%,seed=5 / zcache"


@pytest.mark.parametrize("base", BASES)
def test_clients_that_share_pages_lose_nothing_of_each_other(where: Path, base: str) -> None:
    """Writes and zeros of parts of pages, while others change the other parts: an update is one step."""
    clients, stripes = 4, 256

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        mine = {stripe: bytes(STRIPE) for stripe in range(number, stripes, clients)}
        with server.connect() as client:
            for turn in range(1500):
                stripe = int(rng.choice(list(mine)))
                if turn % 5 == 0:
                    client.zero(stripe * STRIPE, STRIPE)
                    mine[stripe] = bytes(STRIPE)
                elif turn % 5 == 1:
                    client.trim(stripe * STRIPE, STRIPE)  # less than a page: it stays
                else:
                    mine[stripe] = rng.bytes(STRIPE) if turn % 2 else bytes([turn % 251]) * STRIPE
                    client.write(stripe * STRIPE, mine[stripe])
                look = int(rng.choice(list(mine)))
                assert client.read(look * STRIPE, STRIPE) == mine[look]

    with served(where, base, backends=BACKENDS) as server:
        together(clients, work)


def test_an_update_of_a_page_loses_no_other_one(where: Path) -> None:
    """Each client has eight bytes of one page, and many writes to them on their way: an update is one step."""

    def work(number: int) -> None:
        with server.connect() as client:
            for turn in range(100):
                sent = [
                    nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, 1, 8 * number, 8) + bytes([turn, i] * 4)
                    for i in range(200)
                ]
                client.send(b"".join(sent))
                for _ in sent:
                    assert client.answer().error == 0
                assert client.read(8 * number, 8) == bytes([turn, 199] * 4)

    with served(where) as server:
        together(4, work)


@pytest.mark.parametrize("base", BASES)
def test_each_page_is_one_writers(where: Path, base: str) -> None:
    """All write all pages, whole. Whoever reads sees no page of two writers, nor one that nobody wrote."""
    writers, pages = 3, 64
    bodies = {number: noise(PAGE - 8, number).tobytes() if number % 2 else bytes(PAGE - 8) for number in range(writers)}
    done = threading.Event()

    def whose(page: bytes) -> int:
        number = int.from_bytes(page[:8], "big")
        assert page == number.to_bytes(8, "big") + bodies[number]
        return number

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        page = number.to_bytes(8, "big") + bodies[number]
        with server.connect() as client:
            for _ in range(400):
                at, n = int(rng.integers(0, pages - 8)), int(rng.integers(1, 8))
                client.write(at * PAGE, page * n)

    def read() -> None:
        with server.connect() as client:
            while not done.is_set():
                found = client.read(0, pages * PAGE)
                for at in range(0, len(found), PAGE):
                    whose(found[at : at + PAGE])

    def work(number: int) -> None:
        if number == writers:
            read()
            return
        try:
            write(number)
        finally:
            finished.append(number)
            if len(finished) == writers:
                done.set()

    finished: list[int] = []
    with served(where, base, backends=BACKENDS) as server:
        together(writers + 1, work)


def test_the_pool_comes_and_goes_under_large_requests(where: Path) -> None:
    """Who reads looks at the page after that one, too, which he does not own: it becomes one of one word, which is any
    word, and the pool may be taken apart.
    """
    clients, pages = 3, 32

    def made(rng: np.random.Generator) -> bytes:
        """Pages of one word, and others."""
        found = np.repeat(rng.integers(0, 1 << 64, pages, "u8"), PAGE // 8).reshape(pages, PAGE // 8)
        found[rng.integers(0, 2, pages) == 1, : PAGE // 16] = rng.integers(0, 1 << 64, PAGE // 16, "u8")
        return found.tobytes()

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        if number == clients:
            while len(finished) < clients:
                (registered,) = hooks.backends
                hooks.unregister(registered)
                hooks.register("zcache:size=4M")
            return
        try:
            with server.connect() as client:
                for _ in range(300):
                    data = made(rng)
                    client.write(number * pages * PAGE, data)
                    client.read((number + 1) % clients * pages * PAGE, pages * PAGE)
                    assert client.read(number * pages * PAGE, pages * PAGE) == data
        finally:
            finished.append(number)

    finished: list[int] = []
    with served(where, "file", backends="zcache:size=4M") as server:
        hooks = server.exports.hooks
        together(clients + 1, work)


@pytest.mark.parametrize("base", BASES)
def test_a_storm_with_a_model(where: Path, base: str) -> None:
    """Each client has a part of the export, a pipeline of requests, and a model that every read is compared with."""
    clients, part, depth = 4, SIZE // 4, 16

    def work(number: int) -> None:
        rng = np.random.default_rng(number + 10)
        model = bytearray(part)
        first = number * part
        with server.connect(structured=True) as client:
            expected: list[tuple[int, bytes]] = []
            for turn in range(800):
                at = int(rng.integers(0, part - 1))
                n = min(int(rng.integers(1, 1 << rng.integers(1, 18).item())), part - at)
                what = int(rng.integers(0, 8))
                data = b""
                if what < 3:
                    data = rng.bytes(n) if what else bytes([turn % 256]) * n
                    model[at : at + n] = data
                    cookie = client.request(nbd.WRITE, first + at, n, data=data, flags=nbd.FUA * (turn % 50 == 0))
                    expected.append((cookie, b""))
                elif what == 3:
                    model[at : at + n] = bytes(n)
                    expected.append((client.request(nbd.WRITE_ZEROES, first + at, n), b""))
                elif what == 4:
                    whole, end = -(-at // PAGE) * PAGE, (at + n) // PAGE * PAGE
                    model[whole:end] = bytes(max(0, end - whole))
                    expected.append((client.request(nbd.TRIM, first + at, n), b""))
                elif what == 5 and turn % 10 == 0:
                    expected.append((client.request(nbd.FLUSH), b""))
                else:
                    n = min(n, 8000)  # what is not read fits in the socket, or both would wait for each other
                    expected.append((client.request(nbd.READ, first + at, n), bytes(model[at : at + n])))
                while len(expected) > depth:
                    answered(client, *expected.pop(0))
            for one in expected:
                answered(client, *one)
            assert client.read(first, part) == model
            models[number] = bytes(model)

    def answered(client: Client, cookie: int, data: bytes) -> None:
        found = client.answer()
        assert (found.cookie, found.error) == (cookie, 0)
        assert found.data == data

    models: dict[int, bytes] = {}
    with served(where, base, backends=BACKENDS, memory=SIZE if base == "ram" else 4 * MiB) as server:
        together(clients, work)
    if base == "writethrough":
        with served(where, base) as server, server.connect() as client:
            assert client.read(0, SIZE) == b"".join(models[number] for number in range(clients))


class Model(RuleBasedStateMachine):
    """Two connections, an export of 16 pages, and its bytes. A flush on one covers the other."""

    where: Path
    base = "ram"
    ranges = st.tuples(st.integers(0, 16 * PAGE - 1), st.integers(1, 5 * PAGE)).map(
        lambda found: (found[0], min(found[1], 16 * PAGE - found[0]))
    )

    @initialize()
    def begin(self) -> None:
        self.written = bytearray(16 * PAGE)
        self.start()

    def start(self) -> None:
        self.context = served(self.where, self.base, size=16 * PAGE, memory=4 * MiB, backends=BACKENDS)
        self.server: Served = self.context.__enter__()
        self.clients = [self.server.connect(), self.server.connect(structured=False)]

    @rule(which=st.integers(0, 1), at=ranges, seed=st.integers(0, 3))
    def write(self, which: int, at: tuple[int, int], seed: int) -> None:
        data = noise(at[1], seed).tobytes() if seed else b"s" * at[1]
        self.clients[which].write(at[0], data)
        self.written[at[0] : at[0] + at[1]] = data

    @rule(which=st.integers(0, 1), at=ranges)
    def zero(self, which: int, at: tuple[int, int]) -> None:
        self.clients[which].zero(*at)
        self.written[at[0] : at[0] + at[1]] = bytes(at[1])

    @rule(which=st.integers(0, 1), at=ranges)
    def trim(self, which: int, at: tuple[int, int]) -> None:
        self.clients[which].trim(*at)
        first, end = -(-at[0] // PAGE) * PAGE, (at[0] + at[1]) // PAGE * PAGE
        self.written[first:end] = bytes(max(0, end - first))

    @rule(which=st.integers(0, 1))
    def flush(self, which: int) -> None:
        self.clients[which].flush()

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()
        if self.base != "writethrough":
            self.written = bytearray(16 * PAGE)

    @rule(pages=st.integers(0, 16))
    def shrink(self, pages: int) -> None:
        self.server.exports.hooks.shrink(pages)

    @invariant()
    def all_bytes(self) -> None:
        for client in self.clients:
            assert client.read(0, 16 * PAGE) == self.written
        extents = self.clients[0].extents(0, 16 * PAGE)
        at = 0
        for length, flags in extents:
            assert flags == 0 or self.written[at : at + length] == bytes(length)
            at += length
        assert at == 16 * PAGE

    def stop(self) -> None:
        for client in self.clients:
            client.disconnect()
        self.context.__exit__(None, None, None)

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.stop()
            (self.where / "base").unlink(missing_ok=True)


@pytest.mark.parametrize("base", BASES)
def test_stateful(where: Path, base: str) -> None:
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("Machine", (Model,), {"where": where, "base": base})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=30))


@pytest.mark.parametrize("base", [False, True])
def test_a_short_run_of_the_fuzzer(base: bool) -> None:
    found = fuzz(6000, 1 + base, base=base)
    assert found.answers > 500
    assert found.errors > 500


@pytest.mark.slow
def test_a_long_run_of_the_fuzzer() -> None:
    fuzz(200_000, 3)


@pytest.mark.parametrize("who", ["server", "client", "client says no more"])
def test_what_an_old_connection_was_sent_is_not_done_after_the_new_one_was_let_in(where: Path, who: str) -> None:
    """A client that reconnects asks again for what was not answered, and writes other bytes then: those stay."""
    backend, held, on = Scripted(), threading.Event(), threading.Event()

    def before_store(offset: int) -> None:
        if offset == 0:
            held.set()
            on.wait(60 * PATIENCE)

    def come_back() -> None:
        with server.connect() as client:
            client.write(PAGE, b"2" * PAGE)
            written.set()
            wait_until(lambda: server.server.clients == 1, "the old connection has ended")
            found.append(client.read(PAGE, PAGE))

    backend.before_store = before_store
    written, found = threading.Event(), list[bytes]()
    with served(where, "file", backends=[backend]) as server:
        old = server.connect()
        old.request(nbd.WRITE, 0, PAGE, data=b"0" * PAGE)
        old.request(nbd.WRITE, PAGE, PAGE, data=b"1" * PAGE)
        assert held.wait(60 * PATIENCE)
        if who == "server":
            assert server.server.hang_up("") == 1
        elif who == "client":
            old.close()
        else:
            old.socket.shutdown(socket.SHUT_WR)
        again = threading.Thread(target=come_back)
        again.start()
        early = written.wait(0.2)
        on.set()
        again.join()
        old.close()
    assert (early, found) == (False, [b"2" * PAGE])


def test_who_takes_no_replies_and_says_no_more_keeps_nobody_out(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frontswap.nbd.server.GRACE", 0.1)
    with served(where) as server, server.connect() as old, server.connect() as other:
        for _ in range(8):
            old.request(nbd.READ, 0, SIZE)
        old.socket.shutdown(socket.SHUT_WR)
        with server.connect() as client:
            client.write(0, b"x")
            assert client.read(0, 1) == b"x" == other.read(0, 1)
        assert server.server.clients >= 1
