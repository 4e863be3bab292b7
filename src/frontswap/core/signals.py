"""SIGBUS is ours, and SIGSEGV where there is no userfaultfd; the program goes on as if they were its own.

Once our handler is installed, a handler that the program installs for the signal is recorded and never installed. It
is called (chained) for every such signal that is not a fault of ours, and is what sigaction() reports as the handler.
So faulthandler may be switched on and off whenever it likes.

A thread that blocks the signal is killed at its first fault. So no thread can from here on: it is taken out of the
masks of sigprocmask() and pthread_sigmask(), and out of sa_mask of the handlers of other signals. The program sees it:
the mask that these calls report does not have it. To wait for it (sigwait, signalfd) is not possible.

In the child of a vfork all of this goes to the kernel as it is: the child has our memory but its own handlers, and
subprocess resets them all there.

All of it is async-signal-safe, as sigaction() must be.
"""

import cython
from cython.cimports.frontswap.core.got import got_add, got_patch_all
from cython.cimports.frontswap.core.uapi import (
    BUS_ADRERR,
    EINVAL,
    SA_NODEFER,
    SA_RESETHAND,
    SA_RESTART,
    SA_SIGINFO,
    SIG_DFL,
    SIG_ERR,
    SIG_HOLD,
    SIG_IGN,
    SIG_SETMASK,
    SIG_UNBLOCK,
    SIGBUS,
    SIGSEGV,
    block_signals,
    c_sigaction,
    errno,
    getpid,
    interrupted_mask,
    loadi,
    lock,
    lock_t,
    pthread_sigmask,
    raise_signal,
    restore_signals,
    set_errno,
    set_sigaction,
    sigaddset,
    sigdelset,
    sigfillset,
    siginfo_t,
    sigismember,
    sigset_t,
    storei,
    unlock,
)
from cython.cimports.libc.string import memset

SIGNALS = cython.declare(cython.int, 65)


# --- our handler, and the program's behind it ----------------------------------------------------


def is_function(action):
    """True if an action is a handler, not SIG_DFL or SIG_IGN."""
    return action.sa_handler != SIG_DFL and action.sa_handler != SIG_IGN


def place_of(number):
    """Where what is kept of a signal lies; -1: it is none that we may take."""
    return 0 if number == SIGBUS else 1 if number == SIGSEGV else -1


def taken(number):
    """True if a signal is ours in this process. (The child of a vfork shares our memory: it has another number.)"""
    i: cython.int = place_of(number)
    return i >= 0 and loadi(cython.address(installed[i])) != 0 and getpid() == loadi(cython.address(owner))


def let_through(mask):
    """Take out of a mask what no thread may block."""
    sigdelset(mask, SIGBUS)
    if loadi(cython.address(with_segv)):
        sigdelset(mask, SIGSEGV)


def record(number, action, old):
    """Make `action` (NULL: none) the program's action for a signal; `old`: what it was. Neither may be in an arena."""
    signals: sigset_t
    at: cython.int
    i: cython.int = place_of(number)
    block_signals(cython.address(signals))
    lock(cython.address(record_lock))
    at = loadi(cython.address(recorded_at[i]))
    old[0] = recorded[i][at % RECORDS]
    if action != cython.NULL:
        # A handler that reads the current one reads no lock: it keeps its place until 63 others have come.
        recorded[i][(at + 1) % RECORDS] = action[0]
        storei(cython.address(recorded_at[i]), (at + 1) % RECORDS)
    unlock(cython.address(record_lock))
    restore_signals(cython.address(signals))


def signals_take(number, handler):
    """Install our handler for SIGBUS or SIGSEGV, if it is not; 0 or an errno."""
    action: c_sigaction
    current: c_sigaction
    old: c_sigaction
    other: cython.int
    if set_sigaction(number, cython.NULL, cython.address(current)) != 0:
        return errno
    # Not ours although it was installed: somebody went past libc.
    if current.sa_sigaction == handler:
        return 0
    record(number, cython.address(current), cython.address(old))
    memset(cython.address(action), 0, cython.sizeof(action))
    action.sa_sigaction = handler
    action.sa_flags = SA_SIGINFO
    sigfillset(cython.address(action.sa_mask))
    storei(cython.address(owner), getpid())
    if set_sigaction(number, cython.address(action), cython.NULL) != 0:
        return errno
    storei(cython.address(installed[1 if number == SIGSEGV else 0]), 1)
    if number == SIGSEGV:
        storei(cython.address(with_segv), 1)
    # The handlers that are there already; those that come go through our_sigaction().
    for other in range(1, SIGNALS):
        if (
            not taken(other)
            and set_sigaction(other, cython.NULL, cython.address(current)) == 0
            and is_function(cython.address(current))
            and sigismember(cython.address(current.sa_mask), number) == 1
        ):
            let_through(cython.address(current.sa_mask))
            set_sigaction(other, cython.address(current), cython.NULL)
    return 0


def signals_forked():
    """In a forked child: the handler is inherited, and a thread that held the lock is not here."""
    memset(cython.address(record_lock), 0, cython.sizeof(lock_t))
    storei(cython.address(owner), getpid())


def chain(number, info, context):
    """Hand a signal that is no fault of ours to the program's handler, or to the default.

    The handler runs with the mask it would have had, but ours are not blocked: it may touch our memory. It may not
    return (siglongjmp): nothing is held here.
    """
    i: cython.int = place_of(number)
    action: c_sigaction = recorded[i][loadi(cython.address(recorded_at[i])) % RECORDS]
    default: c_sigaction
    old: c_sigaction
    mask: sigset_t
    before: sigset_t
    if not is_function(cython.address(action)):
        # A signal that somebody has sent (si_code <= 0) can be ignored; an access cannot.
        if action.sa_handler != SIG_IGN or info.si_code > 0:
            chain_to_default(number)
            # The access happens again and ends the process; a signal that was sent does not come by itself.
            if info.si_code <= 0:
                raise_signal(number)
        return
    if (action.sa_flags & SA_RESETHAND) != 0:
        memset(cython.address(default), 0, cython.sizeof(default))
        record(number, cython.address(default), cython.address(old))
    interrupted_mask(cython.address(mask), context, cython.address(action.sa_mask))
    pthread_sigmask(SIG_SETMASK, cython.address(mask), cython.address(before))
    if (action.sa_flags & SA_SIGINFO) != 0:
        action.sa_sigaction(number, info, context)
    else:
        action.sa_handler(number)
    pthread_sigmask(SIG_SETMASK, cython.address(before), cython.NULL)


def chain_lost(info, context):
    """SIGBUS for the program, of an access that came to us as SIGSEGV: what a lost page is on every side."""
    told: siginfo_t = info[0]
    i: cython.int = place_of(SIGBUS)
    if loadi(cython.address(installed[i])) == 0 or not is_function(
        cython.address(recorded[i][loadi(cython.address(recorded_at[i])) % RECORDS])
    ):
        end_by_sigbus()
        return
    told.si_signo = SIGBUS
    told.si_code = BUS_ADRERR
    chain(SIGBUS, cython.address(told), context)


def end_by_sigbus():
    """The end of this process at an access that came to us as SIGSEGV."""
    chain_to_default(SIGBUS)
    chain_to_default(SIGSEGV)  # for a thread that has blocked the other: the access happens again
    raise_signal(SIGBUS)


def chain_to_default(number):
    """The end of this process: the signal is the kernel's again."""
    default: c_sigaction
    memset(cython.address(default), 0, cython.sizeof(default))
    default.sa_handler = SIG_DFL
    set_sigaction(number, cython.address(default), cython.NULL)


# --- what the program calls ----------------------------------------------------------------------


def our_sigaction(number, new, old):
    """sigaction(2)."""
    action: c_sigaction
    before: c_sigaction
    if new != cython.NULL:
        action = new[0]
    if taken(number):
        record(number, cython.address(action) if new != cython.NULL else cython.NULL, cython.address(before))
        if old != cython.NULL:
            old[0] = before
        return 0
    if new != cython.NULL and number != SIGBUS and is_function(cython.address(action)):
        let_through(cython.address(action.sa_mask))
        return real_sigaction(number, cython.address(action), old)
    return real_sigaction(number, new, old)


def record_signal(number, handler, flags, block):
    """signal(2) and its kin, for a signal that is ours."""
    action: c_sigaction
    before: c_sigaction
    if handler == SIG_ERR:
        set_errno(EINVAL)
        return SIG_ERR
    memset(cython.address(action), 0, cython.sizeof(action))
    action.sa_handler = handler
    action.sa_flags = flags
    if block:
        sigaddset(cython.address(action.sa_mask), number)
    record(number, cython.address(action), cython.address(before))
    return before.sa_handler


def our_signal(number, handler):
    """signal(2) as BSD has it, and glibc: also bsd_signal()."""
    if taken(number):
        return record_signal(number, handler, SA_RESTART, True)
    return real_signal(number, handler)


def our_sysv_signal(number, handler):
    """signal(2) as System V has it: the handler is called once."""
    if taken(number):
        return record_signal(number, handler, SA_RESETHAND | SA_NODEFER, False)
    return real_sysv_signal(number, handler)


def our_sigset(number, handler):
    """sigset(3); SIG_HOLD would block the signal, and does not."""
    before: c_sigaction
    if taken(number):
        if handler == SIG_HOLD:
            record(number, cython.NULL, cython.address(before))
            return before.sa_handler
        return record_signal(number, handler, 0, False)
    return real_sigset(number, handler)


def our_sigprocmask(how, set, old):
    """sigprocmask(2)."""
    mask: sigset_t
    if set == cython.NULL or how == SIG_UNBLOCK:
        return real_sigprocmask(how, set, old)
    mask = set[0]
    let_through(cython.address(mask))
    return real_sigprocmask(how, cython.address(mask), old)


def our_pthread_sigmask(how, set, old):
    """pthread_sigmask(3)."""
    mask: sigset_t
    if set == cython.NULL or how == SIG_UNBLOCK:
        return real_pthread_sigmask(how, set, old)
    mask = set[0]
    let_through(cython.address(mask))
    return real_pthread_sigmask(how, cython.address(mask), old)


def our_attr_setsigmask(attributes, set):
    """pthread_attr_setsigmask_np(3): the mask that a thread starts with."""
    mask: sigset_t
    if set == cython.NULL:
        return real_attr_setsigmask(attributes, set)
    mask = set[0]
    let_through(cython.address(mask))
    return real_attr_setsigmask(attributes, cython.address(mask))


def signals_watch():
    """Name what is interposed from the next got_patch_all() on."""
    got_add(
        "sigaction",
        cython.cast(cython.p_void, our_sigaction),
        cython.cast(cython.pp_void, cython.address(real_sigaction)),
    )
    got_add("signal", cython.cast(cython.p_void, our_signal), cython.cast(cython.pp_void, cython.address(real_signal)))
    got_add(
        "bsd_signal", cython.cast(cython.p_void, our_signal), cython.cast(cython.pp_void, cython.address(real_signal))
    )
    got_add(
        "__sysv_signal",
        cython.cast(cython.p_void, our_sysv_signal),
        cython.cast(cython.pp_void, cython.address(real_sysv_signal)),
    )
    got_add(
        "sysv_signal",
        cython.cast(cython.p_void, our_sysv_signal),
        cython.cast(cython.pp_void, cython.address(real_sysv_signal)),
    )
    got_add("sigset", cython.cast(cython.p_void, our_sigset), cython.cast(cython.pp_void, cython.address(real_sigset)))
    got_add(
        "sigprocmask",
        cython.cast(cython.p_void, our_sigprocmask),
        cython.cast(cython.pp_void, cython.address(real_sigprocmask)),
    )
    got_add(
        "pthread_sigmask",
        cython.cast(cython.p_void, our_pthread_sigmask),
        cython.cast(cython.pp_void, cython.address(real_pthread_sigmask)),
    )
    got_add(
        "pthread_attr_setsigmask_np",
        cython.cast(cython.p_void, our_attr_setsigmask),
        cython.cast(cython.pp_void, cython.address(real_attr_setsigmask)),
    )


def watch(segv: bool = False) -> None:
    """From here on no thread can come to block SIGBUS; with `segv` SIGSEGV neither."""
    if segv:
        storei(cython.address(with_segv), 1)
    signals_watch()
    got_patch_all()
