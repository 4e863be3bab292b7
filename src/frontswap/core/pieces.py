"""What each 4 KiB of a reserved mapping is. Its pages are of that size, so a page is of one kind.

CLOSED    PROT_NONE and nothing is there: it does not count
OPEN      committed: it counts, is touched and evicted as all memory is
HIDDEN    PROT_NONE, but its bytes are kept: it counts. Its page is away, or clean, or pinned
GUARDED   protected in another way than read and write: pinned, and counts
ENDED     unmapped
FOREIGN   something else is mapped over it, by the kernel alone: core/foreign.py

Changed under protect_lock. A fault reads it without: see is_held() and spot.is_shut(). So what is given to a piece is
set before what is taken from it is cleared, and no piece is seen as none that it has never been.
"""

import cython
from cython.cimports.frontswap.core.layout import block_p
from cython.cimports.frontswap.core.uapi import load32, store32, uint32_t, uint64_t

ALL = cython.declare(uint32_t, 0xFFFFFFFF)


def piece_kind(pg, at):
    """What one piece is."""
    piece: uint64_t = (at - pg.base) // PIECE
    word: uint64_t = piece // 32
    return (
        ((load32(cython.address(pg.opened[word])) >> (piece % 32)) & 1)
        | (((load32(cython.address(pg.fixed[word])) >> (piece % 32)) & 1) << 1)
        | (((load32(cython.address(pg.gone[word])) >> (piece % 32)) & 1) << 2)
    )


def word_is(pg, word, kind):
    """True if the 32 pieces of a word are all of one kind."""
    return (
        load32(cython.address(pg.opened[word])) == (ALL if kind & IS_OPENED else 0)
        and load32(cython.address(pg.fixed[word])) == (ALL if kind & IS_FIXED else 0)
        and load32(cython.address(pg.gone[word])) == (ALL if kind & IS_GONE else 0)
    )


def piece_run(pg, at, end, kind):
    """The end of the run of pieces of one kind that begins at `at`, and the kind."""
    piece: uint64_t
    kind[0] = piece_kind(pg, at)
    at += PIECE
    while at < end:
        piece = (at - pg.base) // PIECE
        if piece % 32 == 0 and end - at >= 32 * PIECE and word_is(pg, piece // 32, kind[0]):
            at += 32 * PIECE
        elif piece_kind(pg, at) == kind[0]:
            at += PIECE
        else:
            break
    return at


def piece_count(pg, at, end, kind):
    """Bytes of a range that are of one kind."""
    found: uint32_t = 0
    stop: uint64_t
    total: uint64_t = 0
    while at < end:
        stop = piece_run(pg, at, end, cython.address(found))
        if found == kind:
            total += stop - at
        at = stop
    return total


def bits_set(words, low, high, on):
    """Set or clear the bits of [low, high). Nothing is written where nothing changes: what is zero costs no RAM."""
    word: uint64_t
    mask: uint32_t
    old: uint32_t
    while low < high:
        word = low // 32
        mask = ALL << (low % 32)
        if high - word * 32 < 32:
            mask &= ~(ALL << (high % 32))
        old = load32(cython.address(words[word]))
        if (old & mask) != (mask if on else 0):
            store32(cython.address(words[word]), old | mask if on else old & ~mask)
        low = (word + 1) * 32


def piece_set(pg, low, high, kind):
    """Make pieces of a kind. A word is of one mapping alone: chunks are larger."""
    first: uint64_t = (low - pg.base) // PIECE
    end: uint64_t = (high - pg.base) // PIECE
    if kind & IS_GONE:
        bits_set(pg.gone, first, end, True)
    if kind & IS_FIXED:
        bits_set(pg.fixed, first, end, True)
    bits_set(pg.opened, first, end, (kind & IS_OPENED) != 0)
    bits_set(pg.fixed, first, end, (kind & IS_FIXED) != 0)
    if (kind & IS_GONE) == 0:
        bits_set(pg.gone, first, end, False)


def held_run(pg, at, end):
    """The next run of pieces that count from `*at` on, which it is put to; its end, or 0."""
    kind: uint32_t = 0
    stop: uint64_t
    while at[0] < end:
        stop = piece_run(pg, at[0], end, cython.address(kind))
        if kind == OPEN or kind == HIDDEN or kind == GUARDED:
            return stop
        at[0] = stop
    return 0


def foreign_run(pg, at, end):
    """The lowest range of the arena in [*at, end) that is foreign: `*at` is put to its begin; its end, or 0.

    All of it is looked at: it is asked for when the arena is registered, and in forked children.
    """
    i: uint32_t
    block: block_p
    low: uint64_t
    high: uint64_t
    stop: uint64_t
    kind: uint32_t = 0
    found: uint64_t = 0
    start: uint64_t = end
    if pg.foreign == 0:
        return 0
    for i in range(1, pg.used_blocks + 1):
        block = cython.address(pg.blocks[i])
        if load32(cython.address(block.live)) != 1 or block.foreign == 0 or block.base >= start:
            continue
        low = max(at[0], block.base)
        high = block.base + block.bytes
        while low < high:
            stop = piece_run(pg, low, high, cython.address(kind))
            if kind == FOREIGN:
                if low < start:
                    start = low
                    found = stop
                break
            low = stop
    at[0] = start
    return found
