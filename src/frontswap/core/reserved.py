"""Reserved mappings: private anonymous memory that is mapped with PROT_NONE, and committed later piece by piece.

Runtimes reserve addresses so (OpenJDK, V8, wasmtime, mimalloc, LuaJIT). Such a mapping lies in the arena, and counts as
nothing; what is committed of it counts, and leaves RAM, as an array does.

commit     mprotect() to read and write, or mmap() with MAP_FIXED. Counted first, and refused as an allocation is.
decommit   mmap() with MAP_FIXED and PROT_NONE, or mprotect() to PROT_NONE and MADV_DONTNEED, in any order.
mprotect   To anything else, or to PROT_NONE of what has bytes: they are kept, resident, as core/maps.py does it.
munmap     The pieces are nobody's until the last one of the mapping has gone.

The kernel's own protection is what lets the program in: with userfaultfd the pager is only asked for what it allows.
core/pieces.py has what the pieces are. (On the side of protection, which has but one for the pager and the program,
such mappings are the kernel's.)

All is done under protect_lock, with signals blocked, and outside of the gate.
"""

import cython
from cython.cimports.frontswap.core.arena import (
    CROSSING,
    MAPPED,
    RESERVED,
    arena_allocate,
    arena_free,
    may_hold,
    spares_end,
)
from cython.cimports.frontswap.core.contexts import work_enter, work_leave
from cython.cimports.frontswap.core.evict import evict_page
from cython.cimports.frontswap.core.foreign import foreign_begin, foreign_end, foreign_make
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.large import heap, is_large
from cython.cimports.frontswap.core.layout import BUSY, DIRTY, NONE, SIDE_PROTECTION, STATE, page_p
from cython.cimports.frontswap.core.loose import crossing
from cython.cimports.frontswap.core.pieces import (
    CLOSED,
    ENDED,
    FOREIGN,
    GUARDED,
    HIDDEN,
    OPEN,
    PIECE,
    piece_count,
    piece_kind,
    piece_run,
    piece_set,
)
from cython.cimports.frontswap.core.pins import pager_pin, pager_unpin
from cython.cimports.frontswap.core.uapi import (
    ENOMEM,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    add64,
    backoff,
    cas32,
    errno,
    int64_t,
    load32,
    loadi,
    lock,
    madvise,
    mprotect,
    munmap,
    store32,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.frontswap.core.uffd import die
from cython.cimports.frontswap.core.zap import pager_zap, zap_unregistered
from cython.cimports.libc.string import memset

LEAST = cython.declare(uint64_t, 1 << 20)
TRIES = cython.declare(cython.int, 8)
READ_WRITE = cython.declare(cython.int, PROT_READ | PROT_WRITE)


def reserve_wanted(n, protection, flags):
    """True if a mapping is one that reserves addresses, and large enough to be ours."""
    return (
        protection == PROT_NONE
        and (flags & ~cython.cast(cython.int, MAP_NORESERVE)) == MAP_PRIVATE | MAP_ANONYMOUS
        and n > LEAST
        and is_large(n)
        and heap.side != SIDE_PROTECTION
        and heap.least_page <= PIECE
    )


def reserve_take(n):
    """mmap(2) of one; NULL: the kernel may have it. Half of the arena at most is reserved."""
    error: cython.int = 0
    address: uint64_t = 0
    size: uint64_t = (n + PIECE - 1) & ~cython.cast(uint64_t, PIECE - 1)
    if add64(cython.address(heap.reserved), size) + size <= heap.size // 2:
        address = arena_allocate(heap, size, PIECE, 0, -1, MAPPED | RESERVED, cython.address(error))
    if address == 0:
        add64(cython.address(heap.reserved), -cython.cast(int64_t, size))
        return cython.NULL
    if protect(address, address + size, PROT_NONE) != 0:
        reserve_end(address)
        return cython.NULL
    return cython.cast(cython.p_void, address)


def reserve_end(address):
    """All of it is unmapped."""
    arena_free(heap, address)


# --- what all of them need -------------------------------------------------------------------------


def protect(low, high, protection):
    """The kernel's mprotect(): 0 or an errno."""
    return 0 if mprotect(cython.cast(cython.p_void, low), high - low, protection) == 0 else errno


def page_at(block, at):
    """The page of a piece."""
    return block.first + cython.cast(uint32_t, (at - block.base) // PIECE)


def count(bytes):
    """Count what is about to be committed: 0, or ENOMEM as an allocation would have it. Registers the arena."""
    looked: cython.int = 0
    error: cython.int
    spares: cython.bint
    while bytes:
        gate_enter(heap)
        lock(cython.address(heap.arena_lock))
        may_hold(heap, bytes, 0, cython.address(error))
        spares = error != 0 and heap.spare_count > 0
        unlock(cython.address(heap.arena_lock))
        if spares:
            spares_end(heap)
        gate_leave(heap)
        if error == 0:
            break
        if not spares and (error != CROSSING or crossing(heap, cython.address(looked)) != 0):
            return ENOMEM
    return 0


def uncount(bytes):
    """End of count(): what was there has gone."""
    add64(cython.address(heap.allocated), -cython.cast(int64_t, bytes))


def zap(block, low, high):
    """Drop pages, pinned ones too."""
    gate_enter(heap)
    pager_zap(heap, block, page_at(block, low), cython.cast(uint32_t, (high - low) // PIECE), True)
    gate_leave(heap)


def is_pinned(block, at):
    """True for a hidden page that is pinned: no other one is dirty."""
    return (load32(cython.address(heap.pages[page_at(block, at)].state)) & STATE) == DIRTY


def unpin(block, low, high):
    """End of pin(), and of page_shut()."""
    at: uint64_t = low
    while at < high:
        pager_unpin(heap, page_at(block, at))
        at += PIECE


def pin(block, low, high, hidden):
    """Make pieces guarded, and have them resident; 0, or ENOMEM: then none of them is pinned by us.

    What is hidden is pinned already, or not, and that can be told as long as nobody is let in to it.
    """
    at: uint64_t = low
    pinned: cython.bint
    while at < high:
        pinned = hidden and is_pinned(block, at)
        piece_set(heap, at, at + PIECE, GUARDED)
        if not pinned and pager_pin(heap, block, page_at(block, at)) < 0:
            unpin(block, low, at)
            if hidden:
                unpin(block, at + PIECE, high)
            return ENOMEM
        at += PIECE
    return 0


def ended(block, low, high):
    """True if some of it has been unmapped."""
    kind: uint32_t = 0
    while low < high:
        low = piece_run(heap, low, high, cython.address(kind))
        if kind == ENDED:
            return True
    return False


# --- mprotect --------------------------------------------------------------------------------------


def open_run(block, low, high, kind):
    """Read and write, for pieces of one kind: 0 or an errno."""
    error: cython.int
    if kind == CLOSED:
        error = count(high - low)
        if error:
            return error
        piece_set(heap, low, high, OPEN)
    error = protect(low, high, READ_WRITE)
    if kind == CLOSED and error:
        piece_set(heap, low, high, CLOSED)
        uncount(high - low)
        protect(low, high, PROT_NONE)  # if it was more than one mapping, some may be open
    elif error == 0 and (kind == HIDDEN or kind == GUARDED):
        unpin(block, low, high)
        piece_set(heap, low, high, OPEN)
    return error


def page_shut(block, at):
    """Close an open page to who touches it: CLOSED if it was untouched, else HIDDEN. 0, or ENOMEM.

    What is dirty is pinned while the kernel still lets its bytes be read. Who touches the page before the kernel says
    no comes again until it does.
    """
    number: uint32_t = page_at(block, at)
    page: page_p = cython.address(heap.pages[number])
    state: uint32_t
    kind: uint32_t = OPEN
    tries: cython.int = 0
    turn: cython.int = 0
    while tries < TRIES:
        gate_enter(heap)
        state = load32(cython.address(page.state))
        if (state & STATE) != BUSY and (state & STATE) != DIRTY and cas32(cython.address(page.state), state, BUSY):
            kind = CLOSED if (state & STATE) == NONE else HIDDEN
            piece_set(heap, at, at + PIECE, kind)
            store32(cython.address(page.state), state)
        gate_leave(heap)
        if kind != OPEN:
            return 0
        if (state & STATE) == DIRTY:
            if pager_pin(heap, block, number) == 0:
                piece_set(heap, at, at + PIECE, HIDDEN)
                return 0
            # As much is pinned as may be: then it leaves, and stays away.
            ctx = work_enter(heap)
            evict_page(heap, ctx, number, number, number + 1)
            work_leave(heap, ctx)
            tries += 1
        backoff(turn)
        turn += 1
    return ENOMEM


def reopen(block, low, high):
    """What has been shut is open as before."""
    kind: uint32_t = 0
    stop: uint64_t
    while low < high:
        stop = piece_run(heap, low, high, cython.address(kind))
        if kind == HIDDEN:
            unpin(block, low, stop)
        piece_set(heap, low, stop, OPEN)
        low = stop


def hide_run(block, low, high, kind):
    """PROT_NONE, for pieces of one kind: 0 or an errno."""
    at: uint64_t = low
    error: cython.int = 0
    if kind == CLOSED or kind == HIDDEN:
        return 0
    while kind == OPEN and at < high and error == 0:
        error = page_shut(block, at)
        at += PIECE
    if error == 0:
        error = protect(low, high, PROT_NONE)
    if error == 0 and kind == GUARDED:
        piece_set(heap, low, high, HIDDEN)
    elif error == 0:
        uncount(piece_count(heap, low, high, CLOSED))
    elif kind == OPEN:
        reopen(block, low, high)
    return error


def guard_run(block, low, high, kind, protection):
    """Any other protection, for pieces of one kind: 0 or an errno."""
    error: cython.int = 0
    made: cython.p_void
    if kind == CLOSED and protection & PROT_EXEC:
        # Code that is about to be compiled: it would be pinned anyway.
        made = foreign_make(
            high - low, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, cython.address(error)
        )
        return foreign_begin(heap, block, low, high, made) if made != cython.NULL else error
    if kind == CLOSED:
        error = count(high - low)
        if error:
            return error
    if kind == CLOSED or kind == HIDDEN:
        # Readable first: what is brought in can leave again until it is pinned.
        error = protect(low, high, protection | PROT_READ)
        if error:
            return shut_again(block, low, high, kind, error)
    if kind != GUARDED:
        error = pin(block, low, high, kind == HIDDEN)
        if error:
            return shut_again(block, low, high, kind, error)
    error = protect(low, high, protection)
    if error and kind != GUARDED:
        unpin(block, low, high)
        return shut_again(block, low, high, kind, error)
    return error


def shut_again(block, low, high, kind, error):
    """The end of a guard_run() that is refused. What was hidden is readable, perhaps: it is not pinned any more."""
    if kind == CLOSED:
        piece_set(heap, low, high, CLOSED)
        zap(block, low, high)
        protect(low, high, PROT_NONE)
        uncount(high - low)
    elif piece_kind(heap, low) == GUARDED:
        piece_set(heap, low, high, OPEN)
    return error


def reserve_protect(block, low, high, protection):
    """mprotect(2) of a part: 0, an errno, or UNREGISTERED. What comes before an error is done, as by the kernel."""
    kind: uint32_t = 0
    stop: uint64_t
    error: cython.int = 0
    registered: cython.bint = loadi(cython.address(heap.registered)) != 0
    if ended(block, low, high):
        return ENOMEM
    while low < high and error == 0:
        stop = piece_run(heap, low, high, cython.address(kind))
        if kind == FOREIGN:
            error = protect(low, stop, protection)
        elif protection == READ_WRITE:
            error = open_run(block, low, stop, kind)
        elif kind == CLOSED and (protection == PROT_NONE or protection & PROT_EXEC):
            error = 0 if protection == PROT_NONE else guard_run(block, low, stop, kind, protection)
        elif not registered:
            return UNREGISTERED
        elif protection == PROT_NONE:
            error = hide_run(block, low, stop, kind)
        else:
            error = guard_run(block, low, stop, kind, protection)
        low = stop
    return error


# --- madvise ---------------------------------------------------------------------------------------


def empty_run(block, low, high, kind, zeros):
    """Drop the pages of pieces of one kind."""
    pinned: uint32_t
    if kind == HIDDEN:
        piece_set(heap, low, high, CLOSED)
        zap(block, low, high)
        uncount(high - low)
    elif kind == GUARDED:
        # It is absent then, and comes in clean where the kernel lets somebody read it.
        zap(block, low, high)
        piece_set(heap, low, high, OPEN)
    elif kind == OPEN:
        gate_enter(heap)
        pinned = pager_zap(heap, block, page_at(block, low), cython.cast(uint32_t, (high - low) // PIECE), False)
        gate_leave(heap)
        if pinned and zeros:  # by mem.pin()
            memset(cython.cast(cython.p_void, low), 0, high - low)


def reserve_empty(block, low, high, zeros):
    """madvise(2), MADV_DONTNEED (`zeros`: a promise) or MADV_FREE, of a part: 0 or an errno."""
    kind: uint32_t = 0
    stop: uint64_t
    while low < high:
        stop = piece_run(heap, low, high, cython.address(kind))
        if kind == ENDED:
            return ENOMEM
        if kind == FOREIGN:
            if zeros and madvise(cython.cast(cython.p_void, low), stop - low, MADV_DONTNEED) != 0:
                return errno
        elif kind != CLOSED and not (kind == OPEN and zap_unregistered(heap, low, stop, zeros)):
            empty_run(block, low, stop, kind, zeros)
        low = stop
    return 0


# --- munmap, and mmap onto it ----------------------------------------------------------------------


def close_run(block, low, high, kind):
    """Make pieces of one kind closed: 0, or an errno."""
    error: cython.int = 0
    unregistered: cython.bint
    if kind == FOREIGN:
        return foreign_end(heap, block, low, high)
    if kind == CLOSED:
        return 0
    gate_enter(heap)
    unregistered = loadi(cython.address(heap.registered)) == 0
    if unregistered:
        # Nobody is told of a touch: the kernel keeps them away first.
        error = protect(low, high, PROT_NONE)
        if error == 0 and madvise(cython.cast(cython.p_void, low), high - low, MADV_DONTNEED) != 0:
            die("MADV_DONTNEED", errno)
        if error == 0:
            piece_set(heap, low, high, CLOSED)
    gate_leave(heap)
    if not unregistered:
        piece_set(heap, low, high, CLOSED)
        zap(block, low, high)
        if kind != HIDDEN:
            error = protect(low, high, PROT_NONE)
        if error:
            piece_set(heap, low, high, OPEN)
    if error == 0:
        uncount(high - low)
    return error


def close_all(block, low, high):
    """Decommit a part: 0, or an errno. What has been unmapped stays so."""
    kind: uint32_t = 0
    stop: uint64_t
    error: cython.int = 0
    while low < high and error == 0:
        stop = piece_run(heap, low, high, cython.address(kind))
        if kind != ENDED:
            error = close_run(block, low, stop, kind)
        low = stop
    return error


def reserve_drop(block, low, high):
    """munmap(2) of a part: 0, or an errno."""
    kind: uint32_t = 0
    stop: uint64_t
    error: cython.int = close_all(block, low, high)
    while low < high and error == 0:
        stop = piece_run(heap, low, high, cython.address(kind))
        if kind != ENDED:
            piece_set(heap, low, stop, ENDED)
            block.dropped += cython.cast(uint32_t, (stop - low) // PIECE)
        low = stop
    if error == 0 and block.dropped == block.pages:
        reserve_end(block.base)
    return error


def reserve_map(block, low, high, protection, flags, fd, offset):
    """mmap(2) with MAP_FIXED onto a part: 0, an errno, or UNREGISTERED."""
    made: cython.p_void
    error: cython.int = 0
    kind: uint32_t = 0
    at: uint64_t = low
    stop: uint64_t
    known: cython.int = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE | MAP_POPULATE
    if ended(block, low, high):
        return ENOMEM
    if (flags & ~known) != 0 or (flags & MAP_ANONYMOUS) == 0 or (flags & MAP_PRIVATE) == 0 or protection & PROT_EXEC:
        made = foreign_make(high - low, protection, flags, fd, offset, cython.address(error))
        if made == cython.NULL:
            return error
        error = close_all(block, low, high)
        if error == 0:
            return foreign_begin(heap, block, low, high, made)
        munmap(made, high - low)
        return error
    if protection == READ_WRITE:
        # What is open stays so, and counted: nothing can be refused after bytes have gone.
        while at < high and error == 0:
            stop = piece_run(heap, at, high, cython.address(kind))
            if kind == FOREIGN:
                error = foreign_end(heap, block, at, stop)
            at = stop
        if error == 0:
            error = reserve_protect(block, low, high, READ_WRITE)
        return error if error else reserve_empty(block, low, high, True)
    if protection != PROT_NONE and loadi(cython.address(heap.registered)) == 0:
        return UNREGISTERED
    error = close_all(block, low, high)
    if error == 0 and protection != PROT_NONE:
        error = reserve_protect(block, low, high, protection)
    return error
