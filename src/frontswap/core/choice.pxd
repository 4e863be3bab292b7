# Which codec a page gets.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from * nogil:
    int popcount "__builtin_popcount" (uint32_t bits)

cdef enum:
    CANDIDATES = 13         # LZ4; shuffle of 2, 4, 8, 16; bit shuffle of 1, 2, 4, 8, 16; decimals; sparse of 4, 8
    BITSHUFFLES = 5         # the first candidate of these
    DECIMALS_CANDIDATE = 10
    SPARSES = 11            # and of these
    SAMPLE = 16384          # bytes of a page on which candidates are compared
    SAMPLE_BITS = 6         # the candidates are compared on one page in 64,
    SAMPLE_SOON = 3         # in 8 after one has won that is not tried yet, until SURE samples have shown no such one
    SURE = 16
    RIVAL = 5               # of a size: who is smaller by a fifth is worth the time that one more to try takes
    SAMPLE_UNIT = 65535     # a sample that did not shrink
    MISSES_LOOK = 4         # misses in a row after which the candidates are compared again
    MISSES_MANY = 8         # misses in a row after which most pages are not even tried
    TRY_EVERY = 16          # pages, then
    TRIAL = 4096            # bytes of a page by which one of those that win is chosen: no bit shuffle takes less
    FEW = 64                # bytes of a sample to one match of LZ4's: if there are fewer matches it rushes

# What one array's pages have taught so far; 88 bytes. Several threads update it without a lock: every
# field is one aligned word of which every value is valid, and a lost update costs a sample at most.
cdef struct codec_choice:
    uint32_t pages              # offered so far: the clock of sampling
    uint16_t candidates         # bit i: candidate i may be chosen
    uint8_t best                # the candidate in use
    uint8_t misses              # pages in a row that did not fit, up to MISSES_MANY
    uint16_t size[CANDIDATES]   # of a sample, smoothed, in 1/SAMPLE_UNIT; 0: not tried yet
    uint8_t rushes              # 1: LZ4 alone finds few matches, so it takes several GB a second; a shuffle makes many
    uint8_t unsure              # samples until it is known again which ones win
    uint32_t won[CANDIDATES]    # bit i: it has won the sample i before the last one

# typesize: bytes of an element, 0 for unknown. fixed_kind: one of the kinds, -1 to choose.
cdef void codec_choice_init(codec_choice *c, int typesize, int fixed_kind) noexcept nogil

# The record's length (at most cap), or 0: the page does not fit and is kept as it is. Needs n bytes of tmp.
cdef uint32_t codec_compress(codec_choice *c, void *state, const uint8_t *src, uint32_t n, uint8_t *tmp,
                             uint8_t *dst, uint32_t cap, uint8_t *codec) noexcept nogil
