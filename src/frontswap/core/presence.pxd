from frontswap.core.uapi cimport uint8_t, uint32_t, uint64_t

cdef enum:                    # how it is found out, the best first
    BY_SCAN = 0               # PAGEMAP_SCAN (6.7+)
    BY_PAGEMAP = 1            # the numbers in /proc/self/pagemap
    BY_MINCORE = 2            # does not see what the kernel has swapped out
    BY_NOTHING = 3            # everything may be there
    REGIONS = 64
    STEP = 512                # small pages that the middle two look at with one call

ctypedef struct region_t:     # struct page_region of linux/fs.h
    uint64_t start
    uint64_t end
    uint64_t categories       # PAGE_IS_*

ctypedef struct presence_t:
    int fd                    # of /proc/self/pagemap, -1: none
    int way
    uint64_t at               # what has not been looked at yet: [at, end)
    uint64_t end
    int next                  # of `found`: what has not been answered yet
    int n
    region_t found[REGIONS]

cdef void presence_open(presence_t *s, int way, bint swapped) noexcept nogil
cdef void presence_close(presence_t *s) noexcept nogil
cdef void presence_range(presence_t *s, uint64_t start, uint64_t end) noexcept nogil
cdef region_t *presence_next(presence_t *s) noexcept nogil
cdef uint64_t presence_bytes(presence_t *s, uint64_t start, uint64_t end) noexcept nogil

cdef bint look(presence_t *s) noexcept nogil
cdef bint scan(presence_t *s) noexcept nogil
cdef bint read_pagemap(presence_t *s) noexcept nogil
cdef bint ask_mincore(presence_t *s) noexcept nogil
cdef void gather(presence_t *s, const uint8_t *present, uint64_t n) noexcept nogil
