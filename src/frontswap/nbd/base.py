"""Bases: what the slots of an export are on. A file or block device, or RAM.

A base has the export's pages at their offsets, and in its last 4096 bytes a block that says what they are worth. A
server that does not write through leaves old and new pages beside each other, so what it has left counts for nothing.
"""

from __future__ import annotations

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

PAGE = 4096
_MAGIC = b"frontswap base\x00\x01"
_LABEL = struct.Struct("<16sIIQ")
_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE, KEEP_SIZE
_ZERO_RANGE = 0x10 | 0x01


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
        try:
            self._open(writethrough, overcommit, discard)
        except OSError as error:
            if isinstance(error, BaseError):
                raise
            raise BaseError(error.errno, f"base {str(path)!r}: {error.strerror or error}") from error

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
            self._prepare(fd, Worth.WRITTEN_THROUGH if writethrough else Worth.NOTHING, overcommit)
            self.direct = _set_direct(fd, self._end(fd) - PAGE)
        except BaseException:
            os.close(fd)
            raise
        self.zeroing = (
            (_PUNCH_HOLE if overcommit or self.device else _ZERO_RANGE) if writethrough else _PUNCH_HOLE * overcommit
        )
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
        label = os.pread(fd, _LABEL.size + 4, end - PAGE) if end >= PAGE else b""
        if len(label) == _LABEL.size + 4 and struct.unpack_from("<I", label, _LABEL.size)[0] == zlib.crc32(
            label[: _LABEL.size]
        ):
            magic, worth, _, size = _LABEL.unpack_from(label)
            if magic == _MAGIC and worth == Worth.NOTHING:
                return False
            if magic == _MAGIC and worth == Worth.WRITTEN_THROUGH:
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
                return True
        if discard or (not self.device and next(_data(fd, end + PAGE), None) is None):
            return False
        raise self._refused("has data that are not frontswap's; --discard drops them")

    def _prepare(self, fd: int, worth: Worth, overcommit: bool) -> None:
        """Label it, and have no page in it that does not count."""
        if not self.kept:
            # First of all nothing counts any more: this may end half-way.
            if not self.device:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, self.size + PAGE)
            self._label(fd, Worth.NOTHING)
            if self.device and worth == Worth.WRITTEN_THROUGH:
                _zero(fd, self.size)
        if not overcommit and not self.device:
            try:
                os.posix_fallocate(fd, 0, self.size + PAGE)
            except OSError as error:
                if not self.kept:
                    os.ftruncate(fd, 0)
                raise BaseError(
                    error.errno,
                    f"base {str(self.path)!r}: no room for {format_size(self.size)}: {error.strerror}; "
                    "another place, or --overcommit",
                ) from error
        self._label(fd, worth)

    def _label(self, fd: int, worth: Worth) -> None:
        label = _LABEL.pack(_MAGIC, worth, 0, self.size)
        block = (label + struct.pack("<I", zlib.crc32(label))).ljust(PAGE, b"\0")
        at = self._end(fd) - PAGE
        if os.pwrite(fd, block, at) != PAGE:
            raise self._refused("its label cannot be written")
        os.fsync(fd)

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


def _zero(fd: int, size: int) -> None:
    """Write zeros: a device may say that it has discarded what it still gives back."""
    zeros = bytes(1 << 20)
    at = 0
    while at < size:
        at += os.pwrite(fd, zeros[: min(len(zeros), size - at)], at)
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
