"""A recording of faults: which page is asked for, one after the other, for `frontswap replay`.

Records go straight into a shared mapping of the file, for which there is room on the disk already: nothing here waits,
and what a program has done until it is killed is there. What does not fit any more is only counted.

Race: a record is written inside of the gate. Who ends the recording closes that first, so nobody is left who would
write to a file that is shorter by then. A forked child has none: its parent's file is not its own.
"""

import cython
from cython.cimports.frontswap.core.gate import gate_close, gate_open
from cython.cimports.frontswap.core.layout import bytes_p
from cython.cimports.frontswap.core.uapi import (
    add64,
    clock_ns,
    int64_t,
    load64,
    loadp,
    store64,
    storep,
    uint32_t,
    uint64_t,
)

SECOND = cython.declare(int64_t, 1000000000)


def trace_note(pg, serial, index, size):
    """A page is asked for, and `pg.trace` is there. Inside the gate: so it stays."""
    to: reference_p = cython.cast(reference_p, loadp(cython.address(pg.trace)))
    at: int64_t = add64(cython.address(pg.trace_n), 1)
    if at < pg.trace_most:
        to[at].time = cython.cast(uint32_t, (clock_ns() - pg.trace_begun) // SECOND)
        to[at].page = cython.cast(uint64_t, serial) << 32 | index
        to[at].size = size
        to[at].next = -1


def trace_begin(pg, at, most):
    """From now on."""
    pg.trace_most = most
    pg.trace_begun = clock_ns()
    store64(cython.address(pg.trace_n), 0)
    storep(cython.address(pg.trace), cython.cast(bytes_p, at))


def trace_end(pg):
    """No more; how many there were. Signals are blocked, and the caller is not inside the gate."""
    at: reference_p = cython.cast(reference_p, loadp(cython.address(pg.trace)))
    i: int64_t
    n: int64_t
    gate_close(pg)
    storep(cython.address(pg.trace), cython.NULL)
    n = load64(cython.address(pg.trace_n))
    gate_open(pg)
    # Two threads may have looked at the clock in the other order than that of their records.
    for i in range(1, min(n, pg.trace_most)):
        at[i].time = max(at[i].time, at[i - 1].time)
    return n
