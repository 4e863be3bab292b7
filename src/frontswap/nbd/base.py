"""Bases: what the slots of an export are on. A file or block device, or RAM.

A base has the export's pages at their offsets, and in its last 4096 bytes a block that says what they are worth. A
server that does not write through leaves old and new pages beside each other, so what it has left counts for nothing.

When a base is resized the label of a file moves, and wherever it was, or will be, is a page of the larger size. At each
moment one label counts, and it names that page, which is no page yet: `stray`. Whoever comes next makes zeros of it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from ..core.descriptors import guard_descriptor, release_descriptor
from ..errors import BaseError
from ..sizes import format_size
from ..swap import reserve

PAGE = 4096
_MAGIC = b"frontswap base\x00\x01"
_LABEL = struct.Struct("<16sIIQ")
_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE, KEEP_SIZE
_ZERO_RANGE = 0x10 | 0x01
_libc = ctypes.CDLL(None, use_errno=True)


class Worth(IntEnum):
    """What the pages of a base are worth to the next server."""

    NOTHING = 1
    WRITTEN_THROUGH = 2


class RamBase:
    """Slots in RAM. What no page needs of it goes back to the system."""

    direct = False
    zeroing = _PUNCH_HOLE

    def __init__(self, size: int) -> None:
        """Make it; `size`: bytes at most."""
        fd = os.memfd_create("frontswap-base", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        self.fd = guard_descriptor(fd)
        self._closer = weakref.finalize(self, release_descriptor, self.fd)

    def resize(self, size: int) -> None:
        """Have room for `size` bytes; nothing beyond may be in use."""
        os.ftruncate(self.fd, size)

    def close(self) -> None:
        """Give it back."""
        self._closer()


class Base:
    """A file or block device, locked for this server."""

    def __init__(
        self,
        path: Path,
        size: int,
        *,
        writethrough: bool = False,
        overcommit: bool = False,
        discard: bool = False,
    ) -> None:
        """Open a base, or make it.

        Args:
            path: a file, which is made if it is not there, or a block device.
            size: bytes of the export.
            writethrough: pages will be written through, and those that have been before count.
            overcommit: of a file: do not reserve the disk space of all pages.
            discard: what is in it may go.

        Raises:
            BaseError: it cannot be used, or has what must not be lost.
        """
        self.path = path
        self.size = size
        self._worth = Worth.WRITTEN_THROUGH if writethrough else Worth.NOTHING
        self._overcommit = overcommit
        self._stray = 0  # a page where a label is, or may be; 0: none
        try:
            self._open(writethrough, overcommit, discard)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> BaseError:
        if isinstance(error, BaseError):
            return error
        return BaseError(error.errno, f"base {str(self.path)!r}: {error.strerror or error}")

    def _open(self, writethrough: bool, overcommit: bool, discard: bool) -> None:
        fd = self._descriptor()
        try:
            self.device = stat.S_ISBLK(os.fstat(fd).st_mode)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._refused("another server has it") from None
            #: pages that were written through before are there
            self.kept = self._look(fd, writethrough, discard)
            self.zeroing = (
                (_PUNCH_HOLE if overcommit or self.device else _ZERO_RANGE)
                if writethrough
                else _PUNCH_HOLE * overcommit
            )
            self._prepare(fd)
            self.direct = _set_direct(fd, self._end(fd) - PAGE)
        except BaseException:
            os.close(fd)
            raise
        self.fd = guard_descriptor(fd)
        self._closer = weakref.finalize(self, release_descriptor, self.fd)

    def _descriptor(self) -> int:
        try:
            kind = self.path.stat().st_mode
        except FileNotFoundError:
            return os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
        if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
            raise self._refused("neither a file nor a block device")
        # The kernel gives a device that is mounted, or swapped on, to nobody who asks with O_EXCL.
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if stat.S_ISBLK(kind) else 0))

    def _refused(self, why: str) -> BaseError:
        return BaseError(errno.EBUSY, f"base {str(self.path)!r}: {why}")

    def _end(self, fd: int) -> int:
        return os.lseek(fd, 0, os.SEEK_END) // PAGE * PAGE

    def _look(self, fd: int, writethrough: bool, discard: bool) -> bool:
        """Do the pages that are there count? BaseError: it has what this server must not take, or is too small."""
        end = self._end(fd)
        if self.device and end < self.size + PAGE:
            raise self._refused(
                f"has {format_size(end)}; the export and one block behind it need {format_size(self.size + PAGE)}"
            )
        found = _read_label(fd, end - PAGE)
        blank = found is None and not self.device and end > PAGE and os.pread(fd, PAGE, end - PAGE) == bytes(PAGE)
        if blank and end > self.size + PAGE:
            # It was to grow, and ended before its new label was there.
            found = _read_label(fd, self.size)
            if found is not None and found[2] != self.size:
                found = None  # a page with another base in it
        if found is not None:
            worth, stray, size = found
            if worth == Worth.NOTHING:
                return False
            if worth == Worth.WRITTEN_THROUGH:
                if discard:
                    return False
                if not writethrough:
                    raise self._refused(
                        "its pages were written through; --writethrough keeps them, --discard drops them"
                    )
                if size != self.size:
                    raise self._refused(
                        f"has the pages of an export of {format_size(size)}, not of {format_size(self.size)}; "
                        "--discard drops them"
                    )
                self._stray = stray
                return True
        if discard or (not self.device and next(_data(fd, end + PAGE), None) is None):
            return False
        perhaps = ", or a resize has broken off: then it is of the size of before" if blank else ""
        raise self._refused(f"has data that are not frontswap's{perhaps}; --discard drops them")

    def _prepare(self, fd: int) -> None:
        """Label it, and have no page in it that does not count."""
        at = self._end(fd) - PAGE if self.device else self.size
        if self.kept:
            if not self.device:
                os.ftruncate(fd, self.size + PAGE)
            self._settle(fd, at)
        else:
            # First of all nothing counts any more: this may end half-way.
            if not self.device:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, self.size + PAGE)
            self._label(fd, at, Worth.NOTHING)
            if self.device and self._worth == Worth.WRITTEN_THROUGH:
                _zero(fd, 0, self.size)
        if not self._overcommit and not self.device:
            try:
                reserve(fd, 0, self.size + PAGE)
            except OSError as error:
                if not self.kept:
                    os.ftruncate(fd, 0)
                raise self._no_room(self.size, error) from error
        self._label(fd, at, self._worth)

    def _no_room(self, size: int, error: OSError) -> BaseError:
        return BaseError(
            error.errno,
            f"base {str(self.path)!r}: no room for {format_size(size)}: {error.strerror}; "
            "another place, or --overcommit",
        )

    def _label(self, fd: int, at: int, worth: Worth, *, size: int | None = None, stray: int = 0) -> None:
        """Have a label at `at`, on the disk."""
        label = _LABEL.pack(_MAGIC, worth, stray, self.size if size is None else size)
        _write(fd, at, label + struct.pack("<I", zlib.crc32(label)))
        os.fsync(fd)

    # --- another size ----------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Be the base of an export of `size` bytes: when it grows, before it does; when it shrinks, afterwards.

        Whenever this ends, by an error or a crash, the base is of the one size or the other, with all pages that it had
        and zeros for others; it may be called again.

        Raises:
            BaseError: it cannot be. What it says of itself may be the new size already.
        """
        try:
            if self.device:
                self._resize_device(size)
                return
            self._settle(self.fd, self.size)
            if size > self.size:
                self._grow(size)
            elif size < self.size:
                self._shrink(size)
        except OSError as error:
            raise self._failed(error) from error

    def _resize_device(self, size: int) -> None:
        end = self._end(self.fd)
        if size + PAGE > end:
            raise self._refused(f"has {format_size(end)}; {format_size(size)} and one block behind it are wanted")
        # A device that has grown itself has its label in the middle.
        self._label(self.fd, end - PAGE, self._worth)
        if size > self.size and self._worth == Worth.WRITTEN_THROUGH:
            _zero(self.fd, self.size, size)
        # It stays where it is, and a sector has its old or its new bytes.
        self._label(self.fd, end - PAGE, self._worth, size=size)
        self.size = size

    def _grow(self, size: int) -> None:
        old = self.size
        try:
            try:
                if self._overcommit:
                    os.ftruncate(self.fd, size + PAGE)
                else:
                    reserve(self.fd, old + PAGE, size + PAGE)
            except OSError as error:
                raise self._no_room(size, error) from error
            # Nobody believes a file that ends with zeros but who looks for the old size: there is the old label still.
            self._label(self.fd, size, self._worth, size=size, stray=old // PAGE)
        except OSError:
            os.ftruncate(self.fd, old + PAGE)
            raise
        self.size, self._stray = size, old // PAGE
        self._settle(self.fd, size)

    def _shrink(self, size: int) -> None:
        self._stray = size // PAGE
        self._label(self.fd, self.size, self._worth, stray=self._stray)
        self._label(self.fd, size, self._worth, size=size)
        os.ftruncate(self.fd, size + PAGE)
        os.fsync(self.fd)
        self.size, self._stray = size, 0

    def _settle(self, fd: int, at: int) -> None:
        """Have no label in a page, and say so in the one that counts, at `at`."""
        if self._stray:
            place = self._stray * PAGE
            # Rather no data than zeros, if it can be: who starts with this base takes data for a page in use.
            if not self.zeroing or _libc.fallocate(fd, self.zeroing, ctypes.c_long(place), ctypes.c_long(PAGE)) != 0:
                _zero(fd, place, place + PAGE)
            os.fsync(fd)
            self._label(fd, at, self._worth)
            self._stray = 0

    def extents(self) -> Iterator[tuple[int, int]]:
        """Pages that may have been written: the first of each stretch, and how many."""
        for start, end in _data(self.fd, self.size):
            first = start // PAGE
            yield first, (end + PAGE - 1) // PAGE - first

    def close(self) -> None:
        """Give it back."""
        self._closer()


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Stretches of a file up to `size` that are no holes; all of it where nobody knows."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                yield at, size
            return
        if start < size:
            yield start, min(end, size)
        at = end


def _read_label(fd: int, at: int) -> tuple[int, int, int] | None:
    """Worth, stray page and size of a label; None: there is none."""
    label = os.pread(fd, _LABEL.size + 4, at) if at >= 0 else b""
    if len(label) < _LABEL.size + 4:
        return None
    body, sum_ = label[: _LABEL.size], struct.unpack_from("<I", label, _LABEL.size)[0]
    magic, worth, stray, size = _LABEL.unpack(body)
    return (worth, stray, size) if magic == _MAGIC and sum_ == zlib.crc32(body) else None


def _write(fd: int, at: int, data: bytes) -> None:
    """Write a block that begins with `data`, with O_DIRECT too. OSError: not all of it."""
    with mmap.mmap(-1, PAGE) as block:  # aligned
        block[: len(data)] = data
        if os.pwritev(fd, [block], at) != PAGE:
            raise OSError(errno.EIO, "its label cannot be written")


def _zero(fd: int, start: int, end: int) -> None:
    """Write zeros: a device may say that it has discarded what it still gives back."""
    with mmap.mmap(-1, min(1 << 20, end - start)) as zeros, memoryview(zeros) as view:  # aligned
        at = start
        while at < end:
            with view[: min(len(view), end - at)] as part:
                at += os.pwritev(fd, [part], at)
    os.fsync(fd)


def _set_direct(fd: int, label: int) -> bool:
    """Switch O_DIRECT on if the label can be read by it."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    with mmap.mmap(-1, PAGE) as block:  # aligned
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
            if os.preadv(fd, [block], label) == PAGE and block[:16] == _MAGIC:
                return True
        except OSError:
            pass
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return False
