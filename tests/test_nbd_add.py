"""Exports of a running server come, go and get other shares. Nobody ever has another export's pages."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FRONTSWAP, MiB, noise, together, wait_until
from nbd import BASES, SIZE, command, need, run, served, where
from test_nbd_bases import mixed
from test_nbd_shares import guests, write

from frontswap.errors import BaseError, ClosedError, ControlError, InUseError, ParameterError
from frontswap.nbd.asking import ask
from frontswap.nbd.exports import MOST_EXPORTS, Wanted
from frontswap.nbd.idle import Idle
from frontswap.nbd.protocol import Option, Reply
from frontswap.testing.nbd_client import Client, text

assert where  # a fixture

PAGE = 4096


def wanted(where: Path, base: str, name: str, size: int = SIZE, **shares: int) -> Wanted:
    return Wanted(name, size, None if base == "ram" else where / f"base-{name}", **shares)


# --- it comes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_an_export_that_comes_while_others_are_used(where: Path, base: str) -> None:
    data = mixed(SIZE, 1)
    with served(where, base) as server, server.connect() as first:
        first.write(0, data)
        server.exports.add(wanted(where, base, "more"))
        with server.connect("more") as more:
            assert more.read(0, SIZE) == bytes(SIZE)
            more.write(0, data[::-1])
            assert first.read(0, SIZE) == data
            assert more.read(0, SIZE) == data[::-1]
        assert [one["name"] for one in server.exports.statistics()["exports"]] == ["", "more"]
        server.exports.resize("more", 2 * SIZE)
        with pytest.raises(ParameterError, match="at most 16 MiB: so far do its page numbers reach"):
            server.exports.resize("more", 2 * SIZE + PAGE)


def test_what_cannot_be_added_changes_nothing(where: Path) -> None:
    there = [Wanted("ram", SIZE, None), Wanted("disk", SIZE, where / "base-disk")]
    with served(where, wanted=there, memory=2 * SIZE) as server:
        for one, why in (
            (wanted(where, "file", "disk"), "name='disk': must be a name that no export has"),
            (wanted(where, "file", ""), "name='': must be a name that no export has"),
            (Wanted("other", SIZE, where / "." / "base-disk"), "base-disk': must be of one export only"),
            (wanted(where, "ram", "other", 2 * SIZE), "size='24 MiB': must be at most --memory, 16 MiB"),
            (wanted(where, "ram", "other", weight=1), "weight 'other'=1: must be for an export with a base"),
            (wanted(where, "file", "other", quota=3 * SIZE), "quota 'other'='24 MiB': must be at most --memory"),
            (wanted(where, "file", "other", PAGE << 28), "size='1 TiB': must be at most .*, here and now"),
        ):
            with pytest.raises(ParameterError, match=why):
                server.exports.add(one)
        with pytest.raises(BaseError, match="No such file"):
            server.exports.add(Wanted("other", SIZE, where / "none" / "base"))
        assert sorted(path.name for path in where.iterdir()) == ["base-disk", "socket"]
        assert list(server.exports) == ["ram", "disk"]
        number = 2
        while number < MOST_EXPORTS:
            server.exports.add(wanted(where, "ram", f"{number}", PAGE))
            number += 1
        with pytest.raises(InUseError, match="there are 63 exports"):
            server.exports.add(wanted(where, "file", "other"))
    with pytest.raises(ClosedError, match="the server ends"):
        server.exports.add(wanted(where, "file", "other"))
    assert not (where / "base-other").exists()


def test_there_are_page_numbers_for_many_large_exports(where: Path) -> None:
    """The first one may grow to half of all; the others come out of the other half, and give back what they had."""
    large = 64 << 30
    with served(where, wanted=[Wanted("", large, where / "base")], overcommit=True) as server:
        server.exports.resize("", 500 << 30)
        for number in range(5):
            server.exports.add(Wanted(f"{number}", large, where / f"base-{number}"))
        server.exports.remove("3", server.server.hang_up)
        server.exports.add(Wanted("again", large, where / "base-3"))
        with server.connect("again") as client:
            client.write(large - PAGE, b"x")
            assert client.read(large - PAGE, 2)[:1] == b"x"


# --- it goes ---------------------------------------------------------------------------------------------------------


def test_one_that_is_used_does_not_go(where: Path) -> None:
    there = guests(where, web={}, db={})
    with served(where, wanted=there) as server:
        remove, hang_up = server.exports.remove, server.server.hang_up
        with server.connect("web") as client:
            client.write(0, noise(PAGE).tobytes())
            with pytest.raises(InUseError, match="1 clients have export 'web'"):
                remove("web", hang_up)
            assert client.read(0, PAGE) == noise(PAGE).tobytes()
        wait_until(lambda: server.exports["web"].clients == 0, "it has gone")
        with pytest.raises(InUseError, match="1 pages of export 'web' are in use and are nowhere else"):
            remove("web", hang_up)
        with server.connect("web") as client:
            assert client.read(0, PAGE) == noise(PAGE).tobytes()
            client.trim(0, PAGE)
        wait_until(lambda: server.exports["web"].clients == 0, "it has gone")
        remove("web", hang_up)
        assert list(server.exports) == ["db"]
        with pytest.raises(ParameterError, match="name='web': must be an export: 'db'"):
            remove("web", hang_up)
        # It was the first, so it was the one without a name: nobody gets another one's pages for that.
        with pytest.raises(ParameterError, match="name='': must be an export"):
            remove("", hang_up)
        assert "" not in server.exports
        remove("db", hang_up)
        assert server.exports.statistics()["exports"] == []
        assert server.exports.unsaved_pages == 0


@pytest.mark.parametrize("base", BASES)
def test_force_ends_connections_and_gives_everything_back(where: Path, base: str) -> None:
    with served(where, base, wanted=[wanted(where, base, "web"), wanted(where, base, "db")]) as server:
        web, db = server.connect("web"), server.connect("db")
        for client in (web, db):
            client.write(0, mixed(SIZE, 1))
        before = server.exports.statistics()["hooks"]
        server.exports.remove("web", server.server.hang_up, force=True)
        assert web.ended()
        web.close()
        after = server.exports.statistics()["hooks"]
        assert after["curr_pages"] * 2 == before["curr_pages"]
        assert after["pool_live_bytes"] < before["pool_live_bytes"]  # by how much the idle thread decides, too
        assert db.read(0, SIZE) == mixed(SIZE, 1)
        db.disconnect()
        server.exports.add(wanted(where, base, "web"))
        with server.connect("web") as again:
            assert again.read(0, SIZE) == (mixed(SIZE, 1) if base == "writethrough" else bytes(SIZE))


def test_what_was_written_through_is_not_in_the_way(where: Path) -> None:
    data = mixed(SIZE, 1)
    with served(where, "writethrough") as server:
        with server.connect() as client:
            client.write(0, data)
        wait_until(lambda: server.exports[""].clients == 0, "it has gone")
        server.exports.remove("", server.server.hang_up)
        server.exports.add(Wanted("again", SIZE, where / "base"))
        with server.connect("again") as client:
            assert client.read(0, SIZE) == data


@contextmanager
def no_sync(fd: int) -> Iterator[None]:
    """fdatasync() of a descriptor fails: it is one of a pipe meanwhile. (dup3() of libc is interposed after tests that
    had a Memory, and leaves our descriptors alone.)
    """
    libc, before, pipe = ctypes.CDLL(None), os.dup(fd), os.pipe()
    dup3 = {"x86_64": 292, "aarch64": 24}[platform.machine()]
    assert libc.syscall(dup3, pipe[0], fd, os.O_CLOEXEC) == fd
    try:
        yield
    finally:
        assert libc.syscall(dup3, before, fd, os.O_CLOEXEC) == fd
        for one in (before, *pipe):
            os.close(one)


def test_one_whose_base_fails_does_not_go(where: Path) -> None:
    """What was acknowledged as written through may not be on the disk: who removes it has to know."""
    with served(where, "writethrough") as server:
        with server.connect() as client:
            client.write(0, b"x")
        wait_until(lambda: server.exports[""].clients == 0, "it has gone")
        with no_sync(server.exports[""].base.fd), pytest.raises(BaseError, match="could not be written to the disk"):
            server.exports.remove("", server.server.hang_up)
        with server.connect() as client:
            assert client.read(0, 1) == b"x"
        server.exports.remove("", server.server.hang_up, force=True)


def test_who_shakes_hands_while_it_goes_has_neither_it_nor_what_comes_in_its_place(where: Path) -> None:
    """The transmission knows its area by a number, which the next area has then."""
    with served(where) as server:
        shaking = Client(server.socket)
        shaking.hello()
        with server.server._lock:  # it is told of its export, and does not transmit yet
            assert shaking.option(Option.GO, text("") + bytes(2))[-1][0] == Reply.ACK
            change = threading.Thread(target=server.exports.remove, args=("", lambda _: 0))
            change.start()
            change.join()
            server.exports.add(Wanted("", SIZE, None))
        assert shaking.ended()
        shaking.close()
        with server.connect() as client:
            client.write(0, b"y")
            assert client.read(0, 1) == b"y"


def test_exports_that_come_and_go_while_clients_and_others_look(where: Path) -> None:
    """Each client has its own bytes or an ended connection, never those of an export in the same place."""
    turns = 60

    def work(number: int) -> None:
        name, rng = f"guest{number}", np.random.default_rng(number)
        for turn in range(turns):
            server.exports.add(wanted(where, "file" if turn % 2 else "ram", name, MiB))
            data = rng.bytes(PAGE) if turn % 3 else bytes([number + 1]) * PAGE
            with server.connect(name) as client:
                assert client.read(0, MiB) == bytes(MiB)
                for at in range(0, MiB, 8 * PAGE):
                    client.write(at, data)
                for at in range(0, MiB, 8 * PAGE):
                    assert client.read(at, PAGE) == data
                server.exports.remove(name, server.server.hang_up, force=True)
                assert client.ended()

    def look(_: int) -> None:
        while not done.is_set():
            server.exports.statistics()
            assert server.exports.unsaved_pages >= 0
            with Client(server.socket) as client:
                client.hello()
                assert (Reply.SERVER, bytes(4)) in client.option(Option.LIST)

    done = threading.Event()
    with served(where) as server:
        looking = threading.Thread(target=look, args=(0,))
        looking.start()
        idle = Idle(server.exports, 0)
        idle.start()
        try:
            together(3, work)
        finally:
            idle.stop()
            done.set()
            looking.join()
        assert list(server.exports) == [""]


# --- shares ----------------------------------------------------------------------------------------------------------


def test_another_quota_holds_at_once(where: Path) -> None:
    with served(where, wanted=guests(where, web={}, db={})) as server, server.connect("web") as client:
        write(client, range(1000))
        area = server.exports["web"].area
        assert area.statistics().pool_bytes > MiB
        server.exports.set_shares("web", quota=MiB)
        found = area.statistics()
        assert (found.pool_bytes <= MiB, found.quota_bytes, found.weight) == (True, MiB, 1)
        server.exports.set_shares("web", weight=7)
        found = area.statistics()
        assert (found.quota_bytes, found.weight) == (MiB, 7)
        server.exports.set_shares("web", quota=None, weight=None)
        write(client, range(1000, 2000))
        assert area.statistics().pool_bytes > 2 * MiB
        with pytest.raises(ParameterError, match="quota 'web'='65 MiB': must be at most --memory"):
            server.exports.set_shares("web", quota=65 * MiB)


def test_ram_gives_way_to_nobody_whenever_weights_come_and_go(where: Path) -> None:
    with served(where, wanted=[Wanted("ram", MiB, None), *guests(where, disk={})]) as server:
        ram = server.exports["ram"].area
        weights = []
        weights.append(ram.weight)
        server.exports.set_shares("disk", weight=5)
        weights.append(ram.weight)
        server.exports.set_shares("disk", weight=None)
        weights.append(ram.weight)
        server.exports.add(wanted(where, "file", "more", weight=5))
        weights.append(ram.weight)
        server.exports.remove("more", server.server.hang_up)
        weights.append(ram.weight)
        assert weights == [None, 0, None, 0, None]
        with pytest.raises(ParameterError, match="weight 'ram'=3: must be for an export with a base"):
            server.exports.set_shares("ram", weight=3)


# --- the commands ----------------------------------------------------------------------------------------------------


def serve(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run(FRONTSWAP, "serve", *map(str, arguments), check=False, cwd=cwd)


@need("nbdinfo", "nbdcopy")
def test_the_commands(where: Path) -> None:
    at = ("--control", where / "control")
    (where / "image").write_bytes(mixed(SIZE, 5))
    with command(where, "--base", str(where / "base"), "--force", *map(str, at)) as server:
        done = serve("add", "web", "8M", "--base", "base-web", "--quota", "4M", "--weight", "3", *at, cwd=where)
        assert done.stdout == f"export 'web' has 8 MiB, frontswap: in front of {where}/base-web\n"
        uri = server.uri.replace("///", "///web")
        assert "export-size: 8388608" in run("nbdinfo", uri).stdout
        run("nbdcopy", str(where / "image"), uri)
        found = server.counters()["exports"][1]
        assert (found["name"], found["quota_bytes"], found["weight"], found["used_pages"]) == (
            "web",
            4 * MiB,
            3,
            len(used_pages_of(where / "image")),
        )
        shown = serve("set", "web", "--quota", "2M", *at).stdout
        assert shown.startswith("export 'web' has a quota of 2 MiB, weight 3, ")
        assert server.counters()["exports"][1]["pool_bytes"] <= 2 * MiB
        assert serve("set", "web", "--quota", "none", "--weight", "none", *at).stdout.startswith(
            "export 'web' has no quota, weight 1, "
        )
        refused = serve("remove", "web", *at)
        assert (refused.returncode, "are in use and are nowhere else" in refused.stderr) == (1, True)
        run("nbdcopy", uri, str(where / "copy"))
        assert (where / "copy").read_bytes() == (where / "image").read_bytes()
        assert serve("remove", "web", "--force", *at).stdout == "export 'web' has gone\n"
        assert len(json.loads(run("nbdinfo", "--json", "--list", server.uri).stdout)["exports"]) == 1
        for arguments, why in (
            (("add", "web", "5000"), "multiple of 4096"),
            (("add", "web", "x"), "size='x'"),
            (("add", "web", "8M", "--weight", "-1"), "weight=-1: must be 0 to 10000"),
            (("add", "", "8M"), "name='': must be a name that no export has"),
            (("add", "web", "1G"), "must be at most --memory, 64 MiB"),
            (("remove", "web"), "name='web': must be an export: ''"),
            (("set", ""), "quota=None: must be given, or --weight, or both"),
            (("set", "", "--weight", "much"), "weight='much': must be a number, or 'none'"),
            (("set", "web", "--weight", "1"), "name='web': must be an export: ''"),
        ):
            done = serve(*arguments, *at)
            assert (done.returncode, why in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr
        assert os.listdir(where).count("base-web") == 1
        for what, body in (
            ("/add", {"name": "web"}),
            ("/add", dict.fromkeys(("name", "size", "base", "quota", "weight", "discard"), "web")),
            ("/remove", {"name": ""}),
            ("/remove", {"name": "", "force": "yes"}),
            ("/set", {"name": ""}),
            ("/set", {"name": "", "quota": [1]}),
            ("/set", {"name": "", "quota": -1}),
            ("/set", {"name": "", "weight": True}),
            ("/set", {"name": "", "weight": -1}),
            ("/set", {"name": "", "size": 1}),
        ):
            with pytest.raises(ControlError, match=r"must be an object with|must be a size|must be 0 to 10000"):
                ask(at[1], what, body)
        with pytest.raises(ControlError, match="an absolute path"):
            ask(at[1], "/add", {**ADDED, "base": "base"})
        assert ask(at[1], "/statistics")["exports"][0]["name"] == ""


ADDED: dict[str, Any] = {"name": "web", "size": "8M", "base": None, "quota": None, "weight": None, "discard": False}


def used_pages_of(path: Path) -> list[int]:
    """Pages that nbdcopy writes: it leaves out what is zeros, and trims it."""
    data = np.fromfile(path, np.uint8).reshape(-1, PAGE)
    return [number for number in range(len(data)) if data[number].any()]
