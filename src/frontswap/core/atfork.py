"""A place among the handlers of pthread_atfork, taken when frontswap is imported, for what core/fork.py does later.

They run in the reverse of their order before a fork. OpenBLAS's waits for its threads; one of those that is at an
evicted page would wait at our gate, if that were closed by then. So our place is before NumPy's, and a program that
imports frontswap and never makes a Memory does not pay for the rest of the core.

Race: the handlers come while another thread forks. It goes by what was there at its beginning.
"""

import cython
from cython.cimports.frontswap.core.uapi import loadi, pthread_atfork, storei


def at_fork(prepare, parent, child):
    """Fill the place, once."""
    global before, in_parent, in_child
    before = prepare
    in_parent = parent
    in_child = child
    storei(cython.address(there), 1)


def on_prepare():
    """pthread_atfork: before."""
    armed[0] = loadi(cython.address(there))
    if armed[0]:
        before()


def on_parent():
    """pthread_atfork: after, in the parent."""
    if armed[0]:
        in_parent()


def on_child():
    """pthread_atfork: after, in the child."""
    if armed[0]:
        in_child()


pthread_atfork(on_prepare, on_parent, on_child)
