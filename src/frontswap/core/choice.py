"""Which codec a page gets: the one that samples of its array have shown to be the smallest, or, where pages differ from
each other, the one of a few that a piece of this page says.

What may enter: what pages teach, and what follows from it. What may not: how bytes become fewer (codec.py).
(The wrapper for Python at the end allocates; no fault comes near it.)

A normal page costs one pass of the codec in use. Now and then a piece of the page is compressed with the others too.
The smallest wins; what is as small is decided by speed.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.frontswap.core.codec import (
    CODEC_BITSHUFFLE,
    CODEC_DECIMALS,
    CODEC_LZ4,
    CODEC_SHUFFLE,
    CODEC_SPARSE,
    check_page,
    check_typesize,
    codec_encode,
    codec_state_bytes,
)
from cython.cimports.libc.stdint import int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memset


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def candidate(i: cython.int) -> uint8_t:
    """The codec byte of candidate i."""
    if i == 0:
        return CODEC_LZ4
    if i <= 4:
        return CODEC_SHUFFLE | i << 4
    if i == DECIMALS_CANDIDATE:
        return CODEC_DECIMALS | 3 << 4
    if i >= SPARSES:
        return CODEC_SPARSE | (i - SPARSES + 2) << 4
    return CODEC_BITSHUFFLE | (i - BITSHUFFLES) << 4


def codec_choice_init(c, typesize, fixed_kind):
    memset(c, 0, cython.sizeof(codec_choice))
    known: cython.bint = typesize == 1 or typesize == 2 or typesize == 4 or typesize == 8 or typesize == 16
    i: cython.int
    for i in range(CANDIDATES - 1, -1, -1):
        codec: uint8_t = candidate(i)
        kind: cython.int = codec & 15
        if fixed_kind >= 0 and kind != fixed_kind:
            continue
        if known and kind != CODEC_LZ4 and 1 << (codec >> 4) != typesize:
            continue
        c.candidates |= 1 << i
        c.best = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def measure(
    c: cython.pointer[codec_choice],
    i: cython.int,
    state: cython.p_void,
    src: cython.pointer[cython.const[uint8_t]],
    n: uint32_t,
    tmp: cython.pointer[uint8_t],
    dst: cython.pointer[uint8_t],
    cap: uint32_t,
    mixed: cython.bint,
) -> int32_t:
    """Compress a sample with candidate i; its size.

    `mixed`: pages are of several kinds, so a size that is far from the mean of others does not say that all have
    changed.
    """
    length: uint32_t = codec_encode(candidate(i), state, src, n, tmp, dst, cap)
    now: int32_t = SAMPLE_UNIT
    before: int32_t = c.size[i]
    if i == 0:
        c.rushes = length != 0 and matches_are_few(dst, length, n // FEW)
    if 0 < length < n:
        now = cython.cast(int32_t, cython.cast(uint64_t, length) * SAMPLE_UNIT // n)
    c.size[i] = cython.cast(uint16_t, now if is_far(before, now) and not (mixed and before) else (before + now) // 2)
    return now


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_far(before: int32_t, now: int32_t) -> cython.bint:
    """Is a size far from what it used to be (0: not known)?"""
    return before == 0 or now > before + SAMPLE_UNIT // 8 or now < before - SAMPLE_UNIT // 8


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def matches_are_few(record: cython.pointer[cython.const[uint8_t]], n: uint32_t, most: uint32_t) -> cython.bint:
    """Has LZ4 found no more than `most` matches?

    Source: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
    """
    at: uint32_t = 0
    token: uint32_t
    length: uint32_t
    while True:
        token = record[at]
        at += 1
        length = token >> 4
        if length == 15:
            while at < n and record[at] == 255:
                length += 255
                at += 1
            length += record[at] if at < n else 0
            at += 1
        at += length + 2
        if at >= n:
            return True  # the last ones are literals
        if most == 0:
            return False
        most -= 1
        if token & 15 == 15:
            while at < n and record[at] == 255:
                at += 1
            at += 1
            if at >= n:
                return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cheapest(c: cython.pointer[codec_choice], most: cython.int) -> cython.int:
    """The best of the first `most` candidates by what samples have shown."""
    i: cython.int
    best: cython.int = c.best
    least: uint32_t = 0xFFFFFFFF
    for i in range(most):
        size: uint32_t = c.size[i]
        if size == 0:
            continue
        # as fast as they come: LZ4 that rushes, sparse; shuffle; LZ4 where little is left to write; bit shuffle; LZ4
        weight: uint32_t = 56 if i >= SPARSES else 66 if i >= BITSHUFFLES else 64
        if i == 0:
            weight = 56 if c.rushes else 68 if size > SAMPLE_UNIT // 4 else 64
        cost: uint32_t = size * weight
        if i == c.best:
            cost -= cost // 32  # or two that are as good would take turns, and each be the other's rival
        if cost < least:
            least = cost
            best = i
    return best


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sample(
    c: cython.pointer[codec_choice],
    page: uint32_t,
    state: cython.p_void,
    src: cython.pointer[cython.const[uint8_t]],
    n: uint32_t,
    tmp: cython.pointer[uint8_t],
    dst: cython.pointer[uint8_t],
    cap: uint32_t,
) -> cython.void:
    """Compare the candidates on a piece of this page and choose."""
    piece: uint32_t = min(n, cython.cast(uint32_t, SAMPLE))
    best: cython.int = c.best
    before: int32_t = c.size[best]
    mixed: cython.bint = rivals(c) != 0
    turn: uint32_t = (spread(page) >> 16 & 1023) % 3
    i: cython.int
    sizes: int32_t[CANDIDATES]
    src += piece_of(page, n, piece)
    cap = min(cap, piece)
    for i in range(CANDIDATES):
        sizes[i] = SAMPLE_UNIT
    sizes[best] = measure(c, best, state, src, piece, tmp, dst, cap, mixed)
    all_of_them: cython.bint = is_far(before, sizes[best])
    for i in range(CANDIDATES):
        if i != best and c.candidates >> i & 1:
            if all_of_them or cython.cast(uint32_t, i) % 3 == turn or c.won[i]:
                sizes[i] = measure(c, i, state, src, piece, tmp, dst, cap, mixed)
    c.best = cython.cast(uint8_t, cheapest(c, CANDIDATES))
    if c.best != best and sizes[c.best] >= sizes[best] - sizes[best] // RIVAL:
        # It is a bit better at the same pages: it takes the other's place.
        c.won[c.best] |= c.won[best]
        c.won[best] = 0
    note_winner(c, best if before else c.best, sizes)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def note_winner(c: cython.pointer[codec_choice], best: cython.int, sizes: cython.pointer[int32_t]) -> cython.void:
    """Note which candidate has won a sample: one that wins now and then is tried on each page.

    That costs time, so the fewer the better: of those that are about as small it is who has won the most.
    """
    i: cython.int
    winner: cython.int = best
    least: int32_t = sizes[best]
    for i in range(CANDIDATES):
        least = min(least, sizes[i])
    if least < sizes[best] - sizes[best] // RIVAL:
        winner = -1
        for i in range(CANDIDATES):
            if least >= sizes[i] - sizes[i] // RIVAL and (winner < 0 or popcount(c.won[i]) > popcount(c.won[winner])):
                winner = i
    if winner != best and not wins_now_and_then(c, winner):
        c.unsure = SURE
    elif c.unsure:
        c.unsure -= 1
    for i in range(CANDIDATES):
        c.won[i] = c.won[i] << 1 | (1 if i == winner else 0)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def spread(page: uint32_t) -> uint32_t:
    """A number spread over all 32 bits, with no period that pages could have, too (MurmurHash3's finalizer)."""
    page = (page ^ page >> 16) * cython.cast(uint32_t, 0x85EBCA6B)
    page = (page ^ page >> 13) * cython.cast(uint32_t, 0xC2B2AE35)
    return page ^ page >> 16


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_sampled(page: uint32_t, bits: uint32_t) -> cython.bint:
    """One page in 2**bits, by no period: pages of several kinds come in turn, and each is to be seen."""
    return spread(page) >> (32 - bits) == 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def piece_of(page: uint32_t, n: uint32_t, piece: uint32_t) -> uint32_t:
    """Where in a page of n bytes the piece to look at begins: all over the pages."""
    return (spread(page) >> 16) * piece & (n - 1)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def wins_now_and_then(c: cython.pointer[codec_choice], i: cython.int) -> cython.bint:
    """Has a candidate won two of the last 32 samples at least?"""
    won: uint32_t = c.won[i]
    return (won & (won - 1)) != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def rivals(c: cython.pointer[codec_choice]) -> uint32_t:
    """Bits of the candidates beside the one in use that have been the best for some samples lately."""
    bits: uint32_t = 0
    i: cython.int
    for i in range(CANDIDATES):
        if i != c.best and wins_now_and_then(c, i):
            bits |= cython.cast(uint32_t, 1) << i
    return bits & c.candidates


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def suits(
    c: cython.pointer[codec_choice],
    others: uint32_t,
    page: uint32_t,
    state: cython.p_void,
    src: cython.pointer[cython.const[uint8_t]],
    n: uint32_t,
    tmp: cython.pointer[uint8_t],
    dst: cython.pointer[uint8_t],
    cap: uint32_t,
    made: cython.pointer[uint32_t],
) -> cython.int:
    """The one of the candidate in use and its rivals that suits this page, by a piece of it.

    `made`: the length of its record, if that is what lies in dst now; else 0.
    """
    piece: uint32_t = min(n, cython.cast(uint32_t, TRIAL))
    best: cython.int = c.best
    found: cython.int = best
    last: cython.int = best
    least: uint32_t = min(cap, piece)
    length: uint32_t
    i: cython.int
    src += piece_of(page, n, piece)
    others |= cython.cast(uint32_t, 1) << best
    made[0] = 0
    # Sparse and decimals first: what is none shows at once, and what are decimals is theirs.
    for i in range(CANDIDATES - 1, -1, -1):
        if not others >> i & 1:
            continue
        length = codec_encode(candidate(i), state, src, piece, tmp, dst, least)
        last = i
        if length:
            found = i
            least = made[0] = length
            if i == DECIMALS_CANDIDATE:
                break
    if piece < n or found != last:
        made[0] = 0
    return found


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_odd(
    c: cython.pointer[codec_choice], i: cython.int, others: uint32_t, n: uint32_t, length: uint32_t
) -> cython.bint:
    """Is a page unlike those that candidate i has been chosen for, by the length of its record (0: it does not fit)?

    A page that is sparse in part still fits, with all else as it is, and a piece of it may say either.
    """
    if length == 0:
        return True
    if i < SPARSES or n <= TRIAL or length <= n // 16:
        return False
    return others != 0 or length // 2 > n // 1024 * c.size[i] // (SAMPLE_UNIT >> 10)


def codec_compress(c, state, src, n, tmp, dst, cap, codec):
    page: uint32_t = c.pages
    misses: uint8_t = c.misses
    c.pages = page + 1
    if c.candidates == 0 or (misses >= MISSES_MANY and page % TRY_EVERY != 0):
        return 0
    if (
        page & (page - 1) == 0
        or is_sampled(page, SAMPLE_SOON if c.unsure else SAMPLE_BITS)
        or misses == MISSES_LOOK
        or misses >= MISSES_MANY
    ):
        sample(c, page, state, src, n, tmp, dst, cap)
        if misses >= MISSES_MANY and c.size[c.best] == SAMPLE_UNIT:
            return 0
    best: cython.int = c.best
    length: uint32_t = 0
    others: uint32_t = rivals(c)
    if others:
        best = suits(c, others, page, state, src, n, tmp, dst, cap, cython.address(length))
    codec[0] = candidate(best)
    if length == 0:
        length = codec_encode(codec[0], state, src, n, tmp, dst, cap)
    if best >= DECIMALS_CANDIDATE and is_odd(c, best, others, n, length):
        # Found out early, or there is much else. It says that these are other numbers, not that nothing makes them
        # smaller.
        before: uint32_t = length
        other: uint8_t = candidate(cheapest(c, DECIMALS_CANDIDATE))
        length = codec_encode(other, state, src, n, tmp, dst, before if before else cap)
        if length == 0 and before:
            length = codec_encode(codec[0], state, src, n, tmp, dst, cap)
        else:
            codec[0] = other
        if length and misses < MISSES_LOOK:
            c.misses = misses + 1
            return length
    if length:
        c.misses = 0
    elif misses < MISSES_MANY:
        c.misses = misses + 1
    return length


# --- for Python ----------------------------------------------------------------------------------------------


@cython.cclass
class Chooser:
    """One array's choice of codec: give it the pages in the order in which they are stored."""

    choice: codec_choice

    def __init__(self, typesize: cython.int = 0, kind: cython.int = -1):
        if typesize:
            check_typesize(typesize)
        codec_choice_init(cython.address(self.choice), typesize, kind)

    @property
    def codec(self) -> int:
        """The codec byte in use."""
        return candidate(self.choice.best)

    @property
    def rivals(self) -> list[int]:
        """The codec bytes that are tried on a piece of each page beside it."""
        bits: uint32_t = rivals(cython.address(self.choice))
        return [candidate(i) for i in range(CANDIDATES) if bits >> i & 1]

    def compress(self, data: cython.const[uint8_t][::1], cap: cython.int = -1):
        """Return (codec, record), or None for a page that does not fit in cap bytes."""
        n: uint32_t = check_page(data.shape[0])
        limit: uint32_t = n - 1 if cap < 0 else cap
        state: cython.p_void = malloc(codec_state_bytes() + n + limit)
        if state == cython.NULL:
            raise MemoryError
        tmp: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], state) + codec_state_bytes()
        dst: cython.pointer[uint8_t] = tmp + n
        codec: uint8_t = 0
        length: uint32_t
        try:
            with cython.nogil:
                length = codec_compress(
                    cython.address(self.choice),
                    state,
                    cython.address(data[0]),
                    n,
                    tmp,
                    dst,
                    limit,
                    cython.address(codec),
                )
            return (codec, PyBytes_FromStringAndSize(cython.cast(cython.p_char, dst), length)) if length else None
        finally:
            free(state)
