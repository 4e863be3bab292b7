"""The arena's registration with userfaultfd, and the threads that go with it: for a Memory whose arrays do not fit in
its limit any more, and for a forked child.

Until then nobody looks at a fault, and no page has a state: all are NONE. When it comes, other threads go on reading
and writing, so the order matters: registered first, looked at then. What was there before stays there and is found;
what was absent at that moment faults to us from then on, and waits at the gate until it is open again. (The other way
round: a page that becomes present after it was looked at, and before the registration, is never found. It would never
leave, and the next array at its addresses would see its bytes.)
"""

import cython
from cython.cimports.frontswap.core.contexts import contexts_back
from cython.cimports.frontswap.core.gate import gate_close, gate_enter, gate_leave, gate_open
from cython.cimports.frontswap.core.keeper import guard, keeper_start, keeper_stop, kept_call, unguard
from cython.cimports.frontswap.core.layout import (
    CHUNK_SHIFT,
    DIRTY,
    HOLES,
    MAX_THREADS,
    READAHEAD_THREADS,
    SIDE_PROTECTION,
    SIDE_THREAD,
    block_p,
    page_p,
)
from cython.cimports.frontswap.core.pager import readahead_thread
from cython.cimports.frontswap.core.pieces import held_run
from cython.cimports.frontswap.core.presence import (
    BY_SCAN,
    presence_bytes,
    presence_close,
    presence_next,
    presence_open,
    presence_range,
    presence_t,
)
from cython.cimports.frontswap.core.reclaim import queue_push, reclaim_thread
from cython.cimports.frontswap.core.recompress import recompress_thread
from cython.cimports.frontswap.core.region import region_complete, region_register, region_unregister
from cython.cimports.frontswap.core.seam import handler_thread
from cython.cimports.frontswap.core.segments import slots_back
from cython.cimports.frontswap.core.swapfile import swap_reserve
from cython.cimports.frontswap.core.uapi import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    SYS_write,
    add64,
    block_signals,
    casi,
    errno,
    eventfd,
    eventfd_write,
    int64_t,
    load32,
    loadi,
    lock,
    madvise,
    pthread_create,
    pthread_join,
    restore_signals,
    sigset_t,
    sleep_on,
    store32,
    storei,
    uint32_t,
    uint64_t,
    unlock,
    wake,
)
from cython.cimports.frontswap.core.whole import huge_mark
from cython.cimports.frontswap.core.writeback import writeback_thread

CHUNK = cython.declare(uint64_t, 1 << CHUNK_SHIFT)


def thread_start(pg, function):
    """Start a thread that takes no signals: it must never run a handler of the program. 0, or an errno."""
    signals: sigset_t
    error: cython.int
    block_signals(cython.address(signals))
    error = pthread_create(
        cython.address(pg.threads[pg.thread_count]), cython.NULL, function, cython.cast(cython.p_void, pg)
    )
    restore_signals(cython.address(signals))
    if error == 0:
        pg.thread_count += 1
    return error


def threads_start(pg):
    """Start the threads of a Memory that do not run yet, and the keeper of its descriptors; 0, or an errno: then some
    of them run, and another call goes on from there. One caller at a time.
    """
    functions: thread_function[MAX_THREADS]
    wanted: cython.int = 0
    i: cython.int
    error: cython.int = keeper_start(pg)
    if pg.side == SIDE_THREAD:
        functions[0] = functions[1] = handler_thread
        wanted = 2
    functions[wanted] = reclaim_thread
    functions[wanted + 1] = writeback_thread
    functions[wanted + 2] = recompress_thread
    wanted += 3
    for i in range(READAHEAD_THREADS):
        functions[wanted] = readahead_thread
        wanted += 1
    while error == 0 and pg.thread_count < wanted:
        error = thread_start(pg, functions[pg.thread_count])
    # Before the program goes on: what it closes until then no handler thread would have.
    while pg.side == SIDE_THREAD and loadi(cython.address(pg.handlers)) < min(pg.thread_count, 2):
        sleep_on(cython.address(pg.handlers_event), -1)
    return error


def threads_resume(pg):
    """In a forked child: start its threads, if nobody has; 0, or an errno: the next call tries again."""
    error: cython.int = 0
    # Not by thread_count: it is 0, too, while a registration in another thread starts them.
    if casi(cython.address(pg.threads_due), 1, 0):
        error = threads_start(pg)
        if error:
            storei(cython.address(pg.threads_due), 1)
    return error


def threads_stop(pg):
    """End the threads of a Memory, and wait for them."""
    i: cython.int
    one: uint64_t = 1
    pg.closing = 1
    wake(cython.address(pg.reclaim_event))
    wake(cython.address(pg.writeback_event))
    wake(cython.address(pg.dense_event))
    wake(cython.address(pg.readahead_event))
    # By the keeper: an event descriptor looks like any other, and its number may be another's by now.
    if pg.stop_fd >= 0 and kept_call(SYS_write, pg.stop_fd, cython.cast(cython.long, cython.address(one)), 8, 0) < 0:
        eventfd_write(pg.stop_fd, 1)
    for i in range(pg.thread_count):
        pthread_join(pg.threads[i], cython.NULL)
    pg.thread_count = pg.handlers = 0


# --- later ---------------------------------------------------------------------------------------


def block_huge(pg, block, on):
    """Before the registration: ask for huge pages where NumPy does for memory of its own, or for none any more. What
    the program has mapped is not for us to judge: of an allocator's reservation a huge page may be used in part. Nor
    has NumPy asked for what realloc() lets grow, and much of it is given up again before it has been used.

    After it they would be in the way: what leaves RAM are pages. khugepaged makes none then either: the mapping says
    NOHUGEPAGE, and it looks at that again under mmap_lock before it collapses anything.
    """
    size: uint64_t = cython.cast(uint64_t, block.pages) << block.shift  # not `bytes`: a spare changes those
    if pg.huge_from and cython.cast(int64_t, size) >= pg.huge_from and not block.mapped and not block.growing:
        madvise(cython.cast(cython.p_void, block.base), size, MADV_HUGEPAGE if on else MADV_NOHUGEPAGE)


def arena_register(pg):
    """Register the arena now, if it is not; 0, or an errno and all is as before.

    The caller has signals blocked, holds no lock and is not inside the gate. Nobody is, while this goes on: no fault,
    no allocation and no free is on its way, and no fork.
    """
    error: cython.int = 0
    registered: cython.bint
    gate_enter(pg)  # a registration that fails after all takes it back before anybody is inside
    registered = loadi(cython.address(pg.registered)) != 0
    gate_leave(pg)
    if registered:
        return 0
    gate_close(pg)
    if loadi(cython.address(pg.registered)) == 0:
        error = register_closed(pg)
    gate_open(pg)
    if error == 0:
        wake(cython.address(pg.reclaim_event))  # it may be nearly full already
    return error


def register_closed(pg):
    """arena_register() behind the closed gate. All that can fail comes before the first look at a page."""
    error: cython.int = swap_reserve(pg, pg.allocated, pg.budget)
    touched: int64_t = 0
    if error:
        return error
    contexts_back(pg)
    slots_back(pg)
    if pg.side == SIDE_THREAD:
        pg.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if pg.stop_fd < 0:
            return errno
        pg.stop_fd = guard(pg.stop_fd)
    error = region_register(pg)
    if error == 0:
        # What nobody has reserved room for is known now: where nothing is, a touch waits at the gate from here on.
        if pg.loose:
            arena_look(pg, cython.address(touched))
            error = swap_reserve(pg, pg.allocated + touched, pg.budget)
        if error == 0:
            error = threads_start(pg)
        if error:
            # Who waits at the gate by now finds nothing registered, and an ordinary page when it tries again.
            threads_stop(pg)
            keeper_stop(pg)
            pg.closing = 0
            pg.readahead_threads = 0
            region_unregister(pg)
    if error:
        if pg.stop_fd >= 0:
            unguard(pg.stop_fd)
            pg.stop_fd = -1
        return error
    madvise(cython.cast(cython.p_void, pg.base), pg.size, MADV_NOHUGEPAGE)
    arena_look(pg, cython.NULL)
    return 0


def last_chunk(pg):
    """One more than the highest chunk that an array has ever had, or nearly so."""
    last: uint64_t = 0
    i: uint32_t
    for i in range(1, pg.used_blocks + 1):
        if cython.cast(uint64_t, pg.blocks[i].chunk) + pg.blocks[i].chunks > last:
            last = cython.cast(uint64_t, pg.blocks[i].chunk) + pg.blocks[i].chunks
    return last


def arena_look(pg, touched):
    """Find the pages that are there, upwards. The arena has just been registered, and the gate is closed.

    `touched`: only count the bytes of those that nobody has reserved room for.

    Arrays are found by their chunks, not by `live`: one that is being freed has cleared that, waits at the gate, and
    will give back what has a state.
    """
    s: presence_t
    chunk: uint64_t = 0
    last: uint64_t = last_chunk(pg)
    number: uint32_t
    presence_open(cython.address(s), BY_SCAN, True)
    lock(cython.address(pg.queue_lock))
    while chunk < last:
        number = load32(cython.address(pg.chunks[chunk]))
        if number:
            if touched == cython.NULL or pg.blocks[number].loose:
                block_look(pg, cython.address(s), number, touched)
                if touched == cython.NULL and pg.side == SIDE_PROTECTION:
                    block_allow(pg, cython.address(pg.blocks[number]))
            chunk += pg.blocks[number].chunks
        else:
            chunk += 1
    unlock(cython.address(pg.queue_lock))
    presence_close(cython.address(s))


def block_look(pg, s, number, touched):
    """arena_look() for one array, or for what has been committed of a reserved mapping."""
    block: block_p = cython.address(pg.blocks[number])
    at: uint64_t = block.base
    stop: uint64_t
    if not block.reserved:
        part_look(pg, s, number, at, at + (cython.cast(uint64_t, block.pages) << block.shift), touched)
        return
    while True:
        stop = held_run(pg, cython.address(at), block.base + block.bytes)
        if stop == 0:
            return
        part_look(pg, s, number, at, stop, touched)
        at = stop


def part_look(pg, s, number, low, high, touched):
    """block_look() for whole pages of an array. A page of which a part is there is there, with holes."""
    block: block_p = cython.address(pg.blocks[number])
    size: uint64_t = cython.cast(uint64_t, 1) << block.shift
    at: uint64_t
    stop: uint64_t
    chunk: uint64_t
    index: uint64_t
    page: uint64_t = 0
    there: uint64_t = 0  # bytes of that page
    huge: cython.bint
    presence_range(s, low, high)
    while True:
        region = presence_next(s)
        if region == cython.NULL:
            break
        at = region.start
        while at < region.end:
            index = (at - block.base) >> block.shift
            if index != page and there:
                page_found(pg, number, page, there == size, touched)
                there = 0
            page = index
            stop = block.base + ((index + 1) << block.shift)
            if stop > region.end:
                stop = region.end
            # Where nothing is known (no category) something may be absent, too.
            there += stop - at if region.categories else 1
            at = stop
        huge = (region.categories & (PAGE_IS_HUGE | PAGE_IS_PFNZERO)) == PAGE_IS_HUGE
        if huge and touched == cython.NULL and pg.huge_most:
            for chunk in range(
                (region.start - pg.base + CHUNK - 1) >> CHUNK_SHIFT, (region.end - pg.base) >> CHUNK_SHIFT
            ):
                huge_mark(pg, chunk)
    if there:
        page_found(pg, number, page, there == size, touched)


def block_allow(pg, block):
    """With protection all is closed now: open what was found of an array, run by run. What is absent of a page is zeros
    then by itself. A run for which there is no mapping stays closed, as a page with holes does until it is touched.
    """
    i: uint32_t
    j: uint32_t
    run: uint32_t = 0
    for i in range(block.pages + 1):
        if i < block.pages and load32(cython.address(pg.pages[block.first + i].state)) == (DIRTY | HOLES):
            run += 1
        elif run:
            if (
                region_complete(
                    pg,
                    block.base + (cython.cast(uint64_t, i - run) << block.shift),
                    cython.cast(uint64_t, run) << block.shift,
                )
                == 0
            ):
                for j in range(i - run, i):
                    store32(cython.address(pg.pages[block.first + j].state), DIRTY)
            run = 0


def page_found(pg, number, index, whole, touched):
    """A page of the array that is there: paid for from now on (all arrays together fitted in the limit), and queued."""
    block: block_p = cython.address(pg.blocks[number])
    page: uint32_t = block.first + cython.cast(uint32_t, index)
    p: page_p = cython.address(pg.pages[page])
    size: int64_t = cython.cast(int64_t, 1) << block.shift
    if touched != cython.NULL:
        touched[0] += size
        return
    p.block = number
    p.where = 0
    if block.loose:
        add64(cython.address(pg.allocated), size)
    add64(cython.address(pg.used), size)
    add64(cython.address(pg.resident), size)
    store32(cython.address(p.state), DIRTY if whole and pg.side != SIDE_PROTECTION else DIRTY | HOLES)
    if p.next == 0:
        queue_push(pg, page)


def block_present(pg, s, block):
    """Bytes of one array that are in RAM; what is foreign in it is not ours."""
    at: uint64_t = block.base
    stop: uint64_t
    total: int64_t = 0
    if not block.reserved:
        return presence_bytes(s, at, at + (cython.cast(uint64_t, block.pages) << block.shift))
    while True:
        stop = held_run(pg, cython.address(at), block.base + block.bytes)
        if stop == 0:
            return total
        total += presence_bytes(s, at, stop)
        at = stop


def arena_present(pg):
    """Bytes of the arrays that are in RAM, while the kernel alone knows; -1 when the arena is registered."""
    s: presence_t
    number: uint32_t
    chunk: uint64_t = 0
    last: uint64_t
    total: int64_t = 0
    gate_enter(pg)
    if loadi(cython.address(pg.registered)):
        gate_leave(pg)
        return -1
    presence_open(cython.address(s), BY_SCAN, False)
    lock(cython.address(pg.arena_lock))
    last = last_chunk(pg)
    while chunk < last:
        number = load32(cython.address(pg.chunks[chunk]))
        if number == 0:
            chunk += 1
            continue
        block = cython.address(pg.blocks[number])
        total += block_present(pg, cython.address(s), block)
        chunk += block.chunks
    unlock(cython.address(pg.arena_lock))
    presence_close(cython.address(s))
    gate_leave(pg)
    return total
