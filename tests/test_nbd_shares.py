"""Guests of one server: what each has of its RAM, its quota and its weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import MiB, together, wait_until
from nbd import Served, command, served, where
from test_nbd_bases import no_file_beyond
from test_nbd_serve import fails

from frontswap.errors import ParameterError
from frontswap.nbd.exports import Exports, Wanted, with_shares
from frontswap.nbd.idle import Idle
from frontswap.testing.nbd_client import Client

assert where  # a fixture

PAGE = 4096
HALF = np.random.default_rng(1).integers(0, 256, PAGE // 2, np.uint8).tobytes()


def page(number: int) -> bytes:
    """Half of it noise: a record takes about 2 KiB."""
    return number.to_bytes(8, "big") + HALF + bytes(PAGE // 2 - 8)


def write(client: Client, pages: range) -> None:
    """16 pages a request."""
    for first in pages[::16]:
        some = range(first, min(first + 16, pages.stop))
        client.write(first * PAGE, b"".join(page(number) for number in some))


def check(client: Client, pages: range) -> None:
    """Every page has its bytes."""
    for number in pages:
        assert client.read(number * PAGE, PAGE) == page(number)


def guests(where: Path, **shares: dict[str, int]) -> list[Wanted]:
    """Exports with a base each."""
    return [Wanted(name, 16 * MiB, where / f"base-{name}", **found) for name, found in shares.items()]


def test_a_guest_has_no_more_than_its_quota(where: Path) -> None:
    wanted = guests(where, web={"quota": 1 * MiB}, db={})
    with served(where, wanted=wanted, memory=8 * MiB) as server:
        with server.connect("web") as web, server.connect("db") as db:
            write(db, range(1000))
            write(web, range(2000))
            check(web, range(2000))
            check(db, range(1000))
        found = {one["name"]: one for one in server.exports.statistics()["exports"]}
        assert MiB - 2 * PAGE < found["web"]["pool_bytes"] <= MiB == found["web"]["quota_bytes"]
        assert found["web"]["written_back_pages"] > 1000
        assert found["db"]["written_back_pages"] == found["db"]["slot_stores"] == 0


def test_a_hungry_guest_does_not_push_out_who_is_below_his_share(where: Path) -> None:
    """Both write at once, over and over; the modest one's pages are a third, its share a half."""
    wanted = guests(where, hungry={"weight": 1}, modest={"weight": 1})
    modest = 8 * MiB // 3 // 2200

    def work(number: int) -> None:
        with server.connect("modest" if number else "hungry") as client:
            for _ in range(4 if number else 1):
                write(client, range(modest if number else 4000))
            check(client, range(modest if number else 4000))

    with served(where, wanted=wanted, memory=8 * MiB) as server:
        together(2, work)
        found = {one["name"]: one for one in server.exports.statistics()["exports"]}
        assert found["modest"]["written_back_pages"] == 0
        assert found["modest"]["weight"] == 1
        # Who has made room may find it taken: that page goes to its slot, until it is written again.
        assert found["modest"]["curr_pages"] > modest * 0.95
        assert found["hungry"]["written_back_pages"] > 0


def test_ram_in_the_place_of_a_base_is_not_what_others_make_way_for(where: Path) -> None:
    wanted = [Wanted("ram", 2 * MiB, None), *guests(where, disk={"weight": 5})]
    with served(where, wanted=wanted, memory=8 * MiB) as server:
        with server.connect("ram") as ram, server.connect("disk") as disk:
            write(ram, range(512))
            write(disk, range(4000))
            check(ram, range(512))
            check(disk, range(4000))
        found = {one["name"]: one for one in server.exports.statistics()["exports"]}
        assert found["ram"]["weight"] == found["ram"]["written_back_pages"] == 0


def test_shares_of_the_command(where: Path) -> None:
    options = ["--export", f"web:8M:{where}/web", "--export", f"d=b:8M:{where}/db", "--base", f"{where}/base"]
    shares = ["--quota", "web=2M", "--quota", "=3M", "--weight", "web=2", "--weight", "d=b=100"]
    with command(where, *options, *shares) as server:
        found = {one["name"]: one for one in server.counters()["exports"]}
        assert [(found[name]["quota_bytes"], found[name]["weight"]) for name in ("", "web", "d=b")] == [
            (3 * MiB, 1),
            (2 * MiB, 2),
            (-1, 100),
        ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--quota", "db=1M"], "quota='db=1M': must be NAME=SIZE, of one of: '', 'web'"),
        (["--quota", "1M"], "quota='1M': must be NAME=SIZE"),
        (["--quota", "web=much"], "quota 'web'='much': must be a size in bytes"),
        (["--quota", "web=1M", "--quota", "web=2M"], "there are two of it"),
        (["--quota", "web=65M"], "quota 'web'='65 MiB': must be at most --memory, 64 MiB"),
        (["--quota", "=1M"], "quota ''='1 MiB': must be for an export with a base"),
        (["--weight", "=1"], "weight ''=1: must be for an export with a base"),
        (["--weight", "web=-1"], "weight 'web'='-1': must be 0 to 10000"),
        (["--weight", "web=10001"], "weight 'web'=10001: must be 0 to 10000"),
        (["--weight", "web"], "weight='web': must be NAME=N, of one of: '', 'web'"),
    ],
)
def test_shares_that_are_wrong(where: Path, options: list[str], says: str) -> None:
    base = where / "base"
    ways = ["--memory", "64M", "--socket", str(where / "socket"), "--size", "8M", "--export", f"web:8M:{base}"]
    assert says in fails(*ways, *options)
    assert not base.exists()


def test_shares_of_exports_that_are_not_there() -> None:
    with pytest.raises(ParameterError, match="quota"):
        with_shares([Wanted("web", PAGE, None)], ["db=1M"], [])
    with pytest.raises(ParameterError, match="with a base"):
        Exports([Wanted("web", PAGE, None, quota=1)], memory=8 * MiB)


# --- guests that have gone -------------------------------------------------------------------------------------------


@contextmanager
def idle(exports: Exports, seconds: float) -> Iterator[None]:
    """Exports without clients give their RAM back."""
    made = Idle(exports, seconds)
    made.start()
    try:
        yield
    finally:
        made.stop()


def in_the_pool(server: Served, name: str) -> int:
    """Bytes that an export has there."""
    return server.exports[name].area.statistics().pool_bytes


@pytest.mark.parametrize("base", ["file", "writethrough"])
def test_a_guest_that_has_gone_gives_its_ram_back_and_finds_its_bytes(where: Path, base: str) -> None:
    wanted = guests(where, gone={}, there={})
    with (
        served(where, base, wanted=wanted, memory=8 * MiB) as server,
        idle(server.exports, 0.05),
        server.connect("there") as there,
    ):
        write(there, range(300))
        for _ in range(2):
            with server.connect("gone") as gone:
                write(gone, range(300))
            before = in_the_pool(server, "there")
            wait_until(lambda: in_the_pool(server, "gone") == 0, "its pages leave")
            assert in_the_pool(server, "there") == before > 0
            assert server.exports["gone"].area.used_pages() == 300
            with server.connect("gone") as again:
                check(again, range(300))
        check(there, range(300))


def test_ram_that_is_the_base_stays_in_the_pool(where: Path) -> None:
    wanted = [Wanted("ram", 8 * MiB, None), *guests(where, disk={})]
    with served(where, wanted=wanted, memory=8 * MiB) as server, idle(server.exports, 0.01):
        for name in ("ram", "disk"):
            with server.connect(name) as client:
                write(client, range(300))
        wait_until(lambda: in_the_pool(server, "disk") == 0, "the pages of the one with a base leave")
        assert in_the_pool(server, "ram") > 0


def test_clients_that_come_back_while_their_pages_leave_lose_nothing(where: Path) -> None:
    """Each has its part of one export, and is away for a moment again and again."""

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        model: dict[int, bytes] = {}
        for turn in range(60):
            with server.connect("guest") as client:
                for _ in range(10):
                    at = int(rng.integers(0, 200)) * 3 + number
                    model[at] = page(turn << 20 | at)
                    client.write(at * PAGE, model[at])
                    look = int(rng.choice(list(model)))
                    assert client.read(look * PAGE, PAGE) == model[look]
        with server.connect("guest") as client:
            for at, data in model.items():
                assert client.read(at * PAGE, PAGE) == data

    wanted = guests(where, guest={})
    with served(where, wanted=wanted, memory=8 * MiB) as server, idle(server.exports, 0):
        together(3, work)
        wait_until(lambda: in_the_pool(server, "guest") == 0, "all have gone")


def test_what_cannot_leave_is_said_once(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(where, wanted=guests(where, guest={}), memory=8 * MiB) as server:
        with server.connect("guest") as client:
            write(client, range(50))
        with no_file_beyond(0), idle(server.exports, 0.01):
            wait_until(lambda: "cannot leave" in caplog.text, "it says so")
        assert caplog.text.count("cannot leave") == 1
        with server.connect("guest") as client:
            check(client, range(50))


def test_idle_exports_of_the_command(where: Path) -> None:
    with command(where, "--base", f"{where}/base", "--idle-after", "50ms", "--force") as server:
        with server.connect() as client:
            write(client, range(100))
        wait_until(lambda: server.counters()["exports"][0]["pool_bytes"] == 0, "its pages leave")
        assert server.counters()["exports"][0]["written_back_pages"] == 100
    (where / "base").unlink()
    with command(where, "--base", f"{where}/base", "--idle-after", "never") as server, server.connect() as client:
        write(client, range(100))
        check(client, range(100))
    ways = ["--memory", "64M", "--socket", str(where / "socket"), "--size", "8M"]
    assert "idle_after='soon': must be a duration" in fails(*ways, "--idle-after", "soon")
