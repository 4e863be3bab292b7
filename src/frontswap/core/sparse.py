"""Pages of which most elements are the same one: the others, and how many of it lie between them.

Counts, one-hot columns, masked and padded arrays: nearly all is zero, or one value that stands for nothing. LZ4 takes
three bytes for a run and its place, and a token for each value behind it; here a value takes itself and one byte.
What remains of the page is to be found by a look at seven elements, so other pages cost nothing.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def element(src: cython.pointer[cython.const[uint8_t]], typesize: uint32_t, i: uint32_t) -> uint64_t:
    narrow: uint32_t = 0
    wide: uint64_t = 0
    if typesize == 4:
        memcpy(cython.address(narrow), src + 4 * i, 4)
        return narrow
    memcpy(cython.address(wide), src + 8 * i, 8)
    return wide


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def common(
    typesize: uint32_t,
    src: cython.pointer[cython.const[uint8_t]],
    count: uint32_t,
    value: cython.pointer[uint64_t],
) -> cython.bint:
    """Find the element that most seem to be; False: there is none."""
    looks: uint64_t[SPARSE_LOOKS]
    i: cython.int
    j: cython.int
    same: cython.int
    most: cython.int = 0
    for i in range(SPARSE_LOOKS):
        # Not at the same place of each row of a table.
        looks[i] = element(src, typesize, (count // SPARSE_LOOKS) * i + (37 * i) % (count // SPARSE_LOOKS))
    for i in range(SPARSE_LOOKS - SPARSE_SAME + 1):
        same = 0
        for j in range(i, SPARSE_LOOKS):
            same += looks[j] == looks[i]
        if same > most:
            most = same
            value[0] = looks[i]
    return most >= SPARSE_SAME


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_all(src: cython.pointer[cython.const[uint8_t]], pattern: uint64_t) -> cython.bint:
    """Are these SPARSE_BLOCK bytes the same eight, again and again?"""
    words: uint64_t[4]
    memcpy(words, src, SPARSE_BLOCK)
    return ((words[0] ^ pattern) | (words[1] ^ pattern) | (words[2] ^ pattern) | (words[3] ^ pattern)) == 0


def sparse_split(typesize, src, n, tmp, dst, cap):
    background: uint64_t = 0
    pattern: uint64_t
    gaps: uint32_t = 0
    others: uint32_t = 0
    last: uint32_t = 0  # one past the last other one
    block: uint32_t
    i: uint32_t
    word: uint32_t
    head: uint32_t = 4
    room: uint32_t
    if not common(typesize, src, n // typesize, cython.address(background)):
        return 0
    if background:
        head += typesize
    if cap < head:
        return 0
    room = cap - head
    pattern = background if typesize == 8 else background << 32 | background
    for block in range(n // SPARSE_BLOCK):
        if is_all(src + block * SPARSE_BLOCK, pattern):
            continue
        for i in range(block * SPARSE_BLOCK // typesize, (block + 1) * SPARSE_BLOCK // typesize):
            if element(src, typesize, i) == background:
                continue
            # With all gaps that there may be before it; looked at first, for they are written to dst.
            if gaps + (i - last) // SPARSE_FAR + 1 + (others + 1) * typesize > room:
                return 0
            while i - last >= SPARSE_FAR:
                dst[head + gaps] = SPARSE_FAR
                gaps += 1
                last += SPARSE_FAR
            dst[head + gaps] = cython.cast(uint8_t, i - last)
            gaps += 1
            last = i + 1
            memcpy(tmp + others * typesize, src + i * typesize, typesize)
            others += 1
    word = 2 * gaps + (background != 0)
    memcpy(dst, cython.address(word), 4)
    if background:
        memcpy(dst + 4, cython.address(background), typesize)  # the low bytes come first
    memcpy(dst + head + gaps, tmp, others * typesize)
    return head + gaps + others * typesize


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fill(typesize: uint32_t, dst: cython.pointer[uint8_t], count: uint32_t, value: uint64_t) -> cython.void:
    """`count` elements of one value."""
    i: uint32_t
    narrow: uint32_t = cython.cast(uint32_t, value)
    if value == 0:
        memset(dst, 0, count * typesize)
    elif typesize == 4:
        for i in range(count):
            memcpy(dst + 4 * i, cython.address(narrow), 4)
    else:
        for i in range(count):
            memcpy(dst + 8 * i, cython.address(value), 8)


def sparse_join(typesize, src, n, dst, page):
    count: uint32_t = page // typesize
    word: uint32_t = 0
    gaps: uint32_t
    head: uint32_t = 4
    at: uint32_t = 0
    i: uint32_t
    value: uint32_t  # where the next one is
    if (typesize != 4 and typesize != 8) or n < 4:
        return -1
    memcpy(cython.address(word), src, 4)
    gaps = word >> 1
    if word & 1:
        head += typesize
    if n < head or gaps > n - head:
        return -1
    fill(typesize, dst, count, element(src + 4, typesize, 0) if word & 1 else 0)
    value = head + gaps
    for i in range(gaps):
        at += src[head + i]
        if src[head + i] == SPARSE_FAR:
            continue
        if at >= count or n - value < typesize:
            return -1
        memcpy(dst + at * typesize, src + value, typesize)
        value += typesize
        at += 1
    return 0 if value == n else -1
