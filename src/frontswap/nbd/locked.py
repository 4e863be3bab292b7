"""``frontswap serve --lock``: a server whose memory stays in RAM.

All that it has is locked, the pool is taken at the beginning, the out of memory killer passes by, and what the kernel
allocates on its behalf does not wait for swap. That is needed, and not enough, for a machine that swaps to a server of
its own: docs/serve.md.

Source: mlockall(2), PR_SET_IO_FLUSHER of prctl(2), nbd-server and nbdkit's --swap.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
from pathlib import Path

from ..area import Frontswap
from ..errors import LockError
from ..machine import Machine

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_IO_FLUSHER = 57
_CAP_IPC_LOCK = 14
_libc = ctypes.CDLL(None, use_errno=True)
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


def take_pool(hooks: Frontswap) -> None:
    """Have the frames of the pool, all of it, now; being locked they are not given back.

    Raises:
        LockError: there is not so much RAM.
    """
    at, length = hooks._core.pool_place()
    if length:
        _try(f"{length} bytes for the pool", _libc.mlock(ctypes.c_void_p(at), ctypes.c_size_t(length)))


def _may_lock() -> bool:
    return bool(int(Machine().fields("/proc/self/status").get("CapEff", "0"), 16) >> _CAP_IPC_LOCK & 1)


def _try(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise LockError(number, f"lock: {what}: {os.strerror(number)}")
