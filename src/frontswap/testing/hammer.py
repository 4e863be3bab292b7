"""Threads that read and write memory as fast as the machine allows and know what every word must be.

Memory is looked at in granules of 4 KiB (512 words). Words 0, 8, 16 .. 120 are counters, one for each of
16 threads, which only its thread writes; a shadow in ordinary memory knows their values. All other words
hold a pattern of the granule's number: constant, ramp, noise (which does not compress), small numbers, small numbers
of few bits (which zstd makes smaller than LZ4) or, as float64, numbers of two decimals (among which the counters are
exceptions).
"""

import cython
from cython.cimports.frontswap.core.uapi import loadi
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint64_t

GRANULE: int = 4096
THREADS: int = 16
RUN = cython.declare(cython.int, 96)
GAMMA = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
MIX_1 = cython.declare(uint64_t, 0xBF58476D1CE4E5B9)
MIX_2 = cython.declare(uint64_t, 0x94D049BB133111EB)


def mixed(x):
    """A well mixed word (splitmix64)."""
    x += GAMMA
    x = (x ^ (x >> 30)) * MIX_1
    x = (x ^ (x >> 27)) * MIX_2
    return x ^ (x >> 31)


def pattern(granule, word, salt):
    """What a pattern word must be. Neighbouring granules, which share a page, are of the same kind."""
    kind: uint64_t = mixed((granule >> 6) ^ salt) % 6
    number: cython.double
    if kind == 0:
        return mixed(granule ^ salt)
    if kind == 1:
        return granule * 1000 + word + salt
    if kind == 2:
        return mixed(granule * 512 + word + salt)
    if kind == 3:
        return mixed(granule * 512 + word + salt) & 0xFFFF
    if kind == 4:
        return mixed(granule * 512 + word + salt) & mixed(granule * 512 + word - salt) & 0xFFFF
    number = cython.cast(cython.double, mixed(granule * 512 + word + salt) & 0xFFFF) / 100
    return cython.cast(cython.pointer(uint64_t), cython.address(number))[0]


def fill_granule(words, granule, salt):
    """Write the pattern."""
    w: uint64_t
    for w in range(512):
        if w >= 128 or w % 8 != 0:
            words[w] = pattern(granule, w, salt)


def check_granule(words, granule, salt):
    """The first pattern word that is wrong, or -1."""
    w: uint64_t
    for w in range(512):
        if (w >= 128 or w % 8 != 0) and words[w] != pattern(granule, w, salt):
            return w
    return -1


def hammer_loop(base, granules, shadow, thread, salt, seed, stop, report):
    """Random and sequential reads and writes until `stop` is set or a word is wrong."""
    random: uint64_t = seed
    at: uint64_t = 0
    left: cython.int = 0
    step: int64_t = 1
    w: uint64_t
    bad: int64_t
    value: uint64_t
    words: cython.pointer(uint64_t)
    report.granule = -1
    while loadi(stop) == 0:
        random = mixed(random)
        if left == 0:
            at = (random >> 8) % granules
            # Half of the time single granules, otherwise runs in both directions.
            left = 1 if random & 1 else RUN
            step = 1 if random & 2 else -1
        words = base + at * 512
        value = words[thread * 8]
        if value != shadow[at]:
            report.granule = at
            report.word = thread * 8
            report.found = value
            report.expected = shadow[at]
            return
        if (random >> 4) % 3 == 0:
            shadow[at] += 1
            words[thread * 8] = shadow[at]
            report.writes += 1
        if (random >> 40) % 16 == 0:
            bad = check_granule(words, at, salt)
        else:
            w = 128 + (random >> 44) % 384
            bad = w if words[w] != pattern(at, w, salt) else -1
        if bad >= 0:
            report.granule = at
            report.word = bad
            report.found = words[bad]
            report.expected = pattern(at, bad, salt)
            return
        report.operations += 1
        left -= 1
        at = at + step
        if at >= granules:
            left = 0


def visit_loop(base, granules, known, thread, threads, salt, seed, stop, report):
    """Visit granules that nobody has touched, to read or to write them, until `stop` is set or one is wrong."""
    random: uint64_t = seed
    at: uint64_t
    kind: uint64_t
    words: cython.pointer(uint64_t)
    report.granule = -1
    while loadi(stop) == 0:
        random = mixed(random)
        at = (random >> 8) % granules
        at = at - at % threads + thread
        # A quarter of all stretches of 256 KiB is never visited, and half of the granules elsewhere.
        kind = mixed(at ^ salt) % 8
        if at >= granules or kind > 3 or mixed((at >> 6) + salt) % 4 == 0:
            continue
        words = base + at * 512
        report.operations += 1
        if known[at] == 0 and kind != 0 and (random >> 60) != 0:
            fill_granule(words, at, salt)
            known[at] = 1
            report.writes += 1
            continue
        if not granule_is(words, at, salt, known[at]):
            report.granule = at
            return


def granule_is(words, granule, salt, written):
    """True if it has its pattern, or is zeros because it was never written."""
    w: uint64_t
    if written:
        return check_granule(words, granule, salt) < 0
    for w in range(512):
        if words[w] != 0:
            return False
    return True


def visit(
    address: int, granules: int, known: int, thread: int, threads: int, salt: int, seed: int, stop: int
) -> dict[str, int]:
    """Visit until the int32 at `stop` is not 0. `known`: address of a byte a granule, 1: it has been written.

    Of `threads` threads each visits granules of its own, among which some are never written and some not even read.
    Returns operations, writes, and granule (-1: all was right).
    """
    report: report_t
    base: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), cython.cast(uint64_t, address))
    written: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), cython.cast(uint64_t, known))
    n: uint64_t = granules
    c_thread: uint64_t = thread
    c_threads: uint64_t = threads
    c_salt: uint64_t = salt
    c_seed: uint64_t = seed
    flag: cython.pointer(int32_t) = cython.cast(cython.pointer(int32_t), cython.cast(uint64_t, stop))
    report.operations = report.writes = 0
    with cython.nogil:
        visit_loop(base, n, written, c_thread, c_threads, c_salt, c_seed, flag, cython.address(report))
    return {"operations": report.operations, "writes": report.writes, "granule": report.granule}


def check_visited(address: int, granules: int, known: int, salt: int) -> int:
    """The first granule that is not what `known` says, or -1."""
    base: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), cython.cast(uint64_t, address))
    written: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), cython.cast(uint64_t, known))
    n: uint64_t = granules
    s: uint64_t = salt
    g: uint64_t
    bad: int64_t = -1
    with cython.nogil:
        for g in range(n):
            if not granule_is(base + g * 512, g, s, written[g]):
                bad = g
                break
    return bad


def fill(address: int, granules: int, salt: int) -> None:
    """Write the pattern of all granules at an address; the counters are 0 in fresh memory."""
    base: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), cython.cast(uint64_t, address))
    n: uint64_t = granules
    s: uint64_t = salt
    g: uint64_t
    with cython.nogil:
        for g in range(n):
            fill_granule(base + g * 512, g, s)


def check(address: int, granules: int, salt: int) -> int:
    """The first granule whose pattern is wrong, or -1."""
    base: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), cython.cast(uint64_t, address))
    n: uint64_t = granules
    s: uint64_t = salt
    g: uint64_t
    bad: int64_t = -1
    with cython.nogil:
        for g in range(n):
            if check_granule(base + g * 512, g, s) >= 0:
                bad = g
                break
    return bad


def hammer(address: int, granules: int, shadow: int, thread: int, salt: int, seed: int, stop: int) -> dict[str, int]:
    """Hammer until the int32 at `stop` is not 0. `shadow`: address of one uint64 a granule for this thread.

    Returns operations, writes, and granule (-1: all was right), word, found, expected of the first wrong word.
    """
    report: report_t
    base: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), cython.cast(uint64_t, address))
    n: uint64_t = granules
    own: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), cython.cast(uint64_t, shadow))
    c_thread: cython.int = thread
    c_salt: uint64_t = salt
    c_seed: uint64_t = seed
    flag: cython.pointer(int32_t) = cython.cast(cython.pointer(int32_t), cython.cast(uint64_t, stop))
    report.operations = report.writes = 0
    with cython.nogil:
        hammer_loop(base, n, own, c_thread, c_salt, c_seed, flag, cython.address(report))
    return {
        "operations": report.operations,
        "writes": report.writes,
        "granule": report.granule,
        "word": report.word,
        "found": report.found,
        "expected": report.expected,
    }
