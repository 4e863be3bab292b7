"""Guests of one server: what each has of its RAM, its quota and its weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import MiB, together
from nbd import command, served, where
from test_nbd_serve import fails

from frontswap.errors import ParameterError
from frontswap.nbd.exports import Exports, Wanted, with_shares
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
