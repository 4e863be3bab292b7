"""Decimal numbers in float64 as whole numbers.

Measurements, prices and counts have few decimals: 20.13 is the float64 next to 2013 / 100, and 2013 / 100
gives exactly it again. As float64 their low bits look like noise; as whole numbers, neighbours differ by few
bits. Whatever does not come back bit by bit (NaN, -0.0, a number with more decimals) is an exception and kept
as it is. The idea is that of ALP ("Adaptive Lossless floating-Point Compression", Afroozeh et al., SIGMOD
2023); dividing where ALP multiplies needs no second exponent.

A thread may round in another way, flush denormals or trap at inexact results. What is split in one thread is
joined in another, so both do their arithmetic with the default settings, set here.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

# Powers of ten up to 10**22 are exact, so the only rounding is the division's.
SCALE = cython.declare(cython.double[11], [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10])


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def to_whole(value: cython.double, scale: cython.double) -> int64_t:
    shifted: cython.double = value * scale + MAGIC
    return cython.cast(cython.pointer(int64_t), cython.address(shifted))[0] - MAGIC_BITS


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def from_whole(whole: int64_t, scale: cython.double) -> cython.double:
    bits: int64_t = whole + MAGIC_BITS
    return (cython.cast(double_p, cython.address(bits))[0] - MAGIC) / scale


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_other(value: cython.double, whole: int64_t, scale: cython.double) -> uint64_t:
    """Not 0 if `whole` does not give `value` back bit by bit, or is too large."""
    back: cython.double = from_whole(whole, scale)
    return (
        cython.cast(cython.pointer(uint64_t), cython.address(back))[0]
        ^ cython.cast(cython.pointer(uint64_t), cython.address(value))[0]
    ) | (cython.cast(uint64_t, whole + WHOLE_MOST) >> 51)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_decimals(values: const_double_p, n: uint32_t) -> cython.int:
    """How many decimals these numbers seem to have, from a few of them; -1: too many."""
    decimals: cython.int
    i: uint32_t
    misses: cython.int
    value: cython.double
    for decimals in range(MOST_DECIMALS + 1):
        misses = 0
        for i in range(LOOKS):
            # not evenly: a table has its columns at even distances
            value = values[(i * (n // LOOKS) + i * 7 % (n // LOOKS)) % n]
            if is_other(value, to_whole(value, SCALE[decimals]), SCALE[decimals]):
                misses += 1
                if misses > LOOK_MISSES:
                    break
        if misses <= LOOK_MISSES:
            return decimals
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def to_wholes(src: const_double_p, whole: cython.pointer(int64_t), scale: cython.double) -> uint64_t:
    """A run of numbers to whole numbers; not 0 if one of them at least is an exception."""
    i: cython.size_t
    other: uint64_t = 0
    for i in range(RUN):
        whole[i] = to_whole(src[i], scale)
    for i in range(RUN):
        other |= is_other(src[i], whole[i], scale)
    return other


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def to_steps(
    whole: cython.pointer(int64_t), how: cython.int, base: int64_t, steps: cython.pointer(uint32_t)
) -> uint64_t:
    """A run to what is kept of it, `whole[-1]` is the one before; not 0 if 32 bits are not enough."""
    i: cython.size_t
    apart: uint64_t = 0
    value: int64_t
    step: uint64_t
    if how == HOW_DIFFERENCES:
        for i in range(RUN):
            value = (whole + i)[0] - (whole + i - 1)[0]
            step = cython.cast(uint64_t, (value << 1) ^ (value >> 63))
            apart |= step
            steps[i] = cython.cast(uint32_t, step)
    else:
        for i in range(RUN):
            value = whole[i] - base
            step = cython.cast(uint64_t, (value << 1) ^ (value >> 63))
            apart |= step
            steps[i] = cython.cast(uint32_t, step)
    return apart >> 32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_how(src: const_double_p, n: uint32_t, scale: cython.double) -> cython.int:
    """What is smaller in the middle of the page: the distance to the one before, or to the first."""
    i: cython.size_t
    sums: int64_t[2]
    whole: int64_t[RUN]
    value: int64_t
    src += n // 2 // RUN * RUN
    to_wholes(src, whole, scale)
    sums[HOW_DISTANCES] = sums[HOW_DIFFERENCES] = 0
    for i in range(1, RUN):
        if is_other(src[i], whole[i], scale) or is_other(src[i - 1], whole[i - 1], scale):
            continue
        value = whole[i] - whole[i - 1]
        sums[HOW_DIFFERENCES] += value if value > 0 else -value
        value = whole[i] - whole[0]
        sums[HOW_DISTANCES] += value if value > 0 else -value
    return HOW_DIFFERENCES if sums[HOW_DIFFERENCES] < sums[HOW_DISTANCES] else HOW_DISTANCES


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def split(src: const_double_p, n: uint32_t, steps: cython.pointer(uint32_t), head: head_p, cap: uint32_t) -> uint32_t:
    decimals: cython.int
    scale: cython.double
    run: cython.size_t
    i: cython.size_t
    place: uint32_t
    others: uint32_t = 0
    most: uint32_t = n // EXCEPTIONS_PART
    room: uint32_t
    values: const_double_p
    whole: int64_t[RUN_AND_ONE]
    places: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), head) + cython.sizeof(decimals_head)
    if cap < cython.sizeof(decimals_head):
        return 0
    room = (cap - cython.cast(uint32_t, cython.sizeof(decimals_head))) // EXCEPTION_BYTES
    most = most if most < room else room
    decimals = find_decimals(src, n)
    if decimals < 0:
        return 0
    scale = SCALE[decimals]
    head.decimals = decimals
    head.how = find_how(src, n, scale)
    head.unused = 0
    # An exception is kept as the number before it, so that it costs nothing among the differences.
    whole[0] = to_whole(src[0], scale)
    if is_other(src[0], whole[0], scale):
        whole[0] = 0
    head.base = whole[0]
    for run in range(n // RUN):
        values = src + run * RUN
        if to_wholes(values, whole + 1, scale):
            for i in range(RUN):
                if is_other(values[i], whole[i + 1], scale):
                    if others == most:
                        return 0
                    place = cython.cast(uint32_t, run * RUN + i)
                    memcpy(places + 4 * others, cython.address(place), 4)
                    others += 1
                    whole[i + 1] = whole[i]
        if to_steps(whole + 1, head.how, head.base, steps + run * RUN):
            return 0
        whole[0] = whole[RUN]
    head.exceptions = others
    for i in range(others):
        memcpy(cython.address(place), places + 4 * i, 4)
        memcpy(places + 4 * others + 8 * i, src + place, 8)
    return cython.cast(uint32_t, cython.sizeof(decimals_head)) + EXCEPTION_BYTES * others


def decimals_split(src, n, steps, head, cap):
    csr: cython.uint = _mm_getcsr()
    _mm_setcsr(DEFAULT_CSR)
    length: uint32_t = split(
        cython.cast(const_double_p, src),
        n // 8,
        cython.cast(cython.pointer(uint32_t), steps),
        cython.cast(head_p, head),
        cap,
    )
    _mm_setcsr(csr)
    return length


def decimals_head_bytes(head, length, n):
    h: decimals_head
    total: uint32_t
    if length < cython.sizeof(decimals_head):
        return 0
    memcpy(cython.address(h), head, cython.sizeof(decimals_head))
    total = cython.cast(uint32_t, cython.sizeof(decimals_head)) + EXCEPTION_BYTES * h.exceptions
    if (
        h.decimals > MOST_DECIMALS
        or h.how > HOW_DIFFERENCES
        or h.exceptions > n // 8 // EXCEPTIONS_PART
        or total > length
    ):
        return 0
    return total


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def join(
    h: cython.pointer(decimals_head), steps: cython.pointer(cython.const[uint32_t]), dst: double_p, n: uint32_t
) -> cython.void:
    scale: cython.double = SCALE[h.decimals]
    value: uint64_t = cython.cast(uint64_t, h.base)
    whole: uint64_t[RUN]
    step: uint64_t
    run: cython.size_t
    i: cython.size_t
    for run in range(n // RUN):
        # the sum in a loop of its own: each turn waits for the one before
        for i in range(RUN):
            step = steps[i]
            whole[i] = (step >> 1) ^ (0 - (step & 1))
        if h.how == HOW_DIFFERENCES:
            for i in range(RUN):
                value += whole[i]
                whole[i] = value
        else:
            for i in range(RUN):
                whole[i] += value
        for i in range(RUN):
            dst[i] = from_whole(cython.cast(int64_t, whole[i]), scale)
        steps += RUN
        dst += RUN


def decimals_join(head, steps, dst, n):
    h: decimals_head
    i: uint32_t
    place: uint32_t
    csr: cython.uint = _mm_getcsr()
    memcpy(cython.address(h), head, cython.sizeof(decimals_head))
    _mm_setcsr(DEFAULT_CSR)
    join(
        cython.address(h),
        cython.cast(cython.pointer(cython.const[uint32_t]), steps),
        cython.cast(double_p, dst),
        n // 8,
    )
    _mm_setcsr(csr)
    head += cython.sizeof(decimals_head)
    for i in range(h.exceptions):
        memcpy(cython.address(place), head + 4 * i, 4)
        if place >= n // 8:
            return -1
        memcpy(dst + 8 * place, head + 4 * cython.cast(uint32_t, h.exceptions) + 8 * i, 8)
    return 0
