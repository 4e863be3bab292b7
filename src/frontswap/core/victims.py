"""Victims behind the memory door: where zcache has a policy there, the records of single pages leave for the swap file.

Whole segments leave by age, as they are. By policy the record of the page that it names is copied, as it is, to the
open segment of what goes to the disk (STREAM_SLOT), which is written when it is full: large writes again, and nothing
is decompressed. What it leaves is dead until the cleaner has moved what is beside it. The page's copy is its slot's
from then on (SLOT); it may be resident meanwhile, and stays so.

Races. Who asks may own pages, and no one who owns a page waits for another: so a victim that somebody owns stays, as if
it had come now (policy_back()), and so does one of which the policy has been told again until it was owned. A record is
read as its page's owner, so it lives, and its segment is not freed; its RAM may be taken, as by write_coldest() where
memory is short at once: readers are waited for. Who copies it counts as one, also while the slots' segment is full and
has to be written: who takes RAM away waits for that then, and holds nothing that writing it needs.
"""

import cython
from cython.cimports.frontswap.core.frontswap import zcache_enter, zcache_leave
from cython.cimports.frontswap.core.layout import (
    BUSY,
    HEADER,
    SLOT,
    STATE,
    STREAM_POOL,
    STREAM_SLOT,
    bytes_p,
    has_record,
    holder_change,
    length_of,
    log_bytes,
    offset_of,
    page_bytes,
    page_p,
    record_p,
    segment_of,
    segment_p,
)
from cython.cimports.frontswap.core.policy import policy_back, policy_has, policy_victim
from cython.cimports.frontswap.core.segments import (
    record_append,
    record_drop,
    record_put,
    write_coldest,
    write_slot_stream,
)
from cython.cimports.frontswap.core.uapi import (
    ENOSPC,
    addi,
    cas32,
    int64_t,
    load32,
    loadi,
    loadp,
    store32,
    uint32_t,
    uint64_t,
)

STAY = cython.declare(cython.int, 16)  # victims that stay: then nobody is asked any more
# victim_leave(): why it does
IN_USE = cython.declare(cython.int, -1)
UNABLE = cython.declare(cython.int, -2)


def pool_write(pg, most):
    """Less in the pool of a Memory, for the swap file has it: its coldest segment, or by its policy what is above
    `most` bytes that live, as much as a segment at most. 0; -1: there is nothing just now, or an errno.

    Nothing is asked where all is to leave.
    """
    if pg.policy.of == cython.NULL or pg.file < 0 or most <= 0:
        return write_coldest(pg)
    return victims_leave(pg, most)


def victims_leave(pg, most):
    """pool_write() by the policy."""
    stack: cython.int = zcache_enter(pg)
    live: int64_t
    got: int64_t
    done: int64_t = 0
    stay: cython.int = 0
    unable: cython.int = 0
    error: cython.int = 0
    page: uint32_t
    if stack < 0:
        return -1
    live = pool_records(pg)
    # Looked at again: another zcache, without one, may have come before we were counted.
    while pg.policy.of != cython.NULL and done < pg.segment_bytes and stay < STAY and live - done > most:
        # Else who appends to it might wait, as the writeback thread, for the writeback thread.
        if pg.full_slots[0]:
            error = write_slot_stream(pg)
            if error > 0:
                break
        page = policy_victim(pg, 0)
        if page == 0:
            break
        got = victim_leave(pg, page, stack)
        if got < 0:
            stay += 1
            unable += got == UNABLE
        else:
            done += got
    zcache_leave(pg, stack)
    if done > 0:
        return 0
    if error > 0:
        return error
    return ENOSPC if unable else -1


def pool_records(pg):
    """Bytes of the records in the pool that live."""
    total: int64_t = 0
    i: uint32_t
    s: segment_p
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.stream == STREAM_POOL and loadp(cython.address(s.ram)) != cython.NULL:
            total += loadi(cython.address(s.live))
    return total


def victim_leave(pg, page, stack):
    """The record of a page that the policy has named, and holds no longer, leaves; its bytes. 0: there is none in RAM,
    as it was written to or freed since. It stays: IN_USE, UNABLE.
    """
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t = load32(cython.address(p.state))
    length: int64_t = IN_USE
    if (state & STATE) != BUSY:
        if not has_record(state) or (state & SLOT) != 0:
            return 0
        if cas32(cython.address(p.state), state, BUSY):
            if not policy_has(pg, page):
                length = record_leave(pg, page, cython.address(state), stack)
                if length < 0:
                    policy_back(pg, page)
            store32(cython.address(p.state), state)
            return length
    policy_back(pg, page)
    return IN_USE


def record_leave(pg, page, state, stack):
    """victim_leave() of an owned page, `*state` becomes its word."""
    p: page_p = cython.address(pg.pages[page])
    where: uint64_t = p.where
    place: uint64_t = 0
    s: segment_p = cython.address(pg.segments[segment_of(where)])
    header: record_p
    ram: bytes_p
    addi(cython.address(s.readers), 1)
    ram = loadp(cython.address(s.ram))
    if ram == cython.NULL:
        record_put(pg, where)
        return 0  # it has left with its segment
    header = cython.cast(record_p, ram + offset_of(where))
    # A header that is damaged would have us copy what is no record. Its page finds out when it is loaded.
    if (
        header.page == page
        and log_bytes(header.length) == length_of(where)
        and (cython.cast(uint64_t, 1) << (header.shift & 63)) == page_bytes(pg, page)
    ):
        place = record_append(pg, STREAM_SLOT, header, cython.cast(bytes_p, header) + HEADER)
    record_put(pg, where)
    if place == 0:
        return UNABLE
    p.where = place
    state[0] |= SLOT
    holder_change(pg, page, stack, -1)
    record_drop(pg, where, page_bytes(pg, page))
    return length_of(where)
