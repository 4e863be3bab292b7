"""SIGBUS is ours; the program goes on as if it were its own.

Once our handler is installed, a handler that the program installs for SIGBUS is recorded and never installed. It is
called (chained) for every SIGBUS that is not a fault of ours, and is what sigaction() reports as the handler. So
faulthandler may be switched on and off whenever it likes.

A thread that blocks SIGBUS is killed at its first fault. So no thread can from here on: SIGBUS is taken out of the
masks of sigprocmask() and pthread_sigmask(), and out of sa_mask of the handlers of other signals. The program sees it:
the mask that these calls report does not have SIGBUS. To wait for it (sigwait, signalfd) is not possible.

In the child of a vfork all of this goes to the kernel as it is: the child has our memory but its own handlers, and
subprocess resets them all there.

All of it is async-signal-safe, as sigaction() must be.
"""

import cython
from cython.cimports.frontswap.core.got import got_add, got_patch_all
from cython.cimports.frontswap.core.uapi import (
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


def taken():
    """True if SIGBUS is ours in this process. (The child of a vfork shares our memory: it has another number.)"""
    return loadi(cython.address(installed)) != 0 and getpid() == loadi(cython.address(owner))


def record(action, old):
    """Make `action` (NULL: none) the program's action for SIGBUS; `old`: what it was. Neither may be in an arena."""
    signals: sigset_t
    at: cython.int
    block_signals(cython.address(signals))
    lock(cython.address(record_lock))
    at = loadi(cython.address(recorded_at))
    old[0] = recorded[at % RECORDS]
    if action != cython.NULL:
        # A handler that reads the current one reads no lock: it keeps its place until 63 others have come.
        recorded[(at + 1) % RECORDS] = action[0]
        storei(cython.address(recorded_at), (at + 1) % RECORDS)
    unlock(cython.address(record_lock))
    restore_signals(cython.address(signals))


def signals_take(handler):
    """Install our handler for SIGBUS, if it is not; 0 or an errno."""
    action: c_sigaction
    current: c_sigaction
    old: c_sigaction
    number: cython.int
    if set_sigaction(SIGBUS, cython.NULL, cython.address(current)) != 0:
        return errno
    # Not ours although it was installed: somebody went past libc.
    if current.sa_sigaction == handler:
        return 0
    record(cython.address(current), cython.address(old))
    memset(cython.address(action), 0, cython.sizeof(action))
    action.sa_sigaction = handler
    action.sa_flags = SA_SIGINFO
    sigfillset(cython.address(action.sa_mask))
    storei(cython.address(owner), getpid())
    if set_sigaction(SIGBUS, cython.address(action), cython.NULL) != 0:
        return errno
    storei(cython.address(installed), 1)
    # The handlers that are there already; those that come go through our_sigaction().
    for number in range(1, SIGNALS):
        if (
            number != SIGBUS
            and set_sigaction(number, cython.NULL, cython.address(current)) == 0
            and is_function(cython.address(current))
            and sigismember(cython.address(current.sa_mask), SIGBUS) == 1
        ):
            sigdelset(cython.address(current.sa_mask), SIGBUS)
            set_sigaction(number, cython.address(current), cython.NULL)
    return 0


def signals_forked():
    """In a forked child: the handler is inherited, and a thread that held the lock is not here."""
    memset(cython.address(record_lock), 0, cython.sizeof(lock_t))
    storei(cython.address(owner), getpid())


def chain(number, info, context):
    """Hand a SIGBUS that we cannot resolve to the program's handler, or to the default.

    The handler runs with the mask it would have had, but SIGBUS is not blocked: it may touch our memory. It may not
    return (siglongjmp): nothing is held here.
    """
    action: c_sigaction = recorded[loadi(cython.address(recorded_at)) % RECORDS]
    default: c_sigaction
    old: c_sigaction
    mask: sigset_t
    before: sigset_t
    if not is_function(cython.address(action)):
        # A signal that somebody has sent (si_code <= 0) can be ignored; an access cannot.
        if action.sa_handler != SIG_IGN or info.si_code > 0:
            chain_to_default()
            # The access happens again and ends the process; a signal that was sent does not come by itself.
            if info.si_code <= 0:
                raise_signal(SIGBUS)
        return
    if (action.sa_flags & SA_RESETHAND) != 0:
        memset(cython.address(default), 0, cython.sizeof(default))
        record(cython.address(default), cython.address(old))
    interrupted_mask(cython.address(mask), context, cython.address(action.sa_mask))
    pthread_sigmask(SIG_SETMASK, cython.address(mask), cython.address(before))
    if (action.sa_flags & SA_SIGINFO) != 0:
        action.sa_sigaction(number, info, context)
    else:
        action.sa_handler(number)
    pthread_sigmask(SIG_SETMASK, cython.address(before), cython.NULL)


def chain_to_default():
    """The end of this process: SIGBUS is the kernel's again."""
    default: c_sigaction
    memset(cython.address(default), 0, cython.sizeof(default))
    default.sa_handler = SIG_DFL
    set_sigaction(SIGBUS, cython.address(default), cython.NULL)


# --- what the program calls ----------------------------------------------------------------------


def our_sigaction(number, new, old):
    """sigaction(2)."""
    action: c_sigaction
    before: c_sigaction
    if new != cython.NULL:
        action = new[0]
    if number == SIGBUS and taken():
        record(cython.address(action) if new != cython.NULL else cython.NULL, cython.address(before))
        if old != cython.NULL:
            old[0] = before
        return 0
    if new != cython.NULL and number != SIGBUS and is_function(cython.address(action)):
        sigdelset(cython.address(action.sa_mask), SIGBUS)
        return real_sigaction(number, cython.address(action), old)
    return real_sigaction(number, new, old)


def record_signal(handler, flags, block):
    """signal(2) and its kin, for SIGBUS."""
    action: c_sigaction
    before: c_sigaction
    if handler == SIG_ERR:
        set_errno(EINVAL)
        return SIG_ERR
    memset(cython.address(action), 0, cython.sizeof(action))
    action.sa_handler = handler
    action.sa_flags = flags
    if block:
        sigaddset(cython.address(action.sa_mask), SIGBUS)
    record(cython.address(action), cython.address(before))
    return before.sa_handler


def our_signal(number, handler):
    """signal(2) as BSD has it, and glibc: also bsd_signal()."""
    if number == SIGBUS and taken():
        return record_signal(handler, SA_RESTART, True)
    return real_signal(number, handler)


def our_sysv_signal(number, handler):
    """signal(2) as System V has it: the handler is called once."""
    if number == SIGBUS and taken():
        return record_signal(handler, SA_RESETHAND | SA_NODEFER, False)
    return real_sysv_signal(number, handler)


def our_sigset(number, handler):
    """sigset(3); SIG_HOLD would block the signal, and does not."""
    before: c_sigaction
    if number == SIGBUS and taken():
        if handler == SIG_HOLD:
            record(cython.NULL, cython.address(before))
            return before.sa_handler
        return record_signal(handler, 0, False)
    return real_sigset(number, handler)


def our_sigprocmask(how, set, old):
    """sigprocmask(2)."""
    mask: sigset_t
    if set == cython.NULL or how == SIG_UNBLOCK:
        return real_sigprocmask(how, set, old)
    mask = set[0]
    sigdelset(cython.address(mask), SIGBUS)
    return real_sigprocmask(how, cython.address(mask), old)


def our_pthread_sigmask(how, set, old):
    """pthread_sigmask(3)."""
    mask: sigset_t
    if set == cython.NULL or how == SIG_UNBLOCK:
        return real_pthread_sigmask(how, set, old)
    mask = set[0]
    sigdelset(cython.address(mask), SIGBUS)
    return real_pthread_sigmask(how, cython.address(mask), old)


def our_attr_setsigmask(attributes, set):
    """pthread_attr_setsigmask_np(3): the mask that a thread starts with."""
    mask: sigset_t
    if set == cython.NULL:
        return real_attr_setsigmask(attributes, set)
    mask = set[0]
    sigdelset(cython.address(mask), SIGBUS)
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


def watch() -> None:
    """From here on no thread can come to block SIGBUS."""
    signals_watch()
    got_patch_all()
