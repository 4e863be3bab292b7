"""Which parts of a range of private memory are there: present, or swapped out by the kernel, which is no less ours.

The kernel tells an ordinary process through /proc/self/pagemap. A process that has changed its user (a daemon that
gave up root) may not open it: mincore(2) tells what is present, which is all where the kernel has no swap; where it
has, everything may be there, and the caller finds out page by page.

Source: Documentation/admin-guide/mm/pagemap.rst, mincore(2).
"""

import cython
from cython.cimports.frontswap.core.uapi import (
    EINTR,
    O_CLOEXEC,
    O_RDONLY,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PAGEMAP_SCAN,
    close,
    errno,
    ioctl,
    kernel_swap,
    mincore,
    open,
    pm_scan_arg,
    pread,
    uint8_t,
    uint64_t,
)
from cython.cimports.libc.string import memset


def presence_open(s, way, swapped):
    """Begin to look, in the best way that there is from `way` on. `swapped`: what the kernel has swapped out counts."""
    s.next = s.n = 0
    s.at = s.end = 0
    s.way = way
    s.fd = open(cython.cast(cython.p_char, "/proc/self/pagemap"), O_RDONLY | O_CLOEXEC) if way < BY_MINCORE else -1
    if s.fd < 0 and s.way < BY_MINCORE:
        s.way = BY_MINCORE
    if s.way == BY_MINCORE and swapped and kernel_swap() != 0:
        s.way = BY_NOTHING


def presence_close(s):
    """End of presence_open()."""
    if s.fd >= 0:
        close(s.fd)


def presence_range(s, start, end):
    """Look at [start, end), whole small pages, from now on."""
    s.at = start
    s.end = end
    s.next = s.n = 0


def presence_next(s):
    """The next region that is there, or NULL. It stays as it is until the next call."""
    while s.next == s.n:
        s.next = s.n = 0
        if s.at >= s.end:
            return cython.NULL
        while not look(s):
            s.way += 1  # this kernel does not know that way
    s.next += 1
    return cython.address(s.found[s.next - 1])


def presence_bytes(s, start, end):
    """Bytes of [start, end), whole small pages, that are in RAM, without the page of zeros where the kernel tells."""
    total: uint64_t = 0
    presence_range(s, start, end)
    while True:
        region = presence_next(s)
        if region == cython.NULL:
            return total
        # No category: nothing is known.
        if region.categories == 0 or (region.categories & (PAGE_IS_PRESENT | PAGE_IS_PFNZERO)) == PAGE_IS_PRESENT:
            total += region.end - region.start


def look(s):
    """Fill `found` from `at` on and move `at`; False: not this way."""
    if s.way == BY_SCAN:
        return scan(s)
    if s.way == BY_PAGEMAP:
        return read_pagemap(s)
    if s.way == BY_MINCORE:
        return ask_mincore(s)
    s.found[0].start = s.at
    s.found[0].end = s.end
    s.found[0].categories = 0
    s.n = 1
    s.at = s.end
    return True


def scan(s):
    """One PAGEMAP_SCAN: the next regions, as many as have room."""
    a: pm_scan_arg
    got: cython.int
    memset(cython.address(a), 0, cython.sizeof(a))
    a.size = cython.sizeof(a)
    a.start = s.at
    a.end = s.end
    a.vec = cython.cast(uint64_t, cython.address(s.found[0]))
    a.vec_len = REGIONS
    a.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
    a.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_HUGE | PAGE_IS_PFNZERO
    while True:
        got = ioctl(s.fd, PAGEMAP_SCAN, cython.address(a))
        if got >= 0 or errno != EINTR:
            break
    if got < 0 or a.walk_end <= s.at:
        return False
    s.n = got
    s.at = a.walk_end
    return True


def read_pagemap(s):
    """The next words of pagemap, one a small page: bit 63 is present, 62 swapped."""
    words: uint64_t[STEP]
    present: uint8_t[STEP]
    n: uint64_t = (s.end - s.at) // 4096
    i: uint64_t
    if n > STEP:
        n = STEP
    if pread(s.fd, words, n * 8, cython.cast(cython.long, s.at // 4096 * 8)) != n * 8:
        return False
    for i in range(n):
        present[i] = (words[i] >> 62) != 0
    gather(s, present, n)
    return True


def ask_mincore(s):
    """One mincore()."""
    present: uint8_t[STEP]
    n: uint64_t = (s.end - s.at) // 4096
    if n > STEP:
        n = STEP
    if mincore(cython.cast(cython.p_void, s.at), n * 4096, present) != 0:
        return False
    gather(s, present, n)
    return True


def gather(s, present, n):
    """Regions out of `n` flags, as many as have room; `at` is where the next ones begin."""
    i: uint64_t = 0
    start: uint64_t
    while i < n and s.n < REGIONS:
        start = i
        while i < n and (present[i] & 1) != 0:
            i += 1
        if i > start:
            s.found[s.n].start = s.at + start * 4096
            s.found[s.n].end = s.at + i * 4096
            s.found[s.n].categories = PAGE_IS_PRESENT
            s.n += 1
        while i < n and (present[i] & 1) == 0:
            i += 1
    s.at += i * 4096


def regions(address: int, length: int, way: int = 0) -> list[tuple[int, int, bool]]:
    """(start, end, is it a huge page) of what is there of a range of this process, for tests and the bench.

    `way`: the first one that may be used, of: PAGEMAP_SCAN, pagemap, mincore, none.
    """
    s: presence_t
    found: list[tuple[int, int, bool]] = []
    presence_open(cython.address(s), way, True)
    presence_range(cython.address(s), address, cython.cast(uint64_t, address) + cython.cast(uint64_t, length))
    while True:
        region = presence_next(cython.address(s))
        if region == cython.NULL:
            break
        found.append((region.start, region.end, (region.categories & PAGE_IS_HUGE) != 0))
    presence_close(cython.address(s))
    return found
