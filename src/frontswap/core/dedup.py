"""Deduplication, zcache:dedup=on: identical pages of all areas become members of one pack, which has their bytes once.

As KSM does it for memory, by the two threads of recompress.py, off the path of stores. The idle thread sees the pages
of each segment that has become cold as they are. By a hash of its bytes it finds in a table which page has had them
last, and chains this one to that (page_t.next, for which areas have no other use). Those found so are not packed in the
batch at hand: the writeback thread copies the records of their chains into a batch of its own next, from wherever they
are, out of other packs too. From there on that is a batch as any other: packing.py compares the bytes, and pages that
have the same are one part of their pack.

The table and the chains are hints. A page in them may be another area's by now, have other bytes, be in a loop: what is
copied is what its owner has found, a chain is followed for so many pages only, and what turns out to be different is
left as it is.

A record's list does not grow. So pages that are new in a chain get a record together with those that share one already,
which leave theirs, if these are not more than sixteen for each new one: else a page that is like 60 others would cost
as much as all of them. What a page is charged, and what becomes of the record that it leaves, is the business of packs.
"""

import cython
from cython.cimports.frontswap.core.balance import FEW, density
from cython.cimports.frontswap.core.codec import CODEC_PACK, codec_checksum, codec_state_bytes
from cython.cimports.frontswap.core.contexts import populate
from cython.cimports.frontswap.core.layout import (
    BUSY,
    CLEAN,
    DENSE_BATCH,
    KIND,
    OUT,
    PACK_BYTES,
    PACK_PAGE,
    PACK_ROOM,
    RECOMPRESS_EAGER,
    RECORD_LOG,
    STATE,
    bytes_p,
    dense_p,
    group_p,
    length_of,
    log_bytes,
    offset_of,
    page_bytes,
    page_p,
    record_p,
    segment_of,
    segment_p,
    sight_p,
    sight_t,
)
from cython.cimports.frontswap.core.packing import batch_add, page_plain
from cython.cimports.frontswap.core.packs import group_of, is_group, member_is, member_of, members_of
from cython.cimports.frontswap.core.uapi import (
    cas32,
    int64_t,
    load32,
    load64,
    loadp,
    store32,
    uint32_t,
    uint64_t,
)
from cython.cimports.libc.string import memcpy, memmove

FEWEST = cython.declare(uint32_t, 1 << 10)
MOST = cython.declare(uint32_t, 1 << 20)  # pages that the table knows, at most: 8 MiB
WAYS = cython.declare(uint32_t, 8)  # entries among which a hash is looked for: a cache line
GROWTH = cython.declare(uint32_t, 16)  # pages that share one already, for each new one, at most
CHAIN = cython.declare(cython.int, 256)  # pages of one that are looked at


# --- buffers -----------------------------------------------------------------------------------------------------


def sights_count(pg):
    """Entries of the table: one for each 2 KiB of the pool."""
    count: uint32_t = FEWEST
    while count < MOST and cython.cast(int64_t, count) * 2048 < pg.pool_hard:
        count *= 2
    return count


def state_room():
    """Bytes of the codec's state, with zstd's part."""
    return (cython.cast(int64_t, codec_state_bytes()) + 4095) // 4096 * 4096


def alike_bytes(pg):
    """Bytes that it needs for a pool: the table, and what packs are decompressed with."""
    return sights_count(pg) * cython.cast(int64_t, cython.sizeof(sight_t)) + state_room() + PACK_ROOM + PACK_BYTES


def alike_layout(pg, at):
    """Lay alike_bytes() out, and back them: an idle thread is not to be waited for in the middle of a first touch."""
    populate(at, alike_bytes(pg))
    pg.sights = cython.cast(sight_p, at)
    pg.sights_mask = sights_count(pg) - 1
    pg.dense_state = at + sights_count(pg) * cython.cast(int64_t, cython.sizeof(sight_t))
    pg.dense_context.state = pg.dense_state
    pg.dense_context.decodes = True
    pg.dense_context.pack = pg.dense_state + state_room()
    pg.dense_context.scratch = pg.dense_context.pack + PACK_ROOM


# --- the packing thread's part -----------------------------------------------------------------------------------


def alike_look(pg):
    """Look at the pages of a batch as they are, before it is packed.

    Those like which there are others are due, and left for the next batch; of a batch of such those that are not like
    the first one of their chain are left as they are.
    """
    i: cython.int
    one: dense_p
    shift: uint32_t
    pg.dense_opened = 0
    for i in range(pg.dense_count):
        if pg.closing or pg.pool_closing:
            break
        one = cython.address(pg.dense_batch[i])
        shift = cython.cast(record_p, pg.dense_io + one.at).shift
        if page_plain(pg, one, pg.dense_out):
            one.hash = max(codec_checksum(pg.dense_out, cython.cast(uint64_t, 1) << shift, 0), 1)
            if not pg.dense_alike:
                sight(pg, one)
        if pg.dense_alike:
            one.later = one.hash == 0 or one.hash != pg.dense_batch[one.head].hash


def sight(pg, one):
    """A page has been seen that has become cold."""
    line: sight_p = pg.sights + (one.hash & pg.sights_mask) // WAYS * WAYS
    i: uint32_t = 0
    last: uint32_t
    while i < WAYS and line[i].hash != one.hash:
        i += 1
    last = line[i].page if i < WAYS else 0
    memmove(line + 1, line, min(i, WAYS - 1) * cython.sizeof(sight_t))  # the latest first
    line.hash = one.hash
    line.page = one.page
    if last == 0:
        pg.pages[one.page].next = 0
        return
    if last != one.page:
        pg.pages[one.page].next = last
    if pg.due_n < DENSE_BATCH:
        one.later = True
        pg.due[pg.due_n] = one.page
        pg.due_n += 1


# --- the writeback thread's part ---------------------------------------------------------------------------------


def alike_take(pg, most):
    """Copy the records of the chains of pages that are due, `most` bytes; False: there is nothing to copy.

    From the last one on: of many pages of one batch that are alike its chain has all.
    """
    used: uint32_t = 0
    before: uint32_t
    head: uint32_t
    page: uint32_t
    left: cython.int
    got: cython.int = COPIED
    pg.dense_count = 0
    while pg.due_n and pg.dense_count < DENSE_BATCH and got != FULL:
        head = pg.dense_count
        before = used
        page = pg.due[pg.due_n - 1]
        left = CHAIN
        got = COPIED
        while 0 < page < pg.max_pages and left > 0 and pg.dense_count < DENSE_BATCH:
            got = chain_copy(pg, page, head, cython.address(used), most)
            if got < 0 or pg.dense_count == head:
                break
            page = pg.pages[page].next
            left -= 1
        if got == FULL and head:
            pg.dense_count = head  # all of it comes with the next batch
            used = before
        else:
            pg.due_n -= 1
    pg.dense_alike = 1
    return pg.dense_count != 0


def chain_copy(pg, page, head, used, most):
    """Copy the record of a page of the chain that begins with record `head` of the batch."""
    p: page_p = cython.address(pg.pages[page])
    word: uint32_t = load32(cython.address(p.state))
    i: cython.int
    got: cython.int
    for i in range(pg.dense_count):
        if pg.dense_batch[i].page == page:
            return ENDS
    if (
        (word & KIND) != RECORD_LOG
        or ((word & STATE) != OUT and (word & STATE) != CLEAN)
        or not cas32(cython.address(p.state), word, BUSY)
    ):
        return PASSED
    got = owned_copy(pg, page, head, used, most)
    store32(cython.address(p.state), word)
    return got


def owned_copy(pg, page, head, used, most):
    """chain_copy() by the page's owner, so its record and the segment stay."""
    p: page_p = cython.address(pg.pages[page])
    where: uint64_t = p.where
    s: segment_p = cython.address(pg.segments[segment_of(where)])
    ram: bytes_p = loadp(cython.address(s.ram))
    size: uint32_t = page_bytes(pg, page)
    n: uint32_t = pg.dense_count - head
    sharers: uint32_t = 0
    need: uint64_t
    i: cython.int
    j: cython.int
    header: record_p
    group: group_p
    at: uint32_t
    if ram == cython.NULL or size > PACK_PAGE:
        return PASSED
    # What is loaded much keeps its quick record.
    if pg.recompress != RECOMPRESS_EAGER and density(s) > max(load64(cython.address(pg.hits_few)), FEW):
        return PASSED
    header = cython.cast(record_p, ram + offset_of(where))
    need = log_bytes(header.length)
    if (
        offset_of(where) + need > pg.segment_bytes
        or header.check != p.check
        or cython.cast(uint32_t, 1) << (header.shift & 31) != size
    ):
        return PASSED
    if header.codec & CODEC_PACK:
        group = group_of(header)
        if not is_group(group, header.length):
            return PASSED
        i = member_of(group, page)
        if not member_is(group, i, where, size):
            return PASSED
        for j in range(group.count):
            sharers += members_of(group)[j].part == members_of(group)[i].part
        if sharers > 1 and (sharers > n * GROWTH or n + sharers > DENSE_BATCH):
            return ENDS
    elif header.page != page or need > length_of(where):
        return PASSED
    at = used[0]
    for i in range(pg.dense_count - 1, -1, -1):
        if (
            segment_of(pg.dense_batch[i].where) == segment_of(where)
            and offset_of(pg.dense_batch[i].where) == offset_of(where)
            and pg.dense_batch[i].serial == s.serial
        ):
            at = pg.dense_batch[i].at  # of the same pack
            break
    if at == used[0]:
        if used[0] + need > most and used[0]:
            return FULL
        memcpy(pg.dense_io + used[0], header, need)
        used[0] += cython.cast(uint32_t, need)
    batch_add(pg, page, where, s.serial, at)
    pg.dense_batch[pg.dense_count - 1].head = head
    return COPIED
