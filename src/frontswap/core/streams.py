"""Streams: which pages of an array will be wanted next, by the faults that it has had.

A sequence of neighbours, upwards or downwards, is seen at its second fault (mm/readahead.c). Who jumps by the same
distance each time, as down a column, is seen by a majority vote over the distances between the last faults
("Effectively Prefetching Remote Memory with Leap", Maruf and Chowdhury, ATC '20); several who do so in turn by that
over every second, third or fourth one. Distances are in bytes, for rows end where they like; where a handler thread
learns no more of an address than its page, they are right to 4 KiB, and with time to less.

All is written without locks by whoever faults: hints. What they lead to is a request to the readahead thread, which
looks at every page itself.
"""

import cython
from cython.cimports.frontswap.core.layout import (
    ADVICE_SEQUENTIAL,
    ALONE_SEEN,
    FAULTS_SEEN,
    PAGE_TABLE,
    REQUESTS,
    STREAMS_SEEN,
    block_p,
    request_t,
    stream_p,
)
from cython.cimports.frontswap.core.uapi import int32_t, int64_t, lock, uint32_t, unlock, wake

LAGS = cython.declare(uint32_t, 4)  # so many who jump in turn are told apart
VOTES = cython.declare(uint32_t, 3)  # distances at least
LONG = cython.declare(uint32_t, 4)  # faults of a sequence, after which it is one that goes on
CHUNKS_AHEAD = cython.declare(uint32_t, 8)  # that are queued for who walks along,
CHUNKS_FEW = cython.declare(uint32_t, 2)  # and where the limit is small
NEAR = cython.declare(int64_t, 4096)  # two distances that differ by less are the same


def stream_note(pg, block, index, at, chunk, whole):
    """Note a fault of page `index`, at byte `at` of its array, and queue readahead for the sequence that it continues;
    1 or -1 if its neighbours upwards or downwards are wanted next, 0: they are not.

    `chunk`: pages of a huge page that may come back whole, 0: none does; `whole`: the one that the page is in does.

    The window doubles from 2 pages to 1 MiB (4 MiB with advice "sequential"). One page in the middle of a window is
    left out: the fault there says that the reader has come so far, and the next window is read while it goes on
    (PG_readahead in mm/readahead.c).
    """
    s: stream_p
    i: uint32_t
    direction: cython.int
    n: int64_t
    taken: int64_t
    step: int64_t
    for i in range(STREAMS_SEEN):
        s = cython.address(block.streams[i])
        if s.direction == JUMPS:
            n = jumps(s, at)
            if n > 0:
                # By its own copies, for others may begin it anew meanwhile.
                taken = s.taken + n
                s.step = (at - s.origin) // taken if at > s.origin else -((s.origin - at) // taken)
                s.taken = taken
                s.queued = max(s.queued - n, 0)
                s.at = at
                stream_jump(pg, block, s, at)
                return 0
            continue
        direction = follows(s, index)
        if direction:
            if s.direction == 0:
                s.ahead = index
            s.direction = direction
            stream_along(pg, block, s, index, chunk, whole)
            # Two neighbours are one record that lies across them.
            if s.streak > (1 if block.whole else 0):
                lean(pg, block, -4)
            return direction
    s = cython.address(block.streams[block.next_stream % STREAMS_SEEN])
    block.next_stream += 1
    s.last = s.ahead = index
    s.direction = 0
    s.streak = 0
    step = trend(block, at)
    if step:
        s.step = step
        s.at = s.origin = at
        s.queued = 0
        s.taken = 0
        s.direction = JUMPS
        stream_jump(pg, block, s, at)
    else:
        lean(pg, block, -2 if is_beside(block, index) else 1)
    return 0


def is_beside(block, index):
    """True if a page is a neighbour of those that have been asked for lately: some walk along, more of them than there
    are streams. It is one of those itself from now on.
    """
    i: uint32_t
    page: uint32_t = index + 1
    found: uint32_t = 0
    for i in range(ALONE_SEEN):
        if block.lately[i] + 1 == page:
            found |= 1
        elif block.lately[i] + 2 == page:
            found |= 2
        elif block.lately[i] == page + 1:
            found |= 4
        elif block.lately[i] == page + 2:
            found |= 8
    block.lately[block.next_seen % ALONE_SEEN] = page
    if block.whole == 0:
        return (found & 5) != 0
    return (found & 3) == 3 or (found & 12) == 12


def lean(pg, block, by):
    """Which pages suit an array: more and more faults that are alone (`by` > 0) want small ones.

    Each time that it goes back to whole pages it takes twice as many of them to leave these again: who reads runs of
    some pages at random would have it go to and fro.
    """
    array: block_p = cython.address(pg.blocks[block.whole]) if block.whole else block
    turns: uint32_t = min(array.turns, cython.cast(uint32_t, MOST_TURNS))
    alone: int32_t = array.alone + by
    if array.parts == 0:
        return
    if array.small and alone <= 0:
        array.small = 0
        array.turns = turns + 1
        alone = 0
    elif not array.small and alone >= ALONE << turns:
        array.small = 1
        alone = ALONE_MOST
    array.alone = min(max(alone, 0), (ALONE_MOST if array.small else ALONE << MOST_TURNS))


def follows(s, index):
    """The direction of a sequence of neighbours if a page is its next, or inside of what is read ahead of it; or 0."""
    direction: cython.int = s.direction
    last: uint32_t = s.last
    ahead: uint32_t = s.ahead
    if direction == 0 and last + 1 == index:
        direction = 1
    elif direction == 0 and index + 1 == last:
        direction = -1
    if direction == 1 and last < index and index <= (ahead if ahead > last else last) + 1:
        return 1
    if direction == -1 and last > index and index + 1 >= (ahead if ahead < last else last):
        return -1
    return 0


def jumps(s, at):
    """How many steps a fault is further than the last one of who jumps; 0 if it is none of them, or too far."""
    step: int64_t = s.step
    gone: int64_t = at - s.at
    n: int64_t
    if step < 0:
        step = -step
        gone = -gone
    if step == 0 or gone < step - NEAR:
        return 0
    n = (gone + step // 2) // step
    return n if n <= s.queued + 1 and -NEAR < gone - n * step < NEAR else 0


def trend(block, at):
    """The step by which those go on whom no stream has, in bytes, 0: by none."""
    n: uint32_t = block.next_seen
    lag: uint32_t
    step: int64_t = 0
    least: int64_t = (cython.cast(int64_t, 3) << block.shift) // 2  # what is nearer wants the pages between, too
    block.seen[n % FAULTS_SEEN] = at
    block.next_seen = n + 1
    for lag in range(1, LAGS + 1):
        step = majority(block, lag, n + 1)
        if step >= least or step <= -least:
            return step
    return 0


def majority(block, lag, n):
    """What more than half of the distances are from each fault to the `lag`-th one after it, from the last one
    backwards: their mean; 0: none. `n`: faults so far.
    """
    have: uint32_t = min(n, cython.cast(uint32_t, FAULTS_SEEN))
    votes: uint32_t = (have - 1) // lag if have else 0  # a count that has gone round begins anew
    i: uint32_t
    most: int64_t = 0
    weight: cython.int = 0
    found: uint32_t = 0
    total: int64_t = 0
    distance: int64_t[FAULTS_SEEN]
    if votes < VOTES or (lag == 1 and votes < 2 * VOTES):
        return 0
    for i in range(votes):
        distance[i] = block.seen[(n - 1 - i * lag) % FAULTS_SEEN] - block.seen[(n - 1 - (i + 1) * lag) % FAULTS_SEEN]
        # Boyer and Moore: who has more than half of the votes is left.
        if weight == 0:
            most = distance[i]
        weight += 1 if -NEAR < distance[i] - most < NEAR else -1
    for i in range(votes):
        if -NEAR < distance[i] - most < NEAR:
            found += 1
            total += distance[i]
    # Of few all: two pairs that happen to be as far apart are no trend.
    if 2 * found <= votes or (votes <= 2 * VOTES and found < votes):
        return 0
    return total // found if total > 0 else -(-total // found)


def window_of(pg, block, s):
    """Pages of the next window."""
    most: uint32_t = (4 << 20 if block.advice == ADVICE_SEQUENTIAL else 1 << 20) >> block.shift
    fits: uint32_t = cython.cast(uint32_t, pg.budget >> (block.shift + 4))
    streak: uint32_t = min(s.streak + 1, cython.cast(uint32_t, 16))
    s.streak = streak
    return min(cython.cast(uint32_t, 1) << streak, min(most, fits))


def is_walked(block, index):
    """True if a page is the next one of a sequence of neighbours that has been seen for a while."""
    i: uint32_t
    for i in range(STREAMS_SEEN):
        if (
            block.streams[i].streak >= LONG
            and block.streams[i].direction != JUMPS
            and follows(cython.address(block.streams[i]), index) != 0
        ):
            return True
    return False


def stream_along(pg, block, s, index, chunk, whole):
    """Neighbours: queue the next window, if this one is about to end."""
    window: uint32_t = window_of(pg, block, s)
    ahead: uint32_t = s.ahead
    count: uint32_t = block.pages
    s.last = index
    if chunk and s.streak >= LONG and window >= 2:
        stream_chunks(pg, block, s, index, chunk, whole)
    elif window < 2:
        s.ahead = index
    elif s.direction == 1:
        ahead = max(ahead, index)
        if ahead - index <= window and ahead + 1 < count:
            window = min(window, count - ahead - 1)
            s.ahead = ahead + window
            readahead_request(pg, block.first + ahead + 1, window, 1, False)
            readahead_wake(pg)
    else:
        ahead = min(ahead, index)
        if index - ahead <= window and ahead > 0:
            window = min(window, ahead)
            s.ahead = ahead - window
            readahead_request(pg, block.first + ahead - 1, window, -1, False)
            readahead_wake(pg)


def stream_chunks(pg, block, s, index, chunk, whole):
    """The same for who has walked for a while, where huge pages come back whole: queue what is left of this chunk, and
    the next ones, each by itself.

    Every third one is left to the reader. So he says how far he has come while the readahead threads still have work,
    and has some himself.
    """
    ahead: uint32_t = s.ahead
    start: uint32_t = index & ~(chunk - 1)
    far: uint32_t = chunk * (CHUNKS_AHEAD if pg.budget >> 5 > CHUNKS_AHEAD * PAGE_TABLE else CHUNKS_FEW)
    end: uint32_t = min(start + chunk + far, block.pages)
    n: uint32_t
    if s.direction == 1:
        ahead = max(ahead, start + chunk - 1 if whole else index)
        while ahead + 1 < end:
            n = min(end - ahead - 1, chunk - ((ahead + 1) & (chunk - 1)))
            if not is_left(ahead + 1, start, chunk):
                readahead_request(pg, block.first + ahead + 1, n, 1, n == chunk)
            ahead += n
    else:
        ahead = min(ahead, start if whole else index)
        end = start - min(start, far)
        while ahead > end:
            n = min(ahead - end, ((ahead - 1) & (chunk - 1)) + 1)
            if not is_left(ahead - 1, start, chunk):
                readahead_request(pg, block.first + ahead - 1, n, -1, n == chunk)
            ahead -= n
    if s.ahead != ahead:
        s.ahead = ahead
        readahead_wake(pg)


def is_left(index, start, chunk):
    """Is the chunk of a page one that is left to the reader? `start`: where the one begins that he is in."""
    first: uint32_t = index & ~(chunk - 1)
    gone: uint32_t = (first - start if first > start else start - first) // chunk
    return gone != 0 and gone % 3 == 0


def stream_jump(pg, block, s, at):
    """The same for who jumps. What is looked at is looked at once: it must not lead out of the array."""
    request: request_t
    window: int64_t = window_of(pg, block, s)
    step: int64_t = s.step
    queued: int64_t = s.queued
    room: int64_t = at  # bytes to the end of the array
    if step > 0:
        room = (cython.cast(int64_t, block.pages) << block.shift) - 1 - at
    if step == 0 or window < 2 or queued > window:
        return
    room = room // (step if step > 0 else -step) - queued
    window = min(window, room)
    if window <= 0:
        return
    request.first = block.first
    request.count = cython.cast(uint32_t, window)
    request.direction = JUMPS
    request.shift = block.shift
    request.whole = False
    request.at = at + (queued + 1) * step
    request.step = step
    s.queued = queued + window
    request_add(pg, cython.address(request))
    readahead_wake(pg)


def readahead_request(pg, first, count, direction, whole):
    """Queue `count` neighbours from `first`, for readahead_wake(); `whole`: they are a chunk."""
    request: request_t
    request.first = first
    request.count = count
    request.direction = direction
    request.shift = 0
    request.whole = whole
    request.at = request.step = 0
    request_add(pg, cython.address(request))


def readahead_wake(pg):
    """Have what is queued done. After all of it: whom we wake may run in our place, and would be the only one."""
    wake(cython.address(pg.readahead_event))


def request_add(pg, request):
    """Queue a request; it is dropped when the readahead thread is far behind."""
    lock(cython.address(pg.request_lock))
    if pg.requests_in - pg.requests_out < REQUESTS:
        pg.requests[pg.requests_in % REQUESTS] = request[0]
        pg.requests_in += 1
    unlock(cython.address(pg.request_lock))


def request_take(pg, request):
    """The next request; False: there is none. Others are told of what is left."""
    found: cython.bint
    others: cython.bint = False
    lock(cython.address(pg.request_lock))
    found = pg.requests_in != pg.requests_out
    if found:
        request[0] = pg.requests[pg.requests_out % REQUESTS]
        pg.requests_out += 1
        others = pg.requests_in != pg.requests_out
    unlock(cython.address(pg.request_lock))
    if others:
        readahead_wake(pg)
    return found


def request_page(request, i):
    """The page `i` of a request."""
    if request.direction == JUMPS:
        return request.first + cython.cast(uint32_t, (request.at + i * request.step) >> request.shift)
    return request.first - i if request.direction < 0 else request.first + i
