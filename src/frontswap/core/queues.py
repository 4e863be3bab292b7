"""Message queues of POSIX and System V, for memory of an arena: as core/calls.py.

The kernel takes a message off its queue before it copies it out: one that cannot be copied is lost.
"""

import cython
from cython.cimports.frontswap.core.bounce import WHOLE, transfer
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.posixio import mq_longest, msg_longest, ssize_t, timespec
from cython.cimports.frontswap.core.seam import in_arena
from cython.cimports.frontswap.core.uapi import EINVAL, set_errno
from cython.cimports.libc.string import memset

# --- one call on plain memory ----------------------------------------------------------------------


def one_mq_send(c, at, n, done):
    """0 or -1."""
    m: message_p = cython.cast(message_p, c.more)
    if m.timed:
        return real_mq_timedsend(c.fd, cython.cast(cython.p_char, at), n, m.priority, m.until)
    return real_mq_send(c.fd, cython.cast(cython.p_char, at), n, m.priority)


def one_mq_receive(c, at, n, done):
    """The bytes of the message."""
    m: message_p = cython.cast(message_p, c.more)
    if m.timed:
        return real_mq_timedreceive(c.fd, cython.cast(cython.p_char, at), n, cython.address(m.priority), m.until)
    return real_mq_receive(c.fd, cython.cast(cython.p_char, at), n, cython.address(m.priority))


def one_msgsnd(c, at, n, done):
    """0 or -1."""
    m: message_p = cython.cast(message_p, c.more)
    return real_msgsnd(c.fd, at, n - TYPE_BYTES, m.flags)


def one_msgrcv(c, at, n, done):
    """The bytes of the message, and those of its type, which the kernel does not count."""
    m: message_p = cython.cast(message_p, c.more)
    got: ssize_t = real_msgrcv(c.fd, at, n - TYPE_BYTES, m.kind, m.flags)
    return -1 if got < 0 else got + TYPE_BYTES


# --- the functions ---------------------------------------------------------------------------------


def has_message(buffer, n):
    """True if some bytes of a message lie in an arena. Programs say more room than they have: not all is looked at."""
    return in_arena(buffer, min(n, MOST_MESSAGE))


def message_begin(m, one, fd):
    """One message, by one call."""
    memset(m, 0, cython.sizeof(m[0]))
    m.call.one = one
    m.call.fd = fd
    m.call.how = WHOLE
    m.call.more = m


def send_message(fd, buffer, n, priority, until, timed):
    """mq_send(3) and mq_timedsend(3)."""
    m: message_t
    time: timespec
    message_begin(cython.address(m), one_mq_send, fd)
    m.call.out = True
    m.priority = priority
    m.timed = timed
    if until != cython.NULL:
        time = until[0]
        m.until = cython.address(time)
    if cython.cast(cython.long, n) < 0 or cython.cast(cython.long, n) > mq_longest(fd):
        # Refused by its length alone: the memory may end before the message does, so it is not copied.
        return cython.cast(cython.int, one_mq_send(cython.address(m.call), cython.cast(cython.p_void, buffer), n, 0))
    return cython.cast(cython.int, transfer(cython.address(m.call), buffer, n))


def receive_message(fd, buffer, n, priority, until, timed):
    """mq_receive(3) and mq_timedreceive(3)."""
    m: message_t
    time: timespec
    got: ssize_t
    message_begin(cython.address(m), one_mq_receive, fd)
    m.timed = timed
    if until != cython.NULL:
        time = until[0]
        m.until = cython.address(time)
    got = transfer(cython.address(m.call), buffer, n)
    if got >= 0 and priority != cython.NULL:
        priority[0] = m.priority
    return got


def our_mq_send(fd, buffer, n, priority):
    """mq_send(3)."""
    if not has_message(buffer, n):
        return real_mq_send(fd, buffer, n, priority)
    return send_message(fd, buffer, n, priority, cython.NULL, False)


def our_mq_timedsend(fd, buffer, n, priority, until):
    """mq_timedsend(3)."""
    if not has_message(buffer, n) and not in_arena(until, cython.sizeof(timespec)):
        return real_mq_timedsend(fd, buffer, n, priority, until)
    return send_message(fd, buffer, n, priority, until, True)


def our_mq_receive(fd, buffer, n, priority):
    """mq_receive(3)."""
    if not has_message(buffer, n) and not in_arena(priority, cython.sizeof(cython.uint)):
        return real_mq_receive(fd, buffer, n, priority)
    return receive_message(fd, buffer, n, priority, cython.NULL, False)


def our_mq_timedreceive(fd, buffer, n, priority, until):
    """mq_timedreceive(3)."""
    if (
        not has_message(buffer, n)
        and not in_arena(priority, cython.sizeof(cython.uint))
        and not in_arena(until, cython.sizeof(timespec))
    ):
        return real_mq_timedreceive(fd, buffer, n, priority, until)
    return receive_message(fd, buffer, n, priority, until, True)


def our_msgsnd(queue, message, n, flags):
    """msgsnd(2)."""
    m: message_t
    if not has_message(message, min(n, MOST_MESSAGE - TYPE_BYTES) + TYPE_BYTES):
        return real_msgsnd(queue, message, n, flags)
    if cython.cast(cython.long, n) < 0 or cython.cast(cython.long, n) > msg_longest():
        # As the kernel refuses it, by its length alone: the memory may end before the message does.
        set_errno(EINVAL)
        return -1
    message_begin(cython.address(m), one_msgsnd, queue)
    m.call.out = True
    m.flags = flags
    return cython.cast(cython.int, transfer(cython.address(m.call), message, n + TYPE_BYTES))


def our_msgrcv(queue, message, n, kind, flags):
    """msgrcv(2)."""
    m: message_t
    got: ssize_t
    if cython.cast(cython.long, n) < 0:
        return real_msgrcv(queue, message, n, kind, flags)
    n = min(n, MOST_MESSAGE - TYPE_BYTES)
    if not has_message(message, n + TYPE_BYTES):
        return real_msgrcv(queue, message, n, kind, flags)
    message_begin(cython.address(m), one_msgrcv, queue)
    m.kind = kind
    m.flags = flags
    got = transfer(cython.address(m.call), message, n + TYPE_BYTES)
    return -1 if got < 0 else got - TYPE_BYTES


got_add(b"mq_send", cython.cast(cython.p_void, our_mq_send), cython.cast(cython.pp_void, cython.address(real_mq_send)))
got_add(
    b"mq_timedsend",
    cython.cast(cython.p_void, our_mq_timedsend),
    cython.cast(cython.pp_void, cython.address(real_mq_timedsend)),
)
got_add(
    b"mq_receive",
    cython.cast(cython.p_void, our_mq_receive),
    cython.cast(cython.pp_void, cython.address(real_mq_receive)),
)
got_add(
    b"mq_timedreceive",
    cython.cast(cython.p_void, our_mq_timedreceive),
    cython.cast(cython.pp_void, cython.address(real_mq_timedreceive)),
)
got_add(b"msgsnd", cython.cast(cython.p_void, our_msgsnd), cython.cast(cython.pp_void, cython.address(real_msgsnd)))
got_add(b"msgrcv", cython.cast(cython.p_void, our_msgrcv), cython.cast(cython.pp_void, cython.address(real_msgrcv)))
