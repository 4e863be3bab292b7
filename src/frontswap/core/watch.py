"""Nobody has to look again and again: the brake's thread begins and Python is called once so much is allocated, or
somebody has changed a word.
"""

import cython
from cython.cimports.frontswap.core.layout import brake_p
from cython.cimports.frontswap.core.uapi import (
    ETIMEDOUT,
    block_signals,
    cas64,
    casi,
    futex_wait,
    futex_wake,
    getpid,
    int64_t,
    is_file,
    load64,
    loadi,
    pthread_create,
    restore_signals,
    sigset_t,
    store64,
    storei,
    uint32_t,
    uint64_t,
)

SECOND = cython.declare(int64_t, 1000000000)


def brake_due(pg):
    """After an allocation: is so much allocated that the thread should be there? Without locks, not inside the gate."""
    b: brake_p = cython.address(pg.brake)
    least: int64_t = load64(cython.address(b.begin))
    signals: sigset_t
    if least == 0 or loadi(cython.address(b.running)) or load64(cython.address(pg.allocated)) + pg.loose < least:
        return
    if not casi(cython.address(b.running), 0, 1):
        return
    block_signals(cython.address(signals))
    # Where no thread can be had Python looks alone; the next large allocation tries again.
    if pthread_create(cython.address(b.id), cython.NULL, b.thread, cython.cast(cython.p_void, pg)) != 0:
        storei(cython.address(b.running), 0)
    restore_signals(cython.address(signals))


def watch_look(pg):
    """Has so much been allocated that somebody wants to know?"""
    most: int64_t = load64(cython.address(pg.watch_from))
    brake_due(pg)
    # Not in the child of a C library that has forked: Python's lock may be taken there.
    if most == 0 or load64(cython.address(pg.allocated)) + pg.loose < most or getpid() != watch_process:
        return
    if cas64(cython.address(pg.watch_from), most, 0) and Py_AddPendingCall(watch_call, cython.NULL) != 0:
        cas64(cython.address(pg.watch_from), 0, most)  # too many of those wait: with the next allocation


def watch_call(unused):
    """What Py_AddPendingCall() calls, in the main thread."""
    if watcher is not None:
        watcher()
    return 0


def watch_begin(pg, allocated, call):
    """Have `call` called once, when so many bytes are allocated; 0: not any more."""
    global watcher, watch_process
    store64(cython.address(pg.watch_from), 0)
    watcher = call
    watch_process = getpid()
    store64(cython.address(pg.watch_from), allocated)


def word_wait(shared: cython.uchar[::1], at: cython.Py_ssize_t, seen: uint32_t, path: bytes, inode: uint64_t):
    """Sleep until the word of 4 bytes at this place of a shared file is not `seen`, that file is not at `path` any more
    (looked at once a second: who makes it anew changes the word of another one), or a signal comes.
    """
    word: cython.pointer(uint32_t) = cython.cast(cython.pointer(uint32_t), cython.address(shared[at]))
    name: cython.p_const_char = path
    with cython.nogil:
        while futex_wait(word, seen, SECOND) == ETIMEDOUT and is_file(name, inode):
            pass


def word_wake(shared: cython.uchar[::1], at: cython.Py_ssize_t):
    """Wake all processes that wait for this word."""
    futex_wake(cython.cast(cython.pointer(uint32_t), cython.address(shared[at])))
