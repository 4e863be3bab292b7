"""What is behind an export: RAM, files that are written through or not, and disks that fail. Never wrong bytes."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, MiB, ballast, noise, walk
from nbd import BASES, SIZE, command, run, served, where

import frontswap.nbd.base
from frontswap.errors import BaseError, ParameterError
from frontswap.nbd.base import PAGE, Base
from frontswap.nbd.exports import Wanted, parse_export
from frontswap.testing import nbd_client as nbd
from frontswap.testing.nbd_client import Client, NbdError

assert where  # a fixture


def mixed(n: int, seed: int = 0) -> bytes:
    """n bytes, page by page what compresses, what does not, and zeros."""
    plain, packed = noise(n, seed), walk(n // 8, seed).view("u1")
    kind = np.random.default_rng(seed).integers(0, 3, n // PAGE).repeat(PAGE)
    return np.where(kind == 0, plain, np.where(kind == 1, packed, 0)).astype("u1").tobytes()


def errno_of(client: Client, *request: Any, **more: Any) -> int:
    """The error of a request; 0: none."""
    try:
        client.ask(*request, **more)
    except NbdError as error:
        return error.errno or 0
    return 0


# --- where pages go ------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("backends", ["zcache", "", "inject:refuse=50% / zcache", "limit:size=1M / zcache + model"])
def test_all_bytes_come_back(where: Path, base: str, backends: str) -> None:
    data = mixed(SIZE)
    with served(where, base, backends=backends) as server, server.connect() as client:
        client.write(0, data[: SIZE // 2])
        client.write(SIZE // 2, data[SIZE // 2 :])
        assert client.read(0, SIZE) == data
        for at in range(0, SIZE, 40960):
            client.write(at + 100, data[at : at + 5000])
        expected = bytearray(data)
        for at in range(0, SIZE, 40960):
            expected[at + 100 : at + 5100] = data[at : at + 5000]
        assert client.read(0, SIZE) == expected
        client.zero(PAGE // 2, SIZE - PAGE)
        assert client.read(PAGE // 2, SIZE - PAGE) == bytes(SIZE - PAGE)
        client.trim(0, SIZE)
        assert client.read(0, SIZE) == bytes(SIZE)
        assert server.exports[""].area.used_pages() == 0


@pytest.mark.parametrize("base", BASES)
def test_a_pool_that_is_too_small_leaves_for_the_base(where: Path, base: str) -> None:
    data = walk(SIZE, 3).tobytes()[: 4 * SIZE]
    memory = 4 * SIZE if base == "ram" else 4 * MiB
    with served(where, base, size=4 * SIZE, memory=memory) as server, server.connect() as client:
        client.write(0, data)
        assert client.read(0, len(data)) == data
        found = server.exports[""].statistics()
        assert base == "ram" or found["slot_stores"] > 0
        assert found["poisoned"] == 0


def test_ram_that_no_page_needs_goes_back(where: Path) -> None:
    with served(where) as server, server.connect() as client:
        base = server.exports[""].base
        client.write(0, noise(SIZE).tobytes())
        assert os.fstat(base.fd).st_blocks * 512 >= SIZE
        client.write(0, bytes(SIZE // 2))
        client.trim(SIZE // 2, SIZE // 4)
        assert os.fstat(base.fd).st_blocks * 512 <= SIZE // 4 + MiB


def test_a_part_of_a_page_is_changed_wherever_the_page_is(where: Path) -> None:
    for base in BASES:
        with served(where, base) as server, server.connect() as client:
            plain, packed = noise(PAGE).tobytes(), walk(PAGE // 8).tobytes()
            for at, page in ((0, plain), (PAGE, packed), (2 * PAGE, bytes(PAGE))):
                client.write(at, page)
                client.write(at + 7, b"seven")
                client.zero(at + 100, 50)
                assert client.read(at, PAGE) == page[:7] + b"seven" + page[12:100] + bytes(50) + page[150:]
        (where / "base").unlink(missing_ok=True)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["ram", "file"])
def test_a_backend_that_loses_pages_is_eio_until_they_are_written_again(where: Path, base: str) -> None:
    data = walk(SIZE // 8, 1).tobytes()
    with served(where, base, backends="inject:error=1 / zcache") as server, server.connect() as client:
        client.write(0, data)
        assert errno_of(client, nbd.READ, 0, PAGE) == errno.EIO
        assert errno_of(client, nbd.READ, 10, 10) == errno.EIO
        # A part of a page cannot be changed without the rest of it.
        assert errno_of(client, nbd.WRITE, 5000, 3, data=b"abc") == errno.EIO
        for registered in server.exports.hooks.backends:
            registered.set("inject", error=0)
        assert errno_of(client, nbd.READ, 0, PAGE) == errno.EIO  # lost is lost
        assert errno_of(client, nbd.WRITE, 10, 10, data=bytes(10)) == errno.EIO
        assert client.read(2 * PAGE, PAGE) == data[2 * PAGE : 3 * PAGE]
        client.write(0, data[:PAGE])
        client.zero(PAGE, PAGE)
        assert client.read(0, 3 * PAGE) == data[:PAGE] + bytes(PAGE) + data[2 * PAGE : 3 * PAGE]


def test_a_backend_that_gives_back_wrong_bytes_is_eio(where: Path) -> None:
    data = walk(SIZE // 8, 1).tobytes()
    with served(where, backends="checksum / inject:corrupt=1 / zcache") as server, server.connect() as client:
        client.write(0, data)
        assert errno_of(client, nbd.READ, 0, 3 * PAGE) == errno.EIO


def test_written_through_the_base_has_what_a_backend_loses(where: Path) -> None:
    data = walk(SIZE // 8, 1).tobytes()
    with served(where, "writethrough", backends="inject:error=1 / zcache") as server, server.connect() as client:
        client.write(0, data)
        client.write(100, b"changed")
        assert client.read(0, SIZE) == data[:100] + b"changed" + data[107:]


@pytest.mark.parametrize("structured", [True, False])
def test_a_base_that_cannot_be_read_is_eio(where: Path, structured: bool) -> None:
    data = noise(SIZE).tobytes()
    with served(where, "file") as server, server.connect(structured=structured) as client:
        client.write(0, data)
        os.truncate(where / "base", SIZE // 2)
        assert client.read(0, SIZE // 2) == data[: SIZE // 2]
        assert errno_of(client, nbd.READ, SIZE // 2, PAGE) == errno.EIO
        assert errno_of(client, nbd.READ, SIZE // 2 - 2 * PAGE, 4 * PAGE) == errno.EIO
        assert errno_of(client, nbd.WRITE, SIZE - 10, 5, data=b"12345") == errno.EIO
        assert client.read(0, PAGE) == data[:PAGE]
        client.write(SIZE - PAGE, data[:PAGE])  # which has the file grow again
        assert client.read(SIZE - PAGE, PAGE) == data[:PAGE]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writes behind `size` fail, in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("base", ["file", "writethrough"])
def test_a_base_that_cannot_be_written_is_eio_and_never_the_bytes_of_before(where: Path, base: str) -> None:
    old, new = noise(SIZE, 1).tobytes(), noise(SIZE, 2).tobytes()
    half = SIZE // 2
    with served(where, base) as server, server.connect() as client:
        client.write(0, old)
        with no_file_beyond(half):
            assert errno_of(client, nbd.WRITE, half - PAGE, 2 * PAGE, data=new[: 2 * PAGE]) == errno.EIO
            assert errno_of(client, nbd.WRITE, SIZE - PAGE, 3, data=b"abc") == errno.EIO
            assert client.read(half - PAGE, PAGE) == new[:PAGE]
            assert errno_of(client, nbd.READ, half, PAGE) == errno.EIO
            assert errno_of(client, nbd.READ, SIZE - PAGE, 1) == errno.EIO
            assert client.read(half + PAGE, PAGE) == old[half + PAGE : half + 2 * PAGE]
        client.write(half, new[:PAGE])
        assert client.read(half, PAGE) == new[:PAGE]


def test_a_compressed_page_that_cannot_be_written_through_is_an_error(where: Path) -> None:
    with served(where, "writethrough") as server, server.connect() as client:
        with no_file_beyond(SIZE // 2):
            assert errno_of(client, nbd.WRITE, SIZE - PAGE, PAGE, data=b"x" * PAGE) == errno.EIO
        client.write(SIZE - PAGE, b"y" * PAGE)
        client.flush()
    with served(where, "writethrough") as server, server.connect() as client:
        assert client.read(SIZE - PAGE, PAGE) == b"y" * PAGE


def test_zeros_that_cannot_be_written_through_are_an_error(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the page would have its old bytes after a restart."""
    monkeypatch.setattr(frontswap.nbd.base, "_ZERO_RANGE", 0x7000)  # the kernel does not know it: zeros are written
    data = noise(SIZE).tobytes()
    with served(where, "writethrough") as server, server.connect() as client:
        client.write(0, data)
        with no_file_beyond(SIZE // 2):
            assert errno_of(client, nbd.WRITE_ZEROES, SIZE - PAGE, PAGE) == errno.EIO
            assert errno_of(client, nbd.TRIM, SIZE - PAGE, PAGE) == errno.EIO
            assert client.read(SIZE - PAGE, PAGE) == data[SIZE - PAGE :]
        client.zero(0, SIZE // 2)
    with served(where, "writethrough") as server, server.connect() as client:
        assert client.read(0, SIZE) == bytes(SIZE // 2) + data[SIZE // 2 :]


@pytest.mark.parametrize("kind", ["compressed", "plain"])
@pytest.mark.parametrize("overcommit", [False, True])
def test_a_write_that_cannot_be_written_through_leaves_what_was_flushed(
    where: Path, kind: str, overcommit: bool
) -> None:
    """An update of a few bytes that fails must not have the rest of its page be zeros after a restart."""
    data = b"ab" * (SIZE // 2) if kind == "compressed" else noise(SIZE).tobytes()
    with served(where, "writethrough", overcommit=overcommit) as server, server.connect() as client:
        client.write(0, data)
        client.flush()
        with no_file_beyond(SIZE // 2):
            assert errno_of(client, nbd.WRITE, SIZE - PAGE, PAGE, data=data[:PAGE][::-1]) == errno.EIO
            assert errno_of(client, nbd.WRITE, SIZE - 2 * PAGE + 7, 3, data=b"abc") == errno.EIO
    with served(where, "writethrough", overcommit=overcommit) as server, server.connect() as client:
        assert client.read(0, SIZE) == data


@pytest.mark.root
def test_a_full_disk_is_enospc_and_a_trim_gives_room(where: Path, small_disk: Path) -> None:
    size = os.statvfs(small_disk).f_bavail * 4096 * 2 // MiB * MiB
    wanted = [Wanted("", size, small_disk / "base")]
    with served(where, wanted=wanted, overcommit=True) as server, server.connect() as client:
        ballast(small_disk, 2 * MiB)
        data = noise(MiB).tobytes()
        found = [errno_of(client, nbd.WRITE, at, MiB, data=data) for at in range(0, 4 * MiB, MiB)]
        assert found[0] == 0
        assert errno.ENOSPC in found
        assert set(found) <= {0, errno.ENOSPC}
        assert client.read(0, MiB) == data
        last = found.index(errno.ENOSPC) * MiB
        assert errno_of(client, nbd.READ, last, MiB) == errno.EIO  # a part of it is lost, and says so
        client.write(last, bytes(MiB))  # zcache has them
        client.trim(0, last)
        client.write(last, data)
        assert client.read(0, last + MiB) == bytes(last) + data


@pytest.mark.root
def test_a_base_that_the_disk_cannot_back_is_an_error_at_the_start(where: Path, small_disk: Path) -> None:
    size = os.statvfs(small_disk).f_bavail * 4096 * 2 // MiB * MiB
    wanted = [Wanted("", size, small_disk / "base")]
    with pytest.raises(BaseError, match=r"no room for .*--overcommit"), served(where, wanted=wanted):
        pass


# --- restarts ------------------------------------------------------------------------------------


def test_written_through_everything_is_there_after_a_restart(where: Path) -> None:
    data = mixed(SIZE)
    with served(where, "writethrough") as server, server.connect() as client:
        client.write(0, data)
        client.zero(5000, 10000)
        client.trim(100 * PAGE, 10 * PAGE)
        client.write(200, b"late", flags=nbd.FUA)
        client.flush()
    expected = bytearray(data)
    expected[5000:15000] = bytes(10000)
    expected[100 * PAGE : 110 * PAGE] = bytes(10 * PAGE)
    expected[200:204] = b"late"
    assert (where / "base").read_bytes()[:SIZE] == expected
    for _ in range(2):
        with served(where, "writethrough") as server, server.connect() as client:
            assert client.read(0, SIZE) == expected
            client.write(3 * PAGE, b"again")
            expected[3 * PAGE : 3 * PAGE + 5] = b"again"
            assert client.read(0, SIZE) == expected


def test_without_writethrough_a_restart_begins_with_zeros(where: Path) -> None:
    for seed in range(3):
        with served(where, "file") as server, server.connect() as client:
            assert client.read(0, SIZE) == bytes(SIZE)
            assert client.extents(0, SIZE) == [(SIZE, nbd.HOLE)]
            client.write(0, noise(SIZE, seed).tobytes())
    # Nor is anything of it there when somebody writes through from now on, however often.
    for _ in range(2):
        with served(where, "writethrough") as server, server.connect() as client:
            assert client.read(0, SIZE) == bytes(SIZE)


def test_pages_that_were_written_through_are_not_lost_by_a_forgotten_option(where: Path) -> None:
    with served(where, "writethrough") as server, server.connect() as client:
        client.write(0, b"precious")
    with pytest.raises(BaseError, match="--writethrough keeps them, --discard drops them"):
        Base(where / "base", SIZE)
    with pytest.raises(BaseError, match="of an export of 8 MiB, not of 4 MiB"):
        Base(where / "base", SIZE // 2, writethrough=True)
    with served(where, "writethrough") as server, server.connect() as client:
        assert client.read(0, 8) == b"precious"
    with served(where, "file", discard=True) as server, server.connect() as client:
        assert client.read(0, 8) == bytes(8)


@pytest.mark.parametrize("writethrough", [False, True])
def test_a_file_of_somebody_else_is_left_alone(where: Path, writethrough: bool) -> None:
    (where / "base").write_bytes(b"a letter")
    with pytest.raises(BaseError, match="not frontswap's; --discard drops them"):
        Base(where / "base", SIZE, writethrough=writethrough)
    assert (where / "base").read_bytes() == b"a letter"
    Base(where / "base", SIZE, writethrough=writethrough, discard=True).close()


def test_a_file_of_holes_is_empty(where: Path) -> None:
    (where / "base").touch()
    os.truncate(where / "base", 3 * SIZE)
    base = Base(where / "base", SIZE)
    assert os.fstat(base.fd).st_size == SIZE + PAGE
    base.close()


def test_a_base_has_one_server(where: Path) -> None:
    with served(where, "file"), pytest.raises(BaseError, match="another server has it"):
        Base(where / "base", SIZE)


def test_what_is_no_base(where: Path) -> None:
    loop = where / "loop"
    loop.symlink_to(loop)
    with pytest.raises(BaseError, match="Too many levels"), served(where, wanted=[Wanted("", SIZE, loop)]):
        pass
    for path, why in (
        (where, "neither a file nor"),
        (where / "none" / "base", "No such file"),
        (Path("/dev/null"), "neither a file nor"),
        (loop, "Too many levels of symbolic links"),
    ):
        with pytest.raises(BaseError, match=why):
            Base(path, SIZE)


def test_a_kill_loses_nothing_that_was_written_through(where: Path) -> None:
    written = bytearray(SIZE)
    base = where / "base"
    rng = np.random.default_rng(5)
    for turn in range(3):
        with command(where, "--base", str(base), "--writethrough") as server, server.connect() as client:
            assert client.read(0, SIZE) == written
            for _ in range(300):
                at, n = int(rng.integers(0, SIZE - 70000)), int(rng.integers(1, 70000))
                data = noise(n, turn).tobytes() if n % 2 else bytes([n % 256]) * n
                if n % 7 == 0:
                    client.zero(at, n)
                    data = bytes(n)
                else:
                    client.write(at, data)
                written[at : at + n] = data
            # One more is on its way. Of each page it leaves the old or the new bytes.
            client.request(nbd.WRITE, 0, PAGE, data=bytes(written[:PAGE]))
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()


def test_a_kill_leaves_no_old_bytes_behind(where: Path) -> None:
    for turn in range(3):
        with command(where, "--base", str(where / "base")) as server, server.connect() as client:
            assert client.read(0, SIZE) == bytes(SIZE)
            client.write(0, noise(SIZE, turn).tobytes())
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()


# --- what is asked for ---------------------------------------------------------------------------


def test_exports_as_text(where: Path) -> None:
    assert parse_export("disk:8M") == Wanted("disk", 8 * MiB, None)
    assert parse_export("disk:8M:/a/b:c") == Wanted("disk", 8 * MiB, Path("/a/b:c"))
    for wrong in ("", "disk", "disk:", ":x", "disk:8Q", "disk:5000", "disk:0", "disk:8M:"):
        with pytest.raises(ParameterError):
            parse_export(wrong)


@pytest.mark.parametrize(
    ("wanted", "settings", "why"),
    [
        ([("", 128, None)], {}, "at most --memory, 64 MiB"),
        ([("a", 40, None), ("b", 40, None)], {}, "at most --memory"),
        ([("a", 4, None), ("a", 4, None)], {}, "a name of its own"),
        ([("a", 4, "base"), ("b", 4, "base")], {}, "of one export only"),
        ([("", 4, None)], {"base": "writethrough"}, "with a base"),
        ([("", 4, None)], {"backends": "zcache:size=1G"}, "at most --memory"),
        ([("", 4, None)], {"memory": "1M"}, "from 4 MiB to the machine's RAM"),
        ([("", 4, None)], {"memory": 1 << 60}, "the machine's RAM"),
        ([], {}, "--size, or at least one --export"),
    ],
)
def test_what_cannot_be_is_an_error_before_anything_happens(
    where: Path, wanted: list[tuple[str, int, str | None]], settings: dict[str, Any], why: str
) -> None:
    exports = [Wanted(name, size * MiB, where / base if base else None) for name, size, base in wanted]
    with pytest.raises(ParameterError, match=why), served(where, **{"base": "ram", "wanted": exports, **settings}):
        pass
    assert list(where.iterdir()) == []


@pytest.fixture
def device(where: Path) -> Iterator[Path]:
    """A block device with old bytes in it."""
    if not ROOT:
        pytest.skip("needs root: makes a loop device")
    (where / "disk").write_bytes(noise(SIZE + MiB, 9).tobytes())
    made = run("losetup", "--find", "--show", str(where / "disk"), check=False)
    if made.returncode:
        pytest.skip(f"cannot make a loop device here: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    run("losetup", "--detach", made.stdout.strip())


def test_a_block_device(where: Path, device: Path) -> None:
    wanted = [Wanted("", SIZE, device)]
    with pytest.raises(BaseError, match="not frontswap's; --discard drops them"):
        Base(device, SIZE)
    with pytest.raises(BaseError, match="has 9 MiB; the export and one block behind it need"):
        Base(device, SIZE + MiB, discard=True)
    with served(where, wanted=wanted, discard=True) as server, server.connect() as client:
        assert client.read(0, SIZE) == bytes(SIZE)
        client.write(0, mixed(SIZE))
        assert client.read(0, SIZE) == mixed(SIZE)
    with served(where, wanted=wanted) as server, server.connect() as client:
        assert client.read(0, SIZE) == bytes(SIZE)
        client.write(0, mixed(SIZE, 1))
    expected = bytearray(SIZE)
    for turn in range(2):
        with served(where, "writethrough", wanted=wanted) as server, server.connect() as client:
            assert client.read(0, SIZE) == expected
            expected[:] = mixed(SIZE, 2 + turn)
            client.write(0, bytes(expected))
            for drop in (client.trim, client.zero):
                drop(PAGE, 20 * PAGE)
            client.flush()
            expected[PAGE : 21 * PAGE] = bytes(20 * PAGE)
            assert client.read(0, SIZE) == expected
    with pytest.raises(BaseError, match="--writethrough keeps them"):
        Base(device, SIZE)
