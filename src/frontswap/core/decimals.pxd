# Decimal numbers in float64: as whole numbers, from which little is left by a difference and a bit shuffle.
#
# Async-signal-safe: no malloc, no lock, 5 KiB of stack.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <xmmintrin.h>
    /* 1.5 * 2**52: added to a number below 2**51 it leaves the nearest whole number in the low bits. */
    #define MAGIC 6755399441055744.0
    #define MAGIC_BITS 0x4338000000000000LL
    #define WHOLE_MOST (1LL << 50)
    """
    const double MAGIC
    const int64_t MAGIC_BITS
    const int64_t WHOLE_MOST
    unsigned int _mm_getcsr()
    void _mm_setcsr(unsigned int)

cdef enum:
    MOST_DECIMALS = 10
    LOOKS = 16                # values on which the number of decimals is tried
    LOOK_MISSES = 3           # of those that may be none
    EXCEPTIONS_PART = 8       # at most an 8th of the values may be no decimals
    EXCEPTION_BYTES = 12      # its place and itself
    RUN = 256                 # values at a time: they stay in the L1 cache
    RUN_AND_ONE = 257
    DEFAULT_CSR = 0x1F80      # to nearest, all exceptions masked, denormals as they are

cdef enum:                    # decimals_head.how
    HOW_DISTANCES = 0         # of each from the base, zigzag
    HOW_DIFFERENCES = 1       # of each from the one before, zigzag

ctypedef struct decimals_head:   # 16 bytes, then `exceptions` uint32 places and as many values of 8 bytes
    uint8_t decimals
    uint8_t how
    uint16_t exceptions
    uint32_t unused
    int64_t base

ctypedef decimals_head *head_p
ctypedef double *double_p
ctypedef const double *const_double_p

# n bytes of float64 to n / 2 bytes of uint32 at `steps`; the length of the head, at most cap, or 0: these are no
# decimals.
cdef uint32_t decimals_split(const uint8_t *src, uint32_t n, uint8_t *steps, uint8_t *head, uint32_t cap) noexcept nogil

# The length of the head of a record of `length` bytes, 0: it is malformed.
cdef uint32_t decimals_head_bytes(const uint8_t *head, uint32_t length, uint32_t n) noexcept nogil

# The inverse of decimals_split; the head has been looked at by decimals_head_bytes. 0, or -1: malformed.
cdef int decimals_join(const uint8_t *head, const uint8_t *steps, uint8_t *dst, uint32_t n) noexcept nogil
