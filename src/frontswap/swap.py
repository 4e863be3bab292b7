"""Where the swap file lies: chosen, checked and opened before anything is allocated."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shlex
import struct
import tempfile
import weakref
from pathlib import Path
from typing import Protocol

from . import causes
from .causes import Cause
from .core.descriptors import guard_descriptor, release_descriptor
from .errors import SwapDirectoryError
from .machine import Machine

_RAM_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_NOCOW_FL = 0x00800000


def file_system(path: Path, machine: Machine | None = None) -> str:
    """Type of the file system that a directory lies on, as in mountinfo; "" if unknown."""
    found, best = "", -1
    real = os.path.realpath(path)
    for mount in (machine or Machine()).mounts():
        inside = real == mount.point or real.startswith(mount.point.rstrip("/") + "/")
        # The later of two mounts on one point covers the earlier.
        if inside and len(mount.point) >= best:
            found, best = mount.kind, len(mount.point)
    return found


def free_bytes(directory: Path) -> int:
    """Bytes that this user may still take on the file system."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def default_directory() -> Path:
    """TMPDIR if it is set and not RAM, else /var/tmp."""
    temporary = os.environ.get("TMPDIR")
    if temporary and os.path.isdir(temporary) and file_system(Path(temporary)) not in _RAM_FILE_SYSTEMS:
        return Path(temporary)
    return Path("/var/tmp")


def elsewhere(more_than: int) -> str:
    """The command that has default_directory() choose a disk with more free bytes than that, as far as one is known."""
    best, most = "/a/directory/on/a/disk", more_than
    for name in ("/var/tmp", "/tmp", os.path.expanduser("~"), "."):
        path = os.path.abspath(name)
        if os.access(path, os.W_OK | os.X_OK) and file_system(Path(path)) not in (*_RAM_FILE_SYSTEMS, ""):
            free = free_bytes(Path(path))
            if free > most:
                best, most = path, free
    return f"export TMPDIR={shlex.quote(best)}"


def wrong_directory(directory: Path, least: int, *, auto: bool = False) -> Cause | None:
    """What is wrong with a directory for a swap file of `least` bytes, None if nothing is; `auto`: nobody named it."""
    command = elsewhere(least) if auto else ""
    if not directory.is_dir():
        return causes.missing_directory(directory, command)
    if not os.access(directory, os.W_OK | os.X_OK):
        return causes.unwritable_directory(directory, command)
    kind = file_system(directory)
    if kind in _RAM_FILE_SYSTEMS:
        return causes.ram_directory(directory, kind, command)
    free = free_bytes(directory)
    if free < least:
        return causes.full_directory(directory, free, least, command)
    return None


class Slots(Protocol):
    """What the slots of a swap area are on: a SwapFile, or what a door brings along."""

    fd: int  #: guarded
    direct: bool  #: open with O_DIRECT
    zeroing: int  #: mode of fallocate(2) that makes zeros of a slot that no page needs; 0: it may keep its bytes

    def close(self) -> None:
        """Give the descriptor back."""


class SwapFile:
    """An open, unlinked swap file, and the directory that it takes its space from."""

    zeroing = 0

    def __init__(self, where: str | os.PathLike[str], least: int) -> None:
        """Open a swap file.

        Args:
            where: "auto", a directory, or the path of a file that does not exist yet (or is empty).
            least: bytes that must be free for it to be of any use.

        Raises:
            SwapDirectoryError: with the directory and what is wrong with it.
        """
        if "\0" in str(where):
            raise SwapDirectoryError(f"swap={str(where)!r}: no file can have this name")
        self._auto = where == "auto"
        path = default_directory() if self._auto else Path(where)
        named = not path.is_dir()
        self.directory = path.parent if named else path
        self._check(path, named, least)
        try:
            fd = _create(path) if named else _unnamed(path)
        except OSError as error:
            raise SwapDirectoryError(f"swap={str(where)!r}: {error.strerror} ({path}; {causes.DOCTOR})") from error
        self.fd = guard_descriptor(fd)
        self._closer = weakref.finalize(self, release_descriptor, self.fd)
        self._closer.atexit = False  # arrays may be used until the very end
        self.direct = _set_direct(self.fd)
        _no_copy_on_write(self.fd)

    def close(self) -> None:
        """Give the descriptor, and with it the space, back. The plane must be closed."""
        self._closer()

    def _check(self, path: Path, named: bool, least: int) -> None:
        if named and path.exists() and (not path.is_file() or path.stat().st_size):
            raise SwapDirectoryError(
                f"swap={str(path)!r}: exists and is not an empty file; name a directory or a new file"
            )
        wrong = wrong_directory(self.directory, least, auto=self._auto)
        if wrong is not None:
            raise SwapDirectoryError(f"swap={str(path)!r}: {wrong}")

    def cannot_grow(self, number: int, also: str) -> Cause:
        """Why there is no more space (an errno); `also`: what else may help, in the words of who asked for it."""
        free = free_bytes(self.directory)
        return causes.no_space(self.directory, number, free, also, elsewhere(free) if self._auto else "")


def reserve(fd: int, start: int, end: int) -> None:
    """Have the file system keep room for the bytes [start, end) of a file.

    Raises:
        OSError: ENOSPC, it has not so much.
    """
    # posix_fallocate() takes all that there is before it says that it was not enough: who writes meanwhile finds a full
    # disk. (A file system that counts no blocks says nothing. What a file has already it has at its beginning.)
    disk = os.fstatvfs(fd)
    there = os.fstat(fd).st_blocks * 512 if start == 0 else 0
    if disk.f_blocks and end - start - there > disk.f_bavail * disk.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.posix_fallocate(fd, start, end - start)


def _unnamed(directory: Path) -> int:
    """A file of mode 0600 without a name: nothing is left behind, whatever ends the process."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    fd, name = tempfile.mkstemp(prefix="frontswap-", dir=directory)
    os.unlink(name)
    return fd


def _create(path: Path) -> int:
    """A file under a name that the user chose, unlinked at once."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    os.unlink(path)
    return fd


def _set_direct(fd: int) -> bool:
    """Switch O_DIRECT on if the file system really does it: one aligned block goes out and comes back."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    with mmap.mmap(-1, 4096) as block:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
            block[:8] = b"frontswp"
            works = os.pwrite(fd, block, 0) == 4096 and os.preadv(fd, [block], 0) == 4096
        except OSError:
            works = False
    if not works:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    os.ftruncate(fd, 0)
    return works


def _no_copy_on_write(fd: int) -> None:
    """btrfs: overwrite in place (chattr +C); other file systems do not know the flag, and need not."""
    try:
        found = struct.unpack("l", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, struct.pack("l", 0)))[0]
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("l", found | _FS_NOCOW_FL))
    except OSError:
        return
