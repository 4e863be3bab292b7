"""`frontswap attach` and `detach`: the commands, and what stands in their way. Guests have them do their work."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers import FRONTSWAP, PATIENCE, ROOT


def frontswap(*words: str, ordinary: bool = False) -> subprocess.CompletedProcess[str]:
    line = [FRONTSWAP, *words]
    if ordinary and ROOT:
        line = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *line]
    return subprocess.run(line, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)


def refused(*words: str) -> str:
    done = frontswap(*words)
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize(
    ("words", "server"),
    [
        (["--socket", "/run/frontswap.sock"], "-unix /run/frontswap.sock /dev/nbd0 -name ''"),
        (["--connect", "[::1]:7777", "--name", "b"], "::1 7777 /dev/nbd0 -name b"),
        (["--connect", "swap.example"], "swap.example 10809 /dev/nbd0 -name ''"),
    ],
)
def test_the_commands_are_printed(words: list[str], server: str) -> None:
    done = frontswap("attach", *words, "/dev/nbd0", "--print", ordinary=True)
    assert done.stdout.splitlines() == [
        "modprobe nbd",
        f"nbd-client {server} -block-size 4096 -connections 1 -nonetlink -persist -swap",
        "mkswap /dev/nbd0",
        "swapon --discard=pages --priority 100 /dev/nbd0",
    ]
    assert all(shlex.split(line) for line in done.stdout.splitlines())
    done = frontswap("detach", "/dev/nbd0", "--print", ordinary=True)
    assert done.stdout.splitlines() == ["swapoff /dev/nbd0", "nbd-client -d /dev/nbd0"]


@pytest.mark.parametrize(
    ("words", "parameter"),
    [
        ([], "socket=None"),
        (["--socket", "a", "--connect", "b"], "socket='a'"),
        (["--connect", "host:port"], "connect='host:port'"),
        (["--socket", "a", "--connections", "0"], "connections=0"),
        (["--socket", "a", "--priority", "40000"], "priority=40000"),
    ],
)
def test_wrong_settings(words: list[str], parameter: str) -> None:
    assert refused("attach", *words, "/dev/nbd0").startswith(f"frontswap: {parameter}: must be ")


def test_who_is_not_root_is_told_what_to_do() -> None:
    for words in (["attach", "--socket", "a", "/dev/nbd0"], ["detach", "/dev/nbd0"]):
        done = frontswap(*words, ordinary=True)
        assert done.returncode == 1
        assert "--print shows the commands" in done.stderr


@pytest.mark.skipif(not ROOT, reason="needs root: others are refused before")
@pytest.mark.skipif(os.access("/usr/sbin/nbd-client", os.X_OK) is False, reason="not installed: nbd-client (.ci/need)")
def test_what_is_no_device_of_nbd(tmp_path: Path) -> None:
    for device in ("/dev/null", str(tmp_path)):
        assert f"{device} is no block device of nbd" in refused("attach", "--socket", "a", device)
        assert f"{device} is no block device of nbd" in refused("detach", device)
