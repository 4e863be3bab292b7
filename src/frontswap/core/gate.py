"""The gate: nobody is at work on a page while a process forks, or while the arena is registered.

Every operation on pages counts itself in `inflight` as it enters and looks at the gate then; who closes the gate closes
it first and waits for the count then. (The other way round: it finds the gate open, the closer finds nobody, and a page
is BUSY in the forked child for ever.) Nobody enters twice, and nobody who is inside waits for one who is not: so those
inside always come out. Long work, over many pages, leaves between them.
"""

import cython
from cython.cimports.frontswap.core.uapi import addi, backoff, loadi, lock, storei, unlock


def gate_enter(pg):
    """Begin an operation on pages; waits while the gate is closed."""
    turn: cython.int = 0
    while True:
        addi(cython.address(pg.inflight), 1)
        if loadi(cython.address(pg.gate)) == 0:
            return
        addi(cython.address(pg.inflight), -1)
        backoff(turn)
        turn += 1


def gate_await(pg):
    """A background thread begins: not before the gate is open, or it is to end.

    It may have been started behind a closed gate, by a registration. If that fails after all, who has closed the gate
    waits for the end of this thread, which must not be waiting at the gate then, with an event in hand or woken.
    """
    turn: cython.int = 0
    while loadi(cython.address(pg.gate)) != 0 and not pg.closing:
        backoff(turn)
        turn += 1


def gate_leave(pg):
    """End of gate_enter()."""
    addi(cython.address(pg.inflight), -1)


def gate_close(pg):
    """Keep everybody out; they are out when it returns. The caller has signals blocked, and is not inside."""
    turn: cython.int = 0
    lock(cython.address(pg.gate_lock))
    storei(cython.address(pg.gate), 1)
    while loadi(cython.address(pg.inflight)) != 0:
        backoff(turn)
        turn += 1


def gate_open(pg):
    """End of gate_close()."""
    storei(cython.address(pg.gate), 0)
    unlock(cython.address(pg.gate_lock))
