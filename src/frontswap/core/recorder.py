"""A recording of faults (core/trace.py) as the control plane begins and ends it."""

import cython
from cython.cimports.frontswap.core.hooks import Hooks
from cython.cimports.frontswap.core.layout import pager_p
from cython.cimports.frontswap.core.trace import reference_p, reference_t, trace_begin, trace_end
from cython.cimports.frontswap.core.uapi import block_signals, int64_t, restore_signals, sigset_t

#: bytes of a fault, in oracleGeneral
RECORD = cython.sizeof(reference_t)


def record_begin(plane: Hooks, shared: cython.uchar[::1]) -> None:
    """Record from now on, into a mapping that stays until record_end()."""
    pg: pager_p = plane.pager()
    trace_begin(
        pg,
        cython.cast(reference_p, cython.address(shared[0])),
        shared.shape[0] // cython.cast(int64_t, cython.sizeof(reference_t)),
    )


def record_end(plane: Hooks) -> int:
    """End it; the number of faults since its beginning, of which the first are in the mapping."""
    pg: pager_p = plane.pager()
    n: int64_t
    signals: sigset_t
    with cython.nogil:
        block_signals(cython.address(signals))
        n = trace_end(pg)
        restore_signals(cython.address(signals))
    return n
