"""`frontswap serve resize`: exports that change their size while clients use them. No page is lost."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FRONTSWAP, PATIENCE, MiB, noise, together, wait_until, walk
from nbd import BASES, SIZE, Command, Monitor, command, need, run, served, where
from test_nbd_bases import device, errno_of, mixed

import frontswap
import frontswap.nbd.base
from frontswap.errors import BaseError, ClosedError, ControlError, InUseError, OutOfMemoryError, ParameterError
from frontswap.nbd.asking import ask
from frontswap.nbd.exports import Exports, Wanted
from frontswap.testing import nbd_client as nbd
from frontswap.testing.model import Model

assert where  # fixtures
assert device

PAGE = 4096
LARGE = 2 * SIZE


# --- a swap area ---------------------------------------------------------------------------------


def test_an_area_shrinks_while_threads_are_always_in_it() -> None:
    """Who stores without a pause, and who reclaims, lets it in: it waits for a moment in which nobody is there."""
    with frontswap.Frontswap("zcache:size=8M") as hooks:
        area = hooks.swapon(4096, page=65536, swap=None, most_pages=4096)
        data, stop = bytes(8 * 65536), threading.Event()

        def store(seed: int) -> None:
            while not stop.is_set():
                area.store_many(range(8 * seed, 8 * seed + 8), data)

        def reclaim(_: int) -> None:
            while not stop.is_set():
                area.reclaim(0, deadline=60)

        workers = [threading.Thread(target=work, args=(i,)) for i, work in enumerate([store, store, store, reclaim])]
        for worker in workers:
            worker.start()
        try:
            for turn in range(20):
                area.resize(2048 + turn % 2)
        finally:
            stop.set()
            for worker in workers:
                worker.join()


def test_a_backend_that_asks_about_its_area_while_it_shrinks() -> None:
    """From inside of an operation that the resize waits for: neither waits for the other without end."""

    class Asking(Model):
        name = "asking"

        def store(self, area: int, offset: int, page: memoryview) -> bool:
            areas[0].statistics()
            return super().store(area, offset, page)

    with frontswap.Frontswap(Asking()) as hooks:
        areas = [hooks.swapon(64, swap=None, most_pages=64)]
        stop = threading.Event()

        def store() -> None:
            while not stop.is_set():
                areas[0].store(0, bytes(PAGE))

        worker = threading.Thread(target=store)
        worker.start()
        try:
            for turn in range(5):
                areas[0].resize(32 + turn % 2)
        finally:
            stop.set()
            worker.join()


@pytest.mark.parametrize("backends", ["zcache", "model", "checksum / zcache", ""])
def test_an_area_grows_and_shrinks(backends: str) -> None:
    page, into = walk(512).tobytes(), bytearray(PAGE)
    with frontswap.Frontswap(backends) as hooks:
        area, other = hooks.swapon(8, most_pages=64), hooks.swapon(8, most_pages=100)
        for number in range(8):
            area.store(number, page)
            other.store(number, page)
        area.resize(64)
        assert len(area.frontswap_map) == 64
        assert area.load(63, into) is False
        assert into == bytes(PAGE)
        area.store(63, page)
        with pytest.raises(InUseError, match="1 pages from page 8 on are in use"):
            area.resize(8)
        assert area.load(63, into) is (backends != "")
        assert into == page
        area.invalidate_page(63)
        area.resize(8)
        with pytest.raises(ParameterError, match="offset=8: must be 0 to 7"):
            area.store(8, page)
        area.resize(64)
        assert area.load(63, into) is False
        assert into == bytes(PAGE)
        assert (area.used_pages(), other.used_pages()) == (8, 8)
        assert hooks.shrink(0) == (16 if backends else 0)
        for number in range(8):
            area.load(number, into)
            assert into == page
        area.swapoff()
        with pytest.raises(ClosedError):
            area.resize(4)


def test_what_a_filter_knows_of_a_page_goes_with_the_area() -> None:
    page, into = walk(512).tobytes(), bytearray(PAGE)
    with frontswap.Frontswap("active_only / zcache") as hooks:
        area = hooks.swapon(8, most_pages=64)
        area.resize(64)
        area.store(63, page)
        area.load(63, into)
        assert area.store(63, page) is True  # it has come back: it is active
        area.invalidate_page(63)
        area.resize(8)
        area.swapoff()
        assert hooks.swapon(64).store(63, page) is False


def test_an_area_has_room_for_what_was_said() -> None:
    with frontswap.Frontswap() as hooks:
        area = hooks.swapon(8, most_pages=16)
        with pytest.raises(ParameterError, match="pages=17: must be at most 16"):
            area.resize(17)
        with pytest.raises(ParameterError, match="most_pages=4: must be at least the pages that it has, 8"):
            hooks.swapon(8, most_pages=4)
        with pytest.raises(ParameterError, match="pages=0"):
            area.resize(0)
        with pytest.raises(OutOfMemoryError, match=r"more than .* pages in all"):
            hooks.swapon(8, most_pages=1 << 28)
        area.swapoff()
        hooks.swapon(8, most_pages=(1 << 28) - 64).swapoff()  # its room was given back whole


def test_slots_of_an_area_follow() -> None:
    with frontswap.Frontswap() as hooks:
        area = hooks.swapon(8, most_pages=1 << 27, swap="/var/tmp")
        fd = area._swap.fd  # type: ignore[union-attr]
        data = noise(PAGE).tobytes()
        for number in range(8):
            area.store(number, data)
        area.resize(1024)
        assert os.fstat(fd).st_size == 1024 * PAGE
        assert os.fstat(fd).st_blocks * 512 >= 1024 * PAGE
        area.resize(8)
        assert os.fstat(fd).st_size == 8 * PAGE
        if os.statvfs("/var/tmp").f_bavail * os.statvfs("/var/tmp").f_frsize < (1 << 27) * PAGE:
            with pytest.raises(OutOfMemoryError, match="resize: the slots need"):
                area.resize(1 << 27)
            assert (area.pages, os.fstat(fd).st_size) == (8, 8 * PAGE)
        into = bytearray(PAGE)
        area.load(7, into)
        assert into == data


def test_operations_of_threads_while_an_area_is_resized() -> None:
    """A page that was stored is there until it is invalidated: it keeps the area from losing it."""
    done = threading.Event()
    shrunk = 0

    def work(number: int) -> None:
        if number == 0:
            resize()
            return
        page, into = noise(PAGE, number).tobytes(), bytearray(PAGE)
        offset = 8 + number
        for _ in range(3000):
            try:
                area.store(offset, page)
            except ParameterError:  # there is no such page at the moment
                continue
            area.load(offset, into)
            assert into == page
            area.invalidate_page(offset)
        finished.append(number)
        if len(finished) == 3:
            done.set()

    def resize() -> None:
        nonlocal shrunk
        while not done.is_set():
            try:
                area.resize(8)
            except InUseError:
                continue
            shrunk += 1
            area.resize(64)

    finished: list[int] = []
    with frontswap.Frontswap("zcache") as hooks:
        area = hooks.swapon(64)
        together(4, work)
        assert area.used_pages() == 0
        assert shrunk


# --- an export -----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_it_grows_while_a_client_is_there(where: Path, base: str) -> None:
    data = mixed(LARGE, 2)
    with served(where, base) as server, server.connect() as old:
        old.write(0, data[:SIZE])
        assert errno_of(old, nbd.WRITE, SIZE, PAGE, data=bytes(PAGE)) == errno.ENOSPC
        server.exports.resize("", LARGE)
        assert old.read(0, SIZE) == data[:SIZE]
        with server.connect(structured=True, allocation=True) as new:
            assert new.size == LARGE
            assert new.read(SIZE, SIZE) == bytes(SIZE)
            assert new.ask(nbd.BLOCK_STATUS, SIZE, SIZE).extents == [(SIZE, nbd.HOLE)]
            new.write(SIZE, data[SIZE:])
            new.flush()
            assert new.read(0, LARGE) == data
            assert errno_of(new, nbd.READ, LARGE, 1) == errno.EINVAL
        assert old.read(0, SIZE) == data[:SIZE]
    if base == "writethrough":
        with pytest.raises(BaseError, match="has the pages of an export of 16 MiB, not of 8 MiB"):
            Exports([Wanted("", SIZE, where / "base")], memory=8 * MiB, writethrough=True)
        with served(where, base, size=LARGE) as server, server.connect() as client:
            assert client.read(0, LARGE) == data


@pytest.mark.parametrize("base", BASES)
def test_it_shrinks_if_nothing_is_lost_by_that(where: Path, base: str) -> None:
    data = mixed(LARGE, 3)
    with served(where, base, size=LARGE) as server, server.connect(structured=True, allocation=True) as client:
        client.write(0, data)
        used = server.exports[""].area.used_pages()
        assert used == LARGE // PAGE
        with pytest.raises(InUseError, match=f"{SIZE // PAGE} pages from page {SIZE // PAGE} on are in use"):
            server.exports.resize("", SIZE)
        assert client.read(0, LARGE) == data
        client.trim(SIZE, SIZE - PAGE)
        with pytest.raises(InUseError, match="1 pages"):
            server.exports.resize("", SIZE)
        client.zero(LARGE - PAGE, PAGE)
        server.exports.resize("", SIZE)
        # This client believes that it is larger.
        assert errno_of(client, nbd.WRITE, SIZE, PAGE, data=bytes(PAGE)) == errno.ENOSPC
        assert errno_of(client, nbd.WRITE, SIZE - 1, 2, data=bytes(2)) == errno.ENOSPC
        assert errno_of(client, nbd.WRITE_ZEROES, SIZE, PAGE) == errno.ENOSPC
        assert errno_of(client, nbd.READ, SIZE, PAGE) == errno.EINVAL
        assert errno_of(client, nbd.TRIM, SIZE, PAGE) == errno.EINVAL
        assert errno_of(client, nbd.BLOCK_STATUS, 0, LARGE) == errno.EINVAL
        assert client.read(0, SIZE) == data[:SIZE]
        with server.connect() as new:
            assert new.size == SIZE
        server.exports.resize("", LARGE)
        assert client.read(0, LARGE) == data[:SIZE] + bytes(SIZE)
        server.exports.resize("", SIZE)
    if base != "ram":
        assert (where / "base").stat().st_size == SIZE + PAGE
    if base == "writethrough":
        with served(where, base) as server, server.connect() as client:
            assert client.read(0, SIZE) == data[:SIZE]
            assert server.exports[""].area.used_pages() <= used // 2


@pytest.mark.parametrize("base", BASES)
def test_a_write_that_began_before_it_shrank_ends_in_an_error(where: Path, base: str) -> None:
    """Its header was right when it came; its bytes come when there is no such page any more."""
    data = noise(MiB, 7).tobytes()
    with served(where, base) as server, server.connect() as client, server.connect() as other:
        other.write(0, data)
        client.send(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, 5, SIZE - MiB, MiB))
        client.send(data[: 256 << 10])
        wait_until(lambda: bool(any(other.read(SIZE - MiB, 256 << 10))), "the first part is there")
        with pytest.raises(InUseError):
            server.exports.resize("", SIZE // 2)
        other.trim(SIZE - MiB, MiB)
        server.exports.resize("", SIZE // 2)
        client.send(data[256 << 10 :])
        assert client.answer().error == errno.ENOSPC
        server.exports.resize("", SIZE)
        assert other.read(0, SIZE) == data + bytes(SIZE - MiB)


@pytest.mark.parametrize("base", BASES)
def test_a_storm_while_it_is_resized(where: Path, base: str) -> None:
    """In its lower half clients notice nothing. In the upper one a page that was written stays until it is trimmed."""
    done = threading.Event()
    counts = {"shrunk": 0, "refused": 0, "beyond": 0, "stored": 0}

    def below(number: int) -> None:
        rng = np.random.default_rng(number)
        first, pages = number * MiB // PAGE, MiB // PAGE
        model = bytearray(MiB)
        with server.connect() as client:
            while not done.is_set():
                at, n = int(rng.integers(0, pages - 8)), int(rng.integers(1, 8))
                data = rng.bytes(n * PAGE) if rng.integers(2) else bytes([at % 251]) * n * PAGE
                client.write((first + at) * PAGE, data)
                model[at * PAGE : (at + n) * PAGE] = data
                look = int(rng.integers(0, pages - 8))
                assert client.read((first + look) * PAGE, 8 * PAGE) == model[look * PAGE : (look + 8) * PAGE]

    def above(number: int) -> None:
        rng = np.random.default_rng(number)
        with server.connect() as client:
            for turn in itertools.count():
                if done.is_set() or (turn > 200 and min(counts.values()) >= 20):
                    break
                if number == 2:  # most of it lies below, and is stored first: nothing is in use above meanwhile
                    at, n = SIZE // 2 - 63 * PAGE, 64 * PAGE
                else:
                    at, n = SIZE - (1 + int(rng.integers(32))) * PAGE, PAGE
                data = rng.bytes(n) if turn % 2 else bytes([turn % 250 + 1]) * n
                error = errno_of(client, nbd.WRITE, at, n, data=data)
                assert error in (0, errno.ENOSPC)
                if error:
                    counts["beyond"] += 1
                    continue
                counts["stored"] += 1
                assert client.read(at, n) == data
                client.trim(at, n)
                assert errno_of(client, nbd.READ, at, n) in (0, errno.EINVAL)
        finished.append(number)
        if len(finished) == 2:
            done.set()

    def resize() -> None:
        while not done.is_set():
            try:
                server.exports.resize("", SIZE // 2)
            except InUseError:
                counts["refused"] += 1
                continue
            counts["shrunk"] += 1
            server.exports.resize("", SIZE)
            done.wait(0.001)  # who writes has waited for it to shrink: now there is something to write to
        server.exports.resize("", SIZE)

    def work(number: int) -> None:
        try:
            (below if number < 2 else above if number < 4 else lambda _: resize())(number)
        except BaseException:
            done.set()
            raise

    finished: list[int] = []
    with served(where, base, backends="inject:refuse=30%,seed=5 / zcache") as server:
        together(5, work)
        assert min(counts.values()) >= 20
        with server.connect() as client:
            assert client.read(SIZE // 2, SIZE // 2) == bytes(SIZE // 2)


def test_what_it_refuses(where: Path) -> None:
    wanted = [Wanted("ram", 2 * MiB, None), Wanted("file", 2 * MiB, where / "base")]
    with served(where, wanted=wanted, memory=4 * MiB) as server:
        exports = server.exports
        with pytest.raises(ParameterError, match="name='none': must be an export: 'ram', 'file'"):
            exports.resize("none", MiB)
        for wrong in (0, 5000, -PAGE, 1 << 60):
            with pytest.raises(ParameterError, match="size"):
                exports.resize("file", wrong)
        with pytest.raises(ParameterError, match="at most --memory, 4 MiB, where there is no base"):
            exports.resize("ram", 5 * MiB)
        exports.resize("", 4 * MiB)  # the first one
        assert exports["ram"].size == 4 * MiB
        disk = os.statvfs(where)
        if disk.f_bavail * disk.f_frsize < 200 << 30:
            with pytest.raises(BaseError, match="no room for 200 GiB"):
                exports.resize("file", 200 << 30)
        with pytest.raises(ParameterError, match="so far do its page numbers reach"):
            exports.resize("file", PAGE << 28)
        assert (where / "base").stat().st_size == 2 * MiB + PAGE
        with server.connect("file") as client:
            client.write(2 * MiB - PAGE, noise(PAGE).tobytes())
            exports.resize("file", 3 * MiB)
            assert client.read(2 * MiB - PAGE, 2 * PAGE) == noise(PAGE).tobytes() + bytes(PAGE)


@pytest.mark.parametrize("overcommit", [False, True])
def test_a_disk_that_is_too_small(where: Path, small_disk: Path, overcommit: bool) -> None:
    """Its room is reserved before the export has it, or a write says ENOSPC; what is there stays."""
    base, data = small_disk / "base", noise(SIZE).tobytes()
    wanted = [Wanted("", SIZE, base)]
    with served(where, "writethrough", wanted=wanted, overcommit=overcommit) as server, server.connect() as client:
        client.write(0, data)
        if not overcommit:
            with pytest.raises(BaseError, match="no room for 80 MiB: No space left on device; another place, or"):
                server.exports.resize("", 80 * MiB)
            assert base.stat().st_size == SIZE + PAGE
            server.exports.resize("", 32 * MiB)
            assert base.stat().st_blocks * 512 >= 32 * MiB
        else:
            server.exports.resize("", 80 * MiB)
            many = noise(4 * MiB, 1).tobytes()
            errors = {errno_of(client, nbd.WRITE, at, len(many), data=many) for at in range(SIZE, 80 * MiB, 4 * MiB)}
            assert errors == {0, errno.ENOSPC}
        assert client.read(0, SIZE) == data


def test_ram_behind_the_end_goes_back(where: Path) -> None:
    with served(where, size=SIZE) as server, server.connect() as client:
        fd = server.exports[""].base.fd
        client.write(0, noise(SIZE).tobytes())
        client.trim(SIZE // 2, SIZE // 2)
        server.exports.resize("", SIZE // 2)
        assert os.fstat(fd).st_size == SIZE // 2
        server.exports.resize("", SIZE)
        assert client.read(0, SIZE) == noise(SIZE).tobytes()[: SIZE // 2] + bytes(SIZE // 2)


# --- a crash -------------------------------------------------------------------------------------


class Disk:
    """What is done to a base's file, in order; and what a crash may have left of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, int, bytes]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        monkeypatch.setattr(frontswap.nbd.base, "os", self)
        monkeypatch.setattr(frontswap.nbd.base, "_libc", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwritev(self, fd: int, parts: list[Any], at: int) -> int:
        self.steps.append(("write", at, b"".join(bytes(part) for part in parts)))
        return os.pwritev(fd, parts, at)

    def ftruncate(self, fd: int, size: int) -> None:
        self.steps.append(("truncate", size, b""))
        os.ftruncate(fd, size)

    def posix_fallocate(self, fd: int, at: int, n: int) -> None:
        self.steps.append(("extend", at + n, b""))
        os.posix_fallocate(fd, at, n)

    def fallocate(self, fd: int, mode: int, at: ctypes.c_long, n: ctypes.c_long) -> int:
        self.steps.append(("write", at.value, bytes(n.value)))
        return int(self._libc.fallocate(fd, mode, at, n))

    def fsync(self, fd: int) -> None:
        self.steps.append(("sync", 0, b""))
        os.fsync(fd)

    def left(self, before: bytes) -> Iterator[bytes]:
        """All contents that the file may have after a crash: what was synced, and any of the steps after that."""
        durable, pending, seen = before, list[tuple[str, int, bytes]](), set[bytes]()
        for step in [*self.steps, ("sync", 0, b"")]:
            if step[0] != "sync":
                pending.append(step)
                continue
            for n in range(len(pending) + 1):
                for some in itertools.combinations(pending, n):
                    found = durable
                    for one in some:
                        found = done(found, *one)
                    if found not in seen:
                        seen.add(found)
                        yield found
            for one in pending:
                durable = done(durable, *one)
            pending = []


def done(file: bytes, what: str, at: int, data: bytes) -> bytes:
    """A file after a step."""
    if what == "truncate":
        return file[:at].ljust(at, b"\0")
    if what == "extend":
        return file.ljust(at, b"\0")
    return file[:at].ljust(at, b"\0") + data + file[at + len(data) :]


def content(exports: Exports) -> bytes:
    """All bytes of the only export."""
    area, into, found = exports[""].area, bytearray(PAGE), b""
    for number in range(area.pages):
        area.load(number, into)
        found += into
    return found


@pytest.mark.parametrize("overcommit", [False, True])
@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (4, 5), (5, 4), (1, 2), (2, 1)])
def test_a_crash_at_any_moment_loses_no_page(
    where: Path, monkeypatch: pytest.MonkeyPatch, old: int, new: int, overcommit: bool
) -> None:
    path = where / "base"
    kept = min(old, new)
    data = noise(kept * PAGE, old).tobytes()

    def opened(pages: int) -> Exports:
        wanted = [Wanted("", pages * PAGE, path)]
        return Exports(wanted, memory=8 * MiB, writethrough=True, overcommit=overcommit)

    exports = opened(old)
    try:
        for number in range(kept):
            exports[""].area.store(number, data[number * PAGE : (number + 1) * PAGE])
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            exports.resize("", new * PAGE)
        after = path.read_bytes()
    finally:
        exports.close()
    images = list(disk.left(before))
    assert before in images
    assert after in images
    assert len(images) >= 4
    for image in images:
        accepted = 0
        for pages in (old, new):
            path.unlink()
            path.write_bytes(image)
            try:
                again = opened(pages)
            except BaseError as error:
                if "has the pages of an export of" not in str(error) and "a resize has broken off" not in str(error):
                    raise
                assert path.read_bytes() == image, "a server that refuses changes nothing"
                continue
            accepted += 1
            try:
                assert content(again) == data.ljust(pages * PAGE, b"\0")
                again[""].area.store(pages - 1, b"x" * PAGE)
            finally:
                again.close()
            again = opened(pages)
            try:
                assert content(again)[-PAGE:] == b"x" * PAGE
            finally:
                again.close()
        assert accepted >= 1


def test_a_block_device(where: Path, device: Path) -> None:
    """Its old bytes are no pages. It is used as far as it reaches, and further when it has grown itself."""
    wanted = [Wanted("", SIZE, device)]
    data = mixed(SIZE, 1)
    with served(where, "writethrough", wanted=wanted, discard=True) as server, server.connect() as client:
        client.write(0, data)
        with pytest.raises(BaseError, match="has 9 MiB; 9 MiB and one block behind it are wanted"):
            server.exports.resize("", 9 * MiB)
        server.exports.resize("", 9 * MiB - PAGE)
        assert client.read(0, 9 * MiB - PAGE) == data + bytes(MiB - PAGE)
        with (where / "disk").open("ab") as file:
            file.write(noise(3 * MiB).tobytes())
        run("losetup", "--set-capacity", str(device))
        client.write(SIZE, data[:PAGE])
        server.exports.resize("", 10 * MiB)
        assert client.read(0, 10 * MiB) == data + data[:PAGE] + bytes(2 * MiB - PAGE)
    for size in (SIZE, 12 * MiB - PAGE):
        with pytest.raises(BaseError, match="has the pages of an export of 10 MiB"):
            Exports([Wanted("", size, device)], memory=8 * MiB, writethrough=True)
    wanted = [Wanted("", 10 * MiB, device)]
    with served(where, "writethrough", wanted=wanted) as server, server.connect() as client:
        assert client.read(0, 10 * MiB) == data + data[:PAGE] + bytes(2 * MiB - PAGE)
        client.trim(SIZE, 2 * MiB)
        server.exports.resize("", SIZE)
    with served(where, "writethrough", wanted=[Wanted("", SIZE, device)]) as server, server.connect() as client:
        assert client.read(0, SIZE) == data


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4)])
def test_a_crash_at_any_moment_on_a_block_device(
    where: Path, device: Path, monkeypatch: pytest.MonkeyPatch, old: int, new: int
) -> None:
    data = noise(min(old, new) * PAGE, old).tobytes()

    def opened(pages: int, discard: bool = False) -> Exports:
        return Exports([Wanted("", pages * PAGE, device)], memory=8 * MiB, writethrough=True, discard=discard)

    exports = opened(old, discard=True)
    try:
        for at in range(0, len(data), PAGE):
            exports[""].area.store(at // PAGE, data[at : at + PAGE])
        before = device.read_bytes()
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            exports.resize("", new * PAGE)
    finally:
        exports.close()
    assert old > new or noise(SIZE + MiB, 9).tobytes()[old * PAGE : new * PAGE] in before, "its old bytes"
    images = list(disk.left(before))
    assert len(images) > 1
    for image in images:
        accepted = 0
        for pages in (old, new):
            device.write_bytes(image)
            try:
                again = opened(pages)
            except BaseError:
                continue
            accepted += 1
            try:
                assert content(again) == data.ljust(pages * PAGE, b"\0")
            finally:
                again.close()
        assert accepted == 1


class FailingDisk(Disk):
    """One whose step number `at` fails, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        super().__init__(monkeypatch)
        self._left = at

    @property
    def failed(self) -> bool:
        return self._left < 0

    def _step(self) -> None:
        self._left -= 1
        if self._left == -1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pwritev(self, fd: int, parts: list[Any], at: int) -> int:
        self._step()
        return super().pwritev(fd, parts, at)

    def ftruncate(self, fd: int, size: int) -> None:
        self._step()
        super().ftruncate(fd, size)

    def posix_fallocate(self, fd: int, at: int, n: int) -> None:
        self._step()
        super().posix_fallocate(fd, at, n)

    def fsync(self, fd: int) -> None:
        self._step()
        super().fsync(fd)


def restarted(where: Path, pages: int, expected: bytes) -> bool:
    """A new server has those bytes, and zeros behind them. False: it refuses to be of this size."""
    try:
        exports = Exports([Wanted("", pages * PAGE, where / "base")], memory=8 * MiB, writethrough=True)
    except BaseError as error:
        if "has the pages of an export of" not in str(error):
            raise
        return False
    exports.close()
    with served(where, "writethrough", size=pages * PAGE, memory=8 * MiB) as server, server.connect() as client:
        assert client.read(0, pages * PAGE) == expected.ljust(pages * PAGE, b"\0")
    return True


@pytest.mark.parametrize("again", ["the same size", "the old size", "restart"])
@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (4, 5)])
def test_an_error_at_any_step_loses_no_page(
    where: Path, monkeypatch: pytest.MonkeyPatch, old: int, new: int, again: str
) -> None:
    """The disk fails once. Clients go on with what is there, and it may be asked again, or started anew."""
    kept = min(old, new)
    data = noise(kept * PAGE).tobytes()
    for failing in itertools.count():
        (where / "base").unlink(missing_ok=True)
        with served(where, "writethrough", size=old * PAGE, memory=8 * MiB) as server:
            with server.connect() as client:
                client.write(0, data)
            with monkeypatch.context() as patch:
                disk = FailingDisk(patch, failing)
                try:
                    server.exports.resize("", new * PAGE)
                except BaseError:
                    assert disk.failed
            if not disk.failed:
                break
            assert server.exports[""].size == kept * PAGE
            pages, expected = kept, data
            with server.connect() as client:
                assert client.read(0, len(data)) == data
                if again != "restart":
                    pages = old if again == "the old size" else new
                    server.exports.resize("", pages * PAGE)
                    assert client.read(0, pages * PAGE) == data.ljust(pages * PAGE, b"\0")
                    expected = noise(pages * PAGE, failing).tobytes()
                    client.write(0, expected)
        sizes = [size for size in (old, new) if again == "restart" or size == pages]
        assert any(restarted(where, size, expected) for size in sizes)
    assert failing > 4


# --- real clients --------------------------------------------------------------------------------


def resize(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(FRONTSWAP, "serve", "resize", *map(str, arguments), check=False)


@need("nbdinfo", "nbdcopy")
def test_the_command(where: Path) -> None:
    at, copy = where / "control", where / "copy"
    with command(where, "--base", str(where / "base"), "--force", "--control", str(at)) as server:
        (where / "image").write_bytes(mixed(LARGE, 5))
        assert resize("", "16M", "--control", at).stdout == "export '' has 16 MiB\n"
        assert json.loads(run("nbdinfo", "--json", server.uri).stdout)["exports"][0]["export-size"] == LARGE
        run("nbdcopy", str(where / "image"), server.uri)
        refused = resize("", "8M", "--control", at)
        assert (refused.returncode, "pages from page 2048 on are in use" in refused.stderr) == (1, True)
        run("nbdcopy", server.uri, str(copy))
        assert copy.read_bytes() == (where / "image").read_bytes()
        for wrong, why in (("5000", "multiple of 4096"), ("x", "size='x'"), ("8G8", "size='8G8'")):
            done = resize("", wrong, "--control", at)
            assert (done.returncode, why in done.stderr, done.stderr.count("\n")) == (1, True, 1)
        assert "an export: ''" in resize("other", "4M", "--control", at).stderr
        with pytest.raises(ControlError, match='an object with "name", "size" and "reconnect"'):
            ask(at, "/resize", {"name": ""})
        with pytest.raises(ControlError, match="size="):
            ask(at, "/resize", {"name": "", "size": "x", "reconnect": False})
        assert server.end() == 0
    assert "no server answers there" in resize("", "8M", "--control", at).stderr


def test_options_of_a_server_are_not_options_of_resize() -> None:
    done = run(FRONTSWAP, "serve", "--size", "8M", "resize", "", "8M", check=False)
    assert (done.returncode, "size: of a server that starts, not of resize" in done.stderr) == (2, True)
    assert "Missing option '--memory'" in run(FRONTSWAP, "serve", "--size", "8M", check=False).stderr


class Qemu(Monitor):
    """A QEMU that has the export as the block node `disk`, and no machine."""

    def __init__(self, where: Path, export: Path) -> None:
        node = f"driver=nbd,node-name=disk,server.type=unix,server.path={export},reconnect-delay=60,discard=unmap"
        monitor = where / "qmp"
        monitored = f"unix:{monitor},server=on,wait=off"
        quiet = ["-machine", "none", "-nodefaults", "-display", "none"]
        self._process = subprocess.Popen(["qemu-system-x86_64", *quiet, "-blockdev", node, "-qmp", monitored])
        wait_until(lambda: monitor.exists() or self._process.poll() is not None, "QEMU's monitor")
        super().__init__(monitor)

    def io(self, line: str) -> None:
        """A command of qemu-io, on the node."""
        self.ask("human-monitor-command", **{"command-line": f'qemu-io disk "{line}"'})

    def close(self) -> None:
        super().close()
        self._process.kill()
        self._process.wait()


@need("qemu-system-x86_64")
def test_qemu_sees_another_size_once_it_has_reconnected(where: Path) -> None:
    """Its NBD node has the size of its last connection, and block_resize takes that over, no other."""
    at = where / "control"
    with command(where, "--base", str(where / "base"), "--control", str(at), "--force") as server, ExitStack() as stack:
        qemu = Qemu(where, server.socket)
        stack.callback(qemu.close)
        qemu.io("write -P 7 0 64k")
        assert resize("", "16M", "--control", at).returncode == 0
        assert qemu.size("disk") == SIZE
        assert qemu.resize("disk", LARGE) == "Cannot grow NBD nodes"
        assert resize("", "16M", "--reconnect", "--control", at).stdout == (
            "export '' has 16 MiB; 1 connections were ended\n"
        )
        assert qemu.resize("disk", LARGE) == "Cannot grow NBD nodes", "it has not noticed yet"
        qemu.io("read 0 4k")
        assert qemu.resize("disk", LARGE) == ""
        assert qemu.size("disk") == LARGE
        qemu.io("write -P 8 12M 64k")
        with server.connect() as client:
            assert client.read(0, 65536) == b"\7" * 65536
            assert client.read(12 * MiB, 65536) == b"\10" * 65536
        assert "are in use" in resize("", "8M", "--reconnect", "--control", at).stderr
        qemu.io("discard 12M 64k")
        assert "1 connections" in resize("", "8M", "--reconnect", "--control", at).stdout
        qemu.io("read 0 4k")
        assert qemu.resize("disk", SIZE) == ""
        assert qemu.size("disk") == SIZE


@pytest.mark.slow
@need("qemu-io")
def test_a_client_whose_connection_is_ended_over_and_over_loses_nothing(where: Path) -> None:
    """What was not acknowledged is asked again: QEMU does that by itself."""
    at, turns = where / "control", 300
    disk = f"driver=nbd,server.type=unix,server.path={where / 'socket'},reconnect-delay={int(60 * PATIENCE)}"
    lines = [f"aio_write -P {turn % 250 + 1} {turn * 16}k 16k" for turn in range(turns)]
    lines += ["aio_flush", *(f"read -P {turn % 250 + 1} {turn * 16}k 16k" for turn in range(turns)), "quit"]
    with command(where, "--control", str(at), "--force") as server:
        with subprocess.Popen(
            ["qemu-io", "--image-opts", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as qemu:
            said = threading.Thread(target=lambda: out.append(qemu.communicate("\n".join(lines))[0]))
            out: list[str] = []
            said.start()
            ended = 0
            for size in itertools.cycle(["12M", "8M"]):
                if qemu.poll() is not None:
                    break
                ended += ask(at, "/resize", {"name": "", "size": size, "reconnect": True})["ended"]
            said.join()
        assert qemu.returncode == 0
        assert ended > 3
        assert out[0].count("read 16384/16384") == turns
        assert "verification failed" not in out[0]
        assert "rror" not in out[0]
        with server.connect() as client:
            for turn in range(turns):
                assert client.read(turn << 14, 1 << 14) == bytes([turn % 250 + 1]) * (1 << 14)


@pytest.mark.slow
@pytest.mark.parametrize("overcommit", [False, True])
def test_a_server_that_is_killed_while_it_is_resized_loses_nothing(where: Path, overcommit: bool) -> None:
    """Written through: what was acknowledged is there in whatever size it has then, and what was trimmed is not."""
    at, rng, model, size = where / "control", np.random.default_rng(1), bytearray(SIZE), SIZE
    options = ["--base", str(where / "base"), "--writethrough", "--control", str(at)] + ["--overcommit"] * overcommit

    def resize_on_and_on() -> None:
        try:
            for wanted in itertools.cycle([LARGE, SIZE]):
                ask(at, "/resize", {"name": "", "size": wanted, "reconnect": False})
        except ControlError as error:
            if error.errno is None and "in use" in str(error):
                resize_on_and_on()

    def start(stack: ExitStack) -> Command | None:
        try:
            return stack.enter_context(command(where, *options, size=size))
        except AssertionError as error:
            if "has the pages of an export of" not in str(error) and "a resize has broken off" not in str(error):
                raise
            return None

    sizes = set()
    for _ in range(15):
        with ExitStack() as stack:
            server = start(stack)
            if server is None:
                size = LARGE if size == SIZE else SIZE
                server = start(stack)
            assert server is not None
            sizes.add(size)
            with server.connect() as client:
                assert client.read(0, size) == bytes(model).ljust(size, b"\0")
                resizing = threading.Thread(target=resize_on_and_on)
                resizing.start()
                until = time.monotonic() + float(rng.uniform(0, 0.3))
                while time.monotonic() < until:
                    page = int(rng.integers(SIZE // PAGE))
                    data = rng.bytes(PAGE)
                    client.write(page * PAGE, data)
                    model[page * PAGE : (page + 1) * PAGE] = data
                    if errno_of(client, nbd.WRITE, SIZE, PAGE, data=data) == 0:
                        client.trim(SIZE, PAGE)
                server.process.kill()
                server.process.wait()
                resizing.join()
    assert len(sizes) == 2
