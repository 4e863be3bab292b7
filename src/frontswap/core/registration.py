"""The arena's registration with userfaultfd, and the threads that go with it: for a new Memory and a forked child."""

import cython
from cython.cimports.frontswap.core.keeper import guard, keeper_start
from cython.cimports.frontswap.core.layout import MAX_CONTEXTS, READAHEAD_THREADS
from cython.cimports.frontswap.core.pager import readahead_thread
from cython.cimports.frontswap.core.reclaim import reclaim_thread
from cython.cimports.frontswap.core.seam import handler_thread
from cython.cimports.frontswap.core.uapi import (
    UFFD_FEATURE_MOVE,
    UFFD_FEATURE_POISON,
    UFFD_FEATURE_SIGBUS,
    UFFD_FEATURE_WP,
    UFFDIO_REGISTER_MODE_MISSING,
    UFFDIO_REGISTER_MODE_WP,
    block_signals,
    close,
    pthread_create,
    restore_signals,
    sigset_t,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import uffd_open, uffd_register
from cython.cimports.frontswap.core.writeback import writeback_thread


def region_register(pg):
    """Open a userfaultfd and register arena and frames with it: `pg.fd`. 0, or an errno and nothing is changed."""
    user_mode: cython.bint = False
    error: cython.int = 0
    i: cython.int
    features: uint64_t = UFFD_FEATURE_WP
    if pg.use_poison:
        features |= UFFD_FEATURE_POISON
    if pg.use_move:
        features |= UFFD_FEATURE_MOVE
    if pg.sigbus:
        features |= UFFD_FEATURE_SIGBUS
    fd: cython.int = uffd_open(features, cython.address(user_mode))
    if fd < 0:
        return -fd
    for i in range(MAX_CONTEXTS):
        if error == 0:
            error = uffd_register(
                fd, cython.cast(uint64_t, pg.contexts[i].frame), pg.max_page, UFFDIO_REGISTER_MODE_MISSING
            )
    if error == 0:
        error = uffd_register(fd, pg.base, pg.size, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)
    if error:
        close(fd)
        return error
    pg.fd = guard(fd)
    return 0


def thread_start(pg, function):
    """Start a thread that takes no signals: it must never run a handler of the program. 0, or an errno."""
    signals: sigset_t
    error: cython.int
    block_signals(cython.address(signals))
    error = pthread_create(
        cython.address(pg.threads[pg.thread_count]), cython.NULL, function, cython.cast(cython.p_void, pg)
    )
    restore_signals(cython.address(signals))
    if error == 0:
        pg.thread_count += 1
    return error


def threads_start(pg):
    """Start the threads of a Memory, and the keeper of its descriptors; 0, or an errno and some of them run."""
    i: cython.int
    error: cython.int = keeper_start(pg)
    if not pg.sigbus and error == 0:
        error = thread_start(pg, handler_thread)
        if error == 0:
            error = thread_start(pg, handler_thread)
    if error == 0:
        error = thread_start(pg, reclaim_thread)
    if error == 0:
        error = thread_start(pg, writeback_thread)
    for i in range(READAHEAD_THREADS):
        if error == 0:
            error = thread_start(pg, readahead_thread)
    return error
