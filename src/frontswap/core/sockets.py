"""Calls of sockets, for memory of an arena: as core/calls.py, with names, control messages and message boundaries.

A message (datagram, seqpacket) is sent and received by one call, whatever its size. MSG_ZEROCOPY is the one thing that
cannot go through a bounce buffer, which is used again before the kernel is done with it: it is handed on as it is, for
memory under mem.pin().
"""

import cython
from cython.cimports.frontswap.core.bounce import (
    BY_DESCRIPTOR,
    MOST_VECTOR,
    WHOLE,
    call_t,
    map_bytes,
    transfer,
    transfer_vector,
    vector_bytes,
    vector_in_arena,
)
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.posixio import (
    MSG_DONTWAIT,
    MSG_FASTOPEN,
    MSG_OOB,
    MSG_WAITALL,
    MSG_WAITFORONE,
    MSG_ZEROCOPY,
    msghdr,
)
from cython.cimports.frontswap.core.seam import in_arena
from cython.cimports.frontswap.core.uapi import (
    ENOMEM,
    clock_ns,
    int64_t,
    iovec,
    munmap,
    set_errno,
    uint64_t,
)
from cython.cimports.libc.string import memcpy, memset

YEARS = cython.declare(int64_t, 1 << 32)  # seconds: as good as for ever

# --- one call on plain memory ----------------------------------------------------------------------


def later_flags(c, done):
    """The flags of a piece: a connection is opened once."""
    return c.flags if done == 0 else c.flags & ~MSG_FASTOPEN


def one_send(c, at, n, done):
    """The name is said once: a stream is connected by then."""
    peer: peer_p = cython.cast(peer_p, c.more)
    if done > 0 or not peer.given:
        return real_sendto(c.fd, at, n, later_flags(c, done), cython.NULL, 0)
    return real_sendto(c.fd, at, n, c.flags, cython.address(peer.name), peer.bytes)


def one_recv(c, at, n, done):
    """The name is that of the last piece."""
    peer: peer_p = cython.cast(peer_p, c.more)
    if not peer.given:
        return real_recvfrom(c.fd, at, n, c.flags, cython.NULL, cython.NULL)
    peer.bytes = MOST_NAME
    return real_recvfrom(c.fd, at, n, c.flags, cython.address(peer.name), cython.address(peer.bytes))


def one_sendmsg(c, at, n, done):
    """Name and control messages go with the first piece."""
    vector: iovec
    message: msghdr = cython.cast(msghdr_p, c.more)[0]
    vector.iov_base = at
    vector.iov_len = n
    message.msg_iov = cython.address(vector)
    message.msg_iovlen = 1
    if done > 0:
        message.msg_name = cython.NULL
        message.msg_namelen = 0
        message.msg_control = cython.NULL
        message.msg_controllen = 0
    return real_sendmsg(c.fd, cython.address(message), later_flags(c, done))


def one_recvmsg(c, at, n, done):
    """More than one piece only where there is no room for control messages."""
    vector: iovec
    message: msghdr_p = cython.cast(msghdr_p, c.more)
    vector.iov_base = at
    vector.iov_len = n
    message.msg_iov = cython.address(vector)
    message.msg_iovlen = 1
    return real_recvmsg(c.fd, message, c.flags)


# --- one buffer ------------------------------------------------------------------------------------


def send_out(fd, buffer, n, flags, name, name_bytes):
    """send(2) and sendto(2)."""
    c: call_t
    peer: peer_t
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_send
    c.out = True
    c.fd = fd
    c.flags = flags
    c.more = cython.address(peer)
    peer.given = name != cython.NULL
    peer.bytes = name_bytes
    if peer.given:
        # More than fits is EINVAL, and looked at first.
        memcpy(cython.address(peer.name), name, min(name_bytes, MOST_NAME))
    return transfer(cython.address(c), buffer, n)


def receive(fd, buffer, n, flags, name, name_bytes):
    """recv(2) and recvfrom(2)."""
    c: call_t
    peer: peer_t
    got: cython.long
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_recv
    c.fd = fd
    c.flags = flags
    c.more = cython.address(peer)
    peer.given = name != cython.NULL
    got = transfer(cython.address(c), buffer, n)
    if got >= 0 and peer.given:
        memcpy(name, cython.address(peer.name), min(name_bytes[0], peer.bytes, MOST_NAME))
        name_bytes[0] = peer.bytes
    return got


def our_send(fd, buffer, n, flags):
    """send(2)."""
    if not in_arena(buffer, n) or (flags & MSG_ZEROCOPY) != 0:
        return real_send(fd, buffer, n, flags)
    return send_out(fd, buffer, n, flags, cython.NULL, 0)


def our_recv(fd, buffer, n, flags):
    """recv(2)."""
    if not in_arena(buffer, n):
        return real_recv(fd, buffer, n, flags)
    return receive(fd, buffer, n, flags, cython.NULL, cython.NULL)


def our_sendto(fd, buffer, n, flags, name, name_bytes):
    """sendto(2)."""
    if not (in_arena(buffer, n) or in_arena(name, name_bytes)) or (flags & MSG_ZEROCOPY) != 0:
        return real_sendto(fd, buffer, n, flags, name, name_bytes)
    return send_out(fd, buffer, n, flags, name, name_bytes)


def our_recvfrom(fd, buffer, n, flags, name, name_bytes):
    """recvfrom(2)."""
    if not (in_arena(buffer, n) or in_arena(name, 1) or in_arena(name_bytes, 4)) or (
        # What the kernel refuses it refuses by itself.
        name != cython.NULL and (name_bytes == cython.NULL or cython.cast(cython.int, name_bytes[0]) < 0)
    ):
        return real_recvfrom(fd, buffer, n, flags, name, name_bytes)
    return receive(fd, buffer, n, flags, name, name_bytes)


def our_recv_chk(fd, buffer, n, room, flags):
    """__recv_chk; see our_read_chk()."""
    if n > room or not in_arena(buffer, n):
        return real_recv_chk(fd, buffer, n, room, flags)
    return our_recv(fd, buffer, n, flags)


def our_recvfrom_chk(fd, buffer, n, room, flags, name, name_bytes):
    """__recvfrom_chk; see our_read_chk()."""
    if n > room:
        return real_recvfrom_chk(fd, buffer, n, room, flags, name, name_bytes)
    return our_recvfrom(fd, buffer, n, flags, name, name_bytes)


# --- messages --------------------------------------------------------------------------------------


def message_in_arena(message):
    """True if anything of a message is, and the kernel would look at it."""
    if cython.cast(uint64_t, message) < 4096 or message.msg_iovlen > MOST_VECTOR:
        return False
    if cython.cast(cython.int, message.msg_namelen) < 0 or (
        message.msg_iovlen > 0 and cython.cast(uint64_t, message.msg_iov) < 4096
    ):
        return False
    return (
        vector_in_arena(message.msg_iov, message.msg_iovlen)
        or in_arena(message, cython.sizeof(msghdr))
        or in_arena(message.msg_name, message.msg_namelen)
        or in_arena(message.msg_control, message.msg_controllen)
    )


def message_out(fd, message, flags):
    """sendmsg(2)."""
    c: call_t
    name: cython.uchar[MOST_NAME]
    m: msghdr = message[0]
    control: cython.p_void = cython.NULL
    got: cython.long
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_sendmsg
    c.out = True
    c.fd = fd
    c.flags = flags
    c.more = cython.address(m)
    if m.msg_name != cython.NULL:
        memcpy(name, m.msg_name, min(m.msg_namelen, MOST_NAME))
        m.msg_name = name
    if in_arena(m.msg_control, m.msg_controllen):
        control = map_bytes(m.msg_controllen)
        if control == cython.NULL:
            set_errno(ENOMEM)
            return -1
        memcpy(control, m.msg_control, m.msg_controllen)
        m.msg_control = control
    got = transfer_vector(cython.address(c), message.msg_iov, cython.cast(cython.int, message.msg_iovlen))
    if control != cython.NULL:
        munmap(control, m.msg_controllen)
    return got


def message_in(fd, message, flags):
    """recvmsg(2)."""
    c: call_t
    name: cython.uchar[MOST_NAME]
    m: msghdr = message[0]
    control: cython.p_void = cython.NULL
    got: cython.long
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_recvmsg
    c.fd = fd
    c.flags = flags
    c.more = cython.address(m)
    c.how = WHOLE if (flags & MSG_WAITALL) != 0 and m.msg_controllen > 0 else BY_DESCRIPTOR
    if m.msg_name != cython.NULL:
        m.msg_name = name
        m.msg_namelen = MOST_NAME
    if in_arena(m.msg_control, m.msg_controllen):
        control = map_bytes(m.msg_controllen)
        if control == cython.NULL:
            set_errno(ENOMEM)
            return -1
        m.msg_control = control
    got = transfer_vector(cython.address(c), message.msg_iov, cython.cast(cython.int, message.msg_iovlen))
    if got >= 0:
        if message.msg_name != cython.NULL:
            memcpy(message.msg_name, name, min(message.msg_namelen, m.msg_namelen, MOST_NAME))
        if control != cython.NULL:
            memcpy(message.msg_control, control, min(message.msg_controllen, m.msg_controllen))
    if control != cython.NULL:
        munmap(control, message.msg_controllen)
    if got >= 0:
        message.msg_namelen = m.msg_namelen
        message.msg_controllen = m.msg_controllen
        message.msg_flags = m.msg_flags
    return got


def our_sendmsg(fd, message, flags):
    """sendmsg(2)."""
    if not message_in_arena(message) or (flags & MSG_ZEROCOPY) != 0:
        return real_sendmsg(fd, message, flags)
    return message_out(fd, message, flags)


def our_recvmsg(fd, message, flags):
    """recvmsg(2)."""
    if not message_in_arena(message):
        return real_recvmsg(fd, message, flags)
    return message_in(fd, message, flags)


def messages_in_arena(messages, n):
    """True if anything of these messages is."""
    i: cython.uint
    if cython.cast(uint64_t, messages) < 4096:
        return False
    for i in range(min(n, MOST_VECTOR)):
        if message_in_arena(cython.address(messages[i].msg_hdr)):
            return True
    return False


def our_sendmmsg(fd, messages, n, flags):
    """sendmmsg(2): as many sendmsg(2), until one fails or is short."""
    i: cython.uint
    got: cython.long
    if not messages_in_arena(messages, n) or (flags & MSG_ZEROCOPY) != 0:
        return real_sendmmsg(fd, messages, n, flags)
    for i in range(min(n, MOST_VECTOR)):
        got = our_sendmsg(fd, cython.address(messages[i].msg_hdr), flags)
        if got < 0:
            return cython.cast(cython.int, i) if i > 0 else -1
        messages[i].msg_len = cython.cast(cython.uint, got)
        if got < vector_bytes(messages[i].msg_hdr.msg_iov, cython.cast(cython.int, messages[i].msg_hdr.msg_iovlen)):
            return cython.cast(cython.int, i) + 1
    return cython.cast(cython.int, min(n, MOST_VECTOR))


def is_over(end, timeout):
    """Write down what is left until `end`; True: nothing."""
    left: int64_t = max(end - clock_ns(), 0)
    timeout.tv_sec = left // 1000000000
    timeout.tv_nsec = left % 1000000000
    return left == 0


def our_recvmmsg(fd, messages, n, flags, timeout):
    """recvmmsg(2): as many recvmsg(2). As in the kernel the timeout is looked at between messages only.

    An error after the first message is not kept for the next call, as the kernel keeps it, unless it lasts.
    """
    i: cython.uint
    got: cython.long
    end: int64_t = 0
    if (
        not messages_in_arena(messages, n)
        or (cython.cast(uint64_t, timeout) < 4096 and timeout != cython.NULL)
        or (timeout != cython.NULL and not (timeout.tv_sec >= 0 and 0 <= timeout.tv_nsec < 1000000000))
    ):
        return real_recvmmsg(fd, messages, n, flags, timeout)
    if timeout != cython.NULL:
        end = clock_ns() + min(timeout.tv_sec, YEARS) * 1000000000 + timeout.tv_nsec
    for i in range(min(n, MOST_VECTOR)):
        got = our_recvmsg(fd, cython.address(messages[i].msg_hdr), flags & ~MSG_WAITFORONE)
        if got < 0:
            return cython.cast(cython.int, i) if i > 0 else -1
        messages[i].msg_len = cython.cast(cython.uint, got)
        if (flags & MSG_WAITFORONE) != 0:
            flags |= MSG_DONTWAIT
        if (timeout != cython.NULL and is_over(end, timeout)) or (messages[i].msg_hdr.msg_flags & MSG_OOB) != 0:
            return cython.cast(cython.int, i) + 1
    return cython.cast(cython.int, min(n, MOST_VECTOR))


got_add(b"send", cython.cast(cython.p_void, our_send), cython.cast(cython.pp_void, cython.address(real_send)))
got_add(b"recv", cython.cast(cython.p_void, our_recv), cython.cast(cython.pp_void, cython.address(real_recv)))
got_add(b"sendto", cython.cast(cython.p_void, our_sendto), cython.cast(cython.pp_void, cython.address(real_sendto)))
got_add(
    b"recvfrom", cython.cast(cython.p_void, our_recvfrom), cython.cast(cython.pp_void, cython.address(real_recvfrom))
)
got_add(b"sendmsg", cython.cast(cython.p_void, our_sendmsg), cython.cast(cython.pp_void, cython.address(real_sendmsg)))
got_add(b"recvmsg", cython.cast(cython.p_void, our_recvmsg), cython.cast(cython.pp_void, cython.address(real_recvmsg)))
got_add(
    b"sendmmsg", cython.cast(cython.p_void, our_sendmmsg), cython.cast(cython.pp_void, cython.address(real_sendmmsg))
)
got_add(
    b"recvmmsg", cython.cast(cython.p_void, our_recvmmsg), cython.cast(cython.pp_void, cython.address(real_recvmmsg))
)
got_add(
    b"__recv_chk", cython.cast(cython.p_void, our_recv_chk), cython.cast(cython.pp_void, cython.address(real_recv_chk))
)
got_add(
    b"__recvfrom_chk",
    cython.cast(cython.p_void, our_recvfrom_chk),
    cython.cast(cython.pp_void, cython.address(real_recvfrom_chk)),
)
