"""`frontswap attach` and `detach`: the commands, and what stands in their way. Guests have them do their work."""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
from pathlib import Path

import pytest
from helpers import FRONTSWAP, PATIENCE, ROOT, MiB
from nbd import need, run

from frontswap.nbd.attach import is_swap, signature


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
        f"nbd-client {server} -block-size 4096 -connections 1 -swap",
        "mkswap /dev/nbd0",
        "swapon --discard=pages --priority 100 /dev/nbd0",
    ]
    assert all(shlex.split(line) for line in done.stdout.splitlines())
    done = frontswap("detach", "/dev/nbd0", "--print", ordinary=True)
    assert done.stdout.splitlines() == ["swapoff /dev/nbd0", "nbd-client -d /dev/nbd0"]


def test_behind_tls() -> None:
    tls = ["--tls-ca", "ca.pem", "--tls-cert", "/c.pem"]
    done = frontswap("attach", "--connect", "host:7", *tls, "/dev/nbd0", "--print")
    ca = f"-cacertfile {Path.cwd()}/ca.pem -tlshostname"
    device = "nbd-client host 7 /dev/nbd0 -name '' -block-size 4096 -connections 1"
    assert done.stdout.splitlines()[1] == f"{device} {ca} host -certfile /c.pem -keyfile /c.pem -swap"
    done = frontswap(
        "attach", "--connect", "host:7", *tls, "--tls-key", "/k", "--tls-host", "b", "/dev/nbd0", "--print"
    )
    assert done.stdout.splitlines()[1] == f"{device} {ca} b -certfile /c.pem -keyfile /k -swap"


@pytest.mark.parametrize(
    ("words", "parameter"),
    [
        ([], "socket=None"),
        (["--socket", "a", "--connect", "b"], "socket='a'"),
        (["--connect", "host:port"], "connect='host:port'"),
        (["--socket", "a", "--connections", "0"], "connections=0"),
        (["--connect", "a", "--tls-cert", "b"], "tls_ca=None"),
        (["--connect", "a", "--tls-host", "b"], "tls_ca=None"),
        (["--connect", "a", "--tls-ca", "b", "--tls-key", "c"], "tls_cert=None"),
        (["--socket", "a", "--tls-ca", "b"], "tls_ca='b'"),
        (["--connect", "a", "--tls-ca", "/none"], "tls='/none'"),
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
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert f"{loop} is no block device of nbd" in refused("detach", str(loop))
    for device in ("/dev/null", str(tmp_path)):
        assert f"{device} is no block device of nbd" in refused("attach", "--socket", "a", device)
        assert f"{device} is no block device of nbd" in refused("detach", device)


@need("blkid", "mkswap")
def test_what_is_in_an_export(tmp_path: Path) -> None:
    """Partitions are something, though blkid has no type for them: mkswap would write over the first one's table."""
    export = tmp_path / "export"
    export.touch(0o600)
    os.truncate(export, 8 * MiB)
    assert signature(str(export)) == ""
    one = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\3\0", 2048, 8192)
    with export.open("r+b") as file:
        file.seek(440)
        file.write(b"disk\0\0" + one + bytes(48) + b"\x55\xaa")
    assert signature(str(export)) == "dos"
    run("/usr/sbin/mkswap", str(export))
    assert signature(str(export)) == "swap"


@pytest.mark.skipif(not ROOT, reason="needs root: a swap device")
@need("losetup", "mkswap", "swapon", "swapoff")
def test_a_device_is_swapped_on_by_whatever_name(tmp_path: Path) -> None:
    """Its path may be a link, and is not as /proc/swaps has it."""
    file, link = tmp_path / "swap", tmp_path / "link"
    file.touch(0o600)
    os.truncate(file, MiB)
    done = run("/usr/sbin/losetup", "--find", "--show", str(file), check=False)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        link.symlink_to(device)
        run("/usr/sbin/mkswap", device)
        assert not is_swap(device)
        swapon = run("/usr/sbin/swapon", device, check=False)
        if swapon.returncode:
            pytest.skip(f"no swap here: {swapon.stderr.strip()}")
        try:
            assert is_swap(device)
            assert is_swap(str(link))
        finally:
            run("/usr/sbin/swapoff", device)
    finally:
        run("/usr/sbin/losetup", "--detach", device)
