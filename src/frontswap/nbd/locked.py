"""``frontswap serve --lock``: a server whose memory stays in RAM, all of it from the beginning.

What it will ever touch for a request is taken before the first one: the pool, the words of all pages, its code and its
heap. A fault in the middle of a write would ask for memory that may only come of that write. The out of memory killer
passes by, and what the kernel allocates on its behalf does not wait for swap.

Source: mlockall(2), PR_SET_IO_FLUSHER of prctl(2), nbd-server and nbdkit's --swap.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import frontswap.core

from ..area import Frontswap, SwapArea
from ..errors import LockError
from ..machine import Machine
from ..sizes import format_size

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_IO_FLUSHER = 57
_CAP_IPC_LOCK = 14
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LIBRARIES = ("libc.so.", "libc-", "ld-linux", "ld-")
_PAGE_WORDS = 24 + 1  #: bytes that an export has for each page: a word of the map, and bits
#: bytes of heap that are taken at the beginning
HEAP = 8 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_libc.malloc.restype = ctypes.c_void_p
_log = logging.getLogger("frontswap.serve")


def lock_memory() -> None:
    """Keep in RAM what this process has and will have, once it is used; before there are other threads.

    Tables are mapped larger than they are used, so pages are locked as they come (MCL_ONFAULT).

    Raises:
        LockError: this process may not.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and not _may_lock():
        # With a limit it would succeed here, and every later allocation would fail.
        raise LockError(
            errno.EPERM,
            f"lock: needs CAP_IPC_LOCK (root), or RLIMIT_MEMLOCK without a limit in place of {soft} "
            "(ulimit -l unlimited, LimitMEMLOCK=infinity)",
        )
    _try("mlockall", _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT))
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000")
    except OSError as error:
        _log.warning("the out of memory killer may choose this process: oom_score_adj: %s", error.strerror)
    # Of this thread, and of those that it starts.
    if _libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0:
        _log.warning("the kernel may wait for swap on behalf of this process: %s", os.strerror(ctypes.get_errno()))


def run_realtime() -> None:
    """Be a realtime process (SCHED_RR, the lowest priority), as are the threads that come.

    A machine that swaps to a server of its own is short of memory when the server has to reply, and a reply needs some:
    its buffer in the socket, what the disk's driver takes. The kernel gives realtime threads a quarter of what it keeps
    from others (vm.min_free_kbytes); else the server would wait for pages that only its own replies can make free.

    Source: gfp_to_alloc_flags() of mm/page_alloc.c, ALLOC_HARDER (6.1), ALLOC_MIN_RESERVE (6.4).

    Raises:
        LockError: this process may not.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError as error:
        raise LockError(
            error.errno, f"realtime: needs CAP_SYS_NICE (root), or RLIMIT_RTPRIO: {error.strerror}"
        ) from None


def check_room(memory: int, pages: int) -> None:
    """Before anything happens: there is RAM for a pool of `memory` bytes, and exports of so many pages in all.

    Raises:
        LockError: there is not.
    """
    needed = memory + pages * _PAGE_WORDS + HEAP
    there = int(Machine().fields("/proc/meminfo")["MemAvailable"].split()[0]) << 10
    if needed > there:
        raise LockError(
            errno.ENOMEM,
            f"lock: {format_size(needed)} are needed ({format_size(memory)} for --memory, the rest for the words of "
            f"{pages} pages and the heap); the machine has {format_size(there)} left",
        )


def take_memory(hooks: Frontswap) -> int:
    """Have the frames of all that stands behind the areas, the code, and a heap that need not grow; bytes.

    Being locked they are not given back. Areas: take_pages().

    Raises:
        LockError: there is not so much RAM.
    """
    places = [*hooks._core.places(), *_code()]
    for at, length in places:
        _lock(at, length)
    # malloc() keeps what it is given back, and asks for no mappings: what is on a path takes from this.
    for option, value in ((_M_TRIM_THRESHOLD, 1 << 30), (_M_MMAP_THRESHOLD, 32 << 20), (_M_TOP_PAD, 1 << 20)):
        _libc.mallopt(option, value)
    heap = _libc.malloc(ctypes.c_size_t(HEAP))
    if not heap:
        raise LockError(errno.ENOMEM, f"lock: {HEAP} bytes for the heap: {os.strerror(errno.ENOMEM)}")
    ctypes.memset(heap, 0, HEAP)
    _libc.free(ctypes.c_void_p(heap))
    return sum(length for _, length in places) + HEAP


def take_pages(area: SwapArea, pages: int) -> int:
    """Have the frames of the words of an area's pages, before it has so many; bytes.

    Raises:
        LockError: there is not so much RAM.
    """
    places = area._hooks._core.places_of(area.type, area._serial, pages)
    for at, length in places:
        _lock(at, length)
    return sum(length for _, length in places)


def _lock(at: int, length: int) -> None:
    _try(f"{format_size(length)}", _libc.mlock(ctypes.c_void_p(at), ctypes.c_size_t(length)))


def _code() -> Iterator[tuple[int, int]]:
    """Mappings of the files that a request goes through: ours, and libc. Numpy's are not on the path, and large."""
    core = str(Path(frontswap.core.__file__ or "").parent)
    for line in Path("/proc/self/maps").read_text().splitlines():
        places, rights, _, _, _, *name = line.split(maxsplit=5)
        path = Path(name[0]) if name else Path()
        if rights[0] == "r" and (str(path.parent) == core or path.name.startswith(_LIBRARIES)):
            first, end = (int(one, 16) for one in places.split("-"))
            yield first, end - first


def _may_lock() -> bool:
    return bool(int(Machine().fields("/proc/self/status").get("CapEff", "0"), 16) >> _CAP_IPC_LOCK & 1)


def _try(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise LockError(number, f"lock: {what}: {os.strerror(number)}")
