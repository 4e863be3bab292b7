"""Administration of a running server: its control socket, `frontswap stats`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import FRONTSWAP, ROOT, MiB, noise, together, wait_until
from nbd import SIZE, command, need, run, where
from test_nbd_serve import fails

from frontswap.errors import ControlError, ParameterError
from frontswap.nbd import answering
from frontswap.nbd.asking import ask
from frontswap.nbd.control import Control, as_json
from frontswap.nbd.server import listen_unix

assert where  # a fixture


def frontswap(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command to its end, whatever it is."""
    return run(FRONTSWAP, *map(str, arguments), check=False, env={**os.environ, **environment})


@contextmanager
def controlled(where: Path, answer: Any = lambda body: {"said": body}) -> Iterator[Path]:
    """A control socket that answers GET and POST /said with what came."""
    made, path = Control(), where / "control"
    made.listen(listen_unix(path), {(method, "/said"): as_json(answer) for method in ("GET", "POST")})
    made.start()
    try:
        yield path
    finally:
        made.stop()
        path.unlink()


# --- the socket ----------------------------------------------------------------------------------


def test_a_question_and_its_answer(where: Path) -> None:
    with controlled(where) as path:
        assert ask(path, "/said") == {"said": None}
        assert ask(path, "/said?a=b", {"a": [1, "ü"]}) == {"said": {"a": [1, "ü"]}}
        with pytest.raises(ControlError, match=r"no GET /else; there is GET /said, POST /said"):
            ask(path, "/else")
    with pytest.raises(ControlError, match="no server answers there"):
        ask(path, "/said")


def test_what_is_asked_for_is_refused_with_its_reason(where: Path) -> None:
    def refuse(body: Any) -> None:
        raise ParameterError("size", body, "less")

    with controlled(where, refuse) as path, pytest.raises(ControlError, match="size=5: must be less"):
        ask(path, "/said", 5)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"x",
        b"\0" * 70_000,
        b"GET /said HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"POST /said HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /said HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
        b"POST /said HTTP/1.1\r\nContent-Length: 5\r\n\r\n{{{{{",
        b"POST /said HTTP/1.1\r\nContent-Length: 5\r\n\r\n[",
        b"DELETE /said HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_question_harms_nobody(where: Path, sent: bytes) -> None:
    with controlled(where) as path:
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            try:
                other.sendall(sent)
                other.shutdown(socket.SHUT_WR)
                answered = other.recv(65536)
            except (BrokenPipeError, ConnectionResetError):
                answered = b""
            assert b" 200 " not in answered.partition(b"\r\n")[0]
        assert ask(path, "/said", 1) == {"said": 1}


def test_who_says_nothing_keeps_nobody_waiting(where: Path) -> None:
    with controlled(where) as path:
        silent = []
        for _ in range(answering.MOST_REQUESTS - 1):
            silent.append(socket.socket(socket.AF_UNIX))
            silent[-1].connect(str(path))
        assert ask(path, "/said", 1) == {"said": 1}
        for _ in range(2):
            silent.append(socket.socket(socket.AF_UNIX))
            silent[-1].connect(str(path))
        wait_until(lambda: silent[-1].recv(1) == b"", "one too many is hung up on")
        for one in silent:
            one.close()

        def answered() -> bool:
            try:
                return bool(ask(path, "/said", 2) == {"said": 2})
            except ControlError:
                return False

        wait_until(answered, "there is room again")


def test_many_ask_at_once(where: Path) -> None:
    with controlled(where) as path:

        def work(number: int) -> None:
            for turn in range(50):
                assert ask(path, "/said", [number, turn]) == {"said": [number, turn]}

        together(4, work)


# --- of a server ---------------------------------------------------------------------------------


def test_the_control_socket_is_this_users_alone_and_goes_with_the_server(where: Path) -> None:
    at = where / "control"
    with command(where, "--control", str(at)) as server:
        assert stat.S_IMODE(at.stat().st_mode) == 0o600
        if ROOT:
            ordinary = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            where.chmod(0o755)
            done = run(*ordinary, FRONTSWAP, "stats", str(at), check=False)
            assert done.returncode != 0
            assert "is not readable" in done.stderr
        assert server.end() == 0
        assert not at.exists()


def test_one_that_a_killed_server_has_left_is_taken_over(where: Path) -> None:
    at = str(where / "control")
    with command(where, "--control", at) as server:
        server.process.kill()
        server.process.wait()
        assert os.path.exists(at)
    with command(where, "--control", at):
        assert ask(Path(at), "/statistics")["clients"] == 0
        assert "another server listens there" in fails(
            "--size=4M", "--memory=8M", f"--socket={where / 'other'}", "--control", at
        )


def test_a_control_socket_that_cannot_be_had_is_an_error_if_it_was_asked_for(where: Path) -> None:
    base = where / "base"
    options = ["--size=4M", "--memory=8M", f"--socket={where / 'socket'}", f"--base={base}"]
    assert "No such file" in fails(*options, "--control", str(where / "none" / "control"))
    assert not base.exists()


def test_without_its_usual_place_a_server_goes_on_and_says_so(where: Path) -> None:
    """Somebody else may have made the directory before, as in /tmp: it is not used then."""
    where.chmod(0o777)
    usual = where / "usual"
    usual.mkdir()
    usual.chmod(0o777)
    before = f"export FRONTSWAP_CONTROL={usual}"
    with command(where, ordinary=True, before=before) as server:
        assert "no control socket, for `frontswap stats`" in server.said()
        assert "is not a directory of this user alone" in server.said()
        server.connect().disconnect()


def test_what_nobody_asks_for_takes_no_ram(where: Path) -> None:
    """A server is a part of what its guests have: NumPy (8 MiB), OpenSSL and asyncio (7 MiB) are there when needed."""
    at = where / "control"
    with command(where, "--control", str(at)) as server:
        with server.connect() as client:
            client.write(0, noise(4096).tobytes())

        def loaded(name: str) -> bool:
            return name in Path(f"/proc/{server.process.pid}/maps").read_text()

        assert not loaded("libssl")
        assert not loaded("numpy")
        assert ask(at, "/statistics")["exports"][0]["writes"] == 1
        assert loaded("libssl")


# --- frontswap stats -----------------------------------------------------------------------------


def test_stats_shows_a_server_with_its_exports_by_name(where: Path) -> None:
    at = where / "control"
    with command(where, "--export", "more:4M", "--control", str(at)) as server, server.connect() as client:
        client.write(0, noise(8192).tobytes())
        found = json.loads(frontswap("stats", "--json", at).stdout)
        assert (found["pid"], found["clients"]) == (server.process.pid, 1)
        first, second = found["exports"]
        assert (first["name"], first["writes"], first["used_pages"], first["slot_stores"]) == ("", 1, 2, 2)
        assert (second["name"], second["writes"], second["size"]) == ("more", 0, 4 * MiB)
        assert found == server.counters()
        shown = frontswap("stats", at).stdout
        assert "'more'" in shown
        assert f"server {server.process.pid}, 1 clients" in shown
        assert "pool_limit_bytes" in shown
        assert frontswap("stats", "--debugfs", at).stdout.splitlines()[2] == "failed_stores:2"


@pytest.fixture
def usual(where: Path) -> dict[str, str]:
    """An environment in which no other server of this user is found."""
    return {"FRONTSWAP_DEBUGFS": str(where / "none"), "FRONTSWAP_CONTROL": str(where / "control")}


def test_stats_finds_the_servers_of_this_user(where: Path, usual: dict[str, str]) -> None:
    def stats(*options: str) -> subprocess.CompletedProcess[str]:
        return frontswap("stats", *options, **usual)

    before = "; ".join(f"export {name}={value}" for name, value in usual.items())
    (where / "second").mkdir()
    assert "must be a directory" in stats().stderr
    with command(where, before=before) as one:
        assert (where / "control" / f"{one.process.pid}.control").is_socket()
        assert json.loads(stats("--json").stdout)["pid"] == one.process.pid
        with command(where / "second", before=before) as two:
            shown = stats().stdout
            assert f"server {one.process.pid}," in shown
            assert f"server {two.process.pid}," in shown
            done = stats("--json")
            assert (done.returncode, "DIR=None: must be one of " in done.stderr) == (1, True)
            assert frontswap("serve", "resize", "", "4M", **usual).stderr.count(".control") == 2
            two.process.kill()  # what it leaves is found by nobody
            two.process.wait()
        assert frontswap("serve", "resize", "", "4M", **usual).stdout == "export '' has 4 MiB\n"
        assert json.loads(stats("--json").stdout)["pid"] == one.process.pid
    assert "must be a directory" in stats().stderr


def test_an_export_is_no_control_socket(where: Path) -> None:
    with command(where) as server:
        done = frontswap("stats", server.socket)
        assert done.returncode == 1
        assert "what answers there is no server's control socket" in done.stderr or "Connection reset" in done.stderr
        assert ask_with_curl(where, server.socket) == ""


def ask_with_curl(where: Path, path: Path) -> str:
    if shutil.which("curl") is None:
        return ""
    return run("curl", "--silent", "--unix-socket", str(path), "http://localhost/statistics", check=False).stdout


@need("curl")
def test_curl(where: Path) -> None:
    at = where / "control"
    with command(where, "--control", str(at)):
        found = json.loads(ask_with_curl(where, at))
        assert found["exports"][0]["size"] == SIZE
