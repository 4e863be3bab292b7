"""Recompression: records of the pool that nobody has asked for in a long time are packed anew, by zstd.

As zram's `recompress`, but by itself: the coldest segments first, each once, while the pool takes more than half of
what it may, or when they have been full for half a minute; and with processor time that nobody else wants. What comes
out of it stays among the coldest (age_insert() in ages), and leaves for the disk before all else, as it would have. A
page that comes back is stored by LZ4 again.

In front of swap areas the same two threads settle what stores have left, before all else and as soon as its segment is
full: what was staged (zcache.py) first, then what was packed in haste, by the codec that suited other pages. Each page
gets the one of the quick codecs (LZ4 behind a shuffle, or alone) that suits it: it may be asked for soon.

Two threads share the work, because a thread that runs only when a processor has nothing else to do (SCHED_IDLE) must
hold nothing that others wait for: it may get no time for seconds. So it has no page, no lock and no segment, is not
inside the gate, and touches only the batch: copies of records in buffers of its own. The writeback thread, when it has
nothing else to do, copies them out of the log and puts back what has become smaller; both take as long as a memcpy.

Races, and what prevents them:

* The batch belongs to one thread at a time, by `dense_turn`: who hands it over stores the state last and wakes the
  other then. A fork finds the writeback thread outside of the gate, and the batch whole or in the hands of the other;
  in the child it is empty. (Left FULL there, nobody would ever take it back.)
* A record is copied by who owns its page, so it is whole, and the segment's serial is that of its life. Meanwhile the
  page may be loaded, stored, freed, and its array be another one; the segment be cleaned, written out, freed, used
  anew. It is put back by who owns the page again, if the page still has the record at that place of that segment, in
  the same life of the segment. Records never change, and a place is used once in a life: so the bytes are the same.
  (By the place alone: the segment is freed, and a newer record of the same page and length lies at the same place: the
  page would get its old bytes back. By the checksum alone that would be one in four billion.)
* A segment that is being copied from is not freed, nor its RAM taken (segment_hold()). So its headers can be walked
  through while nobody owns it. It may be written out meanwhile; who does waits for the reader.
* A record in RAM that has been damaged is found before it is packed anew, by the checksum that its page has. (Else the
  new one would have a checksum that is right, of bytes that are wrong.)
* What is put back needs room before the old record gives its own back. It is only done where there is some; the reserve
  for the cleaner is for what others charge between the look and that.
* What an area has learnt of its codecs (block_t.choice) is used by the other thread, too, and may by then be another
  area's: it is a hint, of which any value is valid.
"""

import cython
from cython.cimports.frontswap.core.balance import FEW, density, pool_wanted
from cython.cimports.frontswap.core.cleaner import segment_clean
from cython.cimports.frontswap.core.codec import (
    CODEC_PACK,
    CODEC_RAW,
    CODEC_ZSTD,
    codec_decoder_bytes,
    codec_state_bytes,
)
from cython.cimports.frontswap.core.contexts import contexts_open, populate
from cython.cimports.frontswap.core.dedup import LEAST_ALIKE, alike_look, alike_take
from cython.cimports.frontswap.core.dense import dense_encoder_bytes, dense_encoder_init
from cython.cimports.frontswap.core.layout import (
    C_LOADS,
    DENSE_BATCH,
    DENSE_DONE,
    DENSE_EMPTY,
    DENSE_FULL,
    DENSE_IO,
    HASTY,
    HEADER,
    MIN_PAGE,
    PLAIN,
    PRESSURE_CRITICAL,
    RECLAIM_CONTEXT,
    RECOMPRESS_EAGER,
    RECOMPRESS_OFF,
    SEG_SEALED,
    STAGED_IO,
    STREAM_DENSE,
    STREAM_POOL,
    bytes_p,
    dense_p,
    hooks_clock,
    is_plain,
    length_of,
    log_bytes,
    page_p,
    pager_p,
    pressure_of,
    record_p,
    segment_p,
    walk_t,
)
from cython.cimports.frontswap.core.packing import (
    batch_add,
    batch_claim,
    batch_replaced,
    is_sound,
    is_tight,
    pack_install,
    packs_bytes,
    packs_make,
    record_pack,
    widest,
)
from cython.cimports.frontswap.core.packs import walk_begin, walk_claim, walk_next
from cython.cimports.frontswap.core.record import check_of
from cython.cimports.frontswap.core.segments import (
    move_begin,
    record_append,
    segment_close,
    segment_hold,
    segment_let_go,
)
from cython.cimports.frontswap.core.shares import pool_uncharge
from cython.cimports.frontswap.core.uapi import (
    add64,
    clock_ns,
    int64_t,
    load64,
    loadi,
    lock,
    run_idle,
    sleep_on,
    store32,
    storei,
    uint8_t,
    uint32_t,
    uint64_t,
    unlock,
    wake,
)
from cython.cimports.libc.string import memcpy

LOOK = cython.declare(cython.int, 256)  # segments at most that are looked at under log_lock
SMALLEST = cython.declare(uint32_t, 512)  # bytes of a record: of less there is little to win
GAIN = cython.declare(uint32_t, 20)  # a record that shrinks by less than this part of it stays
SHARE = cython.declare(int64_t, 64)  # of the limit, a part that all buffers may take
COLD = cython.declare(int64_t, 3_000_000_000)  # ns that a segment in front of areas has been full
IDLE = cython.declare(int64_t, 30_000_000_000)  # and one behind the memory door, while the pool has room
FADE = cython.declare(int64_t, 4_000_000_000)  # ns, and hits there are half as many
AGAIN = cython.declare(int64_t, 500_000_000)  # ns until what is too young, or in use, is looked at again
SHARE_AREAS = cython.declare(int64_t, 12)  # and of a pool in front of areas, beside which they are


# --- buffers -----------------------------------------------------------------------------------------------------


def room_of(page):
    """Bytes of a buffer for one record of such a page, whatever its length."""
    return (cython.cast(int64_t, page) + HEADER + 4095) // 4096 * 4096


def batch_bytes(pg):
    """Bytes of a batch, unless one record is larger."""
    return DENSE_IO if pg.areas == cython.NULL else STAGED_IO


def codec_bytes(pg, page):
    """What settle_record() and packs_make() need: the quick codecs' state, what they unpack, and packs."""
    state: int64_t = (codec_state_bytes() - codec_decoder_bytes() + 63) // 64 * 64
    return 0 if pg.areas == cython.NULL else room_of(widest(pg, page)) + state + batch_bytes(pg) + packs_bytes(pg)


def dense_bytes(pg, page):
    """Bytes that recompression needs for pages up to this size."""
    most: uint32_t = widest(pg, page)
    return room_of(page) + 2 * room_of(most) + batch_bytes(pg) + codec_bytes(pg, page) + dense_encoder_bytes(most)


def dense_layout(pg, at):
    """Lay dense_bytes(max_page) out as its buffers. Only addresses: what is used of them goes by `dense_page`."""
    room: int64_t = room_of(pg.max_page)
    pg.dense_io = at
    pg.dense_tmp = pg.dense_io + room + batch_bytes(pg)
    pg.dense_out = pg.dense_tmp + room
    pg.dense_plain = pg.dense_out + room
    pg.dense_packs = pg.dense_plain + room
    pg.dense_state = pg.dense_packs + batch_bytes(pg) + packs_bytes(pg)
    pg.dense_encoder = pg.dense_out + room + codec_bytes(pg, pg.max_page)


def dense_back(pg):
    """Back what is used of them: a fork would wait for an idle thread in the middle of a first touch."""
    room: int64_t = room_of(widest(pg, pg.dense_page))
    populate(pg.dense_io, room_of(pg.dense_page) + batch_bytes(pg))
    populate(pg.dense_tmp, room)
    populate(pg.dense_out, room)
    populate(pg.dense_encoder, dense_encoder_bytes(widest(pg, pg.dense_page)))
    if pg.areas != cython.NULL:
        populate(pg.dense_plain, room)
        populate(pg.dense_packs, batch_bytes(pg) + packs_bytes(pg))
        populate(pg.dense_state, codec_state_bytes() - codec_decoder_bytes())
        contexts_open(pg)


def buffers_there(pg):
    """True if there are buffers, for as large pages as may be: they take a small part of the limit.

    They are never given back: a limit that has become lower finds them a larger part of it. In front of areas they are
    nobody's, as the contexts are.
    """
    page: uint32_t = pg.context_page
    more: int64_t
    share: int64_t = SHARE if pg.areas == cython.NULL else SHARE_AREAS
    if pg.recompress != RECOMPRESS_EAGER:
        while page >= MIN_PAGE and dense_bytes(pg, page) > pg.budget // share:
            page //= 2
    if page > pg.dense_page and page >= MIN_PAGE:
        more = dense_bytes(pg, page) - pg.dense_charged
        if pg.areas == cython.NULL:
            if load64(cython.address(pg.used)) + more > pg.budget:
                return pg.dense_page != 0
            add64(cython.address(pg.beside), more)
            add64(cython.address(pg.used), more)
        pg.dense_charged += more
        pg.dense_page = page
        dense_back(pg)
    return pg.dense_page != 0


# --- the writeback thread's part ---------------------------------------------------------------------------------


def recompress_step(pg):
    """Take back what has been recompressed, and hand more over; True: call again. Inside the gate, owning nothing.

    One thread only: the writeback thread.
    """
    pg.dense_again = 0
    if loadi(cython.address(pg.dense_turn)) == DENSE_DONE:
        if pressure_of(pg) != PRESSURE_CRITICAL:
            batch_install(pg)
            open_end(pg)
        storei(cython.address(pg.dense_turn), DENSE_EMPTY)
    if (
        loadi(cython.address(pg.dense_turn)) != DENSE_EMPTY
        or loadi(cython.address(pg.dense_runs)) == 0
        or pg.recompress == RECOMPRESS_OFF
    ):
        return False
    if pg.staging != 0:
        buffers_there(pg)  # nothing is staged before
    if not has_room(pg):
        return False
    if pg.due_n and alike_take(pg, batch_bytes(pg)):
        storei(cython.address(pg.dense_turn), DENSE_FULL)
        wake(cython.address(pg.dense_event))
        return False
    if pg.areas != cython.NULL and not pg.dense_staged and next_staged(pg) != 0:
        pg.dense_segment = 0  # what was staged does not wait for what is cold
    if (pg.dense_segment == 0 and not segment_begin(pg)) or not buffers_there(pg):
        return False
    if batch_take(pg):
        storei(cython.address(pg.dense_turn), DENSE_FULL)
        wake(cython.address(pg.dense_event))
        return False
    segment_end(pg)
    open_end(pg)
    return True


def open_end(pg):
    """Nothing stays in the pool under critical pressure: who empties it may have closed the open segment before we
    put something into a new one.
    """
    if pressure_of(pg) == PRESSURE_CRITICAL:
        segment_close(pg, STREAM_DENSE)
        if pg.areas != cython.NULL:
            segment_close(pg, STREAM_POOL)


def is_full(pg):
    """True if the pool should be denser than LZ4 makes it."""
    return pg.recompress == RECOMPRESS_EAGER or load64(cython.address(pg.pool_bytes)) > pool_wanted(pg) // 2


def has_room(pg):
    """True if there is room to make the pool denser."""
    if pressure_of(pg) == PRESSURE_CRITICAL:
        return False
    # A pool that is full to the last record, as one is that has no slots behind it, could take nothing back.
    if load64(cython.address(pg.pool_bytes)) + pg.segment_bytes > pg.pool_hard:
        return False
    return pg.areas != cython.NULL or load64(cython.address(pg.used)) + pg.segment_bytes <= pg.budget


def recompress_rest(pg):
    """How long the writeback thread may sleep (ns) before there may be something cold; -1: until it is called."""
    left: int64_t = pg.dense_again - clock_ns()
    return -1 if pg.dense_again == 0 else max(left, 1)


def hits_fade(pg):
    """Have what has been counted as loaded from each segment fade, every now and then: in front of areas. Behind the
    memory door it fades by what comes back (balance.py), and here, faster, only while nothing does: who computes on
    what he has, or sleeps, has no hot records.
    """
    now: int64_t = hooks_clock(pg)
    loads: int64_t = load64(cython.address(pg.counters[C_LOADS]))
    still: cython.bint = loads == pg.dense_loads
    keeps: cython.int = 3 if pg.areas == cython.NULL else 1
    i: uint32_t
    s: segment_p
    if now - pg.dense_faded < (IDLE if pg.areas == cython.NULL else FADE):
        return
    pg.dense_faded = now
    pg.dense_loads = loads
    if pg.areas == cython.NULL and not still:
        return
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        add64(cython.address(s.hits), (load64(cython.address(s.hits)) >> keeps) - load64(cython.address(s.hits)))


def is_cold(pg, s):
    """True for a sealed segment whose records are to be packed anew.

    Not those from which more is loaded than an eighth, and than from the coldest quarter (balance.py), as zstd takes
    longer to decompress; and not the younger quarter: of what has left just now some comes back soon. In front of areas
    nor what has been there for a short time only. Behind the memory door also the younger quarter when it has been
    there for a longer time; nothing else while there is room, and the coldest quarter of what is in use is in use then.
    """
    age: int64_t = hooks_clock(pg) - s.sealed_at
    young: cython.bint = pg.seals - s.sealed < load64(cython.address(pg.pool_bytes)) // pg.segment_bytes // 4
    roomy: cython.bint = pg.areas == cython.NULL and not is_full(pg)
    if pg.recompress == RECOMPRESS_EAGER:
        return True
    if density(s) > (FEW if roomy else max(load64(cython.address(pg.hits_few)), FEW)):
        again_in(pg, IDLE if pg.areas == cython.NULL else AGAIN)
        return False
    if pg.areas != cython.NULL:
        if age < COLD:
            again_in(pg, AGAIN)
        return age >= COLD and not young
    if age < IDLE and (roomy or young):
        again_in(pg, IDLE - age)
        return False
    return True


def again_in(pg, left):
    """Have the writeback thread look again in so many ns, if not before."""
    then: int64_t = clock_ns() + left
    if pg.dense_again == 0 or then < pg.dense_again:
        pg.dense_again = then


def next_segment(pg):
    """The coldest segment of the pool that has not been looked at, or 0. The caller holds log_lock."""
    number: uint32_t = pg.segments[pg.dense_end].newer if pg.dense_end else pg.oldest
    s: segment_p
    i: cython.int
    pg.dense_again = 0
    for i in range(LOOK):
        if number == 0:
            break
        s = cython.address(pg.segments[number])
        if not s.dense:
            if is_cold(pg, s):
                return number
        elif s.older == pg.dense_end:
            pg.dense_end = number
        number = s.newer
    return 0


def next_staged(pg):
    """The oldest segment that is to be settled, or 0; those with pages as they are first.

    What is settled becomes the youngest: where pages are about to leave by age, only those that had to be are. Looked
    for without log_lock: it may be another one by now.
    """
    best: uint32_t = 0
    most: uint32_t = HASTY if load64(cython.address(pg.pool_bytes)) <= pool_wanted(pg) // 8 * 7 else PLAIN
    oldest: uint32_t = 0
    age: uint32_t
    i: uint32_t
    s: segment_p
    if pg.areas == cython.NULL:
        return 0
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.staged >= most and s.state == SEG_SEALED:
            age = pg.seals - s.sealed
            if s.staged > most or age >= oldest:
                best = i
                most = s.staged
                oldest = age
    return best


def segment_begin(pg):
    """Choose the segment that batches are taken from next; False: there is none."""
    number: uint32_t = next_staged(pg)
    hits_fade(pg)
    lock(cython.address(pg.log_lock))
    if number and (pg.segments[number].state != SEG_SEALED or not pg.segments[number].staged):
        number = 0
    pg.dense_staged = number != 0
    if number == 0:
        number = next_segment(pg)
    if number:
        pg.dense_serial = pg.segments[number].serial
    unlock(cython.address(pg.log_lock))
    pg.dense_segment = number
    pg.dense_at = pg.dense_left = 0
    return number != 0


def segment_end(pg):
    """All of the segment has been looked at. If a good part has left it the rest goes too, as it is."""
    number: uint32_t = pg.dense_segment
    s: segment_p = cython.address(pg.segments[number])
    rest: cython.bint = False
    lock(cython.address(pg.log_lock))
    if s.serial == pg.dense_serial:
        s.staged = 0
        if not pg.dense_staged:
            s.dense = 1
        rest = s.state == SEG_SEALED and pg.dense_left >= s.fill // GAIN
        if rest:
            move_begin(pg, number)
    unlock(cython.address(pg.log_lock))
    pg.dense_segment = 0
    if rest:
        segment_clean(pg, cython.address(pg.contexts[RECLAIM_CONTEXT]), number)


def batch_take(pg):
    """Copy the next records of the segment that may become smaller; False: there are none."""
    number: uint32_t = pg.dense_segment
    data: bytes_p = segment_hold(pg, number, pg.dense_serial)
    pg.dense_count = pg.dense_alike = 0
    if data == cython.NULL:
        return False  # freed, written out, or another one by now
    batch_copy(pg, data, pg.segments[number].fill)
    segment_let_go(pg, number)
    return pg.dense_count != 0


def batch_copy(pg, data, fill):
    """batch_take() of a segment that stays where it is."""
    used: uint32_t = 0
    most: uint32_t = cython.cast(uint32_t, room_of(pg.dense_page)) + batch_bytes(pg)
    walk: walk_t
    header: record_p
    p: page_p
    walk_begin(cython.address(walk), pg.dense_segment, data, fill, pg.dense_at)
    while pg.dense_count < DENSE_BATCH and walk_next(pg, cython.address(walk)):
        pg.dense_at = walk.at
        if walk.group != cython.NULL or not walk_claim(pg, cython.address(walk)):
            continue
        header = walk.header
        p = cython.address(pg.pages[walk.page])
        if (
            header.codec & CODEC_ZSTD
            or walk.length < (LEAST_ALIKE if pg.dedup and not pg.dense_staged else SMALLEST)
            or (cython.cast(uint32_t, 1) << header.shift) > pg.dense_page
            or (pg.dense_staged and (header.settled or (pg.codec_kind >= 0 and header.codec != CODEC_RAW)))
            or header.check != p.check
        ):
            store32(cython.address(p.state), walk.state)
            continue
        if used + walk.length > most or (used + walk.length > batch_bytes(pg) and used):
            pg.dense_at = walk.start  # the first one of the next batch
            store32(cython.address(p.state), walk.state)
            break
        batch_add(pg, walk.page, walk.where, pg.dense_serial, used)
        memcpy(pg.dense_io + used, header, walk.length)
        store32(cython.address(p.state), walk.state)
        used += walk.length


def batch_install(pg):
    """Give the pages of a batch their smaller records."""
    i: cython.int
    group: uint32_t
    last: uint32_t = 0
    done: cython.bint = True
    for i in range(pg.dense_count):
        group = pg.dense_batch[i].group
        if group > last:
            done = pack_install(pg, group)
            last = group
        elif group == 0 and pg.dense_batch[i].length:
            done = record_install(pg, i)
        if not done:
            # No room after all. What is left of the segment stays as it is: taken again, the same records might be made
            # for ever.
            pg.due_n = 0
            if not pg.dense_alike:
                pg.dense_left = 0
                segment_end(pg)
            break


def record_install(pg, number):
    """batch_install() of one record; False: no room. A page without it by now, or that somebody owns, is left alone."""
    one: dense_p = cython.address(pg.dense_batch[number])
    header: record_p = cython.cast(record_p, pg.dense_io + one.at)
    p: page_p = cython.address(pg.pages[one.page])
    state: uint32_t = 0
    place: uint64_t = 0
    if is_tight(pg, one.length):
        return False
    if not batch_claim(pg, one, cython.address(state)):
        return True
    place = record_append(
        pg, STREAM_POOL if pg.dense_staged else STREAM_DENSE, header, cython.cast(bytes_p, header) + HEADER
    )
    if place:
        p.where = place
        p.check = header.check
        if pg.areas != cython.NULL:
            pool_uncharge(pg, one.page, cython.cast(int64_t, length_of(one.where)) - length_of(place))
            if is_plain(one.where, cython.cast(uint32_t, 1) << header.shift):
                add64(cython.address(pg.staged), -cython.cast(int64_t, length_of(one.where)))
    store32(cython.address(p.state), state)
    if place == 0:
        return False
    batch_replaced(pg, one, header.shift, place)
    return True


# --- the other thread's part -------------------------------------------------------------------------------------


def batch_work(pg, encoder):
    """Make the records of a batch smaller, where they are in its buffer."""
    i: cython.int
    one: dense_p
    header: record_p
    data: bytes_p
    length: uint32_t
    made: uint8_t = 0
    if pg.areas != cython.NULL and not pg.dense_staged:
        if pg.dedup:
            alike_look(pg)
        packs_make(pg, encoder)
    for i in range(pg.dense_count):
        if pg.closing or pg.pool_closing:
            break
        one = cython.address(pg.dense_batch[i])
        header = cython.cast(record_p, pg.dense_io + one.at)
        data = cython.cast(bytes_p, header) + HEADER
        if one.group or one.later or header.codec & CODEC_PACK:
            continue
        if not is_sound(one, header):
            continue  # damaged: its page will find out when it is loaded
        length = record_pack(pg, one, header, encoder, cython.address(made))
        if length == 0:
            continue
        memcpy(data, pg.dense_out, length)
        header.length = length
        header.codec = made
        header.settled = 1
        header.check = check_of(header.page, header.length, header.codec, data)
        one.length = log_bytes(length)


def recompress_thread(argument):
    """Background, behind everybody else: what the writeback thread hands over, until there is nothing."""
    pg: pager_p = cython.cast(pager_p, argument)
    encoder: cython.p_void = cython.NULL
    page: uint32_t = 0
    # Where a container forbids that, nothing is recompressed: it would be in somebody's way.
    if pg.recompress != RECOMPRESS_EAGER and run_idle() != 0:
        return cython.NULL
    storei(cython.address(pg.dense_runs), 1)
    wake(cython.address(pg.writeback_event))
    while not (pg.closing or pg.pool_closing):
        sleep_on(cython.address(pg.dense_event), -1)
        if loadi(cython.address(pg.dense_turn)) == DENSE_FULL:
            if page != widest(pg, pg.dense_page):
                page = widest(pg, pg.dense_page)
                encoder = dense_encoder_init(pg.dense_encoder, page)
            batch_work(pg, encoder)
            storei(cython.address(pg.dense_turn), DENSE_DONE)
            wake(cython.address(pg.writeback_event))
    return cython.NULL
