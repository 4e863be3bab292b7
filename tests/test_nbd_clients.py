"""Real clients of NBD: libnbd's tools, QEMU's, fio's. Against RAM, files and files that are written through."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import PATIENCE, MiB, noise, walk
from nbd import BASES, SIZE, Command, command, need, run, where

assert where  # a fixture

SYSTEM = "/usr/bin/python3"  # whose libnbd Debian packages
LIBNBD = need("nbdsh")


def options(where: Path, base: str) -> list[str]:
    """Of the command, for one of BASES; a server that ends at the first signal."""
    if base == "ram":
        return ["--force"]
    return ["--force", "--base", str(where / "base"), *(["--writethrough"] if base == "writethrough" else [])]


def image(where: Path, size: int = SIZE) -> Path:
    """A file of half numbers, a quarter noise and a quarter hole."""
    path = where / "image"
    with path.open("wb") as file:
        file.write(walk(size // 16).tobytes())
        file.write(noise(size // 4).tobytes())
        file.truncate(size)
    return path


def healthy(server: Command) -> None:
    """No page was lost, and the server ends as it should."""
    assert all(export["poisoned"] == 0 for export in server.counters()["exports"])
    assert server.end() == 0


@need("nbdinfo")
def test_nbdinfo(where: Path) -> None:
    with command(where, "--export", "disk:4M") as server:
        found = json.loads(run("nbdinfo", "--json", "--list", server.uri).stdout)
        assert {export["export-name"]: export["export-size"] for export in found["exports"]} == {
            "": SIZE,
            "disk": 4 * MiB,
        }
        first = found["exports"][0]
        assert first["contexts"] == ["base:allocation"]
        assert first["can_multi_conn"]
        assert first["can_fua"]
        assert first["can_df"]
        assert (first["block_size_minimum"], first["block_size_preferred"]) == (1, 4096)
        extents = json.loads(run("nbdinfo", "--json", "--map", server.uri).stdout)
        assert [(extent["length"], extent["type"]) for extent in extents] == [(SIZE, 3)]
        assert run("nbdinfo", "--can", "zero", server.uri).returncode == 0
        assert run("nbdinfo", "--size", server.uri.replace("///", "///none"), check=False).returncode == 1


@need("nbdcopy")
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("how", [("--connections=4",), ("--synchronous",), ("--request-size=4096", "--flush")])
def test_nbdcopy(where: Path, base: str, how: tuple[str, ...]) -> None:
    path = image(where)
    back = where / "back"
    with command(where, *options(where, base)) as server:
        run("nbdcopy", *how, str(path), server.uri)
        run("nbdcopy", *how, server.uri, str(back))
        assert back.read_bytes() == path.read_bytes()
        healthy(server)


@need("qemu-img")
@pytest.mark.parametrize("base", BASES)
def test_qemu_img(where: Path, base: str) -> None:
    path = image(where)
    with command(where, *options(where, base)) as server:
        target = ["-n", "-f", "raw", "-O", "raw", str(path), server.uri]
        run("qemu-img", "convert", *target)
        assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(path), server.uri).stdout
        run("qemu-img", "convert", "-W", "-m", "16", *target)
        assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(path), server.uri).stdout
        extents = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", server.uri).stdout)
        assert sum(extent["length"] for extent in extents) == SIZE
        assert extents[-1]["zero"]
        run("qemu-img", "bench", "-f", "raw", "-w", "-c", "2000", "-d", "32", "-s", "4096", server.uri)
        healthy(server)


@need("qemu-io")
@pytest.mark.parametrize("base", BASES)
def test_qemu_io(where: Path, base: str) -> None:
    done = [
        "write -P 1 0 1M",
        "read -P 1 0 1M",
        "write -P 2 1000 3000",
        "read -P 1 0 1000",
        "read -P 2 1000 3000",
        "read -P 1 4000 1000",
        "write -z 512 100k",
        "read -P 0 512 100k",
        "discard 0 1M",
        "read -P 0 0 1M",
        "write -f -P 3 4M 2M",
        "flush",
        "read -P 3 4M 2M",
        "aio_write -P 4 0 64k",
        "aio_write -P 5 64k 64k",
        "aio_flush",
        "read -P 4 0 64k",
        "read -P 5 64k 64k",
    ]
    with command(where, *options(where, base)) as server:
        found = run("qemu-io", "-f", "raw", *[part for line in done for part in ("-c", line)], server.uri).stdout
        assert "verification failed" not in found
        assert "error" not in found.lower()
        healthy(server)


SHELL = r"""
import errno, nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
size = h.get_size()
data = bytes(range(256)) * 64
h.pwrite(data, 1234)
assert h.pread(len(data), 1234) == data
h.pwrite(b"fua", 0, nbd.CMD_FLAG_FUA)
parts = []
def chunk(part, offset, status, error):
    parts.append((offset, len(part), status))
h.pread_structured(8192, 0, chunk, nbd.CMD_FLAG_DF)
assert parts == [(0, 8192, nbd.READ_DATA)], parts
found = []
def extent(context, offset, entries, error):
    assert context == "base:allocation"
    found.extend(entries)
h.block_status(size, 0, extent)
assert sum(found[::2]) == size, found
assert set(found[1::2]) == {0, 3}, found
def fails(error, call, *args):
    try:
        call(*args)
    except nbd.Error as caught:
        assert caught.errnum == error, (call, args, caught)
    else:
        raise AssertionError((call, args))
fails(errno.EINVAL, h.pread, 1, size)
fails(errno.ENOSPC, h.pwrite, b"x", size)
fails(errno.EINVAL, h.trim, 4096, size - 10)
fails(errno.EINVAL, h.cache, 4096, size)
h.cache(len(data), 1234)
assert h.pread(len(data), 1234) == data
assert h.can_cache() and h.can_fast_zero()
if sys.argv[2] == "writethrough":
    fails(errno.EOPNOTSUPP, h.zero, len(data), 1234, nbd.CMD_FLAG_FAST_ZERO)
    assert h.pread(len(data), 1234) == data
    h.zero(len(data), 1234)
else:
    h.zero(len(data), 1234, nbd.CMD_FLAG_FAST_ZERO)
h.trim(size, 0)
assert h.pread(65536, 0) == bytes(65536)
h.flush()
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i] * 5000)), i * 5000) for i in range(64)]
while h.aio_in_flight():
    h.poll(-1)
for i in range(64):
    assert h.pread(5000, i * 5000) == bytes([i] * 5000)
h.trim(size, 0)
h.shutdown()
"""


@LIBNBD
@pytest.mark.parametrize("base", BASES)
def test_libnbd(where: Path, base: str) -> None:
    if run(SYSTEM, "-c", "import nbd", check=False, cwd="/").returncode:
        pytest.skip("not installed: python3-libnbd (.ci/need)")
    script = where / "script.py"
    script.write_text(SHELL)
    with command(where, *options(where, base)) as server:
        run(SYSTEM, "-I", str(script), server.uri, base)
        healthy(server)


FIO = ["--name=fio", "--ioengine=nbd", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=0"]


@need("fio")
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "how",
    [
        ("--rw=randwrite", "--bs=4k", "--iodepth=32"),
        ("--rw=randwrite", "--bsrange=512-128k", "--blockalign=512", "--iodepth=32"),
        ("--rw=randtrimwrite", "--bs=4k", "--iodepth=32"),
    ],
    ids=["4k", "odd", "trimwrite"],
)
def test_fio(where: Path, base: str, how: tuple[str, ...]) -> None:
    """What fio writes at queue depth 32 it finds again."""
    more = ["--buffer_compress_percentage=60", "--size=8M", "--uri={uri}", "--loops=3"]
    with command(where, *options(where, base)) as server:
        done = run("fio", *FIO, *how, *[option.replace("{uri}", server.uri) for option in more], cwd=where)
        assert "err= 0" in done.stdout, done.stdout
        healthy(server)


@need("fio")
@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_fio_with_four_connections_and_a_small_pool(where: Path, base: str) -> None:
    """Most of it lies in the base."""
    size, memory = 128 * MiB, "128M" if base == "ram" else "16M"
    jobs = ["--numjobs=4", "--size=32M", "--offset_increment=32M", "--rw=randwrite", "--bs=4k", "--iodepth=32"]
    with command(where, *options(where, base), size=size, memory=memory) as server:
        uri = f"--uri={server.uri}"
        done = run("fio", *FIO, *jobs, "--buffer_compress_percentage=50", uri, "--loops=2", cwd=where)
        assert done.stdout.count("err= 0") == 4, done.stdout
        healthy(server)


@need("fio")
def test_fio_sees_injected_errors_and_never_wrong_bytes(where: Path) -> None:
    backends = "checksum / inject:error=1%,corrupt=1%,short=1%,seed=7 / zcache"
    with command(where, "--backends", backends, *options(where, "file")) as server:
        ignored = ["--continue_on_error=io", "--ignore_error=EIO,EIO,EIO"]
        more = [
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=32",
            "--size=8M",
            "--loops=4",
            "--buffer_compress_percentage=60",
        ]
        done = run("fio", *FIO, *more, *ignored, f"--uri={server.uri}", cwd=where, check=False)
        assert "Invalid or incomplete" not in done.stdout + done.stderr  # EILSEQ: what it finds to be wrong bytes
        found = server.counters()["exports"][0]
        assert found["errors"] > 0
        assert found["poisoned"] > 0


@need("nbdcopy")
def test_clients_of_an_ordinary_user(where: Path) -> None:
    where.chmod(0o777)
    path, back = image(where), where / "back"
    with command(where, *options(where, "file"), ordinary=True) as server:
        run("nbdcopy", str(path), server.uri)
        run("nbdcopy", server.uri, str(back))
        assert back.read_bytes() == path.read_bytes()
        healthy(server)


# --- a server that is killed ---------------------------------------------------------------------


@need("qemu-io")
def test_qemu_comes_back_to_a_server_that_was_killed(where: Path) -> None:
    """Written through: nothing that was acknowledged is lost, and what is asked meanwhile waits."""
    disk = f"driver=nbd,server.type=unix,server.path={where / 'socket'},reconnect-delay={int(60 * PATIENCE)}"
    with ExitStack() as stack:
        server = stack.enter_context(command(where, *options(where, "writethrough")))
        qemu = stack.enter_context(
            subprocess.Popen(
                ["qemu-io", "--image-opts", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        )
        stack.callback(qemu.kill)
        asked, answers = qemu.stdin, qemu.stdout
        assert asked is not None
        assert answers is not None

        def ask(line: str, words: str) -> None:
            print(line, file=asked, flush=True)
            said = ""
            while "ops;" not in said and "rror" not in said and "failed" not in said:
                said = answers.readline()
                assert said, "qemu-io has ended"
                if words in said:
                    words = ""
            assert words == "", said

        for turn in range(3):
            ask(f"write -P {turn + 1} {turn * 70000} 200001", "wrote 200001/200001 bytes")
            server.end(signal.SIGKILL)
            server = stack.enter_context(command(where, *options(where, "writethrough")))
            for before in range(turn):
                ask(f"read -P {before + 1} {before * 70000} 70000", "read 70000/70000 bytes")
            ask(f"read -P {turn + 1} {turn * 70000} 200001", "read 200001/200001 bytes")
        healthy(server)
