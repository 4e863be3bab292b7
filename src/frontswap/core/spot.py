"""Where an address lies: its array and its page, as a guess first, and for certain once the page is owned.

All is written without locks: an array may be freed, and its addresses be another's, at any moment until its page is
owned.
"""

import cython
from cython.cimports.frontswap.core.layout import CHUNK_SHIFT, MIN_PAGE, SPLIT, STATE, block_p, is_let_in
from cython.cimports.frontswap.core.uapi import int64_t, load32, uint32_t, uint64_t


def spot_find(pg, address, spot):
    """Where an address lies, as far as can be said without a lock; False: in no array.

    A handler thread can read the event of an access that is over (readahead has resolved it), whose
    array has been freed and its block given to another. So this is a guess until spot_holds() says,
    with the page owned, that it still is so.
    """
    block: block_p
    first: uint32_t
    index: uint64_t
    spot.address = address
    spot.chunk = (address - pg.base) >> CHUNK_SHIFT
    spot.number = load32(cython.address(pg.chunks[spot.chunk]))
    block = cython.address(pg.blocks[spot.number])
    spot.serial = load32(cython.address(block.serial))
    spot.array = spot.number
    spot.whole = 0
    spot.shift = block.shift
    index = (address - block.base) >> spot.shift
    first = load32(cython.address(block.first))  # once: what it says may change, and must lead into the table
    if spot.number == 0 or index >= block.pages or first + index >= pg.max_pages:
        return False
    spot.page = first + cython.cast(uint32_t, index)
    spot.index = cython.cast(uint32_t, index)
    spot.at = cython.cast(int64_t, address - block.base)
    return True


def spot_part(pg, spot):
    """From a page that is SPLIT to its part that the address lies in; False: it is no page of this array any more."""
    number: uint32_t = load32(cython.address(pg.blocks[spot.number].parts))
    parts: block_p = cython.address(pg.blocks[number])
    index: uint64_t = (spot.address - parts.base) // MIN_PAGE
    first: uint32_t = load32(cython.address(parts.first))
    if number == 0 or spot.whole or index >= parts.pages or first + index >= pg.max_pages:
        return False
    spot.whole = spot.page
    spot.number = number
    spot.page = first + cython.cast(uint32_t, index)
    spot.index = cython.cast(uint32_t, index)
    spot.shift = parts.shift
    return True


def part_holds(pg, spot):
    """False if the owned page is a part of one that has become whole since."""
    return spot.whole == 0 or (load32(cython.address(pg.pages[spot.whole].state)) & STATE) == SPLIT


def spot_holds(pg, spot):
    """True if the owned page is the one that the address means.

    Freeing clears `live` first and looks at the pages then; here the page is owned first and `live`
    looked at then. So either the free waits for this page, or it is seen here. So it is with `pages` and an array
    that becomes shorter.
    """
    block: block_p = cython.address(pg.blocks[spot.array])
    parts: block_p = cython.address(pg.blocks[spot.number])
    if (
        load32(cython.address(block.live)) != 1
        or load32(cython.address(block.serial)) != spot.serial
        or load32(cython.address(pg.chunks[spot.chunk])) != spot.array
        or parts.shift != spot.shift
        or parts.first + spot.index != spot.page
    ):
        return False
    if spot.whole == 0:
        return spot.index < load32(cython.address(block.pages))
    return (
        block.parts == spot.number
        and block.first + (spot.index >> (block.shift - spot.shift)) == spot.whole
        and (spot.index >> (block.shift - spot.shift)) < load32(cython.address(block.pages))
    )


def pager_fixed(pg, address):
    """True if the program has protected these 4 KiB: their page is pinned, and the kernel's affair (core/maps.py)."""
    spot: spot_t
    piece: uint64_t = (address - pg.base) // 4096
    if not spot_find(pg, address, cython.address(spot)) or not pg.blocks[spot.number].marked:
        return False
    return (load32(cython.address(pg.fixed[piece // 32])) >> (piece % 32)) & 1


def is_shut(pg, spot):
    """True if an access is to what is reserved, and not committed: nothing is brought in for it."""
    return pg.blocks[spot.number].reserved and not is_let_in(pg, spot.address)
