"""The units of packaging/systemd, and what systemd is told."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import FRONTSWAP, PATIENCE, MiB, wait_until
from nbd import need, run, where

from frontswap.nbd.asking import ask
from frontswap.testing.nbd_client import Client

assert where  # a fixture

UNITS = Path(__file__).parent.parent / "packaging" / "systemd"
INSTALLED = "/usr/local/bin/frontswap"


@contextmanager
def notified(at: str) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """What systemd listens on, as the environment says it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(at)
        made.settimeout(60 * PATIENCE)
        yield made, {**os.environ, "NOTIFY_SOCKET": at.replace("\0", "@")}


def setting(unit: str, name: str) -> str:
    """The value of a setting that a unit has once."""
    (found,) = [line for line in (UNITS / unit).read_text().splitlines() if line.startswith(f"{name}=")]
    return found.partition("=")[2]


@pytest.mark.parametrize("abstract", [False, True])
def test_the_units_command_says_when_it_is_ready(where: Path, abstract: bool) -> None:
    """As systemd would run it: when READY=1 is there clients are let in."""
    options = f"--size 4M --memory 8M --socket {where}/socket"
    line = setting("frontswap-serve@.service", "ExecStart")
    line = line.replace("$FRONTSWAP_SERVE", options).replace("/run/frontswap/%i", f"{where}/web")
    command = [word.replace(INSTALLED, FRONTSWAP) for word in shlex.split(line)]
    assert setting("frontswap-serve@.service", "Type") == "notify"
    with (
        notified(f"\0{where}" if abstract else f"{where}/notify") as (heard, environment),
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            assert heard.recv(4096) == b"READY=1"
            with Client(where / "socket").go() as client:
                client.write(0, b"x")
            assert ask(where / "web.control", "/statistics")["exports"][0]["size"] == 4 * MiB
            process.terminate()
            assert heard.recv(4096) == b"STOPPING=1"
            assert process.wait(60 * PATIENCE) == 0
        finally:
            process.kill()


def test_a_systemd_that_has_gone_is_no_reason_to_end(where: Path) -> None:
    log = where / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [FRONTSWAP, "serve", "--size=4M", "--memory=8M", f"--socket={where / 'socket'}"],
            env={**os.environ, "NOTIFY_SOCKET": str(where / "none")},
            stderr=out,
        )
    try:
        wait_until(lambda: "READY=1: systemd cannot be told" in log.read_text(), "it says so")
        with Client(where / "socket").go() as client:
            assert client.read(0, 1) == b"\0"
        process.terminate()
        assert process.wait(60 * PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_attach_and_detach_take_what_the_unit_gives_them() -> None:
    file = {"$FRONTSWAP_ATTACH": "--connect 10.0.0.1 --name web", "$FRONTSWAP_DEVICE": "/dev/nbd0"}
    for name, last in (("ExecStart", "swapon"), ("ExecStop", "nbd-client -d")):
        line = setting("frontswap-attach@.service", name)
        for word, value in file.items():
            line = line.replace(word, value)
        done = run(*shlex.split(line.replace(INSTALLED, FRONTSWAP)), "--print")
        assert done.stdout.splitlines()[-1].startswith(last)


@need("systemd-analyze")
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_systemd_understands_the_units(where: Path, unit: str) -> None:
    for path in UNITS.glob("*.service"):
        text = path.read_text().replace(INSTALLED, FRONTSWAP)
        (where / path.name.replace("@", "@web")).write_text(text)
        shutil.copy(path, where)
    done = run("systemd-analyze", "verify", "--man=no", str(where / unit.replace("@", "@web")), check=False)
    ours = [line for line in done.stderr.splitlines() if "frontswap" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
